//! The child process that the tests kill and cut the power of: this very test binary, asked to commit numbers.
//!
//! Three committers share the numbers of an [`Order`]. Each number is printed as `acknowledged N` once its commit
//! is; from then on it must survive whatever happens, as a whole batch.

use crate::harness::run;
use muster_server::store::embedded::{self, Founding, Options, SyncMode};
use muster_server::store::{Batch, Engine, Limits, NullLedger, Packed, Store};
use std::collections::BTreeSet;
use std::io::{Stdout, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable in which a child finds its order.
const VARIABLE: &str = "MUSTER_TEST_STORE_WRITER";

/// Committers at work at once.
const COMMITTERS: u64 = 3;

/// Records in one batch, next to the counter that all batches write.
const RECORDS: usize = 5;

/// What a child is to do.
#[derive(Clone, Copy)]
pub(crate) struct Order<'d> {
    /// The store's directory.
    pub(crate) dir: &'d Path,
    /// Whether fdatasync guards each commit.
    pub(crate) sync: SyncMode,
    /// The first number.
    pub(crate) first: u64,
    /// How many numbers.
    pub(crate) count: u64,
    /// Abort after so many acknowledgements; 0 for never.
    pub(crate) abort_after: u64,
}

/// A child process that carries out `order`; it prints on standard output.
pub(crate) fn child(order: Order<'_>) -> Command {
    let Order { dir, sync, first, count, abort_after } = order;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "writer::what_the_writer_acknowledges_is_there",
        "--nocapture",
        "--test-threads=1",
    ]);
    let flush_only = u8::from(sync == SyncMode::FlushOnly);
    child.env(VARIABLE, format!("{flush_only} {first} {count} {abort_after} {}", dir.display()));
    child.env("RUST_BACKTRACE", "0");
    child
}

#[test]
fn what_the_writer_acknowledges_is_there() {
    if let Ok(order) = std::env::var(VARIABLE) {
        let mut parts = order.splitn(5, ' ');
        let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
        let (flush_only, first, count, abort_after) = (number(), number(), number(), number());
        let sync = if flush_only == 1 { SyncMode::FlushOnly } else { SyncMode::Guarded };
        let dir = Path::new(parts.next().unwrap());
        return write(Order { dir, sync, first, count, abort_after }, Some(std::io::stdout()));
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    write(Order { dir: &dir, sync: SyncMode::Guarded, first: 0, count: 20, abort_after: 0 }, None);
    assert_eq!(verify(&dir, &(0..20).collect()), Ok(()));
    assert!(verify(&dir, &BTreeSet::from([20])).is_err());
}

/// Some of the records lie in buckets, and some of those find theirs full.
const PACKED: &[Packed] = &[Packed::Numbers(b"p/00")];

fn options(dir: &Path, founding: Founding) -> Options {
    Options { cache_bytes: 4 << 20, ballast_bytes: 0, packed: PACKED, ..Options::new(dir, founding) }
}

/// The numbers that are left, and how many were acknowledged.
struct Work {
    next: AtomicU64,
    end: u64,
    acknowledged: AtomicU64,
    abort_after: u64,
    output: Option<Stdout>,
}

fn write(order: Order<'_>, output: Option<Stdout>) {
    let options = Options { sync: order.sync, ..options(order.dir, Founding::OrCreate) };
    let engine = embedded::open(&options).unwrap();
    let limits = Limits { floor_bytes: 0, ..Limits::default() };
    let store = Store::open(engine, &[], Box::new(NullLedger::default()), Box::new(|_| ()), limits).unwrap();
    let work = Arc::new(Work {
        next: AtomicU64::new(order.first),
        end: order.first + order.count,
        acknowledged: AtomicU64::new(0),
        abort_after: order.abort_after,
        output,
    });
    run(async {
        let committers =
            (0..COMMITTERS).map(|_| tokio::spawn(commit_numbers(store.clone(), Arc::clone(&work))));
        for committer in committers.collect::<Vec<_>>() {
            committer.await.unwrap();
        }
        store.close().await.unwrap();
    });
}

async fn commit_numbers(store: Store, work: Arc<Work>) {
    loop {
        let number = work.next.fetch_add(1, Ordering::SeqCst);
        if number >= work.end {
            return;
        }
        store.commit(batch(number)).await.unwrap();
        if let Some(mut output) = work.output.as_ref() {
            writeln!(output, "acknowledged {number}").unwrap();
        }
        if work.acknowledged.fetch_add(1, Ordering::SeqCst) + 1 == work.abort_after {
            std::process::abort();
        }
    }
}

/// The batch of this number: records of different sizes, all holding the number.
fn batch(number: u64) -> Batch {
    let counter = Batch::default().put("p/counter", number.to_be_bytes());
    (0..RECORDS as u64).fold(counter, |batch, record| {
        let length = 8 + (number * 131 + record * 257) % 1500;
        let value: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(length as usize).collect();
        batch.put(format!("p/{number:08}/{record}"), value)
    })
}

/// The number that a line of output acknowledges; the test runner may have written in front of it.
pub(crate) fn acknowledgement(line: &str) -> Option<u64> {
    line.trim().rsplit_once("acknowledged ")?.1.parse().ok()
}

/// Opens the store in `dir` and says what is wrong with it, or missing of `acknowledged`.
pub(crate) fn verify(dir: &Path, acknowledged: &BTreeSet<u64>) -> Result<(), String> {
    let founding = if acknowledged.is_empty() { Founding::OrCreate } else { Founding::Existing };
    let engine = embedded::open(&options(dir, founding)).map_err(|error| error.to_string())?;
    let found = whole_batches(engine.as_ref());
    engine.close().map_err(|error| error.to_string())?;
    let missing: Vec<u64> = acknowledged.difference(&found?).copied().collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("acknowledged batches are gone: {missing:?}")) }
}

/// The numbers of the batches in a store, all of them whole.
fn whole_batches(engine: &dyn Engine) -> Result<BTreeSet<u64>, String> {
    let records = engine.scan(b"p/0", None, usize::MAX).map_err(|error| error.to_string())?;
    let mut numbers = Vec::new();
    for (key, record) in records {
        let number: u64 =
            String::from_utf8_lossy(&key[2..10]).parse().map_err(|_| "a foreign key".to_owned())?;
        if record.value.chunks(8).any(|chunk| !number.to_be_bytes().starts_with(chunk)) {
            return Err(format!("a record of batch {number} holds something else"));
        }
        numbers.push(number);
    }
    match numbers.chunk_by(|a, b| a == b).find(|batch| batch.len() != RECORDS) {
        Some(torn) => Err(format!("batch {} has {} records of {RECORDS}", torn[0], torn.len())),
        None => Ok(numbers.into_iter().collect()),
    }
}
