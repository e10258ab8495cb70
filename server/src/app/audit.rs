//! The audit log as operators read it, and the tasks that keep its promises.

use super::{App, Error};
use crate::audit::export::Export;
use crate::audit::{self, Entry, Pair, Publisher, Source, SourceError};
use crate::domain::policy::{Permit, act};
use crate::store::{Engine, Store};
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The store as the log reads it.
pub struct LogSource(pub Store);

impl Source for LogSource {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SourceError> {
        let found = self.0.get(key).map_err(|error| SourceError(Box::new(error)))?;
        Ok(found.map(|found| found.value))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, SourceError> {
        let found = self.0.scan(prefix, after, limit).map_err(|error| SourceError(Box::new(error)))?;
        Ok(found.into_iter().map(|(key, found)| (key, found.value)).collect())
    }
}

/// An engine as the log reads it before the store's writer runs; everything in it is durable then.
pub struct EngineSource<'a>(pub &'a dyn Engine);

impl Source for EngineSource<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SourceError> {
        let found = self.0.get(key).map_err(|error| SourceError(Box::new(error)))?;
        Ok(found.map(|found| found.value))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, SourceError> {
        let found = self.0.scan(prefix, after, limit).map_err(|error| SourceError(Box::new(error)))?;
        Ok(found.into_iter().map(|(key, found)| (key, found.value)).collect())
    }
}

/// Part of the log.
#[derive(Debug)]
pub struct History {
    /// Entries as JSON.
    pub items: Vec<serde_json::Value>,
    /// Sequence number of the last, where there may be more.
    pub next: Option<u64>,
    /// Entries in the whole log.
    pub size: u64,
}

/// One file of an export.
#[derive(Clone, Debug)]
pub struct ExportedFile {
    /// Path below the export's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// What an export holds.
#[derive(Clone, Debug)]
pub struct ExportedFiles {
    /// Entries covered.
    pub size: u64,
    /// Root of the tree over them, hexadecimal.
    pub root_sha256: String,
    /// The files.
    pub files: Vec<ExportedFile>,
}

/// The newest export, kept so that its files can be fetched one by one.
#[derive(Default)]
pub(super) struct Exported(Mutex<Option<Arc<Files>>>);

/// Bytes by path.
type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Gathered(Files);

impl audit::export::Sink for Gathered {
    fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }
}

impl App {
    /// Entries after sequence number `after`, oldest first.
    ///
    /// # Errors
    /// [`Error::Internal`] where the log cannot be read.
    pub fn audit_tail(
        &self,
        _permit: &Permit<act::ReadAudit>,
        after: Option<u64>,
        limit: usize,
    ) -> Result<History, Error> {
        let source = LogSource(self.store.clone());
        let entries = audit::tail(&source, after, limit).map_err(read)?;
        history(&source, &entries, limit)
    }

    /// Entries about one device after sequence number `after`, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Internal`] where the log cannot be read.
    pub fn history(
        &self,
        _permit: &Permit<act::ReadDevice>,
        id: DeviceId,
        after: Option<u64>,
        limit: usize,
    ) -> Result<History, Error> {
        self.device(id)?;
        let source = LogSource(self.store.clone());
        let entries = audit::about(&source, &format!("device/{id}"), after, limit).map_err(read)?;
        history(&source, &entries, limit)
    }

    /// Makes a checkpoint that covers everything durable, and names the files of an export.
    ///
    /// # Errors
    /// [`Error::Internal`] where nothing can be published.
    pub async fn audit_files(
        self: &Arc<Self>,
        _permit: &Permit<act::ReadAudit>,
    ) -> Result<ExportedFiles, Error> {
        let app = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || app.make_export()).await;
        made.map_err(|error| Error::internal("exporting the log")(Box::new(error)))?
    }

    fn make_export(&self) -> Result<ExportedFiles, Error> {
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| Error::internal("exporting the log")(error);
        let source = LogSource(self.store.clone());
        let export = {
            let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
            Export::cover(&source, &mut publisher).map_err(|error| failed(Box::new(error)))?
        };
        self.checkpoint_reaches(export.checkpoint().size);
        let mut gathered = Gathered::default();
        export
            .write(&source, &self.in_force().chain, &mut gathered)
            .map_err(|error| failed(Box::new(error)))?;
        let files = gathered.0.iter().map(|(path, bytes)| ExportedFile {
            path: path.clone(),
            size: bytes.len() as u64,
            sha256: Sha256Digest::of(bytes).to_hex(),
        });
        let named = ExportedFiles {
            size: export.checkpoint().size,
            root_sha256: export.checkpoint().root.to_hex(),
            files: files.collect(),
        };
        *self.exported.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(gathered.0));
        Ok(named)
    }

    /// One file of the newest export.
    ///
    /// # Errors
    /// [`Error::NotFound`] where no export was made since the start, or has no such file.
    pub fn audit_file(&self, _permit: &Permit<act::ReadAudit>, path: &str) -> Result<Vec<u8>, Error> {
        let exported = self.exported.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        exported
            .and_then(|files| files.get(path).cloned())
            .ok_or(Error::NotFound { kind: "file of an export" })
    }

    /// How often signing checkpoints made the disk write since the start.
    pub fn checkpoint_fsyncs(&self) -> u64 {
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner).syncs()
    }

    /// Entries that no checkpoint covers yet.
    ///
    /// # Errors
    /// [`Error::Internal`] where the log cannot be read.
    pub fn unpublished(&self) -> Result<u64, Error> {
        let size = audit::size(&LogSource(self.store.clone())).map_err(read)?;
        let covered = self.publisher.lock().unwrap_or_else(PoisonError::into_inner).last().size;
        Ok(size.saturating_sub(covered))
    }
}

/// When the newest entry was written, unix seconds; the beginning of time where there is none.
pub(super) fn newest_entry_s(store: &Store) -> Result<i64, Error> {
    let source = LogSource(store.clone());
    let size = audit::size(&source).map_err(read)?;
    let newest = audit::tail(&source, size.checked_sub(2), 2).map_err(read)?;
    Ok(newest.last().map_or(i64::MIN, |entry| entry.ts.div_euclid(1000)))
}

/// The log's writing side for checkpoints.
pub(super) type SharedPublisher = Mutex<Publisher>;

fn history(source: &LogSource, entries: &[Entry], limit: usize) -> Result<History, Error> {
    let next = entries.last().filter(|_| entries.len() == limit).map(|entry| entry.seq);
    let items = entries.iter().map(serde_json::to_value).collect::<Result<_, _>>();
    let items = items.map_err(|error| Error::internal("writing an entry as JSON")(Box::new(error)))?;
    Ok(History { items, next, size: audit::size(source).map_err(read)? })
}

fn read(error: audit::ReadError) -> Error {
    Error::internal("reading the audit log")(Box::new(error))
}
