//! The MQTT plane: the gate, and each device's session.
//!
//! ```text
//! gate.rs (CONNECT) ─▶ line.rs (the socket) ─▶ session.rs (what is decided) ─▶ acl.rs, budget.rs
//!                          │  └▶ frame.rs (bytes ↔ packets)
//!                          └▶ inbox.rs (the verbs)
//! observers: observer.rs (the session) ◀─ bus.rs (rumqttd's router) ◀─ the log
//! ```

pub mod acl;
pub mod budget;
pub mod bus;
#[cfg(test)]
mod fixture;
pub mod frame;
pub mod gate;
pub mod inbox;
mod line;
#[cfg(test)]
mod model_tests;
pub mod observer;
pub mod session;
