//! Damaged, emptied, swapped and locked stores: each ends in one typed error, never a panic, and is left alone.

use crate::harness::{Directory, Medium, run, store};
use muster_server::store::embedded::{self, Founding};
use muster_server::store::{Batch, Engine, OpenError};
use std::fs;
use std::path::PathBuf;

/// A closed store with `count` committed records of a kilobyte.
fn filled(count: u32) -> Directory {
    let directory = Directory::new();
    let store = store(&directory);
    run(async {
        for number in 0..count {
            store.commit(Batch::default().put(format!("p/{number:06}"), vec![b'x'; 1000])).await.unwrap();
        }
        store.close().await.unwrap();
    });
    directory
}

impl Directory {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("store").join(name)
    }

    fn reopen(&self) -> Result<Box<dyn Engine>, OpenError> {
        embedded::open(&self.options(Founding::Existing))
    }

    fn refusal(&self) -> OpenError {
        match self.reopen() {
            Ok(_) => panic!("the store opened"),
            Err(refused) => refused,
        }
    }
}

#[test]
fn a_store_that_was_never_founded_is_missing_and_nothing_is_made() {
    let directory = Directory::new();
    assert!(matches!(directory.refusal(), OpenError::Missing { .. }));
    assert_eq!(fs::read_dir(directory.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_store_in_use_is_refused_and_free_again_after_its_close() {
    let directory = filled(1);
    let held = directory.reopen().unwrap();
    assert!(matches!(directory.refusal(), OpenError::InUse { .. }));
    held.close().unwrap();
    drop(held);
    directory.reopen().unwrap();
}

#[test]
fn a_store_whose_data_vanished_is_unexpectedly_empty() {
    let directory = filled(3);
    for name in ["db", "conf"] {
        fs::remove_file(directory.file(name)).unwrap();
    }
    assert!(matches!(directory.refusal(), OpenError::Empty { .. }));
    assert!(matches!(directory.engine(), Err(OpenError::Empty { .. })), "not even init may found over it");
    assert!(!directory.file("db").exists());
}

#[test]
fn a_store_whose_data_shrank_to_nothing_is_unexpectedly_empty() {
    let directory = filled(3);
    fs::write(directory.file("db"), "").unwrap();
    assert!(matches!(directory.refusal(), OpenError::Empty { .. }));
}

#[test]
fn a_store_whose_data_read_as_zeroes_is_refused() {
    let directory = filled(3);
    let length = fs::metadata(directory.file("db")).unwrap().len();
    fs::write(directory.file("db"), vec![0; usize::try_from(length).unwrap()]).unwrap();
    for snapshot in fs::read_dir(directory.file("")).unwrap().map(|entry| entry.unwrap().path()) {
        if snapshot.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            fs::remove_file(snapshot).unwrap();
        }
    }
    let refused = directory.refusal();
    assert!(matches!(refused, OpenError::Empty { .. } | OpenError::Corrupt { .. }), "{refused}");
}

#[test]
fn another_stores_data_are_refused() {
    let (directory, other) = (filled(3), filled(3));
    for name in ["db", "conf"] {
        fs::copy(other.file(name), directory.file(name)).unwrap();
    }
    for snapshot in fs::read_dir(directory.file("")).unwrap().map(|entry| entry.unwrap().path()) {
        if snapshot.file_name().unwrap().to_string_lossy().starts_with("snap.") {
            fs::remove_file(snapshot).unwrap();
        }
    }
    assert!(matches!(directory.refusal(), OpenError::Mismatched { .. }));
}

#[test]
fn a_kill_in_the_middle_of_an_open_does_not_lock_the_store_for_good() {
    let directory = filled(3);
    fs::write(directory.file("snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    let engine = directory.reopen().unwrap();
    assert!(engine.get(b"p/000002").unwrap().is_some());
}

#[test]
fn a_lost_sentinel_is_written_again_from_the_data() {
    let directory = filled(3);
    let before = fs::read(directory.file("sentinel")).unwrap();
    fs::remove_file(directory.file("sentinel")).unwrap();
    drop(directory.reopen().unwrap());
    assert_eq!(fs::read(directory.file("sentinel")).unwrap(), before);
}

#[test]
fn an_unreadable_directory_entry_is_named_in_the_error() {
    let directory = filled(1);
    fs::remove_file(directory.file("mark")).unwrap();
    fs::create_dir(directory.file("mark")).unwrap();
    let refused = directory.refusal();
    assert!(matches!(&refused, OpenError::Io { path, .. } if path.ends_with("mark")), "{refused}");
}
