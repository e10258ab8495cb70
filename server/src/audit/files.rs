//! Files that are there whole or not at all, and on the disk before anything refers to them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A round of files under one root. What is put is synced at once; the names become durable with
/// [`Round::sync_names`]. A crash in between leaves a file whole or absent, and the next round writes it again.
pub(crate) struct Round<'a> {
    root: &'a Path,
    touched: BTreeSet<PathBuf>,
    syncs: u64,
}

impl<'a> Round<'a> {
    pub(crate) fn under(root: &'a Path) -> Self {
        Self { root, touched: BTreeSet::new(), syncs: 0 }
    }

    /// Writes `bytes` to `path`, relative to the root: written, synced, renamed into place.
    pub(crate) fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.root.join(path);
        let parent = target.parent().unwrap_or(self.root).to_path_buf();
        self.make_dir(&parent)?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = parent.join(format!(".{name}.tmp"));
        step()?;
        let mut file = File::create(&temporary)?;
        step()?;
        file.write_all(bytes)?;
        step()?;
        file.sync_data()?;
        self.syncs += 1;
        step()?;
        fs::rename(&temporary, &target)?;
        self.touched.insert(parent);
        Ok(())
    }

    /// Makes every name put so far durable.
    pub(crate) fn sync_names(&mut self) -> io::Result<()> {
        for dir in std::mem::take(&mut self.touched) {
            step()?;
            File::open(dir)?.sync_all()?;
            self.syncs += 1;
        }
        Ok(())
    }

    /// How often it made the disk write so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs
    }

    fn make_dir(&mut self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            self.make_dir(parent)?;
            self.touched.insert(parent.to_path_buf());
        }
        step()?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

/// The bytes of a file, `None` when there is none.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests a step can fail")]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use faults::step;

/// Faults on demand: the disk stops after a number of steps.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Runs `what` with a disk that fails every step after the first `steps`.
    pub(crate) fn after<T>(steps: u32, what: impl FnOnce() -> T) -> T {
        LEFT.set(Some(steps));
        let answer = what();
        LEFT.set(None);
        answer
    }

    pub(super) fn step() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => Err(io::Error::other("failed on demand")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaces_the_former_one_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut round = Round::under(dir.path());
        round.put("a/b/c", b"one").unwrap();
        round.put("a/b/c", b"two").unwrap();
        round.sync_names().unwrap();
        assert_eq!(fs::read(dir.path().join("a/b/c")).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_temporary_file_left_by_a_crash_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".c.tmp"), b"half").unwrap();
        Round::under(dir.path()).put("c", b"whole").unwrap();
        assert_eq!(read_if_there(&dir.path().join("c")).unwrap().unwrap(), b"whole");
        assert_eq!(read_if_there(&dir.path().join("d")).unwrap(), None);
    }
}
