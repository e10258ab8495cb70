//! What the audit log is told, and the promise that seals it into a commit.
//!
//! A [`Draft`] is everything an audit entry says except its place in the log. The store's writer hands the
//! drafts of one accepted batch to a [`Ledger`], which numbers them, hashes them into the tree and answers
//! with the keys to be written in the very same atomic batch. So no state is without its entry, and no entry
//! without its state.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How an act ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// A rule refused it.
    Refused,
}

/// An audit entry before it has a place in the log.
///
/// Personal data does not belong in here; a salted hash of it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// When, in milliseconds since 1970-01-01T00:00:00Z.
    pub ts: i64,
    /// Who acted: `operator/<name>`, `device/<id>`, `token/<id>`, `anonymous`, `server`.
    pub actor: String,
    /// How the actor proved it: `credential`, `certificate`, `token`, `none`, `local`.
    pub sign_in: String,
    /// Version of the authorisation table that judged.
    pub policy_version: u32,
    /// The act, as the authorisation table spells it, for instance `device.revoke`.
    pub action: String,
    /// What it was done to: `device/<id>`, `token/<id>`, `certificate/<serial>`, `crl/<issuer>/<shard>`, `log`.
    pub object: String,
    /// Done or refused.
    pub outcome: Outcome,
    /// A stable code: why it was refused, or why it was done (`key_compromise`); empty when there is nothing to say.
    pub reason: String,
    /// The request that caused it; empty for the server's own acts.
    pub request_id: String,
    /// State before, empty when there was none.
    pub prev_state: String,
    /// State after, empty when there is none.
    pub new_state: String,
    /// SHA-256, lower-case hex, of what was sent or issued; empty when there was nothing.
    pub payload_sha256: String,
    /// One-way facts that a restore must be able to read back, by name: `certificate_serial`, `device`, `token`, ….
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Draft {
    /// The same, telling that the state went from `before` to `after`.
    #[must_use]
    pub fn states(mut self, before: impl Into<String>, after: impl Into<String>) -> Self {
        self.prev_state = before.into();
        self.new_state = after.into();
        self
    }

    /// The same, with a stable code for why.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The same, with these facts added.
    #[must_use]
    pub fn facts(mut self, facts: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.facts.extend(facts.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }
}

/// A key and the value it gets.
pub type Put = (Vec<u8>, Vec<u8>);

/// Numbers drafts, hashes them into the tree and says what must be written with them.
///
/// The writer calls [`Ledger::seal`] only for batches it has accepted and writes the answer in the same atomic
/// batch. When that write fails the process stops, so there is no way back to offer.
pub trait Ledger: Send {
    /// Entries for `drafts`, in order, with the sequence number of the first.
    fn seal(&mut self, drafts: &[Draft]) -> Sealed;
}

/// What one accepted batch adds to the log.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    /// Sequence number of the first draft; the others follow without a gap. Zero-based.
    pub first: u64,
    /// Keys to be written in the same atomic batch, over whatever they hold.
    pub puts: Vec<Put>,
    /// Keys of the same batch that nobody wrote before, such as those that end in a sequence number. The writer
    /// does not ask the engine for an old value.
    pub fresh: Vec<Put>,
}
