//! Harness for stories and attacks.
