use super::*;
use crate::audit::entry::tests::draft;
use crate::audit::key::tests::key;
use crate::audit::memory::Site;
use crate::audit::{size, tail};
use muster_wire::merkle::root_of;
use proptest::prelude::*;

#[test]
fn an_empty_log_opens_and_stays_empty() {
    let mut site = Site::found();
    assert_eq!(size(&site.store).unwrap(), 0);
    assert!(tail(&site.store, None, 10).unwrap().is_empty());
    assert!(site.log.seal(&[]).puts.is_empty());
    site.restart().unwrap();
    assert_eq!(site.publisher.last().size, 0);
}

#[test]
fn founding_twice_keeps_the_first_checkpoint_and_refuses_another_key() {
    let site = Site::with(3);
    found(&site.dir, &site.key).unwrap();
    assert_eq!(publish::read_checkpoint(&site.dir, &site.key.public()).unwrap().size, 3);
    assert!(matches!(found(&site.dir, &key("example.com", 8)), Err(OpenError::CheckpointRefused { .. })));
}

#[test]
fn numbers_go_on_without_a_gap_over_batches_and_restarts() {
    let mut site = Site::found();
    for count in [1, 2, 300] {
        site.append(count);
        site.restart().unwrap();
    }
    let entries = tail(&site.store, None, usize::MAX).unwrap();
    assert!(entries.iter().map(|entry| entry.seq).eq(0..303));
    assert_eq!(tail(&site.store, Some(299), 2).unwrap(), entries[300..302]);
    assert!(tail(&site.store, Some(302), 2).unwrap().is_empty());
}

#[test]
fn the_right_edge_is_the_tree_over_the_entries() {
    let mut site = Site::found();
    for count in [1, 254, 1, 1, 513] {
        site.append(count);
        let leaves: Vec<_> = site.entries().iter().map(|entry| leaf_hash(entry)).collect();
        assert_eq!(right_edge(&site.store).unwrap().root(), root_of(&leaves));
    }
}

#[test]
fn a_log_without_its_checkpoint_does_not_open() {
    let mut site = Site::with(3);
    std::fs::remove_file(site.dir.join("checkpoint")).unwrap();
    assert!(matches!(site.restart(), Err(OpenError::CheckpointMissing { .. })));
}

#[test]
fn a_changed_checkpoint_or_another_key_does_not_open() {
    let mut site = Site::with(3);
    let path = site.dir.join("checkpoint");
    let note = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, note.replace("\n3\n", "\n2\n")).unwrap();
    assert!(matches!(site.restart(), Err(OpenError::CheckpointRefused { .. })));
    std::fs::write(&path, note).unwrap();
    site.key = key("example.com", 8);
    assert!(matches!(site.restart(), Err(OpenError::CheckpointRefused { .. })));
}

#[test]
fn a_store_that_went_back_does_not_open() {
    for (before, after) in [(3, 1), (0, 5), (256, 1), (300, 300)] {
        let mut site = Site::with(before);
        let old = site.store.clone();
        site.append(after);
        site.publish();
        site.store = old;
        let (signed, found) = ((before + after) as u64, before as u64);
        match site.restart() {
            Err(OpenError::WentBack { signed: s, found: f }) => assert_eq!((s, f), (signed, found)),
            other => panic!("{before}+{after}: {other:?}"),
        }
    }
}

#[test]
fn a_store_that_went_back_and_on_again_is_a_fork() {
    for (before, after) in [(3, 1), (0, 5), (255, 1), (256, 1), (300, 300)] {
        let mut site = Site::with(before);
        let old = site.store.clone();
        site.append(after);
        site.publish();
        let mut edge = Log { frontier: right_edge(&old).unwrap() };
        site.store = old;
        let others: Vec<_> = (0..after + 1).map(|n| draft(&format!("device/other-{n}"))).collect();
        site.store.write(edge.seal(&others));
        match site.restart() {
            Err(OpenError::Forked { size }) => assert_eq!(size, (before + after) as u64),
            other => panic!("{before}+{after}: {other:?}"),
        }
    }
}

#[test]
fn a_promised_entry_at_the_right_edge_that_changed_is_a_fork() {
    let mut site = Site::with(300);
    let changed = Entry::new(&draft("device/other"), 280).encode();
    site.store.0.insert(entry_key(280), changed);
    assert!(matches!(site.restart(), Err(OpenError::Forked { size: 300 })));
}

#[test]
fn a_promised_tile_root_that_changed_is_a_fork() {
    let mut site = Site::with(300);
    site.store.0.insert(root_key(1, 0), vec![0; 32]);
    assert!(matches!(site.restart(), Err(OpenError::Forked { size: 300 })));
}

#[test]
fn an_entry_beyond_the_checkpoint_that_changed_is_damage() {
    let mut site = Site::with(3);
    site.append(3);
    let changed = Entry::new(&draft("device/other"), 4).encode();
    site.store.0.insert(entry_key(4), changed);
    assert!(matches!(site.restart(), Err(OpenError::Damaged { size: 6 })));
}

#[test]
fn a_tile_root_beyond_the_checkpoint_that_changed_is_damage() {
    let mut site = Site::with(3);
    site.append(300);
    site.store.0.insert(root_key(1, 0), vec![0; 32]);
    assert!(matches!(site.restart(), Err(OpenError::Damaged { size: 303 })));
}

#[test]
fn a_missing_entry_and_a_missing_edge_are_named() {
    let mut site = Site::with(3);
    site.append(3);
    let whole = site.store.clone();
    site.store.0.remove(&entry_key(4));
    assert!(matches!(site.restart(), Err(OpenError::Read(ReadError::Missing { seq: 4 }))));
    assert!(matches!(tail(&site.store, None, 10), Err(ReadError::Missing { seq: 4 })));
    site.store = whole.clone();
    site.store.0.remove(&entry_key(5));
    assert!(matches!(site.restart(), Err(OpenError::Damaged { size: 6 })));
    site.store = whole;
    site.store.0.remove(&edge_key());
    assert!(matches!(site.restart(), Err(OpenError::WentBack { signed: 3, found: 0 })));
}

#[test]
fn an_entry_behind_the_right_edge_is_damage() {
    let mut site = Site::with(3);
    site.store.0.insert(entry_key(3), Entry::new(&draft("device/more"), 3).encode());
    assert!(matches!(site.restart(), Err(OpenError::Damaged { size: 3 })));
}

#[test]
fn an_edge_that_is_no_edge_is_named() {
    let mut site = Site::with(3);
    site.store.0.insert(edge_key(), vec![0; 9]);
    let error = site.restart().unwrap_err();
    assert_eq!(error.to_string(), "the audit record a/edge is damaged; restore the store from a backup");
    assert_eq!(readable(&entry_key(12)), "a/e/12");
}

#[test]
fn the_history_of_a_device_is_its_own_entries_and_those_of_no_device_whose_name_begins_alike() {
    let mut site = Site::found();
    for object in ["device/a", "device/ab", "token/a", "device/a", "device/a"] {
        let sealed = site.log.seal(&[draft(object)]);
        site.store.write(sealed);
    }
    let numbers = |object: &str, after, limit| {
        let entries = crate::audit::about(&site.store, object, after, limit).unwrap();
        entries.iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    assert_eq!(numbers("device/a", None, 10), [0, 3, 4]);
    assert_eq!(numbers("device/a", Some(0), 1), [3]);
    assert_eq!(numbers("device/ab", None, 10), [1]);
    assert!(numbers("device/abc", None, 10).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_split_into_batches_makes_the_same_log(batches in prop::collection::vec(0usize..40, 0..20)) {
        let (mut many, mut one) = (Site::found(), Site::found());
        batches.iter().for_each(|count| many.append(*count));
        one.append(batches.iter().sum());
        prop_assert_eq!(&many.store.0, &one.store.0);
        prop_assert!(many.restart().is_ok());
    }
}
