//! Decisions without effects: no clock, randomness, disk or network in this room.

pub mod admission;
pub mod commissioning;
pub mod deprovision;
pub mod desired;
pub mod device;
pub mod enrollment;
pub mod idempotency;
pub mod issuance;
pub mod issuers;
pub mod ledger;
pub mod observer;
pub mod operator;
pub mod order;
pub mod policy;
pub mod posture;
pub mod quarantine;
pub mod reconcile;
pub mod refusal;
pub mod reported;
pub mod revocation;
pub mod sanitisation;
pub mod succession;
pub mod text;
pub mod token;
pub mod warrant;
