//! The store as everyone but its writer sees it: reads of what is durable, and commits.

use super::announce::Announcements;
use super::checksum::Checksum;
use super::key::{LAST_VERSION, RESERVED, push_escaped, split_index_entry};
use super::metrics::Counters;
use super::overlay::Overlay;
use super::writer::{Limits, Shared, Submission, Writer};
use super::{
    Announced, Batch, Collection, CommitError, Committed, Engine, EngineError, Hit, Metrics, Observer,
    OpenError, ReadError, Versioned,
};
use crate::domain::ledger::Ledger;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// When it is worth trying again after the queue was full, in seconds.
const RETRY_AFTER_S: u32 = 1;

/// A handle on the store; clones share it. When the last one goes, the writer finishes its queue and closes.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: RwLock<Option<SyncSender<Submission>>>,
    ended: watch::Receiver<Option<Result<(), CommitError>>>,
}

impl Store {
    /// Starts the writer over `engine`. `observer` hears of every durable commit, in order.
    ///
    /// What has to be read before (the ledger's right edge, say) is read from the engine itself: until a writer
    /// runs, everything in it is durable.
    ///
    /// # Errors
    /// [`OpenError::Collections`]; [`OpenError::Engine`] when the last version cannot be read or no thread can
    /// be started.
    pub fn open(
        engine: Box<dyn Engine>,
        collections: &'static [Collection],
        ledger: Box<dyn Ledger>,
        observer: Observer,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        check_collections(collections)?;
        let (version, checksum) = last_commit(engine.as_ref())?;
        let shared = Arc::new(Shared {
            engine,
            overlay: Overlay::default(),
            counters: Counters::new(version),
            announcements: Announcements::new(),
            failed: AtomicBool::new(false),
            failure: watch::Sender::new(None),
        });
        let (sender, queue) = sync_channel(limits.queue);
        let (end, ended) = watch::channel(None);
        let writer = Writer {
            shared: Arc::clone(&shared),
            queue,
            collections,
            ledger,
            observer,
            limits,
            version,
            checksum,
            looked: None,
        };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&end))
            .map_err(|source| EngineError::Io { operation: "start the writer", source })?;
        Ok(Self { inner: Arc::new(Inner { shared, queue: RwLock::new(Some(sender)), ended }) })
    }

    /// The record of `key`, as it is on the disk.
    ///
    /// # Errors
    /// [`ReadError::Failed`] or [`ReadError::Engine`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Versioned>, ReadError> {
        let shared = self.readable()?;
        let read = shared.engine.get(key)?;
        Ok(shared.overlay.correct(key, read))
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
        let shared = self.readable()?;
        let mut found = Vec::new();
        let mut from = after.map(<[u8]>::to_vec);
        while found.len() < limit {
            let wanted = limit - found.len();
            let page = shared.engine.scan(prefix, from.as_deref(), wanted)?;
            // Records that are to be shown as absent make a page short, so only the engine's own page tells
            // whether there is more.
            let next = if page.len() < wanted { None } else { page.last().map(|(key, _)| key.clone()) };
            let page = shared.overlay.correct_page(page, prefix, from.as_deref(), next.as_deref());
            found.extend(page);
            if next.is_none() {
                break;
            }
            from = next;
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Up to `limit` entries of `index` whose values start with `prefix`, after the cursor of an earlier
    /// [`Hit`], in the order of value and id. Fewer than `limit` means that there are no more.
    ///
    /// A cursor may come from anywhere: whatever it holds, only entries of this index are listed.
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
        if collection.index(index).is_none() {
            return Err(ReadError::NoSuchIndex { collection: collection.name, index: index.to_owned() });
        }
        let base = collection.index_base(index);
        let mut wanted = base.clone();
        push_escaped(&mut wanted, prefix);
        let after = after.map(|cursor| [base.as_slice(), cursor].concat());
        let entries = self.scan(&wanted, after.as_deref(), limit)?;
        Ok(entries.iter().filter_map(|(entry, _)| hit(entry.get(base.len()..)?)).collect())
    }

    /// Commits `batch`: all of it is on the disk on return, or nothing. Dropping the future does not take the
    /// batch back.
    ///
    /// # Errors
    /// Each [`CommitError`] says whether anything changed.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let (answer, answered) = oneshot::channel();
        self.submit(Submission { batch, answer, submitted: Instant::now() })?;
        answered.await.unwrap_or(Err(CommitError::Unknown))
    }

    fn submit(&self, submission: Submission) -> Result<(), CommitError> {
        let shared = &self.inner.shared;
        if shared.failed.load(Ordering::SeqCst) {
            return Err(CommitError::Unknown);
        }
        let queue = self.inner.queue.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = queue.as_ref() else { return Err(CommitError::Closed) };
        shared.counters.queued.fetch_add(1, Ordering::Relaxed);
        sender.try_send(submission).map_err(|refused| {
            shared.counters.queued.fetch_sub(1, Ordering::Relaxed);
            match refused {
                TrySendError::Full(_) => {
                    shared.counters.busy.fetch_add(1, Ordering::Relaxed);
                    CommitError::Busy { retry_after_s: RETRY_AFTER_S }
                }
                TrySendError::Disconnected(_) => CommitError::Unknown,
            }
        })
    }

    /// Says that a commit is likely to follow soon, so that the writer may gather more into one sync. Held from
    /// the moment a connection is accepted until its request is answered.
    #[must_use]
    pub fn announce(&self) -> Announced {
        self.inner.shared.announcements.announce()
    }

    /// What the store has counted so far.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.inner.shared.counters.snapshot()
    }

    /// Becomes the reason once the store has failed; the process should then exit for its supervisor.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.inner.shared.failure.subscribe()
    }

    /// Finishes what is queued, syncs, closes the engine. Later commits answer [`CommitError::Closed`].
    ///
    /// # Errors
    /// [`CommitError::Unknown`] when the store failed before or while closing.
    pub async fn close(&self) -> Result<(), CommitError> {
        drop(self.inner.queue.write().unwrap_or_else(PoisonError::into_inner).take());
        let mut ended = self.inner.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err(CommitError::Unknown),
        }
    }

    fn readable(&self) -> Result<&Shared, ReadError> {
        let shared = &self.inner.shared;
        if shared.failed.load(Ordering::SeqCst) { Err(ReadError::Failed) } else { Ok(shared) }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("version", &self.metrics().version).finish_non_exhaustive()
    }
}

/// Version and checksum of the last commit; zero when there is none.
pub(super) fn last_commit(engine: &dyn Engine) -> Result<(u64, Checksum), EngineError> {
    let Some(last) = engine.get(LAST_VERSION)? else { return Ok((0, Checksum::default())) };
    let detail = || "its checksum is unreadable".to_owned();
    let checksum = Checksum::from_bytes(&last.value);
    let checksum = checksum.ok_or_else(|| EngineError::Corrupt { operation: "open", detail: detail() })?;
    Ok((last.version, checksum))
}

/// The entry whose bytes after the base of its index are `tail`.
fn hit(tail: &[u8]) -> Option<Hit> {
    let (value, id) = split_index_entry(tail)?;
    Some(Hit { value, id: id.to_vec(), cursor: tail.to_vec() })
}

/// No prefix may be empty, reserved, or the start of another.
fn check_collections(collections: &'static [Collection]) -> Result<(), OpenError> {
    for (position, collection) in collections.iter().enumerate() {
        let refused = OpenError::Collections { name: collection.name };
        let others = collections.iter().enumerate().filter(|(other, _)| *other != position);
        let clashes =
            |other: &Collection| other.prefix.starts_with(collection.prefix) || other.name == collection.name;
        if collection.prefix.first().is_none_or(|first| *first == RESERVED)
            || others.into_iter().any(|(_, other)| clashes(other))
        {
            return Err(refused);
        }
    }
    Ok(())
}
