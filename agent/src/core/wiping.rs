//! What the session and the wipe engine tell each other: which wipe, which phase, and what came of it.
//!
//! The session decides when a phase begins and owes its receipt; the engine ([`crate::wipe`]) does the deed and says
//! what became of each thing. Neither says *done* where the other has not.

use muster_wire::digest::Sha256Digest;
use muster_wire::id::OrderId;
use muster_wire::receipt::{ItemFate, ReceiptItem, ReceiptOutcome, ReceiptPhase};
use muster_wire::warrant::Level;
use serde::{Deserialize, Serialize};

/// A wipe that was ordered, or is only rehearsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WipeTask {
    /// The order.
    pub order: OrderId,
    /// How far.
    pub level: Level,
    /// The roots of data that the order names.
    pub data_roots: Vec<String>,
}

/// What came of a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseReport {
    /// The phase that is over: an earlier one than was asked for when that had not held.
    pub phase: ReceiptPhase,
    /// How it ended.
    pub outcome: ReceiptOutcome,
    /// What became of what; never more than a receipt can hold.
    pub items: Vec<ReceiptItem>,
    /// SHA-256 of the evidence kept so far.
    pub evidence: Sha256Digest,
}

impl PhaseReport {
    /// A phase that ended otherwise than done, for one reason.
    pub fn ended(phase: ReceiptPhase, outcome: ReceiptOutcome, why: String) -> Self {
        let evidence = Sha256Digest::of(why.as_bytes());
        let fate = if outcome == ReceiptOutcome::Failed { ItemFate::Failed } else { ItemFate::Kept };
        Self { phase, outcome, items: vec![ReceiptItem { what: why, fate, size_bytes: 0 }], evidence }
    }
}

/// A file that a baseline put on this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedFile {
    /// Where, beneath the root.
    pub path: String,
    /// SHA-256 of what was put there.
    pub sha256: Sha256Digest,
    /// Whether nothing stood there before.
    pub is_ours: bool,
    /// Whether nobody but its owner may read it: what is kept so is a secret.
    pub is_secret: bool,
}

/// A program of the device's own that an order asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Lock the device.
    Lock,
    /// Undo that.
    Unlock,
}

impl Hook {
    /// The program's name in `etc/muster/hooks`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
        }
    }
}

/// What came of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookEnd {
    /// It ran and said that all is well.
    Ran,
    /// It is not there, or nobody should run it; nothing was done.
    Refused(String),
    /// It ran and failed.
    Failed(String),
}
