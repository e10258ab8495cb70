//! Decisions without effects: no clock, randomness, disk or network in this room.

pub mod admission;
pub mod device;
pub mod enrollment;
pub mod idempotency;
pub mod issuance;
pub mod ledger;
pub mod operator;
pub mod policy;
pub mod refusal;
pub mod revocation;
pub mod token;
