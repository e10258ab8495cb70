//! The power goes, at many points, and every acknowledged commit is still there. Without the fdatasync that
//! guards sled's flush, it is not: the same test on the same journal then finds losses.
//!
//! A child process (examples/store_writer.rs) writes under a preloaded recorder (journal.c) that puts every file
//! operation and every acknowledgement in one order. For each cut point the journal is replayed up to there
//! into what a disk would hold (disk_model.rs), and the store is opened over that.

use crate::disk_model::{Cut, DiskModel, Operation, parse};
use muster_server::store::embedded::{self, Founding, Options};
use muster_server::store::{Engine, OpenError};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Records in one batch, as examples/store_writer.rs writes them.
const RECORDS: usize = 5;

/// The example that writes; `cargo test` builds it with the tests.
pub(crate) fn writer() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let writer = tests.parent().and_then(Path::parent).unwrap().join("examples/store_writer");
    assert!(writer.exists(), "{} is missing: cargo build -p muster-server --examples", writer.display());
    writer
}

/// A run of the writer under the recorder.
struct Recorded {
    dir: tempfile::TempDir,
    shim: PathBuf,
}

impl Recorded {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shim = dir.path().join("journal.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/journal.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&shim, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler: apt-get install gcc libc6-dev");
        assert!(compiled.success(), "the recorder does not compile");
        fs::create_dir(dir.path().join("disk")).unwrap();
        Self { dir, shim }
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("disk")
    }

    /// Lets the writer commit the numbers `first..first + count`, aborting after some acknowledgements.
    fn write(&self, mode: &str, first: u64, count: u64, abort_after: u64) {
        let arguments = [first, count, abort_after].map(|number| number.to_string());
        let ended = Command::new(writer())
            .arg(self.disk().join("store"))
            .arg(mode)
            .args(arguments)
            .env("LD_PRELOAD", &self.shim)
            .env("JOURNAL", self.dir.path().join("journal"))
            .env("JOURNAL_DIR", self.disk())
            .output()
            .unwrap();
        assert_eq!(ended.status.success(), abort_after == 0, "{}", String::from_utf8_lossy(&ended.stderr));
    }

    fn journal(&self) -> Vec<Operation> {
        parse(&fs::read(self.dir.path().join("journal")).unwrap())
    }
}

/// What a store holds: numbers of whole batches, or what is wrong with it.
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

/// Opens what is left in `dir` and says what is missing of `acknowledged`.
pub(crate) fn verify(dir: &Path, acknowledged: &BTreeSet<u64>) -> Result<(), String> {
    let founding = if acknowledged.is_empty() { Founding::OrCreate } else { Founding::Existing };
    let options = Options { cache_bytes: 4 << 20, ballast_bytes: 0, ..Options::new(dir, founding) };
    let engine = embedded::open(&options).map_err(|error: OpenError| error.to_string())?;
    let found = whole_batches(engine.as_ref());
    engine.close().map_err(|error| error.to_string())?;
    let missing: Vec<u64> = acknowledged.difference(&found?).copied().collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("acknowledged batches are gone: {missing:?}")) }
}

/// The number that an operation acknowledges.
fn acknowledgement(operation: &Operation) -> Option<u64> {
    let text = (operation.op == b'A').then(|| String::from_utf8_lossy(&operation.data))?;
    text.trim().strip_prefix("acknowledged ")?.parse().ok()
}

/// How many cut points were tried, and what went wrong at which.
#[derive(Default)]
struct Findings {
    cuts: usize,
    wrong: Vec<String>,
}

/// Cuts the power after about `points` of the journal's operations, in both ways.
fn cut_everywhere(recorded: &Recorded, points: usize) -> Findings {
    let journal = recorded.journal();
    let step = (journal.len() / points).max(1);
    let mut disk = DiskModel::default();
    let mut acknowledged = BTreeSet::new();
    let mut findings = Findings::default();
    for (position, operation) in journal.iter().enumerate() {
        disk.apply(operation);
        acknowledged.extend(acknowledgement(operation));
        // Steps alone could beat in time with the writer's rhythm, so every third acknowledgement counts too.
        let after_answer = acknowledgement(operation).is_some_and(|number| number % 3 == 0);
        if position % step != 0 && !after_answer && position + 1 != journal.len() {
            continue;
        }
        for cut in [Cut::Nothing, Cut::SomePages(position as u64)] {
            findings.cuts += 1;
            let left = tempfile::tempdir().unwrap();
            disk.lose_power(cut, &recorded.disk(), left.path());
            if let Err(wrong) = verify(&left.path().join("store"), &acknowledged) {
                findings
                    .wrong
                    .push(format!("after operation {position} of {}, {cut:?}: {wrong}", journal.len()));
            }
        }
    }
    assert!(acknowledged.len() > 10, "the writer acknowledged almost nothing: {acknowledged:?}");
    findings
}

#[test]
fn with_its_guard_the_store_loses_nothing_in_a_power_cut() {
    let recorded = Recorded::new();
    recorded.write("guarded", 0, 120, 0);
    let findings = cut_everywhere(&recorded, 60);
    assert!(findings.cuts >= 100, "only {} cuts", findings.cuts);
    assert_eq!(findings.wrong, Vec::<String>::new(), "of {} cuts", findings.cuts);
}

#[test]
fn without_its_guard_the_store_loses_acknowledged_commits() {
    let recorded = Recorded::new();
    recorded.write("flush-only", 0, 120, 0);
    let findings = cut_everywhere(&recorded, 60);
    assert!(
        findings.wrong.len() * 4 > findings.cuts,
        "taken out, the guard must be missed: {} of {} cuts lost something",
        findings.wrong.len(),
        findings.cuts
    );
}

#[test]
fn a_killed_writers_successor_loses_nothing_in_a_power_cut() {
    let recorded = Recorded::new();
    recorded.write("guarded", 0, 1000, 40);
    recorded.write("guarded", 2000, 1000, 25);
    recorded.write("guarded", 4000, 40, 0);
    let findings = cut_everywhere(&recorded, 60);
    assert_eq!(findings.wrong, Vec::<String>::new(), "of {} cuts", findings.cuts);
}
