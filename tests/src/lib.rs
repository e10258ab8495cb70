//! Harness for stories and attacks: the real binaries, real TLS, a real disk.
//!
//! ```text
//!   Site ── found ──▶ Site ── serve ──▶ Server ── mint ──▶ enrolment string ──▶ Agent
//!   (a directory)                          └── Tls (what an attacker or a plain EST client would use)
//! ```
//! Everything listens on port 0 of 127.0.0.1 and lives in a temporary directory; dropping a value ends its processes
//! and removes its files. The harness judges nothing itself: it panics when a step that had to work did not, with
//! what the program said, and leaves every claim to the test.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a harness fails by panicking"
)]

mod agent;
mod authority;
mod ear;
pub mod est;
pub mod faults;
mod inspect;
pub mod judge;
pub mod measure;
pub mod memory;
mod programs;
mod proxy;
mod run;
mod server;
mod site;
pub mod soak;
mod tls;
mod volume;
mod wait;
mod warrant;

pub use agent::{Agent, RunningAgent};
pub use ear::Ear;
pub use programs::{agent_program, pkilint_program, python_program, repository, server_program};
pub use proxy::Proxy;
pub use run::{Launch, Run, run};
pub use server::{Endpoints, Minted, Server};
pub use site::Site;
pub use tls::{Answer, Connection, Identity, Tls, TlsFailure, Versions};
pub use volume::Volume;
pub use wait::{PATIENCE, eventually, until};
