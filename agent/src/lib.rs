//! Muster's agent.
