//! The steps of a wipe that change something, one by one. Every one asks [`Disk::step`] first: there the tests count,
//! fail and kill.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{self, Advice, AtFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::walk::{Dir, Inode, Seen};

/// File systems that write a block of a file where that block has been: ext2/3/4, FAT, and memory.
const IN_PLACE: [u64; 3] = [0xef53, 0x4d44, 0x0102_1994];
/// So much is overwritten, or read back, at once.
const CHUNK: usize = 256 * 1024;

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The plan takes its place.
    Plan,
    /// Evidence is written.
    Evidence,
    /// Evidence is made durable.
    SyncEvidence,
    /// Blocks of a file are overwritten.
    Overwrite,
    /// What was overwritten is made durable.
    Sync,
    /// A name is taken away.
    Unlink,
    /// That it was, is made durable.
    SyncDirectory,
    /// The applier forgets what it put there.
    Forget,
    /// A program is run.
    Program,
}

/// Lets a step happen, or says why not.
pub type Gate = Box<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

/// The way to the disk.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) gate: Option<Gate>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("gated", &self.gate.is_some()).finish()
    }
}

/// How a name went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    /// Whether every block that the file had was overwritten and read back.
    pub(super) is_cleared: bool,
    /// The file itself, where another name of it is left.
    pub(super) is_left_as: Option<Inode>,
}

impl Disk {
    pub(super) fn step(&self, step: Step) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate(step))
    }

    /// Takes the file `name` away, overwritten where it has no other name and lets itself be.
    ///
    /// # Errors
    /// The name is still there.
    pub(super) fn destroy(&self, dir: &Dir, name: &OsStr, seen: &Seen) -> io::Result<Gone> {
        if seen.kind != FileType::RegularFile {
            self.unlink(dir, name)?;
            return Ok(Gone { is_cleared: false, is_left_as: None });
        }
        let held = dir.hold(name)?;
        let is_cleared = seen.links == 1 && self.overwrite(dir, name, seen).unwrap_or(false);
        self.unlink(dir, name)?;
        let after = Seen::of(&fs::fstat(&held)?);
        let is_left_as = (after.links > 0).then_some(after.inode);
        Ok(Gone { is_cleared: is_cleared && is_left_as.is_none(), is_left_as })
    }

    /// Whether all of it was overwritten in place and reads back as zeroes.
    fn overwrite(&self, dir: &Dir, name: &OsStr, seen: &Seen) -> io::Result<bool> {
        let file = File::from(dir.file(name, OFlags::RDWR)?);
        let now = Seen::of(&fs::fstat(&file)?);
        if now.inode != seen.inode || now.links != 1 || now.kind != FileType::RegularFile {
            return Ok(false);
        }
        let extents = extents(&file, now.size_bytes)?;
        for (from, to) in &extents {
            self.zero(&file, *from, *to)?;
        }
        self.step(Step::Sync)?;
        file.sync_all()?;
        // Without this the look would be at memory; where it cannot be had, the look is weaker.
        let _ = fs::fadvise(&file, 0, None, Advice::DontNeed);
        for (from, to) in &extents {
            if !is_zero(&file, *from, *to)? {
                return Ok(false);
            }
        }
        Ok(now.size_bytes > 0 && is_in_place(&file))
    }

    fn zero(&self, file: &File, from: u64, to: u64) -> io::Result<()> {
        let zeroes = vec![0; CHUNK];
        let mut at = from;
        while at < to {
            self.step(Step::Overwrite)?;
            let count = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
            let written = file.write_at(zeroes.get(..count).unwrap_or_default(), at)?;
            at += u64::try_from(written.max(1)).unwrap_or(1);
        }
        Ok(())
    }

    fn unlink(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        self.step(Step::Unlink)?;
        Ok(fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    /// Takes the empty directory `name` away.
    pub(super) fn remove_directory(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        self.step(Step::Unlink)?;
        Ok(fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn sync_directory(&self, dir: &Dir) -> io::Result<()> {
        self.step(Step::SyncDirectory)?;
        Ok(fs::fsync(dir)?)
    }

    /// Makes `name` in `dir` hold `bytes`, atomically and durably.
    pub(super) fn place(&self, dir: &Dir, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!(".{name}.new");
        self.step(Step::Plan)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(dir, &new, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(bytes)?;
        self.step(Step::Sync)?;
        file.sync_all()?;
        self.step(Step::Plan)?;
        fs::renameat(dir, &new, dir, name)?;
        self.sync_directory(dir)
    }
}

/// Takes a file of the agent's own away, overwritten where that can be; answers whether every block of it was, and
/// nothing where there is no such file.
///
/// # Errors
/// It is still there.
pub fn shred(path: &Path) -> io::Result<Option<bool>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let Some(seen) = dir.look(name)? else { return Ok(None) };
    let disk = Disk::default();
    let gone = disk.destroy(&dir, name, &seen)?;
    disk.sync_directory(&dir)?;
    Ok(Some(gone.is_cleared))
}

/// The parts of a file that have blocks, as offsets from and to.
fn extents(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // A file system that tells no holes has none that count.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            found => found?,
        };
        let to = fs::seek(file, SeekFrom::Hole(from)).unwrap_or(size).min(size);
        extents.push((from, to.max(from)));
        at = to.max(from + 1);
    }
    Ok(extents)
}

fn is_zero(file: &File, from: u64, to: u64) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK];
    let mut at = from;
    while at < to {
        let count = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
        let part = buffer.get_mut(..count).unwrap_or_default();
        file.read_exact_at(part, at)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += u64::try_from(count).unwrap_or(1);
    }
    Ok(true)
}

fn is_in_place(file: &File) -> bool {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    fs::fstatfs(file).is_ok_and(|found| IN_PLACE.contains(&(found.f_type as u64)))
}

/// Whether a file at the other end of `held` could be overwritten where it is; for a rehearsal.
pub(super) fn could_be_cleared(held: &OwnedFd, seen: &Seen) -> bool {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    let is_in_place = fs::fstatfs(held).is_ok_and(|found| IN_PLACE.contains(&(found.f_type as u64)));
    is_in_place && seen.kind == FileType::RegularFile && seen.links == 1 && seen.size_bytes > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destroyed(path: &std::path::Path) -> Gone {
        let dir = Dir::open(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap();
        let seen = dir.look(name).unwrap().unwrap();
        Disk::default().destroy(&dir, name, &seen).unwrap()
    }

    #[test]
    fn a_file_with_another_name_is_not_overwritten_and_the_other_name_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "precious").unwrap();
        std::fs::hard_link(&one, &two).unwrap();
        let gone = destroyed(&one);
        assert!(!gone.is_cleared && gone.is_left_as.is_some());
        assert_eq!(std::fs::read_to_string(&two).unwrap(), "precious");
        assert_eq!(destroyed(&two).is_left_as, None);
    }

    #[test]
    fn what_is_overwritten_reads_as_zeroes_even_through_a_descriptor_that_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![7; CHUNK + 5]).unwrap();
        let held = File::open(&path).unwrap();
        destroyed(&path);
        assert!(!path.exists());
        assert!(is_zero(&held, 0, CHUNK as u64 + 5).unwrap());
    }

    #[test]
    fn holes_are_not_filled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.write_at(b"x", 1 << 40).unwrap();
        let extents = extents(&File::open(&path).unwrap(), (1 << 40) + 1).unwrap();
        assert!(extents.iter().map(|(from, to)| to - from).sum::<u64>() < 1 << 20, "{extents:?}");
        destroyed(&path);
        assert!(!path.exists());
    }
}
