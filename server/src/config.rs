//! Settings: file, environment, defaults.
