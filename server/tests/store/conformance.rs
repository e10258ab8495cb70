//! What every engine keeps under the store. Each sentence is tested over memory, over sled and over sled with
//! records in buckets.

use crate::harness::{COLLECTIONS, Directory, LISTED, Medium, Numbering, draft, run, store};
use muster_server::store::memory::Disk;
use muster_server::store::{
    Batch, Collection, CommitError, Expect, Limits, RECORD_CAP_BYTES, ReadError, Store, Versioned, Write,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

macro_rules! conformance {
    ($($name:ident)*) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::Disk::new()); })*
        }
        mod sled {
            $(#[test] fn $name() { super::$name(&super::Directory::new()); })*
        }
        mod packed {
            $(#[test] fn $name() { super::$name(&super::Directory::packed()); })*
        }
    };
}

conformance! {
    a_committed_record_is_there_after_a_restart
    a_batch_is_all_or_nothing
    versions_grow_over_restarts_and_never_come_back
    a_precondition_is_judged_against_the_batches_before_it
    the_later_of_two_writes_to_one_key_counts
    an_index_follows_every_change_of_its_record
    an_index_pages_by_cursor
    a_foreign_cursor_lists_nothing_but_the_index
    a_scan_pages_in_order_and_stays_within_its_prefix
    the_largest_record_fits_and_a_larger_one_is_refused
    an_oversized_draft_is_refused_before_it_has_a_number
    the_stores_own_keys_cannot_be_written
    audit_entries_are_written_with_their_batch_and_numbered_without_a_gap
    a_refused_batch_takes_no_sequence_number
    the_observer_hears_of_every_commit_before_its_caller
    many_committers_lose_nothing_and_share_syncs
    of_a_thousand_claims_to_one_token_one_wins
    documents_of_every_size_come_back_and_leave_no_chunk_behind
    a_random_history_ends_as_a_model_says
    a_closed_store_takes_nothing
}

fn put(store: &Store, key: &str, value: &[u8]) -> u64 {
    run(store.commit(Batch::default().put(key, value))).unwrap().version
}

fn value(store: &Store, key: &str) -> Option<Vec<u8>> {
    store.get(key.as_bytes()).unwrap().map(|record| record.value)
}

fn close(store: &Store) {
    run(store.close()).unwrap();
}

fn a_committed_record_is_there_after_a_restart(medium: &dyn Medium) {
    let first = store(medium);
    let version = put(&first, "p/a", b"1");
    assert_eq!(first.get(b"p/a").unwrap(), Some(Versioned { version, value: b"1".to_vec() }));
    close(&first);
    let second = store(medium);
    assert_eq!(second.get(b"p/a").unwrap(), Some(Versioned { version, value: b"1".to_vec() }));
    close(&second);
}

fn a_batch_is_all_or_nothing(medium: &dyn Medium) {
    let store = store(medium);
    put(&store, "p/there", b"1");
    let batch = Batch::default().put("p/a", "x").delete("p/there").expect("p/there", Expect::Absent);
    let refused = run(store.commit(batch)).unwrap_err();
    assert_eq!(refused, CommitError::Conflict { key: b"p/there".to_vec() });
    assert_eq!((value(&store, "p/a"), value(&store, "p/there")), (None, Some(b"1".to_vec())));
    let batch = Batch::default().put("p/a", "x").delete("p/there").expect("p/there", Expect::Version(1));
    assert_eq!(run(store.commit(batch)).unwrap().version, 2);
    assert_eq!((value(&store, "p/a"), value(&store, "p/there")), (Some(b"x".to_vec()), None));
    close(&store);
}

fn versions_grow_over_restarts_and_never_come_back(medium: &dyn Medium) {
    let first = store(medium);
    assert_eq!(put(&first, "p/a", b"1"), 1);
    assert_eq!(run(first.commit(Batch::default().delete("p/a"))).unwrap().version, 2);
    close(&first);
    let second = store(medium);
    assert_eq!(put(&second, "p/a", b"1"), 3);
    let stale = Batch::default().put("p/a", "2").expect("p/a", Expect::Version(1));
    assert!(matches!(run(second.commit(stale)), Err(CommitError::Conflict { .. })));
    close(&second);
}

fn a_precondition_is_judged_against_the_batches_before_it(medium: &dyn Medium) {
    let store = store(medium);
    let won = run(async {
        let claims = (0..32).map(|claim: u8| {
            let batch = Batch::default().put("p/token", [claim]).expect("p/token", Expect::Absent);
            let store = store.clone();
            tokio::spawn(async move { store.commit(batch).await.map(|_| claim) })
        });
        let claims: Vec<_> = claims.collect();
        let mut won = Vec::new();
        for claim in claims {
            match claim.await.unwrap() {
                Ok(claim) => won.push(claim),
                Err(refused) => assert!(matches!(refused, CommitError::Conflict { .. })),
            }
        }
        won
    });
    assert_eq!(won.len(), 1);
    assert_eq!(value(&store, "p/token"), Some(won));
    assert_eq!(store.metrics().conflicts, 31);
    close(&store);
}

fn the_later_of_two_writes_to_one_key_counts(medium: &dyn Medium) {
    let store = store(medium);
    run(store.commit(Batch::default().put("l/a", "1").put("l/a", "2").put("l/b", "1").delete("l/b")))
        .unwrap();
    assert_eq!((value(&store, "l/a"), value(&store, "l/b")), (Some(b"2".to_vec()), None));
    assert_eq!(ids(&store, "first", b""), [b"a"]);
    assert_eq!(store.index_scan(LISTED, "first", b"1", None, 9).unwrap(), []);
    close(&store);
}

fn ids(store: &Store, index: &str, prefix: &[u8]) -> Vec<Vec<u8>> {
    let hits = store.index_scan(LISTED, index, prefix, None, usize::MAX).unwrap();
    hits.into_iter().map(|hit| hit.id).collect()
}

fn an_index_follows_every_change_of_its_record(medium: &dyn Medium) {
    let first = store(medium);
    put(&first, "l/a", b"xy");
    put(&first, "l/b", b"xz");
    assert_eq!(ids(&first, "first", b"x"), [b"a", b"b"]);
    assert_eq!(ids(&first, "every", b"z"), [b"b"]);
    put(&first, "l/a", b"z");
    assert_eq!(
        (ids(&first, "first", b"x"), ids(&first, "every", b"z")),
        (vec![b"b".to_vec()], vec![b"a".to_vec(), b"b".to_vec()])
    );
    close(&first);
    let second = store(medium);
    run(second.commit(Batch::default().delete("l/b").put("l/c", "x"))).unwrap();
    assert_eq!(
        (ids(&second, "first", b"x"), ids(&second, "every", b"z")),
        (vec![b"c".to_vec()], vec![b"a".to_vec()])
    );
    let unknown = second.index_scan(LISTED, "last", b"", None, 1);
    assert!(matches!(unknown, Err(ReadError::NoSuchIndex { collection: "listed", .. })));
    close(&second);
}

fn an_index_pages_by_cursor(medium: &dyn Medium) {
    let store = store(medium);
    let batch =
        (0..10u8).fold(Batch::default(), |batch, id| batch.put([b"l/".as_slice(), &[id]].concat(), [id % 3]));
    run(store.commit(batch)).unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.index_scan(LISTED, "first", b"", after.as_deref(), 4).unwrap();
        seen.extend(page.iter().map(|hit| (hit.value.clone(), hit.id.clone())));
        after = page.last().map(|hit| hit.cursor.clone());
        if page.len() < 4 {
            break;
        }
    }
    let mut expected: Vec<_> = (0..10u8).map(|id| (vec![id % 3], vec![id])).collect();
    expected.sort();
    assert_eq!(seen, expected);
    close(&store);
}

fn a_foreign_cursor_lists_nothing_but_the_index(medium: &dyn Medium) {
    let store = store(medium);
    run(store.commit(Batch::default().put("l/a", "x").put("p/secret", "x"))).unwrap();
    let hits = |cursor: &[u8]| store.index_scan(LISTED, "first", b"", Some(cursor), 9).unwrap();
    assert_eq!(hits(b"").len(), 1);
    assert_eq!(hits(&[0xff; 40]), []);
    assert_eq!(hits(&[0]).len(), 1);
    close(&store);
}

fn a_scan_pages_in_order_and_stays_within_its_prefix(medium: &dyn Medium) {
    let store = store(medium);
    let batch = ["p/a", "p/b", "p/c", "p", "q/a", "o/z"]
        .iter()
        .fold(Batch::default(), |batch, key| batch.put(*key, *key));
    run(store.commit(batch)).unwrap();
    let keys = |after: Option<&[u8]>, limit| -> Vec<String> {
        let page = store.scan(b"p/", after, limit).unwrap();
        page.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
    };
    assert_eq!(keys(None, 2), ["p/a", "p/b"]);
    assert_eq!(keys(Some(b"p/b"), 2), ["p/c"]);
    assert_eq!(keys(Some(b"a"), 9), ["p/a", "p/b", "p/c"]);
    assert!(keys(Some(b"q"), 9).is_empty());
    assert!(keys(None, 0).is_empty());
    close(&store);
}

fn the_largest_record_fits_and_a_larger_one_is_refused(medium: &dyn Medium) {
    let store = store(medium);
    let largest = vec![7; RECORD_CAP_BYTES - 3];
    put(&store, "p/a", &largest);
    assert_eq!(value(&store, "p/a"), Some(largest));
    let refused =
        run(store.commit(Batch::default().put("p/b", vec![7; RECORD_CAP_BYTES - 2]).put("p/c", "1")));
    let size_bytes = RECORD_CAP_BYTES + 1;
    assert_eq!(refused, Err(CommitError::ValueTooLarge { key: b"p/b".to_vec(), size_bytes }));
    assert_eq!(value(&store, "p/c"), None);
    close(&store);
}

fn an_oversized_draft_is_refused_before_it_has_a_number(medium: &dyn Medium) {
    let store = store(medium);
    let long = draft(&"\n".repeat(600));
    let refused = run(store.commit(Batch::default().put("p/a", "1").audit(long)));
    assert!(matches!(refused, Err(CommitError::ValueTooLarge { .. })));
    let committed = run(store.commit(Batch::default().audit(draft("next")))).unwrap();
    assert_eq!(committed.first_sequence, Some(0));
    close(&store);
}

fn the_stores_own_keys_cannot_be_written(medium: &dyn Medium) {
    let store = store(medium);
    for batch in
        [Batch::default().put(*b"\0v", "1"), Batch::default().delete(*b"\0s"), Batch::default().put("", "1")]
    {
        assert_eq!(run(store.commit(batch)), Err(CommitError::ReservedKey));
    }
    close(&store);
}

fn audit_entries_are_written_with_their_batch_and_numbered_without_a_gap(medium: &dyn Medium) {
    let store = store(medium);
    let two =
        run(store.commit(Batch::default().put("p/a", "1").audit(draft("one")).audit(draft("two")))).unwrap();
    let none = run(store.commit(Batch::default().put("p/b", "1"))).unwrap();
    let last = run(store.commit(Batch::default().audit(draft("three")))).unwrap();
    assert_eq!((two.first_sequence, none.first_sequence, last.first_sequence), (Some(0), None, Some(2)));
    let entries: Vec<_> = store.scan(b"a/", None, 9).unwrap().into_iter().map(|(_, entry)| entry).collect();
    let expected = [("one", two.version), ("two", two.version), ("three", last.version)];
    let expected = expected.map(|(action, version)| Versioned { version, value: action.as_bytes().to_vec() });
    assert_eq!(entries, expected);
    close(&store);
}

fn a_refused_batch_takes_no_sequence_number(medium: &dyn Medium) {
    let store = store(medium);
    let refused = Batch::default().audit(draft("refused")).expect("p/none", Expect::Version(1));
    assert!(run(store.commit(refused)).is_err());
    let kept = run(store.commit(Batch::default().audit(draft("kept")))).unwrap();
    assert_eq!((kept.first_sequence, kept.version), (Some(0), 1));
    close(&store);
}

/// What each record became, as an observer heard it.
type Heard = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn the_observer_hears_of_every_commit_before_its_caller(medium: &dyn Medium) {
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let ears = Arc::clone(&heard);
    let observer = move |written: &[muster_server::store::Written<'_>]| {
        for record in written {
            ears.lock().unwrap().insert(record.key.to_vec(), record.value.map(<[u8]>::to_vec));
        }
    };
    let ledger = Box::new(Numbering::default());
    let limits = Limits { floor_bytes: 0, ..Limits::default() };
    let store =
        Store::open(medium.engine().unwrap(), COLLECTIONS, ledger, Box::new(observer), limits).unwrap();
    put(&store, "l/a", b"1");
    assert_eq!(heard.lock().unwrap().get(b"l/a".as_slice()), Some(&Some(b"1".to_vec())));
    run(store.commit(Batch::default().delete("l/a"))).unwrap();
    assert_eq!(*heard.lock().unwrap(), BTreeMap::from([(b"l/a".to_vec(), None)]));
    close(&store);
}

fn many_committers_lose_nothing_and_share_syncs(medium: &dyn Medium) {
    let store = store(medium);
    run(async {
        let committers = (0..64u32).map(|committer| {
            let store = store.clone();
            tokio::spawn(async move {
                for ordinal in 0..8u32 {
                    let _on_its_way = store.announce();
                    let batch = Batch::default().put(format!("l/{committer:02}/{ordinal}"), "x");
                    store.commit(batch.audit(draft("put"))).await.unwrap();
                }
            })
        });
        for committer in committers.collect::<Vec<_>>() {
            committer.await.unwrap();
        }
    });
    assert_eq!(store.scan(b"l/", None, 1000).unwrap().len(), 512);
    assert_eq!(store.scan(b"a/", None, 1000).unwrap().len(), 512);
    assert_eq!(ids(&store, "first", b"x").len(), 512);
    let metrics = store.metrics();
    assert_eq!((metrics.commits, metrics.commit_us.count, metrics.version), (512, 512, 512));
    assert_eq!(metrics.group_size.sum, 512);
    assert!(metrics.fsyncs < 256, "{} syncs for 512 commits by 64 committers", metrics.fsyncs);
    close(&store);
}

fn of_a_thousand_claims_to_one_token_one_wins(medium: &dyn Medium) {
    let store = store(medium);
    let token = put(&store, "p/token", b"unspent");
    let won = run(async {
        let claims = (0..1000u32).map(|claim| {
            let store = store.clone();
            let spent = Batch::default().put("p/token", "spent").expect("p/token", Expect::Version(token));
            let batch = spent.put(format!("p/certificate/{claim}"), "c").audit(draft("issued"));
            tokio::spawn(async move { store.commit(batch).await.is_ok() })
        });
        let mut won = 0;
        for claim in claims.collect::<Vec<_>>() {
            won += usize::from(claim.await.unwrap());
        }
        won
    });
    assert_eq!(won, 1);
    assert_eq!(store.scan(b"p/certificate/", None, 9).unwrap().len(), 1);
    assert_eq!(store.scan(b"a/", None, 9).unwrap().len(), 1);
    close(&store);
}

fn documents_of_every_size_come_back_and_leave_no_chunk_behind(medium: &dyn Medium) {
    let store = store(medium);
    for size in [0, 1, RECORD_CAP_BYTES - 4, RECORD_CAP_BYTES - 3, 3 << 10, 100_000, 6 << 10, 5] {
        let bytes: Vec<u8> = (0..size).map(|position| (position % 251) as u8).collect();
        let mut batch = Batch::default();
        store.put_document(&mut batch, b"p/d", &bytes).unwrap();
        let stale = batch.clone();
        let version = run(store.commit(batch)).unwrap().version;
        assert_eq!(store.get_document(b"p/d").unwrap(), Some(Versioned { version, value: bytes }));
        assert!(matches!(run(store.commit(stale)), Err(CommitError::Conflict { .. })));
    }
    assert_eq!(store.scan(b"p/d", None, 99).unwrap().len(), 1);
    assert_eq!(store.get_document(b"p/none").unwrap(), None);
    close(&store);
}

/// Thirty rounds of random puts and deletes, in batches, against a map.
fn a_random_history_ends_as_a_model_says(medium: &dyn Medium) {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for _ in 0..3 {
        let store = store(medium);
        for _ in 0..10 {
            let mut batch = Batch::default();
            for _ in 0..random(40) {
                let key = LISTED.key(&random(60).to_be_bytes());
                if random(3) == 0 {
                    model.remove(&key);
                    batch.writes.push(Write::Delete { key });
                } else {
                    let value = vec![random(4) as u8, random(4) as u8];
                    model.insert(key.clone(), value.clone());
                    batch.writes.push(Write::Put { key, value });
                }
            }
            run(store.commit(batch)).unwrap();
            assert_as_modelled(&store, &model);
        }
        close(&store);
    }
}

fn assert_as_modelled(store: &Store, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let found = store.scan(LISTED.prefix, None, usize::MAX).unwrap();
    let found: BTreeMap<_, _> = found.into_iter().map(|(key, record)| (key, record.value)).collect();
    assert_eq!(found, *model);
    for index in LISTED.indexes {
        let hits = store.index_scan(LISTED, index.name, b"", None, usize::MAX).unwrap();
        let hits: Vec<_> = hits.into_iter().map(|hit| (hit.value, hit.id)).collect();
        assert_eq!(hits, listed(LISTED, index.keys, model));
    }
}

/// A listing as it must be, by reading everything.
fn listed(
    collection: &Collection,
    keys: fn(&[u8], &[u8]) -> Vec<Vec<u8>>,
    model: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut listed: Vec<_> = model
        .iter()
        .flat_map(|(key, value)| {
            let id = collection.id(key).unwrap();
            keys(id, value).into_iter().map(|value| (value, id.to_vec()))
        })
        .collect();
    listed.sort();
    listed.dedup();
    listed
}

fn a_closed_store_takes_nothing(medium: &dyn Medium) {
    let store = store(medium);
    put(&store, "p/a", b"1");
    close(&store);
    close(&store);
    assert_eq!(run(store.commit(Batch::default().put("p/b", "1"))), Err(CommitError::Closed));
    assert!(matches!(store.get(b"p/a"), Err(ReadError::Engine(_))));
}
