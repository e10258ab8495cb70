//! The log as static files, each byte of them bound.
//!
//! ```text
//! manifest        signed note: digest and name of every other file
//! checkpoint      signed note: size and root
//! audit.vkey      the public key, for convenience; who has it from elsewhere compares
//! authority/NNN   the chain of authority documents, oldest first, as they were signed
//! tile/…          C2SP tlog-tiles: hashes and entries
//! ```
//! The files are made from the store, not copied from the data directory, and the root is computed again from the
//! entries on the way: a store that no longer holds what was promised exports nothing.

use super::files::Round;
use super::key::AuditKey;
use super::publish::{self, CHECKPOINT, Checkpoint, PublishError, Publisher};
use super::tiles::{self, Edge, Kind};
use super::tree::leaf_hash;
use super::{ReadError, Source, note};
use muster_wire::digest::Sha256Digest;
use muster_wire::key::SignError;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the signed list of files.
pub(super) const MANIFEST: &str = "manifest";
/// Name of the public key.
pub(super) const PUBLIC_KEY: &str = "audit.vkey";
/// First line of a manifest.
pub(super) const MAGIC: &str = "muster-audit-export/v1";

/// Where exported files go: a directory, an archive, an answer to a request.
pub trait Sink {
    /// Takes a file; `path` is relative, with `/` between its parts.
    ///
    /// # Errors
    /// What keeps the file from being taken; the export then ends.
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
}

/// Why a log is not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The checkpoint that is to cover the export cannot be made.
    #[error("no covering checkpoint")]
    Publish(#[from] PublishError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The entries in the store are not those that were promised.
    #[error(
        "the audit log in the store is not what its checkpoint of {size} entries promises; restore the store"
    )]
    Damaged {
        /// Entries promised.
        size: u64,
    },
    /// The audit key cannot be used.
    #[error("the audit key cannot sign")]
    Sign(#[from] SignError),
    /// The directory has something in it.
    #[error("{dir} is not empty; name a directory that is new or empty, for an export holds nothing else")]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be written.
    #[error("cannot write the export")]
    Io(#[from] io::Error),
}

/// An export that is covered by a checkpoint and can be written without the publisher.
#[derive(Clone, Debug)]
pub struct Export {
    checkpoint: Checkpoint,
    key: AuditKey,
}

impl Export {
    /// Makes a checkpoint that covers everything durable in `source`, and an export of what it covers.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn cover(source: &dyn Source, publisher: &mut Publisher) -> Result<Self, PublishError> {
        publisher.publish(source)?;
        Ok(Self { checkpoint: publisher.last().clone(), key: publisher.key().clone() })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Writes every file; `authority` is the chain of authority documents, oldest first.
    ///
    /// # Errors
    /// [`ExportError`]; what was written until then does not verify.
    pub fn write(
        &self,
        source: &dyn Source,
        authority: &[Vec<u8>],
        sink: &mut dyn Sink,
    ) -> Result<(), ExportError> {
        let mut listed = Listed { sink, digests: BTreeMap::new() };
        let mut edge = Edge::default();
        for (kind, index, width) in tiles::all(self.checkpoint.size) {
            let bytes = publish::tile(source, kind, index, width)?;
            if kind == Kind::Entries {
                let (entries, _) = tiles::split_entries(&bytes);
                entries.into_iter().for_each(|entry| edge.append(leaf_hash(entry), |_, _, _| {}));
            }
            listed.put(&tiles::path(kind, index, width), &bytes)?;
        }
        if edge.root() != self.checkpoint.root {
            return Err(ExportError::Damaged { size: self.checkpoint.size });
        }
        for (index, document) in authority.iter().enumerate() {
            listed.put(&authority_path(index), document)?;
        }
        listed.put(CHECKPOINT, &self.checkpoint.note)?;
        listed.put(PUBLIC_KEY, format!("{}\n", self.key.public().as_text()).as_bytes())?;
        let manifest = note::sign(&manifest_text(self.key.origin(), &listed.digests), &self.key)?;
        listed.sink.put(MANIFEST, manifest.as_bytes())?;
        Ok(())
    }
}

/// The path of an authority document.
pub(super) fn authority_path(index: usize) -> String {
    format!("authority/{index:03}")
}

/// The signed text of a manifest: a line for each file, sorted by name.
pub(super) fn manifest_text(origin: &str, digests: &BTreeMap<String, Sha256Digest>) -> String {
    let mut text = format!("{MAGIC}\n{origin}\n");
    for (path, digest) in digests {
        let _ = writeln!(text, "{digest}  {path}");
    }
    text
}

struct Listed<'a> {
    sink: &'a mut dyn Sink,
    digests: BTreeMap<String, Sha256Digest>,
}

impl Listed<'_> {
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.digests.insert(path.to_owned(), Sha256Digest::of(bytes));
        self.sink.put(path, bytes)
    }
}

/// A directory that takes an export.
#[derive(Debug)]
pub struct Directory {
    dir: PathBuf,
}

impl Directory {
    /// A directory that is new or empty; it is made when it is not there.
    ///
    /// # Errors
    /// [`ExportError::NotEmpty`], [`ExportError::Io`].
    pub fn at(dir: &Path) -> Result<Self, ExportError> {
        fs::create_dir_all(dir)?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(ExportError::NotEmpty { dir: dir.to_path_buf() });
        }
        Ok(Self { dir: dir.to_path_buf() })
    }
}

impl Sink for Directory {
    /// Refuses a path that leads elsewhere.
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
        if !path.split('/').all(plain) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path:?} is no path of an export"),
            ));
        }
        let mut round = Round::under(&self.dir);
        round.put(path, bytes)?;
        round.sync_names()
    }
}

impl Sink for BTreeMap<String, Vec<u8>> {
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }
}

/// Exports the log into `dir`, which is new or empty.
///
/// # Errors
/// [`ExportError`].
pub fn export(
    source: &dyn Source,
    publisher: &mut Publisher,
    authority: &[Vec<u8>],
    dir: &Path,
) -> Result<Checkpoint, ExportError> {
    let mut sink = Directory::at(dir)?;
    let export = Export::cover(source, publisher)?;
    export.write(source, authority, &mut sink)?;
    Ok(export.checkpoint)
}
