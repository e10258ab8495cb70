//! The disk as the appliers may touch it: every step by a directory that is held open, none through a link.
//!
//! A path is walked name by name with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so that what is swapped for
//! a link in the meantime is refused and never followed. Files take their place by rename: whoever reads sees the
//! old one or the new one, whole, and another name of the old one (a hard link) keeps the old content.
//!
//! Every call that changes something asks [`Disk::step`] first. There the tests count, fail and kill.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid};

use crate::core::baseline::NEIGHBOUR;

/// No larger file is replaced, since what is replaced is saved before.
pub(super) const SAVE_CAP: usize = 1 << 20;

/// What is about to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    MakeDirectory,
    Create,
    Write,
    Sync,
    Rename,
    SyncDirectory,
    Remove,
    SetKernel,
}

/// Lets a step happen, or says why not.
pub(super) type Gate = Box<dyn Fn(Step) -> io::Result<()> + Send>;

/// The way to the disk.
pub(super) struct Disk {
    gate: Option<Gate>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("gated", &self.gate.is_some()).finish()
    }
}

/// A regular file, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Plain {
    /// A file that belongs to whom the agent runs as.
    pub(super) fn of_the_agent(content: Vec<u8>, mode: u32) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { content, mode, uid, gid }
    }
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Plain(Plain),
    /// A regular file beyond the cap.
    Large,
    /// A link, a directory, a device, a pipe or a socket.
    Foreign,
}

/// A directory, held open.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

/// Whether the walk may leave the file system it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mounts {
    Crossed,
    Refused,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// A directory of the agent's own: its state, or the root of the tree it manages.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// The directory `name` in this one.
    pub(super) fn child(&self, name: &str, mounts: Mounts) -> io::Result<Self> {
        let resolve = match mounts {
            Mounts::Crossed => NO_LINKS,
            Mounts::Refused => NO_LINKS | ResolveFlags::NO_XDEV,
        };
        Ok(Self(fs::openat2(&self.0, name, DIRECTORY, Mode::empty(), resolve)?))
    }

    /// What stands under `name`. Nothing but a regular file is opened.
    pub(super) fn look(&self, name: &str) -> io::Result<Found> {
        self.look_capped(name, SAVE_CAP)
    }

    /// As [`Dir::look`], with another cap in bytes.
    pub(super) fn look_capped(&self, name: &str, cap: usize) -> io::Result<Found> {
        let stat = match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Ok(Found::Absent),
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Found::Foreign);
        }
        if usize::try_from(stat.st_size).unwrap_or(usize::MAX) > cap {
            return Ok(Found::Large);
        }
        // Between the look and the opening it may become a pipe or a link: neither blocks, neither is followed.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = NO_LINKS | ResolveFlags::NO_XDEV;
        let file = File::from(fs::openat2(&self.0, name, flags, Mode::empty(), resolve)?);
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Found::Foreign);
        }
        let mut content = Vec::new();
        let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut content)?;
        if content.len() > cap {
            return Ok(Found::Large);
        }
        Ok(Found::Plain(Plain { content, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }))
    }
}

impl Disk {
    pub(super) fn system() -> Self {
        Self { gate: None }
    }

    /// A disk on which `gate` decides about each step.
    #[cfg(test)]
    pub(super) fn gated(gate: Gate) -> Self {
        Self { gate: Some(gate) }
    }

    fn step(&self, step: Step) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate(step))
    }

    /// The directory `name` in `dir`, made (0755) when it is missing; durable.
    pub(super) fn ensure_child(&self, dir: &Dir, name: &str, mounts: Mounts) -> io::Result<Dir> {
        match dir.child(name, mounts) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.step(Step::MakeDirectory)?;
                fs::mkdirat(&dir.0, name, Mode::from_raw_mode(0o755))?;
                self.sync(dir)?;
                dir.child(name, mounts)
            }
            opened => opened,
        }
    }

    /// Makes `name` in `dir` be `file`, atomically and durably. A crash leaves a neighbour at most.
    ///
    /// On an error the name has the old content, or, where only the directory could not be made durable, the new.
    pub(super) fn place(&self, dir: &Dir, name: &str, file: &Plain) -> io::Result<()> {
        let written = self.clear_neighbour(dir).and_then(|()| self.write_neighbour(dir, file));
        let placed = written.and_then(|()| {
            self.step(Step::Rename)?;
            Ok(fs::renameat(&dir.0, NEIGHBOUR, &dir.0, name)?)
        });
        if placed.is_err() {
            // A half-written neighbour on a full disk would keep the disk full.
            let _ = self.clear_neighbour(dir);
        }
        placed.and_then(|()| self.sync(dir))
    }

    fn write_neighbour(&self, dir: &Dir, file: &Plain) -> io::Result<()> {
        self.step(Step::Create)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut open = File::from(fs::openat(&dir.0, NEIGHBOUR, flags, Mode::from_raw_mode(0o600))?);
        let (first, second) = file.content.split_at(file.content.len() / 2);
        for half in [first, second] {
            self.step(Step::Write)?;
            open.write_all(half)?;
        }
        let stat = fs::fstat(&open)?;
        if (stat.st_uid, stat.st_gid) != (file.uid, file.gid) {
            fs::fchown(&open, Some(uid(file.uid)?), Some(gid(file.gid)?))?;
        }
        // After the owner: a change of owner takes setuid and setgid away.
        fs::fchmod(&open, Mode::from_raw_mode(file.mode))?;
        self.step(Step::Sync)?;
        open.sync_all()
    }

    /// Lets two names change their files, atomically and durably.
    pub(super) fn exchange(&self, dir: &Dir, one: &str, other: &str) -> io::Result<()> {
        self.step(Step::Rename)?;
        fs::renameat_with(&dir.0, one, &dir.0, other, RenameFlags::EXCHANGE)?;
        self.sync(dir)
    }

    /// Takes `name` away, durably; a missing one is no error.
    pub(super) fn remove(&self, dir: &Dir, name: &str) -> io::Result<()> {
        self.step(Step::Remove)?;
        match fs::unlinkat(&dir.0, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            removed => {
                removed?;
                self.sync(dir)
            }
        }
    }

    /// Takes the directory `name` away when it is empty.
    pub(super) fn remove_empty(&self, dir: &Dir, name: &str) -> io::Result<()> {
        self.step(Step::Remove)?;
        match fs::unlinkat(&dir.0, name, AtFlags::REMOVEDIR) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => Ok(()),
            removed => {
                removed?;
                self.sync(dir)
            }
        }
    }

    /// Takes away what a crash left half written in `dir`.
    pub(super) fn clear_neighbour(&self, dir: &Dir) -> io::Result<()> {
        match fs::statat(&dir.0, NEIGHBOUR, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            _ => self.remove(dir, NEIGHBOUR),
        }
    }

    /// Gives the kernel setting `name` in `dir` the value `value`, in place, as the kernel wants it.
    ///
    /// A tree that only looks like `/proc/sys` is written the same way; a file with a second name is refused there,
    /// since it would be written through.
    pub(super) fn set_kernel(&self, dir: &Dir, name: &str, value: &str) -> io::Result<()> {
        self.step(Step::SetKernel)?;
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat2(&dir.0, name, flags, Mode::empty(), NO_LINKS)?);
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a kernel setting"));
        }
        file.set_len(0)?;
        file.write_all(format!("{value}\n").as_bytes())
    }

    fn sync(&self, dir: &Dir) -> io::Result<()> {
        self.step(Step::SyncDirectory)?;
        Ok(fs::fsync(&dir.0)?)
    }
}

/// −1 means "leave it as it is" to the kernel, and never comes from an account file of ours.
fn uid(raw: u32) -> io::Result<Uid> {
    if raw == u32::MAX { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(Uid::from_raw(raw)) }
}

fn gid(raw: u32) -> io::Result<Gid> {
    if raw == u32::MAX { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(Gid::from_raw(raw)) }
}
