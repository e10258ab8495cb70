//! The store's contract: what every engine promises, and what callers may rely on.
//!
//! * `Ok` from [`Store::commit`] means: on the disk, after fdatasync, audit entries included.
//! * [`CommitError::Conflict`], `Busy`, `NoSpace`, `ValueTooLarge` and `Closed` mean: nothing changed.
//! * [`CommitError::Unknown`] means: nobody knows. From then on the store answers nothing at all; the process
//!   ([`Store::failure`]) exits and the next start reads what is there.
//! * A read never shows what is not yet durable, so that whatever is decided by it stays true after a power
//!   cut. A scan is not a snapshot: each record is durable, two records may stem from neighbouring commits.
//!
//! One thread writes ([`writer`]): it takes whatever queued while the last sync ran, checks preconditions
//! against the store and the batches accepted before in the same round, seals the audit entries, and writes
//! all of it as one atomic batch with one sync. Keys are spelled in [`key`]; engines are [`embedded`] (sled
//! and its guards) and [`memory`] (with faults on demand). This follows `store.md` of the design.

pub mod announce;
mod checksum;
pub mod collections;
pub mod document;
pub mod embedded;
mod guards;
mod handle;
pub mod key;
pub mod memory;
pub mod metrics;
mod opening;
mod overlay;
mod packed;
mod packing;
mod round;
mod undo;
pub mod writer;

pub use announce::Announced;
pub use handle::Store;
pub use key::{Collection, Index};
pub use metrics::Snapshot as Metrics;
pub use packing::Packed;
pub use writer::Limits;

use crate::domain::ledger::{Draft, Ledger, Sealed};
use std::path::PathBuf;

/// Most bytes of a key and its value together; larger documents are chunked ([`document`]).
///
/// sled keeps up to 17 records in a leaf and moves leaves above 128 KiB to files that it never syncs.
pub const RECORD_CAP_BYTES: usize = 4096;

/// Most bytes of what one audit draft says, as JSON; with its place in the log it must fit a record.
pub const DRAFT_CAP_BYTES: usize = 3072;

/// A value and the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Version of the commit that wrote it; grows with every commit of the whole store, so that a record
    /// deleted and made again never has an earlier version again.
    pub version: u64,
    /// The bytes.
    pub value: Vec<u8>,
}

/// One change asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The key gets this value, whatever it had before.
    Put {
        /// The whole key, see [`Collection::key`].
        key: Vec<u8>,
        /// The bytes.
        value: Vec<u8>,
    },
    /// The key goes; nothing happens when it is not there.
    Delete {
        /// The whole key.
        key: Vec<u8>,
    },
}

/// What a key must be like for a batch to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Not there.
    Absent,
    /// There, written by the commit of this version.
    Version(u64),
}

/// Whether a batch may use the space kept back for what must not fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Refused with [`CommitError::NoSpace`] below the floor of free space: new enrolments and the like.
    #[default]
    Ordinary,
    /// Accepted below the floor, down to a quarter of it: revocations, refusals, whatever protects.
    Essential,
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes; of two to one key the later counts.
    pub writes: Vec<Write>,
    /// What must hold first.
    pub preconditions: Vec<(Vec<u8>, Expect)>,
    /// Audit entries that are to be sealed into the same commit, in order.
    pub audit: Vec<Draft>,
    /// Whether it may use the space kept back.
    pub urgency: Urgency,
}

impl Batch {
    /// A batch that is taken although space runs short: it lets something end, or says why it was refused.
    pub fn essential() -> Self {
        Self { urgency: Urgency::Essential, ..Self::default() }
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into() });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }

    /// Adds a precondition.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Vec<u8>>, expect: Expect) -> Self {
        self.preconditions.push((key.into(), expect));
        self
    }

    /// Adds an audit entry.
    #[must_use]
    pub fn audit(mut self, draft: Draft) -> Self {
        self.audit.push(draft);
        self
    }
}

/// A batch that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Version that everything it wrote has now.
    pub version: u64,
    /// Sequence number of its first audit entry; `None` when it had none.
    pub first_sequence: Option<u64>,
}

/// Why a batch was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A precondition does not hold; nothing changed.
    #[error("a record was changed by someone else in the meantime")]
    Conflict {
        /// The first key whose precondition does not hold.
        key: Vec<u8>,
    },
    /// The queue is full; nothing changed.
    #[error("the store is busy; try again in {retry_after_s} s")]
    Busy {
        /// When it is worth trying again, in seconds.
        retry_after_s: u32,
    },
    /// Too little space is left on the disk; nothing changed.
    #[error("the disk of the store is almost full")]
    NoSpace,
    /// A record, one of its index entries or an audit draft is too large; nothing changed.
    #[error("a record of {size_bytes} bytes is above the cap of {RECORD_CAP_BYTES} bytes")]
    ValueTooLarge {
        /// Its key; empty for an audit draft.
        key: Vec<u8>,
        /// Its size with its key.
        size_bytes: usize,
    },
    /// A key in the range that belongs to the store itself; nothing changed.
    #[error("keys that start with a zero byte belong to the store")]
    ReservedKey,
    /// The store is closed; nothing changed.
    #[error("the store is closed")]
    Closed,
    /// Nobody knows whether it was written. The process must exit.
    #[error("the store failed; whether the change was kept is unknown until the next start")]
    Unknown,
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store has failed and answers nothing any more.
    #[error("the store failed and answers nothing until the next start")]
    Failed,
    /// The engine could not read.
    #[error("the store could not be read")]
    Engine(#[from] EngineError),
    /// The collection has no index of this name.
    #[error("collection {collection} has no index {index}")]
    NoSuchIndex {
        /// Name of the collection.
        collection: &'static str,
        /// The index asked for.
        index: String,
    },
    /// The chunks of a document do not fit together.
    #[error("the chunks of a document do not fit together")]
    TornDocument {
        /// Key of the document.
        key: Vec<u8>,
    },
}

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system said no.
    #[error("{operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What is on the disk makes no sense.
    #[error("{operation}: the files of the store are damaged ({detail})")]
    Corrupt {
        /// What was tried.
        operation: &'static str,
        /// What the engine said.
        detail: String,
    },
    /// The engine panicked.
    #[error("{operation}: the engine panicked ({detail})")]
    Panicked {
        /// What was tried.
        operation: &'static str,
        /// What the panic said.
        detail: String,
    },
    /// A test asked for this failure.
    #[error("{operation}: failed on demand")]
    OnDemand {
        /// What was tried.
        operation: &'static str,
    },
    /// The engine is closed.
    #[error("the engine is closed")]
    Closed,
}

/// Why a store cannot be opened. Nothing on the disk is lost by the attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store in {} is in use by another process; stop that process first", dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// There is no store here, and none was to be made.
    #[error("there is no store in {}; run `muster init` first, or restore a backup", dir.display())]
    Missing {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A store was here, and now it is empty.
    #[error("the store in {} is unexpectedly empty; restore the directory from a backup", dir.display())]
    Empty {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The data belong to another store than the files beside them.
    #[error("the data in {} belong to another store; restore the whole directory from one backup", dir.display())]
    Mismatched {
        /// The store's directory.
        dir: PathBuf,
    },
    /// Commits that were answered are not there any more.
    #[error(
        "the store in {} went back from commit {marked} to {found}; restore the directory from a backup",
        dir.display()
    )]
    WentBack {
        /// The store's directory.
        dir: PathBuf,
        /// A version that was durable.
        marked: u64,
        /// The version found.
        found: u64,
    },
    /// The files are damaged.
    #[error("the store in {} is damaged ({detail}); keep a copy of it and restore the directory from a backup", dir.display())]
    Corrupt {
        /// The store's directory.
        dir: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The operating system said no.
    #[error("{operation} {} failed; check that the disk has space and that the directory is writable", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The engine could not be read.
    #[error("the store could not be read at start")]
    Engine(#[from] EngineError),
    /// The declared collections contradict each other.
    #[error("collection {name} has an empty or reserved prefix, or one that overlaps another collection's")]
    Collections {
        /// The offending collection.
        name: &'static str,
    },
}

/// One key's change as an engine writes it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// What it was before; the writer keeps it for readers until the change is durable.
    pub old: Option<Versioned>,
    /// What it becomes; `None` when it goes.
    pub new: Option<Versioned>,
}

/// How an engine's disk is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Values that lie outside of the synced file. Anything but 0 is an alarm.
    pub stray_values: u64,
}

/// What keeps the records. Only the writer thread calls `apply`, `sync` and `close`.
pub trait Engine: Send + Sync {
    /// The record of `key`, whether durable or not.
    ///
    /// # Errors
    /// [`EngineError`] when it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, EngineError>;

    /// Up to `limit` records whose keys start with `prefix` and lie above `after`, in order, durable or not.
    ///
    /// # Errors
    /// [`EngineError`] when they cannot be read.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, EngineError>;

    /// Writes all changes as one: after a crash all are there or none. Not durable before [`Engine::sync`].
    ///
    /// # Errors
    /// [`EngineError`]; the writer then fails the store and tries nothing again.
    fn apply(&self, changes: &[Change]) -> Result<(), EngineError>;

    /// Makes everything applied durable, and says how many fsyncs that took.
    ///
    /// # Errors
    /// [`EngineError`]; what is on the disk is then unknown, and a second sync would lie.
    fn sync(&self) -> Result<u32, EngineError>;

    /// Told after each sync that everything up to `version` is durable.
    fn synced(&self, version: u64);

    /// How the disk is doing.
    ///
    /// # Errors
    /// [`EngineError`] when the operating system does not say.
    fn health(&self) -> Result<Health, EngineError>;

    /// Syncs, lets go of files and locks; every later call answers [`EngineError::Closed`].
    ///
    /// # Errors
    /// [`EngineError`] when the last sync fails.
    fn close(&self) -> Result<(), EngineError>;
}

/// What a record became, as the observer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written<'r> {
    /// The whole key.
    pub key: &'r [u8],
    /// Version of the commit that wrote it last.
    pub version: u64,
    /// What it became; `None` when it went.
    pub value: Option<&'r [u8]>,
}

/// Told once per sync, in commit order and before any caller has an answer, what each changed record became.
/// Several commits of one sync to one record show as the last of them. Runs on the writer thread: be quick.
pub type Observer = Box<dyn Fn(&[Written<'_>]) + Send>;

/// One entry of an index listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The value under which it is listed.
    pub value: Vec<u8>,
    /// The record's id.
    pub id: Vec<u8>,
    /// Where a listing goes on after this entry.
    pub cursor: Vec<u8>,
}

/// A ledger that numbers drafts and writes nothing. For tests only.
#[derive(Debug, Default)]
pub struct NullLedger {
    next: u64,
}

impl Ledger for NullLedger {
    fn seal(&mut self, drafts: &[Draft]) -> Sealed {
        let first = self.next;
        self.next += drafts.len() as u64;
        Sealed { first, ..Sealed::default() }
    }
}
