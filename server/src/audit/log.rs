//! Appending, and the guard that a log has to pass before it is appended to.
//!
//! In the store, under `a/`:
//! ```text
//! a/e/<seq>            one entry
//! a/h/<level><index>   root of a full tile of the level below: a hash in a tile of <level>
//! a/o/<object>00<seq>  lists an entry under its object; empty
//! a/edge               size and compact range of the whole tree, rewritten with every batch
//! ```
//! Numbers are big-endian, `<seq>` and `<index>` of eight bytes, `<level>` of one. Everything is written in the
//! batch of the state that it describes, so a crash leaves either all of it or nothing.

use super::entry::Entry;
use super::key::{AuditKey, PinnedKey};
use super::publish::{self, Checkpoint, Publisher};
use super::tiles::{self, Edge, Kind, WIDTH};
use super::tree::{Frontier, Hash, leaf_hash};
use super::{PREFIX, Pair, ReadError, Source};
use crate::domain::ledger::{Draft, Ledger, Put, Sealed};
use muster_wire::key::SignError;
use std::io;
use std::path::{Path, PathBuf};

/// Objects whose entries are listed, so that the history of a device is read without the rest of the log.
const LISTED: &str = "device/";

/// Longest object that is listed, in bytes.
const LISTED_MAX: usize = 64;

/// The store's writer's end of the log: numbers entries and hashes them into the tree.
#[derive(Debug)]
pub struct Log {
    frontier: Frontier,
}

impl Ledger for Log {
    fn seal(&mut self, drafts: &[Draft]) -> Sealed {
        let first = self.frontier.size();
        let mut fresh: Vec<Put> = Vec::with_capacity(2 * drafts.len());
        for draft in drafts {
            let seq = self.frontier.size();
            let entry = Entry::new(draft, seq).encode();
            self.frontier.append(leaf_hash(&entry), |level, index, root| {
                if level % 8 == 0 {
                    fresh
                        .push((root_key(u8::try_from(level / 8).unwrap_or(u8::MAX), index), root.0.to_vec()));
                }
            });
            fresh.push((entry_key(seq), entry));
            if draft.object.starts_with(LISTED) && draft.object.len() <= LISTED_MAX {
                fresh.push((object_key(&draft.object, seq), Vec::new()));
            }
        }
        let moved = !drafts.is_empty();
        let puts = moved.then(|| (edge_key(), encode_edge(&self.frontier))).into_iter().collect();
        Sealed { first, puts, fresh }
    }
}

/// Why a log is not appended to. The server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log in the store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Entries and right edge in the store do not belong together.
    #[error("the audit log in the store is damaged at size {size}; restore the store from a backup")]
    Damaged {
        /// Size of the log in the store.
        size: u64,
    },
    /// There is no signed checkpoint.
    #[error(
        "the audit checkpoint {path} is missing; restore it from a copy or from the newest export, for without it \
         nobody can tell whether the log went back"
    )]
    CheckpointMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The checkpoint is not one of this log.
    #[error(
        "the audit checkpoint {path} is not signed by this server's audit key; restore the file or the key"
    )]
    CheckpointRefused {
        /// The file.
        path: PathBuf,
    },
    /// The store has fewer entries than were promised.
    #[error(
        "the audit log went back: a checkpoint promises {signed} entries and the store has {found}; restore a store \
         that is at least as new as the checkpoint"
    )]
    WentBack {
        /// Entries that the checkpoint promises.
        signed: u64,
        /// Entries in the store.
        found: u64,
    },
    /// The store has other entries than were promised.
    #[error(
        "the audit log forked: the first {size} entries in the store are not those that a checkpoint promises; \
         restore the store that the checkpoint belongs to"
    )]
    Forked {
        /// Entries that the checkpoint promises.
        size: u64,
    },
    /// The audit key cannot be used.
    #[error("the audit key cannot sign")]
    Sign(#[from] SignError),
    /// A file cannot be read or written.
    #[error("cannot {operation} {path}; check that this user may write there and that the disk is not full")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Founds a log in `dir`: the signed promise of an empty tree, without which no log opens.
///
/// A checkpoint that is there already and signed by `key` stays, so that a half-finished founding can go on.
///
/// # Errors
/// [`OpenError::CheckpointRefused`] for a checkpoint of another key, [`OpenError::Io`].
pub fn found(dir: &Path, key: &AuditKey) -> Result<(), OpenError> {
    match publish::read_checkpoint(dir, &key.public()) {
        Err(OpenError::CheckpointMissing { .. }) => {}
        other => return other.map(|_| ()),
    }
    let empty = Checkpoint::sign(key, 0, Frontier::default().root())?;
    publish::write_checkpoint(dir, &empty).map_err(|source| OpenError::Io {
        operation: "write the first checkpoint to",
        path: dir.to_path_buf(),
        source,
    })?;
    Ok(())
}

/// Opens the log in `source` with its promises in `dir`, `<data-dir>/audit`.
///
/// The right edge is computed again from the entries and tile roots, at the size of the signed checkpoint and at
/// the size of the store. Files that a crash kept from being written are written. A checkpoint may be signed by one of
/// the `former` keys: whoever replaced them was stopped before the first checkpoint by `key`, which is then signed anew.
///
/// # Errors
/// [`OpenError::WentBack`] and [`OpenError::Forked`] when the store does not hold what the checkpoint promises,
/// [`OpenError::Damaged`] when it contradicts itself, and as the variants say otherwise.
pub fn open(
    source: &dyn Source,
    dir: &Path,
    key: AuditKey,
    former: &[PinnedKey],
) -> Result<(Log, Publisher), OpenError> {
    let frontier = right_edge(source)?;
    let promised = publish::read_checkpoint_by(dir, &key.public(), former)?;
    if promised.size > frontier.size() {
        return Err(OpenError::WentBack { signed: promised.size, found: frontier.size() });
    }
    let edge = load_edge(source, promised.size)?;
    if edge.root() != promised.root {
        return Err(OpenError::Forked { size: promised.size });
    }
    check_unpromised(source, edge.clone(), &frontier)?;
    let publisher = Publisher::resume(source, dir, key, edge, promised)?;
    Ok((Log { frontier }, publisher))
}

/// Follows the entries beyond the checkpoint to the right edge in the store.
fn check_unpromised(source: &dyn Source, mut edge: Edge, frontier: &Frontier) -> Result<(), OpenError> {
    let damaged = || OpenError::Damaged { size: frontier.size() };
    let mut roots: Vec<Pair> = Vec::new();
    each_entry(source, edge.size(), usize::MAX, |_, entry| {
        edge.append(leaf_hash(entry), |level, index, tile| {
            roots.push((root_key(level + 1, index), tiles::perfect_root(tile).0.to_vec()));
        });
        Ok::<_, ReadError>(())
    })?;
    if edge.frontier() != *frontier {
        return Err(damaged());
    }
    for (key, root) in roots {
        if source.get(&key).map_err(ReadError::from)? != Some(root) {
            return Err(damaged());
        }
    }
    Ok(())
}

/// The right edge as the last batch wrote it; that of an empty log when there is none.
pub(super) fn right_edge(source: &dyn Source) -> Result<Frontier, ReadError> {
    let Some(bytes) = source.get(&edge_key())? else { return Ok(Frontier::default()) };
    decode_edge(&bytes).ok_or_else(|| ReadError::Damaged { key: readable(&edge_key()) })
}

/// The right edge at `size`, computed from entries and tile roots.
fn load_edge(source: &dyn Source, size: u64) -> Result<Edge, ReadError> {
    let mut levels = Vec::new();
    for (kind, index, width) in tiles::right_edge(size) {
        levels.push(if width == 0 { Vec::new() } else { hashes(source, kind, index, width)? });
    }
    Edge::from_levels(size, levels).ok_or(ReadError::Damaged { key: readable(&edge_key()) })
}

/// The first `width` hashes of a tile, from the store.
pub(super) fn hashes(
    source: &dyn Source,
    kind: Kind,
    index: u64,
    width: usize,
) -> Result<Vec<Hash>, ReadError> {
    let first = index * WIDTH as u64;
    match kind {
        Kind::Entries | Kind::Hashes(0) => {
            let mut hashes = Vec::with_capacity(width);
            each_entry(source, first, width, |_, entry| {
                hashes.push(leaf_hash(entry));
                Ok::<_, ReadError>(())
            })?;
            complete(hashes, first, width)
        }
        Kind::Hashes(level) => (first..).take(width).map(|index| root(source, level, index)).collect(),
    }
}

pub(super) fn root(source: &dyn Source, level: u8, index: u64) -> Result<Hash, ReadError> {
    let key = root_key(level, index);
    let found = source.get(&key)?.and_then(|root| root.try_into().ok().map(Hash));
    found.ok_or_else(|| ReadError::Damaged { key: readable(&key) })
}

/// The bytes of an entry tile, from the store.
pub(super) fn bundle(source: &dyn Source, index: u64, width: usize) -> Result<Vec<u8>, ReadError> {
    let first = index * WIDTH as u64;
    let (mut bundle, mut seen) = (Vec::new(), 0);
    each_entry(source, first, width, |_, entry| {
        tiles::push_entry(&mut bundle, entry);
        seen += 1;
        Ok::<_, ReadError>(())
    })?;
    if seen == width { Ok(bundle) } else { Err(ReadError::Missing { seq: first + seen as u64 }) }
}

fn complete(hashes: Vec<Hash>, first: u64, width: usize) -> Result<Vec<Hash>, ReadError> {
    if hashes.len() == width {
        Ok(hashes)
    } else {
        Err(ReadError::Missing { seq: first + hashes.len() as u64 })
    }
}

/// Entries read from the store at once.
const PAGE: usize = 256;

/// Hands at most `limit` entries to `each`, from sequence number `first` on, until the log ends.
///
/// # Errors
/// [`ReadError::Missing`] for a gap, what `each` answers, and what the store answers.
pub(super) fn each_entry<E: From<ReadError>>(
    source: &dyn Source,
    first: u64,
    limit: usize,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut next, mut left) = (first, limit);
    while left > 0 {
        let after = next.checked_sub(1).map(entry_key);
        let asked = left.min(PAGE);
        let page = source.scan(&entry_prefix(), after.as_deref(), asked).map_err(ReadError::from)?;
        for (key, entry) in &page {
            if *key != entry_key(next) {
                return Err(ReadError::Missing { seq: next }.into());
            }
            each(next, entry)?;
            next += 1;
        }
        if page.len() < asked {
            break;
        }
        left -= asked;
    }
    Ok(())
}

fn entry_prefix() -> Vec<u8> {
    [PREFIX, b"e/"].concat()
}

/// The key of an entry.
pub(super) fn entry_key(seq: u64) -> Vec<u8> {
    [PREFIX, b"e/", &seq.to_be_bytes()].concat()
}

/// What every listing of entries about `object` starts with.
pub(super) fn object_prefix(object: &str) -> Vec<u8> {
    [PREFIX, b"o/", object.as_bytes(), b"\0"].concat()
}

/// The key that lists entry `seq` under `object`; its value is empty.
pub(super) fn object_key(object: &str, seq: u64) -> Vec<u8> {
    [object_prefix(object).as_slice(), &seq.to_be_bytes()].concat()
}

fn root_key(level: u8, index: u64) -> Vec<u8> {
    [PREFIX, b"h/", &[level], &index.to_be_bytes()].concat()
}

fn edge_key() -> Vec<u8> {
    [PREFIX, b"edge"].concat()
}

/// A key of the log for people.
pub(super) fn readable(key: &[u8]) -> String {
    match key.split_last_chunk::<8>() {
        Some((rest, number)) => format!("{}{}", rest.escape_ascii(), u64::from_be_bytes(*number)),
        None => key.escape_ascii().to_string(),
    }
}

fn encode_edge(frontier: &Frontier) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + 32 * frontier.nodes().len());
    bytes.extend_from_slice(&frontier.size().to_be_bytes());
    frontier.nodes().iter().for_each(|node| bytes.extend_from_slice(&node.0));
    bytes
}

fn decode_edge(bytes: &[u8]) -> Option<Frontier> {
    let (size, nodes) = bytes.split_first_chunk::<8>()?;
    let (nodes, []) = nodes.as_chunks::<32>() else { return None };
    Frontier::from_parts(u64::from_be_bytes(*size), nodes.iter().map(|node| Hash(*node)).collect())
}

#[cfg(test)]
mod tests;
