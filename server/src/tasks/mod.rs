//! What runs on a timer.

pub mod checkpoint;
pub mod refusals;
pub mod server_certificate;
pub mod sweep;
