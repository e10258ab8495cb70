//! The store as everyone but its writer sees it: reads of what is durable, and commits.

use super::writer::Limits;
use super::{
    Announced, Batch, Collection, CommitError, Committed, Engine, Hit, Metrics, Observer, OpenError, ReadError,
    Versioned,
};
use crate::domain::ledger::Ledger;
use std::sync::Arc;
use tokio::sync::watch;

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<()>,
}

impl Store {
    /// Starts the writer over `engine`. `observer` hears of every durable commit, in order.
    ///
    /// # Errors
    /// [`OpenError::Collections`], or [`OpenError::Engine`] when the last version cannot be read.
    pub fn open(
        engine: Box<dyn Engine>,
        collections: &'static [Collection],
        ledger: Box<dyn Ledger>,
        observer: Observer,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let _ = (engine, collections, ledger, observer, limits);
        unimplemented!()
    }

    /// The record of `key`, as it is on the disk.
    ///
    /// # Errors
    /// [`ReadError::Failed`] or [`ReadError::Engine`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Versioned>, ReadError> {
        let _ = (key, &self.shared);
        unimplemented!()
    }

    /// Up to `limit` records whose keys start with `prefix` and lie above the whole key `after`, in order.
    /// Fewer than `limit` means that there are no more.
    ///
    /// # Errors
    /// [`ReadError::Failed`] or [`ReadError::Engine`].
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, ReadError> {
        let _ = (prefix, after, limit);
        unimplemented!()
    }

    /// Up to `limit` entries of `index` whose values start with `prefix`, after the cursor of an earlier
    /// [`Hit`], in the order of value and id. Fewer than `limit` means that there are no more.
    ///
    /// # Errors
    /// [`ReadError::NoSuchIndex`], [`ReadError::Failed`] or [`ReadError::Engine`].
    pub fn index_scan(
        &self,
        collection: &'static Collection,
        index: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Hit>, ReadError> {
        let _ = (collection, index, prefix, after, limit);
        unimplemented!()
    }

    /// Commits `batch`: all of it is on the disk on return, or nothing. Dropping the future does not take the
    /// batch back.
    ///
    /// # Errors
    /// Each [`CommitError`] says whether anything changed.
    #[expect(clippy::unused_async, reason = "becomes a wait for the writer's answer")]
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let _ = batch;
        unimplemented!()
    }

    /// Says that a commit is likely to follow soon, so that the writer may gather more into one sync. Held from
    /// the moment a connection is accepted until its request is answered.
    #[must_use]
    pub fn announce(&self) -> Announced {
        unimplemented!()
    }

    /// What the store has counted so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        unimplemented!()
    }

    /// Becomes the reason once the store has failed; the process should then exit for its supervisor.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        unimplemented!()
    }

    /// Finishes what is queued, syncs, closes the engine. Later commits answer [`CommitError::Closed`].
    ///
    /// # Errors
    /// [`CommitError::Unknown`] when the store failed before or while closing.
    #[expect(clippy::unused_async, reason = "becomes a wait for the writer's end")]
    pub async fn close(&self) -> Result<(), CommitError> {
        unimplemented!()
    }
}
