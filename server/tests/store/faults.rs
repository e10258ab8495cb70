//! The fault table: a failed write, failed and stored, failed and not stored, a panic, a full disk and queue.

use crate::harness::{Medium, draft, run, silent, store, store_with};
use muster_server::store::memory::{Disk, Fault};
use muster_server::store::{Batch, CommitError, Limits, ReadError, Store, Urgency};

/// What a fault leaves behind after a restart.
struct Row {
    fault: Fault,
    survives: bool,
}

const TABLE: [Row; 4] = [
    Row { fault: Fault::Apply, survives: false },
    Row { fault: Fault::SyncNotStored, survives: false },
    Row { fault: Fault::SyncStored, survives: true },
    Row { fault: Fault::Panic, survives: false },
];

fn batch(key: &str) -> Batch {
    Batch::default().put(key, "1").audit(draft(key))
}

fn keys(store: &Store) -> Vec<String> {
    let found = store.scan(b"p/", None, 99).unwrap();
    found.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn after_a_fault_the_answer_is_unknown_and_a_restart_finds_all_of_the_batch_or_nothing() {
    for row in TABLE {
        let disk = Disk::new();
        let before = store(&disk);
        run(before.commit(batch("p/a"))).unwrap();
        disk.fail(0, row.fault);
        assert_eq!(run(before.commit(batch("p/b"))), Err(CommitError::Unknown), "{:?}", row.fault);
        assert!(matches!(before.get(b"p/a"), Err(ReadError::Failed)), "{:?}", row.fault);
        drop(before);
        let after = store(&disk);
        let expected: &[&str] = if row.survives { &["p/a", "p/b"] } else { &["p/a"] };
        assert_eq!(keys(&after), expected, "{:?}", row.fault);
        let entries = after.scan(b"a/", None, 99).unwrap();
        assert_eq!(
            entries.len(),
            expected.len(),
            "{:?}: an entry without its state, or the reverse",
            row.fault
        );
    }
}

#[test]
fn a_failed_store_tells_whoever_watches_and_never_syncs_again() {
    let disk = Disk::new();
    let store = store(&disk);
    let mut failure = store.failure();
    assert_eq!(*failure.borrow(), None);
    disk.fail(0, Fault::SyncNotStored);
    assert_eq!(run(store.commit(batch("p/a"))), Err(CommitError::Unknown));
    let reason = run(async { failure.wait_for(Option::is_some).await.unwrap().clone() });
    assert_eq!(reason.as_deref(), Some("sync: failed on demand"));
    let rounds = disk.rounds();
    assert_eq!(run(store.commit(batch("p/b"))), Err(CommitError::Unknown));
    assert_eq!(run(store.close()), Err(CommitError::Unknown));
    assert_eq!(disk.rounds(), rounds);
}

#[test]
fn everyone_in_a_failed_round_and_behind_it_is_told_that_nobody_knows() {
    let disk = Disk::new();
    let store = store(&disk);
    let held = disk.hold_syncs();
    disk.fail(1, Fault::SyncStored);
    run(async {
        let commit = |key: String| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(batch(&key)).await })
        };
        let first = commit("p/first".to_owned());
        held.wait_for_sync();
        let behind: Vec<_> = (0..5).map(|number| commit(format!("p/{number}"))).collect();
        while store.metrics().queued < 5 {
            tokio::task::yield_now().await;
        }
        drop(held);
        assert!(first.await.unwrap().is_ok());
        for commit in behind {
            assert_eq!(commit.await.unwrap(), Err(CommitError::Unknown));
        }
    });
}

#[test]
fn a_reader_never_sees_what_is_not_durable() {
    let disk = Disk::new();
    let store = store(&disk);
    run(store.commit(Batch::default().put("l/kept", "1").put("l/changed", "1").put("l/gone", "1"))).unwrap();
    let seen = |store: &Store| {
        let list = |index: &str| -> Vec<_> {
            let hits = store.index_scan(crate::harness::LISTED, index, b"", None, 2).unwrap();
            hits.into_iter().map(|hit| (hit.value, hit.id)).collect()
        };
        (
            store.get(b"l/changed").unwrap(),
            store.get(b"l/gone").unwrap(),
            store.get(b"l/new").unwrap(),
            store.scan(b"l/", None, 3).unwrap(),
            store.scan(b"l/", Some(b"l/changed"), 1).unwrap(),
            list("first"),
        )
    };
    let before = seen(&store);
    let held = disk.hold_syncs();
    run(async {
        let change =
            Batch::default().put("l/changed", "2").delete("l/gone").put("l/a-new", "0").put("l/new", "2");
        let writer = store.clone();
        let commit = tokio::spawn(async move { writer.commit(change).await });
        held.wait_for_sync();
        assert_eq!(seen(&store), before);
        drop(held);
        commit.await.unwrap().unwrap();
    });
    let after = seen(&store);
    assert_eq!(after.0.unwrap().value, b"2");
    assert_eq!((after.1, after.2.unwrap().value), (None, b"2".to_vec()));
    assert_eq!(after.3.len(), 3);
}

#[test]
fn a_full_queue_is_busy_and_changes_nothing() {
    let disk = Disk::new();
    let store = store_with(&disk, Limits { queue: 2, floor_bytes: 0, ..Limits::default() });
    let held = disk.hold_syncs();
    run(async {
        let commit = |key: &'static str| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(batch(key)).await })
        };
        let first = commit("p/1");
        held.wait_for_sync();
        let queued = [commit("p/2"), commit("p/3")];
        while store.metrics().queued < 2 {
            tokio::task::yield_now().await;
        }
        let refused = store.commit(batch("p/4")).await;
        assert_eq!(refused, Err(CommitError::Busy { retry_after_s: 1 }));
        drop(held);
        assert!(first.await.unwrap().is_ok());
        for commit in queued {
            assert!(commit.await.unwrap().is_ok());
        }
    });
    assert_eq!(keys(&store), ["p/1", "p/2", "p/3"]);
    assert_eq!((store.metrics().busy, store.metrics().queued), (1, 0));
}

#[test]
fn below_the_floor_only_what_protects_is_accepted_and_near_the_end_nothing() {
    let limits = Limits { floor_bytes: 1000, ..Limits::default() };
    let commit = |free_bytes, urgency| {
        let disk = Disk::new();
        disk.set_free_bytes(free_bytes);
        let store = silent(&disk, limits);
        let answer = run(store.commit(Batch { urgency, ..batch("p/a") })).map(|_| ());
        assert_eq!(store.metrics().no_space, u64::from(answer.is_err()));
        answer
    };
    assert_eq!(commit(1000, Urgency::Ordinary), Ok(()));
    assert_eq!(commit(999, Urgency::Ordinary), Err(CommitError::NoSpace));
    assert_eq!(commit(250, Urgency::Essential), Ok(()));
    assert_eq!(commit(249, Urgency::Essential), Err(CommitError::NoSpace));
}

#[test]
fn dropping_the_last_handle_finishes_what_is_queued() {
    let disk = Disk::new();
    let store_before = store(&disk);
    let mut failure = store_before.failure();
    run(async {
        let held = disk.hold_syncs();
        let writer = store_before.clone();
        let commit = tokio::spawn(async move { writer.commit(batch("p/a")).await });
        held.wait_for_sync();
        drop(store_before);
        drop(held);
        commit.await.unwrap().unwrap();
        assert!(failure.changed().await.is_err(), "the writer ends without a failure");
    });
    assert_eq!(keys(&store(&disk)), ["p/a"]);
    assert_eq!(disk.engine().unwrap().get(b"p/b").unwrap(), None);
}
