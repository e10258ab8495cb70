//! What a device of a kind should look like: certificate, baseline, posture rules, wipe plan.
//!
//! A *firmware profile* is a TOML file, reviewed like code; adding a device kind needs no Rust. This crate reads
//! such files ([`Profile::parse`]), refuses what it does not understand by line and key, digests the content
//! ([`Version`]), settles what one device of one site gets ([`resolve()`]) and judges the facts that a device reports
//! ([`appraise()`]). It does no input or output.

pub mod appraise;
pub mod builtin;
pub mod profile;
pub mod resolve;
pub mod schema;
pub mod support;
pub mod version;

pub use appraise::{Appraisal, Failing, Verdict, appraise};
pub use builtin::builtins;
pub use profile::Profile;
pub use resolve::{Resolved, Target, resolve};
pub use schema::SchemaError;
pub use version::Version;
