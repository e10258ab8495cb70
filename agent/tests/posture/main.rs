//! Posture on machines that this one is not: trees of `/proc`, `/sys` and `/etc` as such machines show them, and
//! trees that somebody made to mislead or to hurt.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod golden;
mod hostile;
mod tree;
mod trees;
