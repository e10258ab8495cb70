//! Every rule of the lint, broken once.
