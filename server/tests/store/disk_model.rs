//! A disk that loses power: replays a journal of file operations and says what is left.
//!
//! Strict about what a program may rely on (POSIX fsync): the content of a file survives when the file was
//! synced after it was written, a name survives when its directory was synced after the name was made, and
//! nothing else does. Of what was not synced, a real disk may have kept any part: [`Cut::SomePages`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a page cache writes back as one.
const PAGE: usize = 4096;

/// One recorded operation.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) op: u8,
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

/// What becomes of the things that were not synced when the power goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Nothing of them is left.
    Nothing,
    /// Names are left, and any half of the pages, chosen by this seed.
    SomePages(u64),
}

/// Parses a journal as journal.c writes it.
pub(crate) fn parse(mut journal: &[u8]) -> Vec<Operation> {
    let mut operations = Vec::new();
    while !journal.is_empty() {
        let (head, rest) = journal.split_at(15);
        let path_length = usize::from(u16::from_le_bytes(head[1..3].try_into().unwrap()));
        let length = u32::from_le_bytes(head[11..15].try_into().unwrap()) as usize;
        let (path, rest) = rest.split_at(path_length);
        let (data, rest) = rest.split_at(length);
        operations.push(Operation {
            op: head[0],
            path: PathBuf::from(String::from_utf8(path.to_vec()).unwrap()),
            offset: u64::from_le_bytes(head[3..11].try_into().unwrap()),
            data: data.to_vec(),
        });
        journal = rest;
    }
    operations
}

type Page = Box<[u8; PAGE]>;

/// A file: its pages, what they were at the last sync where they changed since, and its lengths.
#[derive(Default)]
struct Inode {
    pages: BTreeMap<usize, Page>,
    changed: BTreeMap<usize, Option<Page>>,
    length: usize,
    synced_length: usize,
}

impl Inode {
    fn page(&mut self, number: usize) -> &mut Page {
        let before = self.pages.get(&number).cloned();
        self.changed.entry(number).or_insert(before);
        self.pages.entry(number).or_insert_with(|| Box::new([0; PAGE]))
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGE - at % PAGE));
            self.page(at / PAGE)[at % PAGE..][..now.len()].copy_from_slice(now);
            (at, rest) = (at + now.len(), later);
        }
        self.length = self.length.max(offset + data.len());
    }

    fn truncate(&mut self, length: usize) {
        for number in length.div_ceil(PAGE)..self.length.div_ceil(PAGE) {
            self.page(number).fill(0);
        }
        if !length.is_multiple_of(PAGE) && length < self.length {
            self.page(length / PAGE)[length % PAGE..].fill(0);
        }
        self.length = length;
    }

    fn sync(&mut self) {
        self.changed.clear();
        self.synced_length = self.length;
    }

    fn left(&self, cut: Cut) -> Vec<u8> {
        let length = match cut {
            Cut::Nothing => self.synced_length,
            Cut::SomePages(_) => self.length,
        };
        let mut bytes = vec![0; length.div_ceil(PAGE) * PAGE];
        for (number, content) in bytes.chunks_mut(PAGE).enumerate() {
            let keeps_change = matches!(cut, Cut::SomePages(seed) if mix(seed, number).is_multiple_of(2));
            let page = match self.changed.get(&number) {
                Some(before) if !keeps_change => before.as_ref(),
                _ => self.pages.get(&number),
            };
            if let Some(page) = page {
                content.copy_from_slice(page.as_slice());
            }
        }
        bytes.truncate(length);
        bytes
    }
}

fn mix(seed: u64, number: usize) -> u64 {
    let mut mixed = (seed ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

/// What a name stands for: a directory, or a file by number.
#[derive(Clone, Copy, PartialEq)]
enum Entry {
    Directory,
    File(usize),
}

/// The disk while the journal is replayed.
#[derive(Default)]
pub(crate) struct DiskModel {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, Entry>,
    synced_names: BTreeMap<PathBuf, Entry>,
}

impl DiskModel {
    pub(crate) fn apply(&mut self, operation: &Operation) {
        let Operation { op, path, offset, data } = operation;
        let offset = usize::try_from(*offset).unwrap();
        match op {
            b'C' => {
                self.inodes.push(Inode::default());
                self.names.insert(path.clone(), Entry::File(self.inodes.len() - 1));
            }
            b'D' => drop(self.names.insert(path.clone(), Entry::Directory)),
            b'W' => self.with(path, |inode| inode.write(offset, data)),
            b'S' => self.with(path, |inode| inode.truncate(offset)),
            b'F' => self.sync(path),
            b'R' => {
                let to = PathBuf::from(String::from_utf8(data.clone()).unwrap());
                let entry = self.names.remove(path).unwrap();
                self.names.insert(to, entry);
            }
            b'U' => drop(self.names.remove(path)),
            b'A' => {}
            other => panic!("an unknown operation {other} in the journal"),
        }
    }

    /// A deleted file may still be written through a handle; nobody will ever see it.
    fn with(&mut self, path: &Path, change: impl FnOnce(&mut Inode)) {
        if let Some(Entry::File(number)) = self.names.get(path) {
            change(&mut self.inodes[*number]);
        }
    }

    fn sync(&mut self, path: &Path) {
        if matches!(self.names.get(path), Some(Entry::File(_))) {
            return self.with(path, Inode::sync);
        }
        let inside = |name: &Path| name.parent() == Some(path);
        self.synced_names.retain(|name, _| !inside(name));
        let names = self.names.iter().filter(|(name, _)| inside(name));
        self.synced_names.extend(names.map(|(name, entry)| (name.clone(), *entry)));
    }

    /// Writes what a power cut leaves of `root` into the directory `to`.
    pub(crate) fn lose_power(&self, cut: Cut, root: &Path, to: &Path) {
        let names = match cut {
            Cut::Nothing => &self.synced_names,
            Cut::SomePages(_) => &self.names,
        };
        // Sorted by path, so that a directory comes before what is in it; what lies in a directory whose own
        // name is lost is lost with it.
        for (name, entry) in names {
            let target = to.join(name.strip_prefix(root).unwrap());
            match entry {
                Entry::Directory if target.parent().is_some_and(Path::is_dir) => {
                    fs::create_dir(target).unwrap()
                }
                Entry::File(number) if target.parent().is_some_and(Path::is_dir) => {
                    fs::write(target, self.inodes[*number].left(cut)).unwrap();
                }
                Entry::Directory | Entry::File(_) => {}
            }
        }
    }
}

#[test]
fn only_what_was_synced_is_left() {
    let root = Path::new("/r");
    let op = |op: u8, path: &str, offset, data: &[u8]| Operation {
        op,
        path: root.join(path),
        offset,
        data: data.to_vec(),
    };
    let mut disk = DiskModel::default();
    for operation in [
        op(b'C', "kept", 0, b""),
        op(b'W', "kept", 0, b"synced"),
        op(b'F', "kept", 0, b""),
        op(b'F', "", 0, b""),
        op(b'W', "kept", 0, b"LOST"),
        op(b'W', "kept", 9000, b"LOST"),
        op(b'C', "nameless", 0, b""),
        op(b'W', "nameless", 0, b"synced, but nobody finds it"),
        op(b'F', "nameless", 0, b""),
    ] {
        disk.apply(&operation);
    }
    let left = tempfile::tempdir().unwrap();
    disk.lose_power(Cut::Nothing, root, left.path());
    assert_eq!(fs::read(left.path().join("kept")).unwrap(), b"synced");
    assert!(!left.path().join("nameless").exists());
}
