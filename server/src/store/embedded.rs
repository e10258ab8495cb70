//! sled 0.34.7 with a guard for each of its traps.
//!
//! | sled | here |
//! | --- | --- |
//! | `flush()` calls `sync_file_range`, which a power cut forgets | `fdatasync` of `db` through a handle of our own after each flush |
//! | recovers from pages that a killed process never synced, then writes a snapshot that relies on them | `fdatasync` of `db` before the open |
//! | a kill during open leaves `snap.*.generating`, over which it never opens again | removed under a lock of our own |
//! | damaged files make it panic | opened and used inside `catch_unwind` |
//! | never syncs `conf` and directories | synced before the open answers |
//! | an emptied directory opens as a new store | sentinel, identity and mark (`guards.rs`) |
//! | leaves above 128 KiB go to files that are never synced | [`super::RECORD_CAP_BYTES`]; [`Health::stray_values`] |
//! | garbage is collected by its flusher thread only | `flush_every_ms` is always set |
//! | its flusher thread only logs an error and ends | its sticky error is asked for after each flush |
//! | leaves out what it cannot read when it recovers | the sum of all records (`checksum.rs`) is checked at open |
//! | wipes what follows a page that it cannot read | put back when the store is refused (`undo.rs`) |
//!
//! `opening.rs` has those of the open. A record is kept as eight bytes of version, big-endian, and the bytes
//! themselves, under its own key or in a bucket with others (`packing.rs`).

use super::guards::{self, Mark};
use super::key::LAST_VERSION;
use super::opening;
use super::packing::Packed;
use super::{Change, Engine, EngineError, Health, OpenError, Versioned, collections, packed};
use std::any::Any;
use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How often the mark is set, at most: after this many commits or this long.
const MARK_EVERY: (u64, Duration) = (512, Duration::from_secs(1));

/// Bytes of a version in front of a value.
const VERSION_BYTES: usize = 8;

/// Whether a store may be made where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// `serve`: there must be one.
    Existing,
    /// `init`: make one when there is none.
    OrCreate,
}

/// How a commit becomes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// With fdatasync.
    #[default]
    Guarded,
    /// As sled does it alone, which loses commits in a power cut. Only there to prove that the test of the
    /// guard can fail.
    #[doc(hidden)]
    FlushOnly,
}

/// How the embedded engine is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's directory, usually `<data-dir>/store`.
    pub dir: PathBuf,
    /// Whether it may be made.
    pub founding: Founding,
    /// Bytes of sled's cache; real memory is two to three times that.
    pub cache_bytes: u64,
    /// Bytes of the file that can be deleted to get going again on a full disk; 0 for none.
    pub ballast_bytes: u64,
    /// Bytes of data up to which all records are read and checked at open; a larger store opens unchecked.
    pub verify_bytes: u64,
    /// How commits become durable.
    pub sync: SyncMode,
    /// Which records share keys. A store is always opened with the same.
    pub packed: &'static [Packed],
}

impl Options {
    /// Defaults: 64 MiB of cache, 64 MiB of ballast, all records checked in stores up to 128 MiB.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, founding: Founding) -> Self {
        Self {
            dir: dir.into(),
            founding,
            cache_bytes: 64 << 20,
            ballast_bytes: 64 << 20,
            verify_bytes: 128 << 20,
            sync: SyncMode::Guarded,
            packed: collections::PACKED,
        }
    }
}

/// sled and what stands around it. Fields are dropped in this order: the lock goes last.
pub(super) struct Embedded {
    db: RwLock<Option<sled::Db>>,
    file: File,
    mark: Mark,
    marked: Marked,
    dir: PathBuf,
    sync: SyncMode,
    packed: &'static [Packed],
    lock: Mutex<Option<File>>,
}

/// When the mark was set last.
struct Marked {
    opened: Instant,
    at_ms: AtomicU64,
    version: AtomicU64,
}

/// Opens the store in `options.dir`. Blocks; may take seconds after a crash.
///
/// # Errors
/// [`OpenError`], in one clear sentence; nothing on the disk is lost.
pub fn open(options: &Options) -> Result<Box<dyn Engine>, OpenError> {
    let options = options.clone();
    let dir = options.dir.clone();
    let opening = std::thread::Builder::new()
        .name("store-open".to_owned())
        .spawn(move || opening::open(&options))
        .map_err(|source| guards::io_error("opening", &dir, source))?;
    match opening.join() {
        Ok(opened) => Ok(Box::new(opened?)),
        Err(panic) => Err(OpenError::Corrupt { dir, detail: panic_text(panic.as_ref()) }),
    }
}

/// Everything written so far to the disk; says with how many fsyncs.
pub(super) fn flush(db: &sled::Db, file: &File, mode: SyncMode) -> Result<u32, EngineError> {
    db.flush().map_err(|error| engine_error("flush", error))?;
    db.context.global_error().map_err(|error| engine_error("flush", error))?;
    match mode {
        SyncMode::FlushOnly => Ok(0),
        SyncMode::Guarded => {
            file.sync_data()
                .map_err(|source| EngineError::Io { operation: "fdatasync the store", source })?;
            Ok(1)
        }
    }
}

pub(super) fn stored(db: &sled::Db, key: &[u8]) -> Result<Option<Versioned>, EngineError> {
    db.get(key).map_err(|error| engine_error("read", error))?.map(|bytes| decode("read", &bytes)).transpose()
}

impl Embedded {
    /// Takes over an opened sled whose last commit is `version`.
    pub(super) fn new(
        db: sled::Db,
        file: File,
        mark: Mark,
        lock: File,
        version: u64,
        options: &Options,
    ) -> Self {
        let marked =
            Marked { opened: Instant::now(), at_ms: AtomicU64::new(0), version: AtomicU64::new(version) };
        let (dir, sync, packed) = (options.dir.clone(), options.sync, options.packed);
        Self {
            db: RwLock::new(Some(db)),
            file,
            mark,
            marked,
            dir,
            sync,
            packed,
            lock: Mutex::new(Some(lock)),
        }
    }

    /// Runs `use_db`, turning a panic of sled into an error.
    fn with<T>(
        &self,
        operation: &'static str,
        use_db: impl FnOnce(&sled::Db) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(EngineError::Closed)?;
        match muffled(|| use_db(db)) {
            Ok(answer) => answer,
            Err(panic) => Err(EngineError::Panicked { operation, detail: panic_text(panic.as_ref()) }),
        }
    }
}

impl Engine for Embedded {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, EngineError> {
        self.with("read", |db| packed::get(db, self.packed, key))
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, EngineError> {
        self.with("scan", |db| packed::scan(db, self.packed, prefix, after, limit))
    }

    fn apply(&self, changes: &[Change]) -> Result<(), EngineError> {
        self.with("write", |db| {
            let batch = packed::batch(db, self.packed, changes)?;
            db.apply_batch(batch).map_err(|error| engine_error("write", error))
        })
    }

    fn sync(&self) -> Result<u32, EngineError> {
        self.with("flush", |db| flush(db, &self.file, self.sync))
    }

    fn synced(&self, version: u64) {
        let now_ms = u64::try_from(self.marked.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let age_ms = now_ms.saturating_sub(self.marked.at_ms.load(Ordering::Relaxed));
        let behind = version.saturating_sub(self.marked.version.load(Ordering::Relaxed));
        if behind < MARK_EVERY.0 && u128::from(age_ms) < MARK_EVERY.1.as_millis() {
            return;
        }
        self.marked.at_ms.store(now_ms, Ordering::Relaxed);
        self.marked.version.store(version, Ordering::Relaxed);
        if let Err(error) = self.mark.set(version) {
            tracing::warn!(%error, "the mark of the store could not be set");
        }
    }

    fn health(&self) -> Result<Health, EngineError> {
        let health = || -> std::io::Result<Health> {
            let (free_bytes, stray_values) =
                (guards::free_bytes(&self.dir)?, guards::stray_values(&self.dir)?);
            Ok(Health { free_bytes, stray_values })
        };
        health().map_err(|source| EngineError::Io { operation: "look at the disk", source })
    }

    fn close(&self) -> Result<(), EngineError> {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(db) = db else { return Ok(()) };
        let closed = muffled(|| {
            flush(&db, &self.file, self.sync)?;
            let last = stored(&db, LAST_VERSION)?.map_or(0, |last| last.version);
            drop(db);
            let marked = self.mark.set(last).and_then(|()| self.mark.sync());
            marked.map_err(|source| EngineError::Io { operation: "set the mark", source })
        });
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        closed.unwrap_or_else(|panic| {
            Err(EngineError::Panicked { operation: "close", detail: panic_text(panic.as_ref()) })
        })
    }
}

/// A value as sled keeps it. `buffer` is only there to be used again.
pub(super) fn encode(record: &Versioned, buffer: &mut Vec<u8>) -> sled::IVec {
    buffer.clear();
    buffer.extend_from_slice(&record.version.to_be_bytes());
    buffer.extend_from_slice(&record.value);
    sled::IVec::from(buffer.as_slice())
}

pub(super) fn decode(operation: &'static str, bytes: &[u8]) -> Result<Versioned, EngineError> {
    match bytes.split_first_chunk::<VERSION_BYTES>() {
        Some((version, value)) => {
            Ok(Versioned { version: u64::from_be_bytes(*version), value: value.to_vec() })
        }
        None => Err(EngineError::Corrupt { operation, detail: "a record is too short".to_owned() }),
    }
}

pub(super) fn engine_error(operation: &'static str, error: sled::Error) -> EngineError {
    if let sled::Error::Io(source) = error {
        return EngineError::Io { operation, source };
    }
    EngineError::Corrupt { operation, detail: error.to_string() }
}

thread_local! {
    /// Whether a panic on this thread is caught and told as an error, so that nothing need be printed.
    static MUFFLED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and catches its panic without a word on standard error.
pub(super) fn muffled<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !MUFFLED.get() {
                print(panic);
            }
        }));
    });
    let before = MUFFLED.replace(true);
    let answer = catch_unwind(AssertUnwindSafe(work));
    MUFFLED.set(before);
    answer
}

/// The first line of what a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    text.lines().next().unwrap_or("no reason given").to_owned()
}
