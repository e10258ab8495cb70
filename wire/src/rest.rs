//! What operators' commands and the REST API must agree on: closed lists of words, and limits.
//!
//! A command refuses what the server would refuse, before it asks, and in the words of its own options. Each list is
//! held against the server's own types by a test there.

/// The states of a token as operators see them; `expired` is an open or claimed one past its life.
pub const TOKEN_STATES: [&str; 5] = ["open", "claimed", "spent", "revoked", "expired"];

/// The states of a device, in the order of a life.
pub const DEVICE_STATES: [&str; 8] = [
    "expected",
    "pending",
    "commissioning",
    "active",
    "quarantined",
    "deprovisioning",
    "retired",
    "cancelled",
];

/// Longest life of a token: 90 days, in seconds.
pub const TOKEN_LIFE_MAX_S: u32 = 90 * 24 * 60 * 60;
