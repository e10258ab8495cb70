//! Muster's agent: what runs on the device.
//!
//! Five rooms and one door. [`core`] decides and touches nothing: it is given events and queues effects.
//! [`shell`] carries effects out, in order: it owns the files, the sockets and the keys. Time enters through
//! [`clock`]. [`apply`] brings the device to its desired state; [`posture`] looks how it stands; [`wipe`] lets it go.
//! The arrows run `main → shell → apply, posture, wipe → core`, never back (docs: architecture).

pub mod apply;
pub mod clock;
pub mod core;
pub mod posture;
pub mod shell;
pub mod wipe;
