//! What the agent decides.

pub mod record;
