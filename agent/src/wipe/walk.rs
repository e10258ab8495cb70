//! The way to a thing that is to be destroyed: name by name, by directories that are held open, through no link and no
//! mount.
//!
//! Every name is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)`, so that what is swapped
//! for a link or covered by a mount in the meantime is refused and never followed. Between the root of the tree and a
//! declared root mounts may be crossed (`/srv` may be a disk of its own), links never.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::core::baseline::{SYSCTL_DROP_IN, declared_root};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Which file or directory, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode {
    pub(super) device: u64,
    pub(super) number: u64,
}

/// What stands under a name, as far as one look tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: FileType,
    pub(super) inode: Inode,
    pub(super) links: u64,
    pub(super) size_bytes: u64,
    pub(super) uid: u32,
    pub(super) mode: u32,
}

impl Seen {
    pub(super) fn of(stat: &fs::Stat) -> Self {
        #[allow(clippy::unnecessary_cast, reason = "these types differ between architectures")]
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            inode: Inode { device: stat.st_dev as u64, number: stat.st_ino as u64 },
            links: stat.st_nlink as u64,
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            uid: stat.st_uid,
            mode: stat.st_mode & 0o7777,
        }
    }
}

/// Whether the walk may leave the file system that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mounts {
    Crossed,
    Refused,
}

/// A directory, held open.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// A directory of the agent's own, or the root of the tree.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// The directory `name` in this one.
    pub(super) fn child(&self, name: &OsStr, mounts: Mounts) -> io::Result<Self> {
        let flags = if mounts == Mounts::Refused { NO_LINKS | ResolveFlags::NO_XDEV } else { NO_LINKS };
        Ok(Self(fs::openat2(&self.0, name, DIRECTORY, Mode::empty(), flags)?))
    }

    /// Opens `name` in this directory, if nothing but this very file system stands there.
    pub(super) fn file(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(fs::openat2(&self.0, name, flags, Mode::empty(), NO_LINKS | ResolveFlags::NO_XDEV)?)
    }

    /// Holds whatever stands under `name`, without opening it; a link as a link.
    pub(super) fn hold(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat2(&self.0, name, flags, Mode::empty(), NO_LINKS | ResolveFlags::NO_XDEV)?)
    }

    /// What stands under `name`; nothing is opened or followed.
    ///
    /// A mount point is [`Errno::XDEV`].
    pub(super) fn look(&self, name: &OsStr) -> io::Result<Option<Seen>> {
        let stat = match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => Seen::of(&stat?),
        };
        if stat.kind != FileType::Symlink {
            // `stat` tells nothing of a mount that shows the same file system.
            match self.hold(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                held => drop(held?),
            }
        }
        Ok(Some(stat))
    }

    /// Every name in this directory, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<CString>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn seen(&self) -> io::Result<Seen> {
        Ok(Seen::of(&fs::fstat(&self.0)?))
    }
}

/// The name as the operating system takes it.
pub(super) fn os(name: &CString) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
}

/// The tree that the device manages, and the roots beneath which something may be destroyed.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) root: Dir,
    pub(super) declared: &'a [String],
}

/// Where a thing is: its directory, held open, and its name.
pub(super) type Spot<'p> = (Dir, &'p OsStr);

impl Ground<'_> {
    /// The directory and the name of `path`; nothing when a directory on the way is missing.
    ///
    /// # Errors
    /// [`Errno::PERM`] beyond the declared roots; [`Errno::LOOP`] and [`Errno::XDEV`] where a link or a mount is on the
    /// way.
    pub(super) fn spot<'p>(&self, path: &'p str) -> io::Result<Option<Spot<'p>>> {
        let fixed = match declared_root(path, self.declared) {
            Some(root) => depth(root),
            None if path == SYSCTL_DROP_IN => usize::MAX,
            None => return Err(Errno::PERM.into()),
        };
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found = self.descend(parents, fixed)?;
        Ok(found.map(|dir| (dir, OsStr::new(name))))
    }

    /// The directory at `path`, a declared root or beneath one; nothing when it is not there.
    ///
    /// # Errors
    /// As [`Ground::spot`].
    pub(super) fn directory(&self, path: &str) -> io::Result<Option<Dir>> {
        let fixed = self.fixed_depth_of_root(path).ok_or(Errno::PERM)?;
        self.descend(path, fixed)
    }

    /// How many names of `path` lead to the declared root that it is, or lies beneath.
    fn fixed_depth_of_root(&self, path: &str) -> Option<usize> {
        let is_root = self.declared.iter().any(|root| root.trim_end_matches('/') == path);
        if is_root { Some(depth(path)) } else { declared_root(path, self.declared).map(depth) }
    }

    /// A file of the device's own configuration, wherever mounts lead.
    ///
    /// # Errors
    /// [`Errno::LOOP`] where a link is on the way.
    pub(super) fn local<'p>(&self, path: &'p str) -> io::Result<Option<Spot<'p>>> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.descend(parents, usize::MAX)?.map(|dir| (dir, OsStr::new(name))))
    }

    fn descend(&self, path: &str, fixed: usize) -> io::Result<Option<Dir>> {
        let mut here = self.root.child(OsStr::new("."), Mounts::Refused)?;
        for (at, name) in path.split('/').filter(|name| !name.is_empty()).enumerate() {
            let mounts = if at < fixed { Mounts::Crossed } else { Mounts::Refused };
            here = match here.child(OsStr::new(name), mounts) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
        }
        Ok(Some(here))
    }
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|name| !name.is_empty()).count()
}

/// Why something could not be done, in a few words for a receipt.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => "a symbolic link is in the way".to_owned(),
        Some(Errno::XDEV) => "a mount is in the way".to_owned(),
        Some(Errno::PERM) => "it lies outside the declared roots, or is immutable".to_owned(),
        Some(Errno::ROFS) => "the file system is read-only".to_owned(),
        Some(Errno::NOSPC) => "the disk is full".to_owned(),
        Some(Errno::NOTDIR) => "something that is no directory is in the way".to_owned(),
        _ => error.to_string(),
    }
}

/// A name or a path as a receipt shows it: whatever no terminal or list should be given is escaped.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' { text.extend(c.escape_default()) } else { text.push(c) }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_in_one_way_whatever_it_holds() {
        assert_eq!(shown("/srv/a b/ü".as_bytes()), "/srv/a b/ü");
        assert_eq!(shown(b"a\nb\x1b[2J\\\xff"), "a\\nb\\u{1b}[2J\\\\\\xff");
    }

    #[test]
    fn nothing_beyond_the_declared_roots_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("srv/data")).unwrap();
        std::fs::create_dir_all(dir.path().join("home")).unwrap();
        let declared = ["/srv/data".to_owned()];
        let ground = Ground { root: Dir::open(dir.path()).unwrap(), declared: &declared };
        assert!(ground.spot("/srv/data/a").unwrap().is_some());
        assert!(ground.directory("/srv/data").unwrap().is_some());
        for beyond in ["/home/a", "/srv/a", "/srv/data/../a", "/srv/data2/a"] {
            assert!(ground.spot(beyond).is_err(), "{beyond}");
        }
        assert!(ground.directory("/srv").is_err() && ground.directory("/").is_err());
    }

    #[test]
    fn a_link_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("srv/data")).unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("srv/data/link")).unwrap();
        let declared = ["/srv/data".to_owned()];
        let ground = Ground { root: Dir::open(dir.path()).unwrap(), declared: &declared };
        let refused = ground.spot("/srv/data/link/a").unwrap_err();
        assert_eq!(reason(&refused), "a symbolic link is in the way");
    }
}
