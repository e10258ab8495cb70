//! Structured logs: one event per decision.
