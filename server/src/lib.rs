//! Muster's enrolment service: every room of the server, its command line and its demo.
//!
//! Arrows between rooms are fixed and checked by `cargo xtask layers`:
//! `http | mqtt | console → doors → domain`; `http | mqtt | tasks | console → app → domain`;
//! `app → ca, audit, store, doors`; `ca | audit | store → domain`; `main → cli`; `demo → cli`.

pub mod alarm;
pub mod app;
pub mod audit;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod doors;
pub mod http;
pub mod mqtt;
pub mod serve;
pub mod store;
pub mod tasks;
pub mod telemetry;
