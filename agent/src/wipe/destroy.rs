//! Destroying what was planned, one thing after the other, each begun on record before it is touched.
//!
//! A thing that cannot be destroyed keeps nothing else from it: it is on record as failed, by name and reason, and the
//! phase with it. A link is taken away, never followed; a mount is never entered; a file with other names is not
//! overwritten, and is a failure unless those names go, too; the agent's own state stays.

use std::ffi::CString;
use std::io;

use muster_wire::receipt::{ItemFate, ReceiptPhase};
use rustix::fs::FileType;

use super::disk::Disk;
use super::evidence::{Evidence, Fate};
use super::walk::{Dir, Ground, Inode, Mounts, Seen, os, reason, shown};

/// So many things are begun on record at once.
const BATCH: usize = 64;
/// Directories inside directories; each is held open.
const DEPTH: usize = 256;
/// A directory in which others keep writing is looked at again so often.
const PASSES: usize = 3;

/// One phase at work.
#[derive(Debug)]
pub(super) struct Destroyer<'a> {
    pub(super) ground: &'a Ground<'a>,
    pub(super) disk: &'a Disk,
    pub(super) phase: ReceiptPhase,
    /// The agent's own state directory.
    pub(super) own: Inode,
}

/// What a directory is after the passes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

impl Destroyer<'_> {
    /// Puts what became of `what` on record.
    pub(super) fn note(
        &self,
        evidence: &mut Evidence<'_>,
        what: &str,
        fate: ItemFate,
        size: u64,
    ) -> io::Result<()> {
        evidence.ends(what, Fate { fate, size_bytes: size, phase: self.phase, why: None })
    }

    pub(super) fn failed(&self, evidence: &mut Evidence<'_>, what: &str, why: &str) -> io::Result<()> {
        self.explained(evidence, what, ItemFate::Failed, why)
    }

    pub(super) fn kept(&self, evidence: &mut Evidence<'_>, what: &str, why: &str) -> io::Result<()> {
        self.explained(evidence, what, ItemFate::Kept, why)
    }

    fn explained(
        &self,
        evidence: &mut Evidence<'_>,
        what: &str,
        fate: ItemFate,
        why: &str,
    ) -> io::Result<()> {
        let size_bytes = evidence.began(what).unwrap_or(0);
        evidence.ends(what, Fate { fate, size_bytes, phase: self.phase, why: Some(why.to_owned()) })
    }

    /// Destroys one planned file.
    ///
    /// # Errors
    /// The evidence could not be kept; what became of the file itself is in it.
    pub(super) fn file(&self, evidence: &mut Evidence<'_>, path: &str) -> io::Result<()> {
        let what = shown(path.as_bytes());
        if evidence.is_settled(&what) {
            return Ok(());
        }
        let found = self.ground.spot(path).and_then(|spot| match spot {
            Some((dir, name)) => Ok(dir.look(name)?.map(|seen| (dir, name, seen))),
            None => Ok(None),
        });
        let (dir, name, seen) = match found {
            Err(error) => return self.failed(evidence, &what, &reason(&error)),
            Ok(None) => return self.absent(evidence, &what),
            Ok(Some(found)) => found,
        };
        if seen.kind != FileType::RegularFile {
            return self.failed(evidence, &what, "something else stands in its place");
        }
        evidence.begins(&what, seen.size_bytes)?;
        evidence.sync()?;
        let gone = self.disk.destroy(&dir, name, &seen);
        let synced = gone.and_then(|gone| self.disk.sync_directory(&dir).map(|()| gone));
        self.ended(evidence, &what, &seen, synced)
    }

    /// Deleted before a kill, or gone without our doing.
    fn absent(&self, evidence: &mut Evidence<'_>, what: &str) -> io::Result<()> {
        match evidence.began(what) {
            _ if evidence.fate(what).is_some() => Ok(()),
            Some(size) => self.note(evidence, what, ItemFate::Deleted, size),
            None => self.failed(evidence, what, "it vanished before it was destroyed"),
        }
    }

    fn ended(
        &self,
        evidence: &mut Evidence<'_>,
        what: &str,
        seen: &Seen,
        gone: io::Result<super::disk::Gone>,
    ) -> io::Result<()> {
        let gone = match gone {
            Err(error) => return self.failed(evidence, what, &reason(&error)),
            Ok(gone) => gone,
        };
        match gone.is_left_as {
            Some(inode) => evidence.is_left(what, inode)?,
            None if seen.kind == FileType::RegularFile => evidence.is_left_no_more(seen.inode)?,
            None => {}
        }
        let fate = if gone.is_cleared { ItemFate::Cleared } else { ItemFate::Deleted };
        self.note(evidence, what, fate, seen.size_bytes)
    }

    /// Destroys everything beneath the data root `path`; the directory itself stays.
    ///
    /// # Errors
    /// As [`Destroyer::file`].
    pub(super) fn data_root(&self, evidence: &mut Evidence<'_>, path: &str) -> io::Result<()> {
        let what = shown(path.as_bytes());
        match self.ground.directory(path) {
            Ok(Some(dir)) => self.content(evidence, &dir, path.as_bytes(), 0).map(|_| ()),
            Ok(None) => self.failed(evidence, &what, "it is not there"),
            Err(error) => self.failed(evidence, &what, &reason(&error)),
        }
    }

    fn content(&self, evidence: &mut Evidence<'_>, dir: &Dir, path: &[u8], depth: usize) -> io::Result<Left> {
        let mut left = Left::Nothing;
        for _ in 0..PASSES {
            let names = match dir.names() {
                Ok(names) => names,
                Err(error) => {
                    self.failed(evidence, &shown(path), &reason(&error))?;
                    return Ok(Left::Something);
                }
            };
            if names.is_empty() || left == Left::Something {
                break;
            }
            for batch in names.chunks(BATCH) {
                if self.batch(evidence, dir, path, batch, depth)? == Left::Something {
                    left = Left::Something;
                }
            }
        }
        Ok(left)
    }

    fn batch(
        &self,
        evidence: &mut Evidence<'_>,
        dir: &Dir,
        path: &[u8],
        names: &[CString],
        depth: usize,
    ) -> io::Result<Left> {
        let mut left = Left::Nothing;
        let mut files = Vec::new();
        for name in names {
            let inside = join(path, name);
            match dir.look(os(name)) {
                Ok(None) => {}
                Ok(Some(seen)) if seen.kind == FileType::Directory => {
                    if self.directory(evidence, dir, (name, &inside), depth)? == Left::Something {
                        left = Left::Something;
                    }
                }
                Ok(Some(seen)) => files.push((name, shown(&inside), seen)),
                Err(error) => {
                    left = Left::Something;
                    self.failed(evidence, &shown(&inside), &reason(&error))?;
                }
            }
        }
        Ok(if self.files(evidence, dir, &files)? == Left::Something { Left::Something } else { left })
    }

    /// Destroys files of one directory, begun on record together and made durable together.
    fn files(
        &self,
        evidence: &mut Evidence<'_>,
        dir: &Dir,
        files: &[(&CString, String, Seen)],
    ) -> io::Result<Left> {
        let mut left = Left::Nothing;
        for (_, what, seen) in files {
            evidence.begins(what, seen.size_bytes)?;
        }
        if !files.is_empty() {
            evidence.sync()?;
        }
        let gone: Vec<_> =
            files.iter().map(|(name, _, seen)| self.disk.destroy(dir, os(name), seen)).collect();
        let synced = self.disk.sync_directory(dir);
        for ((_, what, seen), gone) in files.iter().zip(gone) {
            let gone = gone.and_then(|gone| match &synced {
                Ok(()) => Ok(gone),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
            if gone.is_err() {
                left = Left::Something;
            }
            self.ended(evidence, what, seen, gone)?;
        }
        Ok(left)
    }

    fn directory(
        &self,
        evidence: &mut Evidence<'_>,
        dir: &Dir,
        (name, path): (&CString, &[u8]),
        depth: usize,
    ) -> io::Result<Left> {
        let what = shown(path);
        let child = match dir.child(os(name), Mounts::Refused).and_then(|child| Ok((child.seen()?, child))) {
            Ok((seen, _)) if seen.inode == self.own => {
                self.kept(evidence, &what, "the agent's own state")?;
                return Ok(Left::Something);
            }
            Ok((_, child)) if depth < DEPTH => child,
            Ok(_) => {
                self.failed(evidence, &what, "it lies too deep")?;
                return Ok(Left::Something);
            }
            Err(error) => {
                self.failed(evidence, &what, &reason(&error))?;
                return Ok(Left::Something);
            }
        };
        if self.content(evidence, &child, path, depth + 1)? == Left::Something {
            return Ok(Left::Something);
        }
        drop(child);
        match self.disk.remove_directory(dir, os(name)) {
            Ok(()) => Ok(Left::Nothing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Left::Nothing),
            Err(error) => {
                self.failed(evidence, &what, &reason(&error))?;
                Ok(Left::Something)
            }
        }
    }

    /// What was begun, has no end on record and was not met again was deleted before a kill; names that are left of
    /// what lost one here are failures.
    ///
    /// # Errors
    /// As [`Destroyer::file`].
    pub(super) fn settle(&self, evidence: &mut Evidence<'_>) -> io::Result<()> {
        for (what, size) in evidence.unended() {
            self.note(evidence, &what, ItemFate::Deleted, size)?;
        }
        for what in evidence.linked() {
            self.failed(evidence, &what, "another name of it is left")?;
        }
        evidence.sync()
    }

    /// The first thing that is left beneath a data root, if any.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(super) fn first_left(&self, dir: &Dir, path: &[u8], depth: usize) -> io::Result<Option<String>> {
        for name in dir.names()? {
            let inside = join(path, &name);
            let is_directory = dir.look(os(&name))?.is_some_and(|seen| seen.kind == FileType::Directory);
            if !is_directory || depth >= DEPTH {
                return Ok(Some(shown(&inside)));
            }
            let child = dir.child(os(&name), Mounts::Refused)?;
            if child.seen()?.inode == self.own {
                continue;
            }
            let holds_own = self.holds_own(&child, depth + 1)?;
            if !holds_own {
                return Ok(Some(shown(&inside)));
            }
            if let Some(left) = self.first_left(&child, &inside, depth + 1)? {
                return Ok(Some(left));
            }
        }
        Ok(None)
    }

    /// Whether the agent's own state lies somewhere beneath `dir`.
    fn holds_own(&self, dir: &Dir, depth: usize) -> io::Result<bool> {
        for name in dir.names()? {
            let is_directory = dir.look(os(&name))?.is_some_and(|seen| seen.kind == FileType::Directory);
            if !is_directory || depth >= DEPTH {
                continue;
            }
            let child = dir.child(os(&name), Mounts::Refused)?;
            if child.seen()?.inode == self.own || self.holds_own(&child, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn join(path: &[u8], name: &CString) -> Vec<u8> {
    [path, b"/", name.as_bytes()].concat()
}
