//! Muster's agent: what runs on the device.
//!
//! Two rooms and one door. [`core`] decides and touches nothing: it is given events and queues effects.
//! [`shell`] carries effects out, in order: it owns the files, the sockets and the keys. Time enters through
//! [`clock`]. The arrows run `main → shell → core`, never back (docs: architecture).

pub mod clock;
pub mod core;
pub mod shell;
