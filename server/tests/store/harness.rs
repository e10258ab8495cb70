//! What the tests of the store share: disks for both engines, collections, a ledger that writes.

use muster_server::domain::ledger::{Draft, Ledger, Outcome, Sealed};
use muster_server::store::embedded::{self, Founding, Options};
use muster_server::store::memory::{Disk, Memory};
use muster_server::store::{Collection, Engine, Index, Limits, NullLedger, OpenError, Packed, Store};
use std::collections::BTreeMap;
use std::future::Future;

/// Something that keeps what an engine wrote, and over which another engine can be opened.
pub(crate) trait Medium {
    fn engine(&self) -> Result<Box<dyn Engine>, OpenError>;
}

impl Medium for Disk {
    fn engine(&self) -> Result<Box<dyn Engine>, OpenError> {
        Ok(Box::new(Memory::on(self.clone())))
    }
}

/// A directory with a sled in it.
pub(crate) struct Directory {
    pub(crate) dir: tempfile::TempDir,
    packed: &'static [Packed],
}

/// What a store keeps in buckets when a test asks for them.
const PACKED: &[Packed] = &[Packed::Numbers(b"l/"), Packed::Numbers(b"a/")];

impl Directory {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), packed: &[] }
    }

    /// One whose records share keys of sled.
    pub(crate) fn packed() -> Self {
        Self { packed: PACKED, ..Self::new() }
    }

    pub(crate) fn options(&self, founding: Founding) -> Options {
        Options {
            cache_bytes: 4 << 20,
            ballast_bytes: 0,
            packed: self.packed,
            ..Options::new(self.dir.path().join("store"), founding)
        }
    }
}

impl Medium for Directory {
    fn engine(&self) -> Result<Box<dyn Engine>, OpenError> {
        embedded::open(&self.options(Founding::OrCreate))
    }
}

/// Runs a future to its end on a small runtime.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

fn by_first_byte(_: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    value.first().map(|byte| vec![*byte]).into_iter().collect()
}

fn by_every_byte(_: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    value.iter().map(|byte| vec![*byte]).collect()
}

/// Records listed by their first byte and by each of their bytes, and records without any listing.
pub(crate) static COLLECTIONS: &[Collection] = &[
    Collection {
        name: "listed",
        prefix: b"l/",
        indexes: &[
            Index { name: "first", keys: by_first_byte },
            Index { name: "every", keys: by_every_byte },
        ],
    },
    Collection { name: "plain", prefix: b"p/", indexes: &[] },
];

pub(crate) static LISTED: &Collection = &COLLECTIONS[0];

/// Writes every draft's action under its sequence number.
#[derive(Default)]
pub(crate) struct Numbering {
    next: u64,
}

impl Ledger for Numbering {
    fn seal(&mut self, drafts: &[Draft]) -> Sealed {
        let first = self.next;
        let puts = drafts.iter().zip(first..).map(|(draft, sequence)| {
            ([b"a/".as_slice(), &sequence.to_be_bytes()].concat(), draft.action.clone().into_bytes())
        });
        let fresh = puts.collect();
        self.next += drafts.len() as u64;
        Sealed { first, puts: Vec::new(), fresh }
    }
}

pub(crate) fn draft(action: &str) -> Draft {
    Draft {
        ts: 0,
        actor: "server".to_owned(),
        sign_in: "local".to_owned(),
        policy_version: 1,
        action: action.to_owned(),
        object: "log".to_owned(),
        outcome: Outcome::Done,
        reason: String::new(),
        request_id: String::new(),
        prev_state: String::new(),
        new_state: String::new(),
        payload_sha256: String::new(),
        facts: BTreeMap::new(),
    }
}

/// A store over `medium` that nobody observes.
pub(crate) fn store(medium: &dyn Medium) -> Store {
    store_with(medium, Limits { floor_bytes: 0, ..Limits::default() })
}

pub(crate) fn store_with(medium: &dyn Medium, limits: Limits) -> Store {
    let engine = medium.engine().unwrap();
    Store::open(engine, COLLECTIONS, Box::new(Numbering::default()), Box::new(|_| ()), limits).unwrap()
}

/// A store over `medium` without audit.
pub(crate) fn silent(medium: &dyn Medium, limits: Limits) -> Store {
    let engine = medium.engine().unwrap();
    Store::open(engine, COLLECTIONS, Box::new(NullLedger::default()), Box::new(|_| ()), limits).unwrap()
}
