//! The agent against a small fleet server: first in memory, where a kill can come between any two effects, then the
//! real program over real TLS.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod disk;
mod enrolling;
mod faults;
mod fleet;
mod gate;
mod letting_go;
mod planning;
mod power_cuts;
mod program;
mod renewing;
mod running;
mod stub;
