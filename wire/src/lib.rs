//! Everything Muster's server and agent must agree on.
