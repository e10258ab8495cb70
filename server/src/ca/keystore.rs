//! Key files: `keys/` in the data directory, 0600, written once and synced before anyone relies on them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Largest file read from the directory, in bytes; every key and certificate is far smaller.
const FILE_MAX: u64 = 64 * 1024;

/// Why a key file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not there.
    #[error("{} is missing; restore it from the backup of keys/, there is no other way to it", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}; restore it from the backup of keys/", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read a private key.
    #[error("{} may be read by others (mode {mode:o}); run `chmod 600` on it, and replace the key if others may have read it", path.display())]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is too large to be what its name says.
    #[error("{} is larger than any key or certificate; restore it from the backup of keys/", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
}

/// The directory that holds keys and CA certificates.
#[derive(Clone, Debug)]
pub struct Keystore {
    dir: PathBuf,
}

impl Keystore {
    /// The keys of the installation in `data_dir`.
    pub fn of(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("keys") }
    }

    /// Makes the directory, 0700; one that exists is left as it is.
    ///
    /// # Errors
    /// [`KeystoreError::Write`].
    pub fn create(&self) -> Result<(), KeystoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .and_then(|()| sync_dir(self.dir.parent().unwrap_or(&self.dir)))
            .map_err(|source| KeystoreError::Write { path: self.dir.clone(), source })
    }

    /// Where the file `name` lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes `bytes` as the file `name`, mode 0600, in place of what was there; on return it is on the disk.
    ///
    /// # Errors
    /// [`KeystoreError::Write`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), KeystoreError> {
        let path = self.path(name);
        write_durably(&path, bytes).map_err(|source| KeystoreError::Write { path, source })
    }

    /// Removes the file `name`; on return it is gone from the disk's directory. One that is not there is no error.
    ///
    /// # Errors
    /// [`KeystoreError::Write`].
    pub fn remove(&self, name: &str) -> Result<(), KeystoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KeystoreError::Write { path, source })
            }
            _ => sync_dir(&self.dir).map_err(|source| KeystoreError::Write { path, source }),
        }
    }

    /// The names of the files, in no order; those that are no text are left out.
    ///
    /// # Errors
    /// [`KeystoreError::Read`].
    pub fn names(&self) -> Result<Vec<String>, KeystoreError> {
        let read = |source| unread(self.dir.clone(), source);
        let entries = fs::read_dir(&self.dir).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
        Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Reads a private key; refuses one that others may read.
    ///
    /// # Errors
    /// [`KeystoreError::Read`], [`KeystoreError::TooOpen`], [`KeystoreError::TooLarge`].
    pub fn read_private(&self, name: &str) -> Result<Zeroizing<String>, KeystoreError> {
        read_private_at(&self.path(name))
    }

    /// Reads a file whole.
    ///
    /// # Errors
    /// [`KeystoreError::Read`], [`KeystoreError::TooLarge`].
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        read_at(&self.path(name))
    }
}

/// Reads a private key wherever it lies, a medium that is put in for it perhaps; refuses one that others may read.
///
/// # Errors
/// As [`Keystore::read_private`].
pub fn read_private_at(path: &Path) -> Result<Zeroizing<String>, KeystoreError> {
    let mode = fs::metadata(path).map_err(|source| unread(path.to_owned(), source))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeystoreError::TooOpen { path: path.to_owned(), mode });
    }
    let bytes = Zeroizing::new(read_at(path)?);
    let text = std::str::from_utf8(&bytes).map_err(|error| KeystoreError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_at(path: &Path) -> Result<Vec<u8>, KeystoreError> {
    let read = |source| unread(path.to_owned(), source);
    let mut bytes = Vec::new();
    File::open(path).map_err(read)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(KeystoreError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Writes `bytes` to `path`, mode 0600: a temporary file beside it, fsync, rename, fsync of the directory.
///
/// A crash leaves either the old file or the new one, and perhaps a `.new` beside it that the next write takes.
///
/// # Errors
/// Whatever the file system says.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// A file that is not there has another remedy than one that cannot be read.
fn unread(path: PathBuf, source: io::Error) -> KeystoreError {
    if source.kind() == io::ErrorKind::NotFound {
        return KeystoreError::Missing { path };
    }
    KeystoreError::Read { path, source }
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::of(dir.path());
        keys.create().unwrap();
        keys.write("a.key", b"secret").unwrap();
        assert_eq!(keys.read_private("a.key").unwrap().as_str(), "secret");
        fs::set_permissions(keys.path("a.key"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(keys.read_private("a.key"), Err(KeystoreError::TooOpen { mode: 0o640, .. })));
    }

    #[test]
    fn writing_takes_over_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(dir.path().join("file.new"), b"torn").unwrap();
        write_durably(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!dir.path().join("file.new").exists());
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keystore::of(dir.path());
        keys.create().unwrap();
        keys.write("big", &vec![b'x'; FILE_MAX as usize + 1]).unwrap();
        assert!(matches!(keys.read_bytes("big"), Err(KeystoreError::TooLarge { .. })));
    }
}
