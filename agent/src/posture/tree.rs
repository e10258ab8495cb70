//! The tree whose posture is looked at, read with bounds and without leaving it.
//!
//! Every path is resolved by the kernel as if the tree's root were `/` (`openat2`, `RESOLVE_IN_ROOT`): an absolute
//! link in a fixture stays in the fixture. Nothing is read beyond a cap, nothing is waited for, and only regular
//! files are read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use muster_wire::time::Timestamp;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Enough for every file of `/proc`, `/sys` and `/etc` that is read here.
pub(super) const CAP: u64 = 256 * 1024;

/// No directory is read beyond so many names.
const NAMES_CAP: usize = 4096;

/// A rename elsewhere in the tree makes `openat2` ask for another try.
const TRIES: usize = 8;

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// It is not there.
    #[error("is not there")]
    Missing,
    /// It is larger than anything sensible.
    #[error("is larger than {cap} bytes")]
    TooLarge {
        /// What would have been read.
        cap: u64,
    },
    /// It is a directory, a pipe or a device.
    #[error("is no regular file")]
    NotRegular,
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Refused(io::Error),
}

impl From<Errno> for Unread {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::Missing,
            other => Self::Refused(other.into()),
        }
    }
}

/// A tree.
pub(super) struct Tree {
    root: PathBuf,
    handle: Result<OwnedFd, Errno>,
}

impl Tree {
    /// The tree at `root`. One that is not there is empty.
    pub(super) fn at(root: &Path) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { root: root.to_owned(), handle: rustix::fs::open(root, flags, Mode::empty()) }
    }

    /// Whether this is the whole machine: only then may anything else than files be asked.
    pub(super) fn is_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// `path` as it is called from outside the tree.
    pub(super) fn outside(&self, path: &str) -> String {
        self.root.join(path.trim_start_matches('/')).to_string_lossy().into_owned()
    }

    /// The content of `path`, at most `cap` bytes.
    pub(super) fn bytes(&self, path: &str, cap: u64) -> Result<Vec<u8>, Unread> {
        let mut bytes = Vec::new();
        let mut file = self.file(path)?.take(cap.saturating_add(1));
        file.read_to_end(&mut bytes).map_err(Unread::Refused)?;
        if bytes.len() as u64 > cap { Err(Unread::TooLarge { cap }) } else { Ok(bytes) }
    }

    /// The content of `path` as text, at most [`CAP`] bytes; what is no UTF-8 is replaced.
    pub(super) fn text(&self, path: &str) -> Result<String, Unread> {
        Ok(String::from_utf8_lossy(&self.bytes(path, CAP)?).into_owned())
    }

    /// The first line of `path` without its end.
    pub(super) fn line(&self, path: &str) -> Result<String, Unread> {
        Ok(self.text(path)?.lines().next().unwrap_or_default().trim_end().to_owned())
    }

    /// The regular file at `path`, opened for reading.
    pub(super) fn file(&self, path: &str) -> Result<File, Unread> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let handle = self.open(path, flags)?;
        let found = rustix::fs::fstat(&handle)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(Unread::NotRegular);
        }
        Ok(File::from(handle))
    }

    /// The names in the directory `path`, sorted, without those that are no UTF-8.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, Unread> {
        let handle = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?;
        let mut names = Vec::new();
        for entry in Dir::new(handle)?.take(NAMES_CAP) {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether there is something at `path`.
    pub(super) fn has(&self, path: &str) -> Result<bool, Unread> {
        match self.open(path, OFlags::PATH | OFlags::CLOEXEC) {
            Ok(_) => Ok(true),
            Err(Unread::Missing) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Whether there certainly is something at `path`.
    pub(super) fn surely_has(&self, path: &str) -> bool {
        self.has(path).unwrap_or(false)
    }

    /// When `path` was last written, and its size in bytes.
    pub(super) fn written(&self, path: &str) -> Result<(Timestamp, u64), Unread> {
        let handle = self.open(path, OFlags::PATH | OFlags::CLOEXEC)?;
        let found = rustix::fs::fstat(&handle)?;
        Ok((Timestamp(found.st_mtime), u64::try_from(found.st_size).unwrap_or(0)))
    }

    /// The permission bits of `path`.
    pub(super) fn mode(&self, path: &str) -> Result<u32, Unread> {
        let handle = self.open(path, OFlags::PATH | OFlags::CLOEXEC)?;
        Ok(rustix::fs::fstat(&handle)?.st_mode)
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Unread> {
        let root = self.handle.as_ref().map_err(|errno| Unread::from(*errno))?;
        let inside = path.trim_start_matches('/');
        let inside = if inside.is_empty() { "." } else { inside };
        for _ in 0..TRIES {
            match rustix::fs::openat2(root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Before Linux 5.6 only the machine itself can be looked at without leaving it.
                Err(Errno::NOSYS) if self.is_machine() => {
                    return Ok(rustix::fs::openat(CWD, format!("/{inside}"), flags, Mode::empty())?);
                }
                opened => return Ok(opened?),
            }
        }
        Err(Unread::from(Errno::AGAIN))
    }
}
