//! The same request twice has one effect.
