//! How the embedded engine is opened: every guard, in the order in which they protect each other.
//!
//! lock, sentinel, `fdatasync` of what a killed process left unsynced, half-written snapshots removed, what
//! recovery may overwrite kept aside, sled itself, everything synced, then what came up is judged: is it the
//! store that the sentinel speaks of, is it at least as new as the mark, do its records add up? Whatever is
//! refused is put back as it was.

use super::checksum::Checksum;
use super::embedded::{
    Embedded, Founding, Options, SyncMode, decode, encode, engine_error, flush, muffled, panic_text, stored,
};
use super::guards::{self, Data, Mark};
use super::key::{IDENTITY, LAST_VERSION};
use super::packed::unpacked;
use super::undo::Undo;
use super::{EngineError, OpenError, Versioned};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often sled's own thread writes and collects garbage, in milliseconds.
const FLUSH_EVERY_MS: u64 = 500;

/// How long a store closed in this very process may need to let go of its files.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);

/// How often that is tried again.
const RELEASE_STEP: Duration = Duration::from_millis(5);

/// Opens the store of `options`. Runs on a thread of its own, since sled may panic.
pub(super) fn open(options: &Options) -> Result<Embedded, OpenError> {
    let dir = &options.dir;
    if !dir.is_dir() {
        match options.founding {
            Founding::Existing => return Err(OpenError::Missing { dir: dir.clone() }),
            Founding::OrCreate => guards::make_dir(dir)?,
        }
    }
    let lock = guards::lock(dir)?;
    let sentinel = guards::read_sentinel(dir)?;
    guards::end_founding(dir, sentinel.is_some())?;
    let data = guards::data(dir)?;
    match (data, &sentinel, options.founding) {
        (Data::Absent, Some(_), _) => return Err(OpenError::Empty { dir: dir.clone() }),
        (Data::Absent, None, Founding::Existing) => return Err(OpenError::Missing { dir: dir.clone() }),
        (Data::Absent, None, Founding::OrCreate) => guards::begin_founding(dir)?,
        (Data::Present, _, _) => guards::sync(&dir.join("db"))?,
    }
    let (mark, marked) = Mark::open(dir)?;
    guards::remove_half_snapshots(dir)?;
    let (db, file, version) = match data {
        Data::Absent => open_and_judge(options, sentinel.as_deref(), marked)?,
        Data::Present => open_or_put_back(options, sentinel.as_deref(), marked)?,
    };
    guards::keep_ballast(dir, options.ballast_bytes);
    Ok(Embedded::new(db, file, mark, lock, version, options))
}

/// sled, our own handle on its file, and the version of the last commit.
type Opened = (sled::Db, File, u64);

/// Opens what is there; when it is refused, its files are afterwards what they were before.
fn open_or_put_back(options: &Options, sentinel: Option<&[u8]>, marked: u64) -> Result<Opened, OpenError> {
    let undo = Undo::prepare(&options.dir)?;
    let refused = match muffled(|| open_and_judge(options, sentinel, marked)) {
        Ok(Ok(opened)) => {
            undo.forget();
            return Ok(opened);
        }
        Ok(Err(OpenError::Engine(EngineError::Corrupt { detail, .. }))) => {
            OpenError::Corrupt { dir: options.dir.clone(), detail }
        }
        Ok(Err(refused)) => refused,
        Err(panic) => OpenError::Corrupt { dir: options.dir.clone(), detail: panic_text(panic.as_ref()) },
    };
    if !matches!(refused, OpenError::InUse { .. }) {
        undo.put_back()?;
    }
    Err(refused)
}

fn open_and_judge(options: &Options, sentinel: Option<&[u8]>, marked: u64) -> Result<Opened, OpenError> {
    let dir = &options.dir;
    let db = open_sled(options)?;
    let file = File::open(dir.join("db")).map_err(|source| guards::io_error("opening", dir, source))?;
    flush(&db, &file, SyncMode::Guarded)?;
    guards::sync_all(dir)?;
    check_identity(&db, &file, sentinel, options)?;
    let last = stored(&db, LAST_VERSION)?;
    let version = last.as_ref().map_or(0, |last| last.version);
    if version < marked {
        return Err(OpenError::WentBack { dir: dir.clone(), marked, found: version });
    }
    check_sum(&db, &file, last.as_ref(), options)?;
    Ok((db, file, version))
}

/// Opens sled itself. Whoever closed the store in this process a moment ago may still hold sled's own lock for
/// a moment; another process cannot, since it does not hold ours.
fn open_sled(options: &Options) -> Result<sled::Db, OpenError> {
    let deadline = Instant::now() + RELEASE_DEADLINE;
    loop {
        let config = sled::Config::new()
            .path(&options.dir)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        match config.open() {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(held)) if held.to_string().contains("could not acquire lock") => {
                if Instant::now() > deadline {
                    return Err(OpenError::InUse { dir: options.dir.clone() });
                }
                std::thread::park_timeout(RELEASE_STEP);
            }
            Err(sled::Error::Io(source)) => return Err(guards::io_error("opening", &options.dir, source)),
            Err(other) => {
                return Err(OpenError::Corrupt { dir: options.dir.clone(), detail: other.to_string() });
            }
        }
    }
}

/// The data must be those that the sentinel speaks of; a store without a sentinel gets one.
fn check_identity(
    db: &sled::Db,
    file: &File,
    sentinel: Option<&[u8]>,
    options: &Options,
) -> Result<(), OpenError> {
    let dir = &options.dir;
    let stored = stored(db, IDENTITY)?.map(|identity| identity.value);
    match (sentinel, stored) {
        (Some(sentinel), Some(stored)) if sentinel == stored => Ok(()),
        (Some(_), Some(_)) => Err(OpenError::Mismatched { dir: dir.clone() }),
        (Some(_), None) => Err(OpenError::Empty { dir: dir.clone() }),
        (None, Some(stored)) => guards::write_sentinel(dir, &stored),
        (None, None) if options.founding == Founding::Existing => {
            Err(OpenError::Missing { dir: dir.clone() })
        }
        (None, None) => found(db, file, dir),
    }
}

/// The records must add up to what was committed, as far as the store is small enough to read it whole.
fn check_sum(
    db: &sled::Db,
    file: &File,
    last: Option<&Versioned>,
    options: &Options,
) -> Result<(), OpenError> {
    let dir = &options.dir;
    let length = file.metadata().map_err(|source| guards::io_error("reading", dir, source))?.len();
    if length > options.verify_bytes {
        tracing::info!(length, "the store is too large to check all of its records at start");
        return Ok(());
    }
    let mut found = Checksum::default();
    for record in db.iter() {
        let (key, bytes) = record.map_err(|error| engine_error("check", error))?;
        for (key, body) in unpacked(&key, &bytes)? {
            found.add(&key, &decode("check", body)?);
        }
    }
    let committed = last.map_or(Some(Checksum::default()), |last| Checksum::from_bytes(&last.value));
    if committed == Some(found) {
        return Ok(());
    }
    let detail = "its records are not those that were committed".to_owned();
    Err(OpenError::Corrupt { dir: dir.clone(), detail })
}

/// Founds the store: its identity first, and the sentinel once that is durable.
fn found(db: &sled::Db, file: &File, dir: &Path) -> Result<(), OpenError> {
    let mut identity = [0; guards::IDENTITY_BYTES];
    getrandom::fill(&mut identity).map_err(|error| EngineError::Io {
        operation: "draw an identity",
        source: std::io::Error::other(error.to_string()),
    })?;
    let value = encode(&Versioned { version: 0, value: identity.to_vec() }, &mut Vec::new());
    db.insert(IDENTITY, value).map_err(|error| engine_error("found", error))?;
    flush(db, file, SyncMode::Guarded)?;
    guards::write_sentinel(dir, &identity)?;
    guards::end_founding(dir, true)
}
