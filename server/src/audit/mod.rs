//! The tamper-evident log: append, checkpoint, verify, export.
//!
//! ```text
//!  drafts ─▶ Log::seal ─▶ entries and right edge ─▶ store, in the batch of the state they describe
//!                                                     │ once durable
//!                                                     ▼
//!                        Publisher::publish ─▶ tiles, then the signed checkpoint ─▶ <data-dir>/audit
//!                                                                                    │
//!                                           verify, docs/verify-audit.py ◀─ export ◀─┘
//! ```
//!
//! The tree is that of RFC 6962, the files those of C2SP tlog-tiles, the checkpoint a C2SP signed note by the
//! audit key. The store holds the truth; the files hold what was promised to the outside. [`log::open`] compares
//! the two and refuses a log that went back or forked. Nothing in this room reads a clock or talks to a network.

pub mod entry;
pub mod export;
mod files;
pub mod key;
pub mod log;
mod note;
pub mod proof;
pub mod publish;
mod tiles;
mod tree;
pub mod verify;

#[cfg(test)]
mod memory;

pub use entry::Entry;
pub use key::{AuditKey, PinnedKey};
pub use log::{Log, OpenError, found, open};
pub use publish::{Checkpoint, Pace, PublishError, Publisher};

use std::error::Error;

/// First bytes of every key of the log in the store.
pub const PREFIX: &[u8] = b"a/";

/// What the log reads the store through. Implementations show durable records only.
pub trait Source {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`SourceError`] when the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SourceError>;

    /// At most `limit` keys that begin with `prefix`, in order, with their values; those after the whole key
    /// `after`, when it is given.
    ///
    /// # Errors
    /// [`SourceError`] when the store cannot be read.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, SourceError>;
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The store could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be read")]
pub struct SourceError(#[source] pub Box<dyn Error + Send + Sync>);

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An entry that should be there is not.
    #[error("audit entry {seq} is missing in the store; restore the store from a backup")]
    Missing {
        /// Its sequence number.
        seq: u64,
    },
    /// A record of the log is not what the log wrote.
    #[error("the audit record {key} is damaged; restore the store from a backup")]
    Damaged {
        /// Its key, readable.
        key: String,
    },
}

/// Number of entries in the log, those without a checkpoint included.
///
/// # Errors
/// [`ReadError::Source`], or [`ReadError::Damaged`] when the right edge cannot be read.
pub fn size(source: &dyn Source) -> Result<u64, ReadError> {
    Ok(log::right_edge(source)?.size())
}

/// The sequence number of the entry that lies under `key` of the store; nothing for other keys.
pub fn entry_number(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(PREFIX)?.strip_prefix(b"e/")?;
    number.try_into().ok().map(u64::from_be_bytes)
}

/// At most `limit` entries about `object`, those after sequence number `after`, in order.
///
/// Only objects that begin with `device/` are listed in the store; others have no entries here.
///
/// # Errors
/// As [`tail`].
pub fn about(
    source: &dyn Source,
    object: &str,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<Entry>, ReadError> {
    let prefix = log::object_prefix(object);
    let after = after.map(|seq| log::object_key(object, seq));
    let mut entries = Vec::new();
    for (key, _) in source.scan(&prefix, after.as_deref(), limit)? {
        let seq = key.last_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
        let bytes = source.get(&log::entry_key(seq))?.ok_or(ReadError::Missing { seq })?;
        let entry = Entry::decode(&bytes).filter(|entry| entry.seq == seq);
        entries.push(entry.ok_or_else(|| ReadError::Damaged { key: log::readable(&log::entry_key(seq)) })?);
    }
    Ok(entries)
}

/// At most `limit` entries, those after sequence number `after` or from the first one on, in order.
///
/// # Errors
/// [`ReadError::Source`], [`ReadError::Missing`] for a gap, [`ReadError::Damaged`] for what is no entry.
pub fn tail(source: &dyn Source, after: Option<u64>, limit: usize) -> Result<Vec<Entry>, ReadError> {
    let first = after.map_or(0, |seq| seq.saturating_add(1));
    let mut entries = Vec::new();
    log::each_entry(source, first, limit, |seq, bytes| {
        let entry = Entry::decode(bytes).filter(|entry| entry.seq == seq);
        entries.push(entry.ok_or_else(|| ReadError::Damaged { key: log::readable(&log::entry_key(seq)) })?);
        Ok::<_, ReadError>(())
    })?;
    Ok(entries)
}
