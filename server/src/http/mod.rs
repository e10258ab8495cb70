//! HTTP at the edge: EST, status, and one file per REST resource.

pub mod problem;
