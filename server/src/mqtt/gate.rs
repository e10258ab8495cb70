//! The MQTT gate.
