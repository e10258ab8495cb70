//! Muster's agent: what runs on the device.
//!
//! Four rooms and one door. [`core`] decides and touches nothing: it is given events and queues effects.
//! [`shell`] carries effects out, in order: it owns the files, the sockets and the keys. Time enters through
//! [`clock`]. [`apply`] brings the device to its desired state; [`posture`] looks how it stands. The arrows run
//! `main → shell → apply, posture → core`, never back (docs: architecture).

pub mod apply;
pub mod clock;
pub mod core;
pub mod posture;
pub mod shell;
