//! Decisions without effects: no clock, randomness, disk or network in this room.

pub mod admission;
pub mod device;
pub mod enrollment;
pub mod idempotency;
pub mod ledger;
pub mod policy;
pub mod revocation;
pub mod token;
