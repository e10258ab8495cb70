//! The store's contract, kept by every engine: conformance, fault table, damage, kill -9 and power cuts.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "these are tests; a panic is how they fail"
)]

mod conformance;
mod damage;
mod disk_model;
mod faults;
mod harness;
mod kill;
mod power_cut;
mod writer;
