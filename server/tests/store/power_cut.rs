//! The power goes, at many points, and every acknowledged commit is still there. Without the fdatasync that
//! guards sled's flush, it is not: the same test on the same journal then finds losses.
//!
//! A child process (writer.rs) writes under a preloaded recorder (journal.c) that puts every file
//! operation and every acknowledgement in one order. For each cut point the journal is replayed up to there
//! into what a disk would hold (disk_model.rs), and the store is opened over that.

use crate::disk_model::{Cut, DiskModel, Operation, parse};
use crate::writer::{Order, acknowledgement, child, verify};
use muster_server::store::embedded::SyncMode;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

    /// Lets the writer commit `count` numbers from `first`, aborting after some acknowledgements.
    fn write(&self, sync: SyncMode, first: u64, count: u64, abort_after: u64) {
        let dir = self.disk().join("store");
        let ended = child(Order { dir: &dir, sync, first, count, abort_after })
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

/// The number that an operation acknowledges.
fn acknowledged_by(operation: &Operation) -> Option<u64> {
    (operation.op == b'A').then(|| acknowledgement(&String::from_utf8_lossy(&operation.data)))?
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
        acknowledged.extend(acknowledged_by(operation));
        // Steps alone could beat in time with the writer's rhythm, so every third acknowledgement counts too.
        let after_answer = acknowledged_by(operation).is_some_and(|number| number % 3 == 0);
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
    recorded.write(SyncMode::Guarded, 0, 120, 0);
    let findings = cut_everywhere(&recorded, 60);
    assert!(findings.cuts >= 100, "only {} cuts", findings.cuts);
    assert_eq!(findings.wrong, Vec::<String>::new(), "of {} cuts", findings.cuts);
}

#[test]
fn without_its_guard_the_store_loses_acknowledged_commits() {
    let recorded = Recorded::new();
    recorded.write(SyncMode::FlushOnly, 0, 120, 0);
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
    recorded.write(SyncMode::Guarded, 0, 1000, 40);
    recorded.write(SyncMode::Guarded, 2000, 1000, 25);
    recorded.write(SyncMode::Guarded, 4000, 40, 0);
    let findings = cut_everywhere(&recorded, 60);
    assert_eq!(findings.wrong, Vec::<String>::new(), "of {} cuts", findings.cuts);
}
