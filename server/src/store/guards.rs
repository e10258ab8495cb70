//! What stands around sled's files: lock, sentinel, mark, ballast, and the fsyncs that sled leaves out.
//!
//! ```text
//! store/lock       held while a process has the store open; its content means nothing
//! store/sentinel   "a store was here", with the identity that also lies in the store; made after the first sync
//! store/mark       a version that is durable, at most a second old; the store may never be found below it
//! store/ballast    nothing but bytes: delete it to get going again on a full disk
//! store/founding   the store is being made, and nobody was told of anything in it
//! store/db conf blobs/ snap.*    sled's own
//! ```
//!
//! A crash while a store is founded leaves `founding` and no sentinel; the next open starts from nothing, since
//! what sled has then may be torn and is of no use to anyone.

use super::OpenError;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// First line of a sentinel.
const SENTINEL_HEADER: &str = "muster store 1";

/// Bytes of a mark: a version and the first half of its SHA-256.
const MARK_BYTES: usize = 16;

/// Bytes of the identity of a store.
pub(super) const IDENTITY_BYTES: usize = 16;

/// What sled's files look like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// There is a file with something in it.
    Present,
    /// There is none, or an empty one.
    Absent,
}

/// Makes `dir` and its parents, readable for its owner only.
pub(super) fn make_dir(dir: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| io_error("making", dir, source))
}

/// Takes the lock that says that this process has the store open.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = opened.map_err(|source| io_error("opening", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error("locking", &path, source)),
    }
}

/// Says that the store is being made. Durable on return, before there is any file of sled's.
pub(super) fn begin_founding(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("founding");
    let made = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
    made.and_then(|file| file.sync_all()).map_err(|source| io_error("making", &path, source))?;
    sync(dir)?;
    sync_parent(dir)
}

/// Clears up after a founding: a finished one leaves only its note, an unfinished one everything of sled's.
pub(super) fn end_founding(dir: &Path, sentinel: bool) -> Result<(), OpenError> {
    let note = dir.join("founding");
    if !note.exists() {
        return Ok(());
    }
    let clear = || -> io::Result<()> {
        if !sentinel {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if matches!(&*name, "db" | "conf" | "mark") || name.starts_with("snap.") {
                    fs::remove_file(&path)?;
                }
            }
            return Ok(());
        }
        fs::remove_file(&note)
    };
    clear().map_err(|source| io_error("clearing", dir, source))
}

/// Whether sled has anything in `dir`.
pub(super) fn data(dir: &Path) -> Result<Data, OpenError> {
    let path = dir.join("db");
    match fs::metadata(&path) {
        Ok(found) if found.len() > 0 => Ok(Data::Present),
        Ok(_) => Ok(Data::Absent),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Data::Absent),
        Err(source) => Err(io_error("reading", &path, source)),
    }
}

/// Names of sled's snapshots, half-written ones included.
pub(super) fn snapshots(dir: &Path) -> Result<Vec<String>, OpenError> {
    named(dir, "snap.")
}

/// Names in `dir` that begin with `start`.
pub(super) fn named(dir: &Path, start: &str) -> Result<Vec<String>, OpenError> {
    let entries = fs::read_dir(dir).map_err(|source| io_error("listing", dir, source))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|source| io_error("listing", dir, source))?.file_name();
        names.extend(name.into_string().ok().filter(|name| name.starts_with(start)));
    }
    Ok(names)
}

/// Removes snapshots that a kill left half written: sled would refuse to open over them.
pub(super) fn remove_half_snapshots(dir: &Path) -> Result<(), OpenError> {
    for name in snapshots(dir)?.iter().filter(|name| name.ends_with(".generating")) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|source| io_error("removing", &path, source))?;
    }
    Ok(())
}

/// Syncs a file or directory that sled does not sync.
pub(super) fn sync(path: &Path) -> Result<(), OpenError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| io_error("syncing", path, source))
}

/// Syncs everything that an open may have made: configuration, data, directories and the parent.
pub(super) fn sync_all(dir: &Path) -> Result<(), OpenError> {
    for name in ["conf", "db", "blobs"] {
        sync(&dir.join(name))?;
    }
    sync(dir)?;
    sync_parent(dir)
}

fn sync_parent(dir: &Path) -> Result<(), OpenError> {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)
}

/// The identity in the sentinel; `None` when there is no sentinel.
pub(super) fn read_sentinel(dir: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let path = dir.join("sentinel");
    let text = match fs::read(&path) {
        // What is no text has no header, and so is damage like any other.
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("reading", &path, source)),
    };
    let identity = text.strip_prefix(SENTINEL_HEADER).and_then(|rest| hex::decode(rest.trim()).ok());
    match identity {
        Some(identity) if identity.len() == IDENTITY_BYTES => Ok(Some(identity)),
        _ => Err(OpenError::Corrupt { dir: dir.to_owned(), detail: "its sentinel is unreadable".to_owned() }),
    }
}

/// Says for good that a store is here. It replaces the file as a whole and is durable on return.
pub(super) fn write_sentinel(dir: &Path, identity: &[u8]) -> Result<(), OpenError> {
    let (path, half) = (dir.join("sentinel"), dir.join("sentinel.new"));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&half)?;
        writeln!(file, "{SENTINEL_HEADER}\n{}", hex::encode(identity))?;
        file.sync_all()?;
        fs::rename(&half, &path)
    };
    write().map_err(|source| io_error("writing", &path, source))?;
    sync(dir)
}

/// The file that remembers a durable version.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

impl Mark {
    /// Opens it, and says which version it remembers: 0 when it is new or unreadable.
    pub(super) fn open(dir: &Path) -> Result<(Self, u64), OpenError> {
        let path = dir.join("mark");
        let open = || -> io::Result<(File, Vec<u8>)> {
            let mut options = OpenOptions::new();
            let mut file =
                options.create(true).truncate(false).read(true).write(true).mode(0o600).open(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|source| io_error("opening", &path, source))?;
        let version = bytes.first_chunk().map_or(0, |version| u64::from_be_bytes(*version));
        let whole = bytes == mark_bytes(version);
        if !whole && !bytes.is_empty() {
            tracing::warn!(path = %path.display(), "the mark of the store is unreadable and will be written anew");
        }
        Ok((Self { file }, if whole { version } else { 0 }))
    }

    /// Remembers `version`, which is durable. Not synced: an older mark is as true.
    pub(super) fn set(&self, version: u64) -> io::Result<()> {
        self.file.write_all_at(&mark_bytes(version), 0)
    }

    /// Makes the mark itself durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn mark_bytes(version: u64) -> [u8; MARK_BYTES] {
    let version = version.to_be_bytes();
    let mut bytes = [0; MARK_BYTES];
    for (byte, source) in bytes.iter_mut().zip(version.iter().chain(Sha256::digest(version).iter())) {
        *byte = *source;
    }
    bytes
}

/// Keeps `bytes` on the disk that can be freed by deleting a file; without room for it, there is none.
pub(super) fn keep_ballast(dir: &Path, bytes: u64) {
    let path = dir.join("ballast");
    let there = fs::metadata(&path).is_ok_and(|found| found.len() == bytes);
    if bytes == 0 || there {
        return;
    }
    let room = free_bytes(dir).unwrap_or(0) / 4 > bytes;
    if !room || reserve(&path, bytes).is_err() {
        let _absent = fs::remove_file(&path);
        tracing::warn!(path = %path.display(), bytes, "no room for the ballast that can be freed on a full disk");
    }
}

fn reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
}

/// Bytes that an ordinary user may still write beneath `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Values that sled keeps outside of the file that is synced.
pub(super) fn stray_values(dir: &Path) -> io::Result<u64> {
    Ok(fs::read_dir(dir.join("blobs"))?.count() as u64)
}

pub(super) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { operation, path: PathBuf::from(path), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_while_the_first_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(OpenError::InUse { .. })));
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_sentinel_gives_back_its_identity_and_an_unreadable_one_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_sentinel(dir.path()).unwrap(), None);
        write_sentinel(dir.path(), &[7; IDENTITY_BYTES]).unwrap();
        assert_eq!(read_sentinel(dir.path()).unwrap(), Some(vec![7; IDENTITY_BYTES]));
        for damaged in [&b"muster store 1\n0707"[..], b"\xff\xfe no text"] {
            fs::write(dir.path().join("sentinel"), damaged).unwrap();
            assert!(matches!(read_sentinel(dir.path()), Err(OpenError::Corrupt { .. })));
        }
    }

    #[test]
    fn a_mark_remembers_its_version_and_a_torn_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mark, version) = Mark::open(dir.path()).unwrap();
        assert_eq!(version, 0);
        mark.set(513).unwrap();
        assert_eq!(Mark::open(dir.path()).unwrap().1, 513);
        fs::write(dir.path().join("mark"), [0, 0, 0, 0, 0, 0, 9, 9, 1]).unwrap();
        assert_eq!(Mark::open(dir.path()).unwrap().1, 0);
    }

    #[test]
    fn only_half_written_snapshots_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["snap.01", "snap.02.generating", "db"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_half_snapshots(dir.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["db", "snap.01"]);
    }
}
