//! sled, with its guards.
