//! What a commit costs: batches a second, CPU microseconds and fsyncs per batch, for 1, 8 and 64 committers.
//!
//! `cargo bench -p muster-server --bench store [-- DIR]`. A batch is like an enrolment's: fourteen keys, some of
//! them indexed, one audit entry. CPU is that of the whole process, the committers' own little work included.

use muster_server::domain::ledger::{Draft, Ledger, Outcome, Sealed};
use muster_server::store::embedded::{self, Founding, Options};
use muster_server::store::{Batch, Collection, CommitError, Expect, Index, Limits, Store, Written};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Batches in one measurement.
const BATCHES: u64 = 6_000;

type Failure = Box<dyn Error + Send + Sync>;

/// Three values that every device is listed by.
fn listings(id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
    vec![value.get(..1).unwrap_or_default().to_vec(), id.get(..6).unwrap_or_default().to_vec()]
}

static COLLECTIONS: &[Collection] = &[
    Collection { name: "devices", prefix: b"d/", indexes: &[Index { name: "listings", keys: listings }] },
    Collection { name: "certificates", prefix: b"c/", indexes: &[] },
    Collection { name: "tokens", prefix: b"t/", indexes: &[Index { name: "listings", keys: listings }] },
];

/// Writes each entry, its leaf hash and the edge of the tree.
#[derive(Default)]
struct Entries {
    next: u64,
}

impl Ledger for Entries {
    fn seal(&mut self, drafts: &[Draft]) -> Sealed {
        let first = self.next;
        self.next += drafts.len() as u64;
        let puts = vec![(b"a/edge".to_vec(), vec![7; 32 * 12])];
        let mut fresh = Vec::new();
        for sequence in first..self.next {
            fresh.push(([b"a/e/".as_slice(), &sequence.to_be_bytes()].concat(), vec![7; 500]));
            fresh.push(([b"a/h/".as_slice(), &sequence.to_be_bytes()].concat(), vec![7; 32]));
        }
        Sealed { first, puts, fresh }
    }
}

fn draft() -> Draft {
    let text = |length: usize| "x".repeat(length);
    Draft {
        ts: 0,
        actor: text(42),
        sign_in: text(5),
        policy_version: 1,
        action: text(14),
        object: text(43),
        outcome: Outcome::Done,
        reason: String::new(),
        request_id: text(36),
        prev_state: text(8),
        new_state: text(8),
        payload_sha256: text(64),
        facts: BTreeMap::from([(text(18), text(32))]),
    }
}

/// An enrolment's batch: token spent, device, certificate and its look-ups, outbox.
fn batch(number: u64) -> Batch {
    let id = [number.to_be_bytes(), [9; 8]].concat();
    let key = |prefix: &str| [prefix.as_bytes(), &id].concat();
    Batch::default()
        .put(key("t/"), vec![1; 220])
        .put(key("d/"), vec![2; 300])
        .put(key("c/"), vec![3; 900])
        .put(key("s/"), vec![4; 40])
        .put(key("k/"), vec![5; 32])
        .put(key("r/"), vec![6; 120])
        .put(key("o/"), vec![7; 60])
        .expect(key("d/"), Expect::Absent)
        .expect(key("k/"), Expect::Absent)
        .audit(draft())
}

fn main() -> Result<(), Failure> {
    // `cargo bench` passes its own flags; a directory is the only argument that does not start with a dash.
    let chosen = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let held = tempfile::tempdir()?;
    let dir = chosen.map_or_else(|| held.path().to_owned(), Into::into);
    println!("committers  batches/s  cpu µs/batch  fsyncs/batch  mean group  p99 ms (bucket)  bytes/batch");
    for (run, committers) in [1, 8, 64].into_iter().enumerate() {
        measure(&dir.join(format!("bench-{run}")), committers)?;
    }
    Ok(())
}

fn measure(dir: &Path, committers: usize) -> Result<(), Failure> {
    let options = Options { ballast_bytes: 0, ..Options::new(dir, Founding::OrCreate) };
    let engine = embedded::open(&options)?;
    let observer = Box::new(|_: &[Written<'_>]| ());
    let store = Store::open(engine, COLLECTIONS, Box::new(Entries::default()), observer, Limits::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let batches = if committers == 1 { BATCHES / 4 } else { BATCHES };
    let (started, cpu) = (Instant::now(), cpu_time());
    runtime.block_on(commit_all(&store, committers, batches))?;
    let (wall, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    let metrics = store.metrics();
    let each = |total: f64| total / batches as f64;
    let p99 =
        metrics.commit_us.cumulative.iter().position(|count| *count * 100 >= metrics.commit_us.count * 99);
    let p99 = p99
        .and_then(|bucket| metrics.commit_us.bounds.get(bucket))
        .map_or(f64::NAN, |us| *us as f64 / 1000.0);
    println!(
        "{committers:>10}  {:>9.0}  {:>12.1}  {:>12.3}  {:>10.1}  {p99:>15}  {:>11.0}",
        batches as f64 / wall.as_secs_f64(),
        each(cpu.as_secs_f64() * 1e6),
        each(metrics.fsyncs as f64),
        metrics.group_size.sum as f64 / metrics.group_size.count.max(1) as f64,
        each(std::fs::metadata(dir.join("db"))?.len() as f64),
    );
    runtime.block_on(store.close())?;
    Ok(())
}

async fn commit_all(store: &Store, committers: usize, batches: u64) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let committers = (0..committers).map(|_| {
        let (store, next) = (store.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= batches {
                    return Ok::<(), CommitError>(());
                }
                let _on_its_way = store.announce();
                store.commit(batch(number)).await?;
            }
        })
    });
    for committer in committers.collect::<Vec<_>>() {
        committer.await??;
    }
    Ok(())
}

/// CPU time of this process so far, all threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
