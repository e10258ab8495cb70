//! What was destroyed, line by line, so that a wipe that was cut off knows what it had begun, and a receipt says no more
//! than was done.
//!
//! ```text
//! {"began":"/srv/a","size_bytes":7}                            durable before /srv/a is touched
//! {"ended":"/srv/a","fate":"cleared",…}                        after the directory was synced
//! {"linked":"/srv/b","device":1,"number":2} … {"unlinked":…}   another name of it is left … is left no more
//! ```
//! A line that was torn by a crash is cut off: what it spoke of is found out again. A thing that was begun and is there no
//! more was deleted; a thing that was planned, never begun, and is there no more, *vanished*, which is a failure.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

use muster_wire::digest::Sha256Digest;
use muster_wire::receipt::{ItemFate, ReceiptItem, ReceiptPhase};
use rustix::fs::{self, Mode, OFlags, SeekFrom};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, Step};
use super::walk::{Dir, Inode};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Plan { plan: Sha256Digest },
    Began { began: String, size_bytes: u64 },
    Ended { ended: String, fate: ItemFate, size_bytes: u64, phase: ReceiptPhase, why: Option<String> },
    Linked { linked: String, device: u64, number: u64 },
    Unlinked { device: u64, number: u64 },
}

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) fate: ItemFate,
    pub(super) size_bytes: u64,
    pub(super) phase: ReceiptPhase,
    /// Why it was not destroyed.
    pub(super) why: Option<String>,
}

/// The evidence, open to be added to.
#[derive(Debug)]
pub(super) struct Evidence<'d> {
    disk: &'d Disk,
    file: File,
    began: BTreeMap<String, u64>,
    fates: BTreeMap<String, Fate>,
    linked: BTreeMap<Inode, Vec<String>>,
}

const NAME: &str = "evidence";

impl<'d> Evidence<'d> {
    /// Empty evidence for the plan with this digest, in place of any other.
    pub(super) fn begin(disk: &'d Disk, dir: &Dir, plan: Sha256Digest) -> io::Result<Self> {
        let line = serde_json::to_string(&Line::Plan { plan })?;
        disk.place(dir, NAME, format!("{line}\n").as_bytes())?;
        Self::open(disk, dir)
    }

    /// The evidence kept so far.
    pub(super) fn open(disk: &'d Disk, dir: &Dir) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(dir, NAME, flags, Mode::from_raw_mode(0o600))?);
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let sound = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let end = u64::try_from(sound).unwrap_or(0);
        file.set_len(end)?;
        fs::seek(&file, SeekFrom::Start(end))?;
        let (began, fates, linked) = Default::default();
        let mut evidence = Self { disk, file, began, fates, linked };
        for line in text.get(..sound).unwrap_or_default().split(|byte| *byte == b'\n') {
            if let Ok(line) = serde_json::from_slice::<Line>(line) {
                evidence.take(line);
            }
        }
        Ok(evidence)
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Plan { .. } => {}
            Line::Began { began, size_bytes } => {
                self.began.insert(began, size_bytes);
            }
            Line::Ended { ended, fate, size_bytes, phase, why } => {
                self.fates.insert(ended, Fate { fate, size_bytes, phase, why });
            }
            Line::Linked { linked, device, number } => {
                self.linked.entry(Inode { device, number }).or_default().push(linked);
            }
            Line::Unlinked { device, number } => {
                self.linked.remove(&Inode { device, number });
            }
        }
    }

    fn write(&mut self, line: Line) -> io::Result<()> {
        self.disk.step(Step::Evidence)?;
        let text = serde_json::to_string(&line)?;
        self.file.write_all(format!("{text}\n").as_bytes())?;
        self.take(line);
        Ok(())
    }

    /// Everything written so far is durable on return.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.step(Step::SyncEvidence)?;
        self.file.sync_data()
    }

    pub(super) fn begins(&mut self, what: &str, size_bytes: u64) -> io::Result<()> {
        self.write(Line::Began { began: what.to_owned(), size_bytes })
    }

    pub(super) fn ends(&mut self, what: &str, fate: Fate) -> io::Result<()> {
        let Fate { fate, size_bytes, phase, why } = fate;
        self.write(Line::Ended { ended: what.to_owned(), fate, size_bytes, phase, why })
    }

    /// Another name of `what` is left.
    pub(super) fn is_left(&mut self, what: &str, inode: Inode) -> io::Result<()> {
        let Inode { device, number } = inode;
        self.write(Line::Linked { linked: what.to_owned(), device, number })
    }

    /// The last name is gone.
    pub(super) fn is_left_no_more(&mut self, inode: Inode) -> io::Result<()> {
        let Inode { device, number } = inode;
        if self.linked.contains_key(&inode) { self.write(Line::Unlinked { device, number }) } else { Ok(()) }
    }

    /// Names that were taken away from files which have others still.
    pub(super) fn linked(&self) -> Vec<String> {
        self.linked.values().flatten().cloned().collect()
    }

    /// How many bytes `what` had when its end was begun.
    pub(super) fn began(&self, what: &str) -> Option<u64> {
        self.began.get(what).copied()
    }

    /// What became of `what`.
    pub(super) fn fate(&self, what: &str) -> Option<ItemFate> {
        self.fates.get(what).map(|fate| fate.fate)
    }

    /// Whether nothing is left to do about `what`.
    pub(super) fn is_settled(&self, what: &str) -> bool {
        self.fate(what).is_some_and(|fate| fate != ItemFate::Failed)
    }

    /// Whether anything could not be done.
    pub(super) fn has_failed(&self) -> bool {
        self.fates.values().any(|fate| fate.fate == ItemFate::Failed)
    }

    /// What was begun and has no end on record.
    pub(super) fn unended(&self) -> Vec<(String, u64)> {
        let unended = self.began.iter().filter(|(what, _)| !self.fates.contains_key(*what));
        unended.map(|(what, size)| (what.clone(), *size)).collect()
    }

    /// Everything on record, or only what belongs to `phase`.
    pub(super) fn items(&self, phase: Option<ReceiptPhase>) -> Vec<ReceiptItem> {
        let wanted = self.fates.iter().filter(|(_, fate)| phase.is_none_or(|phase| fate.phase == phase));
        let item = |(what, fate): (&String, &Fate)| ReceiptItem {
            what: fate.why.as_ref().map_or_else(|| what.clone(), |why| format!("{what} ({why})")),
            fate: fate.fate,
            size_bytes: fate.size_bytes,
        };
        wanted.map(item).collect()
    }

    /// SHA-256 of all of it.
    pub(super) fn digest(&self, dir: &Dir) -> io::Result<Sha256Digest> {
        let mut text = Vec::new();
        File::from(dir.file(NAME.as_ref(), OFlags::RDONLY)?).read_to_end(&mut text)?;
        Ok(Sha256Digest::of(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASE: ReceiptPhase = ReceiptPhase::DataDestroyed;

    #[test]
    fn what_was_begun_and_ended_is_known_again_and_a_torn_line_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let (dir, disk) = (Dir::open(home.path()).unwrap(), Disk::default());
        let mut evidence = Evidence::begin(&disk, &dir, Sha256Digest([1; 32])).unwrap();
        evidence.begins("/a", 7).unwrap();
        evidence.begins("/b", 8).unwrap();
        evidence
            .ends("/a", Fate { fate: ItemFate::Cleared, size_bytes: 7, phase: PHASE, why: None })
            .unwrap();
        let inode = Inode { device: 1, number: 2 };
        evidence.is_left("/c", inode).unwrap();
        evidence.sync().unwrap();
        let whole = std::fs::read(home.path().join("evidence")).unwrap();
        std::fs::write(home.path().join("evidence"), [&whole[..], b"{\"ended\":\"/b"].concat()).unwrap();

        let mut again = Evidence::open(&disk, &dir).unwrap();
        assert_eq!(again.unended(), [("/b".to_owned(), 8)]);
        assert_eq!(again.fate("/a"), Some(ItemFate::Cleared));
        assert_eq!(again.linked(), ["/c"]);
        assert_eq!(std::fs::read(home.path().join("evidence")).unwrap(), whole);
        again.is_left_no_more(inode).unwrap();
        assert!(Evidence::open(&disk, &dir).unwrap().linked().is_empty());
    }
}
