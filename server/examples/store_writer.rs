//! Commits numbered batches and prints each number once its commit is acknowledged: what the tests of the store
//! kill and cut the power of.
//!
//! `store_writer DIR guarded|flush-only FIRST COUNT ABORT_AFTER`: three committers share the numbers from FIRST;
//! after ABORT_AFTER acknowledgements the process aborts (0: never). The numbers printed by `acknowledged N`
//! must survive whatever happens next, as whole batches.

use muster_server::store::embedded::{self, Founding, Options, SyncMode};
use muster_server::store::{Batch, Limits, NullLedger, Store};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Committers at work at once.
const COMMITTERS: u64 = 3;

/// Records in one batch, next to the counter that all batches write.
const RECORDS: u64 = 5;

type Failure = Box<dyn Error + Send + Sync>;

/// The numbers that are left, and how many were acknowledged.
struct Work {
    next: AtomicU64,
    end: u64,
    acknowledged: AtomicU64,
    abort_after: u64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, mode, first, count, abort_after] = arguments.as_slice() else {
        return Err("store_writer DIR guarded|flush-only FIRST COUNT ABORT_AFTER".into());
    };
    let sync = if mode == "flush-only" { SyncMode::FlushOnly } else { SyncMode::Guarded };
    let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
    let work = Work {
        next: AtomicU64::new(first),
        end: first + count,
        acknowledged: AtomicU64::new(0),
        abort_after: abort_after.parse()?,
    };
    let options =
        Options { cache_bytes: 4 << 20, ballast_bytes: 0, sync, ..Options::new(dir, Founding::OrCreate) };
    let engine = embedded::open(&options)?;
    let limits = Limits { floor_bytes: 0, ..Limits::default() };
    let store = Store::open(engine, &[], Box::new(NullLedger::default()), Box::new(|_| ()), limits)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(write(&store, &Arc::new(work)))
}

async fn write(store: &Store, work: &Arc<Work>) -> Result<(), Failure> {
    let committers = (0..COMMITTERS).map(|_| tokio::spawn(commit_numbers(store.clone(), Arc::clone(work))));
    for committer in committers.collect::<Vec<_>>() {
        committer.await??;
    }
    Ok(store.close().await?)
}

async fn commit_numbers(store: Store, work: Arc<Work>) -> Result<(), Failure> {
    loop {
        let number = work.next.fetch_add(1, Ordering::SeqCst);
        if number >= work.end {
            return Ok(());
        }
        store.commit(batch(number)).await?;
        writeln!(std::io::stdout().lock(), "acknowledged {number}")?;
        if work.acknowledged.fetch_add(1, Ordering::SeqCst) + 1 == work.abort_after {
            std::process::abort();
        }
    }
}

/// The batch of this number: records of different sizes, all holding the number.
fn batch(number: u64) -> Batch {
    let counter = Batch::default().put("p/counter", number.to_be_bytes());
    (0..RECORDS).fold(counter, |batch, record| {
        let length = 8 + (number * 131 + record * 257) % 1500;
        let value: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(length as usize).collect();
        batch.put(format!("p/{number:08}/{record}"), value)
    })
}
