//! `wipe --rehearse`: what a wipe would destroy, what it would miss, and the word that would be earned. Changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use muster_wire::id::OrderId;
use muster_wire::warrant::Level;
use rustix::fs::FileType;
use serde::Serialize;

use super::disk::could_be_cleared;
use super::engine::{Engine, WipeError};
use super::luks::Volume;
use super::plan::Plan;
use super::walk::{Dir, Ground, Inode, Mounts, os, reason, shown};
use crate::core::wiping::{ManagedFile, WipeTask};

/// Directories inside directories that are looked into.
const DEPTH: usize = 256;

/// What would come of a wipe. Fields are pinned (contract.md); more may follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rehearsal {
    /// The level that was rehearsed.
    pub level: Level,
    /// What would be gone.
    pub would_remove: Vec<WouldRemove>,
    /// What would be left, and why.
    pub missed: Vec<String>,
    /// What no wipe to this level is for.
    pub stays: Vec<String>,
    /// Whether such a wipe would be refused here: nothing would be removed, and `missed` says why.
    pub refused: bool,
    /// What could honestly be said of all of it, in the words of NIST SP 800-88r2 where they are earned: `nothing`,
    /// `deleted`, `clear` (every addressed block overwritten) or `key_destroyed` (keys and nothing else).
    pub honest_level: &'static str,
}

/// One thing that would be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WouldRemove {
    /// Its path beneath the root, or which keys; of the agent's own things the path on this machine.
    pub path: String,
    /// How large it is.
    pub bytes: u64,
    /// What it is to Muster.
    pub what: Thing,
}

/// What a thing that would be gone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// A file that a baseline put there.
    Managed,
    /// Such a file that only its owner may read.
    Secret,
    /// Something beneath a data root.
    Data,
    /// The key slots of a volume.
    Keys,
    /// The identity key, and what else the agent keeps of this life; last, once the server has confirmed the receipt.
    Own,
}

impl Thing {
    /// In a word or two.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Secret => "secret",
            Self::Data => "data",
            Self::Keys => "keys",
            Self::Own => "agent's own",
        }
    }
}

struct Count<'a> {
    ground: &'a Ground<'a>,
    own: Inode,
    /// What was looked at: a managed file beneath a data root is one thing.
    seen: BTreeSet<String>,
    rehearsal: Rehearsal,
    has_deleted: bool,
    has_cleared: bool,
}

impl Engine {
    /// Rehearses a wipe to `level` of the data roots `data_roots`.
    ///
    /// # Errors
    /// [`WipeError`] when the tree or the agent's state cannot be looked at.
    pub fn rehearse(
        &self,
        level: Level,
        data_roots: &[String],
        managed: &[ManagedFile],
    ) -> Result<Rehearsal, WipeError> {
        let ground = self.ground()?;
        let order = OrderId::from_parts(0, [0; 10]);
        let task = WipeTask { order, level, data_roots: data_roots.to_vec() };
        let rehearsal = Rehearsal {
            level,
            would_remove: Vec::new(),
            missed: Vec::new(),
            stays: stays(level, data_roots),
            refused: false,
            honest_level: "nothing",
        };
        let own = self.own().map_err(WipeError::State)?;
        let (seen, has_deleted, has_cleared) = (BTreeSet::new(), false, false);
        let mut count = Count { ground: &ground, own, seen, rehearsal, has_deleted, has_cleared };
        match self.draft(&ground, &task, managed) {
            Ok(plan) => count.plan(&plan),
            Err(why) => {
                count.rehearsal.refused = true;
                count.rehearsal.stays = vec!["everything".to_owned()];
                count.rehearsal.missed.push(why);
            }
        }
        Ok(count.told())
    }
}

impl Rehearsal {
    /// The same with `files`, what the agent keeps of this life and destroys at its end.
    pub fn with_own(mut self, files: &[PathBuf]) -> Self {
        if self.refused {
            return self;
        }
        let own = files.iter().filter_map(|path| {
            let bytes = std::fs::symlink_metadata(path).ok()?.len();
            Some(WouldRemove { path: path.display().to_string(), bytes, what: Thing::Own })
        });
        self.would_remove.extend(own);
        self.stays.push("the agent's journal, which says that this life is over".to_owned());
        self
    }
}

/// What no wipe to `level` is for.
fn stays(level: Level, data_roots: &[String]) -> Vec<String> {
    let mut stays = Vec::new();
    if level < Level::Clear {
        let data = |root: &String| format!("what no baseline put beneath {root}: `clear` takes that, too");
        stays.extend(data_roots.iter().map(data));
    }
    if level < Level::CryptoErase {
        stays.push("the keys of encrypted volumes: `crypto-erase` takes those, too".to_owned());
    }
    stays.push(if level < Level::FactoryReset {
        "everything outside the roots declared at enrolment: the system, its users and their files".to_owned()
    } else {
        "whatever the device's own hook `factory-reset` leaves outside the roots declared at enrolment"
            .to_owned()
    });
    stays
}

impl Count<'_> {
    fn plan(&mut self, plan: &Plan) {
        for file in &plan.files {
            let what = shown(file.path.as_bytes());
            match self.ground.spot(&file.path) {
                Ok(Some((dir, name))) => {
                    let thing = if file.is_secret { Thing::Secret } else { Thing::Managed };
                    self.name(&dir, name, (what, thing));
                }
                Ok(None) => self.missed(&what, "it is not there"),
                Err(error) => self.missed(&what, &reason(&error)),
            }
        }
        for root in &plan.data_roots {
            match self.ground.directory(root) {
                Ok(Some(dir)) => self.content(&dir, root.as_bytes(), 0),
                Ok(None) => self.missed(root, "it is not there"),
                Err(error) => self.missed(root, &reason(&error)),
            }
        }
        for path in &plan.volumes {
            match Volume::open(self.ground, path).and_then(|volume| Ok((volume.slots()?, volume))) {
                Ok((0, _)) => self.missed(path, "it has no key slot"),
                Ok((_, volume)) => {
                    self.remove(format!("key slots of {path}"), volume.size_bytes, Thing::Keys)
                }
                Err(error) => self.missed(path, &error.to_string()),
            }
        }
        self.rehearsal.missed.extend(plan.kept.iter().cloned());
    }

    fn name(&mut self, dir: &Dir, name: &std::ffi::OsStr, (what, thing): (String, Thing)) {
        if !self.seen.insert(what.clone()) {
            return;
        }
        let looked = dir.look(name).and_then(|seen| match seen {
            Some(seen) => Ok((seen, dir.hold(name)?)),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        match looked {
            Ok((seen, held)) => {
                let is_clearable = could_be_cleared(&held, &seen);
                self.has_cleared |= is_clearable;
                self.has_deleted |= !is_clearable;
                if seen.kind == FileType::RegularFile && seen.links > 1 {
                    self.missed(&what, "it has other names");
                }
                self.remove(what, seen.size_bytes, thing);
            }
            Err(error) => self.missed(&what, &reason(&error)),
        }
    }

    fn content(&mut self, dir: &Dir, path: &[u8], depth: usize) {
        let names = match dir.names() {
            Ok(names) => names,
            Err(error) => return self.missed(&shown(path), &reason(&error)),
        };
        for name in names {
            let inside = [path, b"/", name.as_bytes()].concat();
            match dir.look(os(&name)) {
                Ok(Some(seen)) if seen.kind == FileType::Directory => {
                    let child = dir.child(os(&name), Mounts::Refused);
                    match child.and_then(|child| Ok((child.seen()?.inode == self.own, child))) {
                        Ok((true, _)) => self.missed(&shown(&inside), "the agent's own state"),
                        Ok((false, _)) if depth >= DEPTH => self.missed(&shown(&inside), "it lies too deep"),
                        Ok((false, child)) => self.content(&child, &inside, depth + 1),
                        Err(error) => self.missed(&shown(&inside), &reason(&error)),
                    }
                }
                Ok(Some(_)) => self.name(dir, os(&name), (shown(&inside), Thing::Data)),
                Ok(None) => {}
                Err(error) => self.missed(&shown(&inside), &reason(&error)),
            }
        }
    }

    fn missed(&mut self, what: &str, why: &str) {
        self.rehearsal.missed.push(format!("{what} ({why})"));
    }

    fn remove(&mut self, path: String, bytes: u64, what: Thing) {
        self.rehearsal.would_remove.push(WouldRemove { path, bytes, what });
    }

    fn told(self) -> Rehearsal {
        let is_empty = self.rehearsal.would_remove.is_empty();
        let honest_level = match (self.has_deleted, self.has_cleared) {
            (true, _) => "deleted",
            (false, true) => "clear",
            (false, false) if is_empty => "nothing",
            (false, false) => "key_destroyed",
        };
        Rehearsal { honest_level, ..self.rehearsal }
    }
}
