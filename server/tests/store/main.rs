//! The store's contract, kept by every engine: conformance, fault table, damage, kill -9 and power cuts.

mod conformance;
mod damage;
mod disk_model;
mod faults;
mod harness;
mod kill;
mod power_cut;
mod writer;
