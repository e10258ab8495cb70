//! The tamper-evident log: append, checkpoint, verify, export.

pub mod export;
pub mod log;
pub mod verify;
