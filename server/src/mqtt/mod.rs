//! The MQTT plane.

pub mod gate;
