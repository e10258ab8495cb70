//! From the store to the outside: tiles first, then the checkpoint that promises them.
//!
//! A crash after some tiles leaves files that nothing refers to; the next round writes the same bytes again. A crash
//! after the checkpoint leaves partial tiles of the former one; they are in nobody's way. The checkpoint is
//! replaced only while the file holds the one that this publisher wrote or read last.

use super::files::{Round, read_if_there};
use super::key::{AuditKey, PinnedKey};
use super::log::{self, OpenError};
use super::tiles::{self, Edge, Kind, WIDTH};
use super::tree::{Hash, leaf_hash};
use super::{ReadError, Source};
use muster_wire::checkpoint;
use muster_wire::digest::Sha256Digest;
use muster_wire::key::SignError;
use muster_wire::merkle::TreeHead;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the checkpoint in its directory.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// A signed promise: the log has these entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Sha256Digest,
    /// The signed note.
    pub note: Vec<u8>,
}

impl Checkpoint {
    pub(super) fn sign(key: &AuditKey, size: u64, root: Hash) -> Result<Self, SignError> {
        let said = checkpoint::Checkpoint { origin: key.origin().to_owned(), head: TreeHead { size, root } };
        Ok(Self { size, root, note: said.sign(key.signer())?.into_bytes() })
    }

    /// Reads a checkpoint of the log that `key` belongs to, signed by it; `None` for anything else.
    pub fn open(note: &[u8], key: &PinnedKey) -> Option<Self> {
        let text = std::str::from_utf8(note).ok()?;
        let said = checkpoint::Checkpoint::verify(text, key.origin(), &[key.key()]).ok()?;
        Some(Self { size: said.head.size, root: said.head.root, note: note.to_vec() })
    }
}

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest time that an entry waits.
    pub interval: Duration,
    /// Number of waiting entries that makes a checkpoint due earlier, though never more often than five times an
    /// interval: each costs a dozen syncs.
    pub entries: u64,
}

impl Pace {
    /// Whether a checkpoint is due with `waiting` entries, `since_last` after the last one.
    pub fn is_due(&self, waiting: u64, since_last: Duration) -> bool {
        waiting > 0
            && (since_last >= self.interval || (waiting >= self.entries && since_last >= self.interval / 5))
    }
}

/// Why nothing was published. The log itself is safe in the store; the next round tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store has fewer entries than are promised, or others. The process has to stop.
    #[error("the audit log in the store, of {found} entries, contradicts the checkpoint of {signed} entries")]
    Contradiction {
        /// Entries promised.
        signed: u64,
        /// Entries found.
        found: u64,
    },
    /// Somebody else wrote the checkpoint. The process has to stop.
    #[error(
        "the audit checkpoint {path} was changed by another process; two servers must not share a data directory"
    )]
    Overtaken {
        /// The file.
        path: PathBuf,
    },
    /// The audit key cannot be used.
    #[error("the audit key cannot sign")]
    Sign(#[from] SignError),
    /// A file cannot be written.
    #[error(
        "cannot write the audit files under {dir}; check that the disk is not full and that this user may write there"
    )]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Writes tiles and checkpoints. There is one of it.
#[derive(Debug)]
pub struct Publisher {
    dir: PathBuf,
    key: AuditKey,
    last: Checkpoint,
    /// A checkpoint that was being written when the disk failed: it may or may not be the one on the disk.
    tried: Option<Vec<u8>>,
    progress: Progress,
    /// Partial tiles of the last checkpoint, and those of the one before: a reader may still be after them.
    partials: [BTreeSet<String>; 2],
    syncs: u64,
    /// Whether the last checkpoint is by a former key, so that another of the same size is due.
    is_former: bool,
}

/// How far the log has been followed.
#[derive(Clone, Debug)]
struct Progress {
    edge: Edge,
    bundle: Vec<u8>,
}

impl Publisher {
    /// Goes on after `last`, at whose size the tree has this `edge`.
    pub(super) fn resume(
        source: &dyn Source,
        dir: &Path,
        key: AuditKey,
        edge: Edge,
        last: Checkpoint,
    ) -> Result<Self, OpenError> {
        let width = (last.size % WIDTH as u64) as usize;
        let bundle = log::bundle(source, last.size / WIDTH as u64, width)?;
        repair(source, dir, last.size)?;
        let progress = Progress { edge, bundle };
        let partials = [partials_of(&progress), BTreeSet::new()];
        let is_former = Checkpoint::open(&last.note, &key.public()).is_none();
        Ok(Self { dir: dir.to_path_buf(), key, last, tried: None, progress, partials, syncs: 0, is_former })
    }

    /// Signs with `key` from now on. The next [`Publisher::publish`] signs a checkpoint, even if the log has not grown.
    pub fn succeed(&mut self, key: AuditKey) {
        self.key = key;
        self.is_former = true;
    }

    /// The last checkpoint.
    pub fn last(&self) -> &Checkpoint {
        &self.last
    }

    /// How often publishing made the disk write, since this publisher was made.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// The key that signs.
    pub fn key(&self) -> &AuditKey {
        &self.key
    }

    /// Publishes everything that is durable in `source`; on return the last checkpoint covers it. `None` when the
    /// last one does so already.
    ///
    /// Blocks on the disk: call it on a thread that may.
    ///
    /// # Errors
    /// [`PublishError`]; on `Contradiction` and `Overtaken` the process has to stop, the others may pass.
    pub fn publish(&mut self, source: &dyn Source) -> Result<Option<&Checkpoint>, PublishError> {
        let frontier = log::right_edge(source)?;
        let contradiction = PublishError::Contradiction { signed: self.last.size, found: frontier.size() };
        if frontier.size() == self.last.size && !self.is_former {
            return Ok(None);
        }
        if frontier.size() < self.last.size {
            return Err(contradiction);
        }
        let mut round = Round::under(&self.dir);
        let progress = self.follow(source, frontier.size(), &mut round)?;
        if progress.edge.frontier() != frontier {
            return Err(contradiction);
        }
        let partials = self.write_partials(&progress, &mut round).map_err(|source| self.io(source))?;
        round.sync_names().map_err(|source| self.io(source))?;
        self.syncs += round.syncs();
        let checkpoint = Checkpoint::sign(&self.key, frontier.size(), frontier.root())?;
        self.replace_checkpoint(&checkpoint)?;
        self.tried = None;
        self.last = checkpoint;
        self.is_former = false;
        self.progress = progress;
        self.drop_partials(partials);
        Ok(Some(&self.last))
    }

    /// Reads the entries up to `size` and writes every tile that they fill.
    fn follow(
        &self,
        source: &dyn Source,
        size: u64,
        round: &mut Round<'_>,
    ) -> Result<Progress, PublishError> {
        let mut progress = self.progress.clone();
        let from = progress.edge.size();
        let count = usize::try_from(size - from).unwrap_or(usize::MAX);
        log::each_entry(source, from, count, |seq, entry| {
            tiles::push_entry(&mut progress.bundle, entry);
            let mut full = Vec::new();
            progress.edge.append(leaf_hash(entry), |level, index, hashes| {
                full.push((Kind::Hashes(level), index, tiles::encode_hashes(hashes)));
            });
            if !full.is_empty() {
                full.push((Kind::Entries, seq / WIDTH as u64, std::mem::take(&mut progress.bundle)));
            }
            let put =
                |(kind, index, bytes): (_, _, Vec<u8>)| round.put(&tiles::path(kind, index, WIDTH), &bytes);
            full.into_iter().try_for_each(put).map_err(|source| self.io(source))
        })?;
        Ok(progress)
    }

    fn write_partials(&self, progress: &Progress, round: &mut Round<'_>) -> io::Result<BTreeSet<String>> {
        let [there, _] = &self.partials;
        for (path, bytes) in partial_files(progress) {
            if !there.contains(&path) {
                round.put(&path, &bytes)?;
            }
        }
        Ok(partials_of(progress))
    }

    fn replace_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), PublishError> {
        let path = self.dir.join(CHECKPOINT);
        let found = read_if_there(&path).map_err(|source| self.io(source))?;
        if found.is_none() || (found.as_ref() != Some(&self.last.note) && found != self.tried) {
            return Err(PublishError::Overtaken { path });
        }
        self.tried = Some(checkpoint.note.clone());
        self.syncs += write_checkpoint(&self.dir, checkpoint).map_err(|source| self.io(source))?;
        Ok(())
    }

    /// Removes partial tiles that neither the new checkpoint nor the one before refers to. A file that stays
    /// because it cannot be removed does no harm.
    fn drop_partials(&mut self, new: BTreeSet<String>) {
        let [last, before] = std::mem::take(&mut self.partials);
        for path in before.iter().filter(|path| !last.contains(*path) && !new.contains(*path)) {
            let path = self.dir.join(path);
            let _ = fs::remove_file(&path);
            let _ = path.parent().map(fs::remove_dir);
        }
        self.partials = [new, last];
    }

    fn io(&self, source: io::Error) -> PublishError {
        PublishError::Io { dir: self.dir.clone(), source }
    }
}

fn partials_of(progress: &Progress) -> BTreeSet<String> {
    partial_files(progress).map(|(path, _)| path).collect()
}

fn partial_files(progress: &Progress) -> impl Iterator<Item = (String, Vec<u8>)> {
    let hashes = progress.edge.partial().map(|(level, index, hashes)| {
        (tiles::path(Kind::Hashes(level), index, hashes.len()), tiles::encode_hashes(hashes))
    });
    let (index, width) =
        (progress.edge.size() / WIDTH as u64, (progress.edge.size() % WIDTH as u64) as usize);
    let entries = (width > 0).then(|| (tiles::path(Kind::Entries, index, width), progress.bundle.clone()));
    hashes.chain(entries)
}

/// Writes what is missing of the files that a checkpoint of `size` entries refers to, and removes what a crash
/// left of other partial forms of the same tiles.
fn repair(source: &dyn Source, dir: &Path, size: u64) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { operation: "write audit files under", path: dir.to_path_buf(), source };
    let mut round = Round::under(dir);
    for (kind, index, width) in tiles::all(size) {
        let path = tiles::path(kind, index, width);
        if !dir.join(&path).is_file() {
            round.put(&path, &tile(source, kind, index, width)?).map_err(io)?;
        }
        if width < WIDTH {
            let stale = fs::read_dir(dir.join(tiles::partial_dir(kind, index))).map_err(io)?.flatten();
            for other in stale.filter(|other| !dir.join(&path).ends_with(other.file_name())) {
                fs::remove_file(other.path()).map_err(io)?;
            }
        }
    }
    round.sync_names().map_err(io)
}

/// The bytes of a file of the log, from the store.
pub(super) fn tile(source: &dyn Source, kind: Kind, index: u64, width: usize) -> Result<Vec<u8>, ReadError> {
    match kind {
        Kind::Entries => log::bundle(source, index, width),
        Kind::Hashes(_) => {
            log::hashes(source, kind, index, width).map(|hashes| tiles::encode_hashes(&hashes))
        }
    }
}

/// The checkpoint in `dir`.
pub(super) fn read_checkpoint(dir: &Path, key: &PinnedKey) -> Result<Checkpoint, OpenError> {
    let path = dir.join(CHECKPOINT);
    match read_if_there(&path) {
        Ok(Some(note)) => Checkpoint::open(&note, key).ok_or(OpenError::CheckpointRefused { path }),
        Ok(None) => Err(OpenError::CheckpointMissing { path }),
        Err(source) => Err(OpenError::Io { operation: "read", path, source }),
    }
}

/// The checkpoint in `dir`, by `key` or, failing that, by one of the `former` keys.
pub(super) fn read_checkpoint_by(
    dir: &Path,
    key: &PinnedKey,
    former: &[PinnedKey],
) -> Result<Checkpoint, OpenError> {
    let by_key = read_checkpoint(dir, key);
    let earlier = || former.iter().rev().find_map(|former| read_checkpoint(dir, former).ok());
    by_key.or_else(|refused| earlier().ok_or(refused))
}

/// Puts `checkpoint` in the place of the one in `dir`; answers how many syncs that took.
pub(super) fn write_checkpoint(dir: &Path, checkpoint: &Checkpoint) -> io::Result<u64> {
    let mut round = Round::under(dir);
    round.put(CHECKPOINT, &checkpoint.note)?;
    round.sync_names()?;
    Ok(round.syncs())
}

#[cfg(test)]
mod tests;
