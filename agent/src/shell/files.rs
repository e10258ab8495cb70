//! Files that are either the old one or the new one, whole, whatever happens in between.
//!
//! Write a neighbour, fsync it, rename it over the name, fsync the directory. What a crash leaves behind is a
//! neighbour (`.name.new`) that the next write removes. Every file is 0600, every directory 0700. No file of ours
//! is a symbolic link: one that lies in its place is not followed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// What was being done when the file system said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Making a directory.
    MakeDirectory,
    /// Opening or reading.
    Read,
    /// Writing or making durable.
    Write,
    /// Giving the finished file its name.
    Rename,
    /// Taking a file away.
    Remove,
    /// Taking the lock.
    Lock,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MakeDirectory => "make the directory",
            Self::Read => "read",
            Self::Write => "write",
            Self::Rename => "put in place",
            Self::Remove => "remove",
            Self::Lock => "lock",
        })
    }
}

/// The file system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was being done.
    pub operation: Operation,
    /// To which file.
    pub path: PathBuf,
    /// What the operating system answered.
    #[source]
    pub source: io::Error,
}

impl FileError {
    fn on<'a>(operation: Operation, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self { operation, path: path.to_owned(), source }
    }

    /// Whether a symbolic link lay where a file of ours should be.
    pub fn is_link(&self) -> bool {
        self.source.raw_os_error() == Some(Errno::LOOP.raw_os_error())
    }

    /// What the person at the device should do.
    pub fn remedy(&self) -> &'static str {
        if self.is_link() {
            return "it is a symbolic link, which muster-agent does not follow there: find out who made it, then remove it";
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space there, then run the same command again"
            }
            io::ErrorKind::PermissionDenied => {
                "run as the user who owns the state directory (usually root), or name another with --state-dir"
            }
            io::ErrorKind::ReadOnlyFilesystem => "make the file system writable, or name another --state-dir",
            io::ErrorKind::NotFound => "check that the path exists",
            _ => "check that file and its file system, then run the same command again",
        }
    }
}

/// Options to open one of our own files with: never through a symbolic link.
pub fn unlinked() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Makes `path` and its missing parents, 0700, and makes them durable. An existing directory is left as it is.
///
/// # Errors
/// [`FileError`] naming the first directory that could not be made.
pub fn ensure_dir(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        ensure_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(FileError::on(Operation::MakeDirectory, path))?,
    }
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Gives `path` the content `bytes`, 0600: after a crash it has all of them or what it had before.
///
/// On return the content and the name are durable.
///
/// # Errors
/// [`FileError`]; `path` then has its former content.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let neighbour = neighbour(path);
    let written = write_new(&neighbour, bytes);
    if written.is_err() {
        // A half-written neighbour on a full disk would keep the disk full.
        let _ = fs::remove_file(&neighbour);
    }
    written?;
    rename(&neighbour, path)
}

/// Moves `from` over `to` and makes that durable.
///
/// # Errors
/// [`FileError`]; whether the move happened is then unknown, and doing it again is harmless.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::on(Operation::Rename, to))?;
    sync_dir(directory_of(to))
}

/// Takes `path` away and makes that durable. A missing file is no error.
///
/// # Errors
/// [`FileError`] when the file exists and stays.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::on(Operation::Remove, path)(error)),
    }
}

/// Reads at most `cap` bytes of `path`; `None` when there is no such file.
///
/// # Errors
/// [`FileError`] when it cannot be read, or holds more than `cap` bytes.
pub fn read(path: &Path, cap: usize) -> Result<Option<Vec<u8>>, FileError> {
    match unlinked().read(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::on(Operation::Read, path)(error)),
        Ok(file) => read_capped(file, cap).map(Some).map_err(FileError::on(Operation::Read, path)),
    }
}

/// Reads `source` to its end, refusing more than `cap` bytes.
///
/// # Errors
/// What the source answers, and [`io::ErrorKind::FileTooLarge`] beyond `cap`.
pub fn read_capped(source: impl Read, cap: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > cap {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {cap} bytes")));
    }
    Ok(bytes)
}

/// Makes the names in `path` durable.
///
/// # Errors
/// [`FileError`] when the directory cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FileError::on(Operation::Write, path))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::on(Operation::Remove, path)(error));
        }
        _ => {}
    }
    let mut file = unlinked()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::on(Operation::Write, path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(FileError::on(Operation::Write, path))
}

fn neighbour(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_written_file_is_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_atomic(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path, 100).unwrap().unwrap(), b"secret");
    }

    #[test]
    fn a_neighbour_left_by_a_crash_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        fs::write(neighbour(&path), b"half").unwrap();
        write_atomic(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!neighbour(&path).exists());
    }

    #[test]
    fn a_failed_write_leaves_the_former_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        write_atomic(&path, b"old").unwrap();
        // A directory in the neighbour's place is what no permission bit can override, root or not.
        fs::create_dir(neighbour(&path)).unwrap();
        let error = write_atomic(&path, b"new").unwrap_err();
        assert_eq!(error.operation, Operation::Remove);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_file_beyond_its_cap_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        fs::write(&path, [0; 11]).unwrap();
        assert_eq!(read(&path, 10).unwrap_err().source.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&path, 11).unwrap().unwrap().len(), 11);
    }

    #[test]
    fn a_missing_file_reads_as_none_and_is_removed_without_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        assert!(read(&path, 10).unwrap().is_none());
        remove(&path).unwrap();
    }

    #[test]
    fn a_link_is_neither_read_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("trust"));
        fs::write(&target, b"theirs").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(read(&link, 100).unwrap_err().is_link());
        write_atomic(&link, b"ours").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert_eq!(read(&link, 100).unwrap().unwrap(), b"ours");
    }

    #[test]
    fn directories_are_made_with_their_parents_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        ensure_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
