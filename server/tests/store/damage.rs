//! Damaged, emptied, swapped and locked stores: each ends in one typed error, never a panic, and is left alone.

use crate::harness::{Directory, Medium, run, store};
use muster_server::store::embedded::{self, Founding};
use muster_server::store::{Batch, Engine, OpenError};
use std::collections::BTreeMap;
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

impl Directory {
    /// Everything in the store's directory that holds data, by name.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.file("")).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
    }

    fn restore(&self, files: &BTreeMap<String, Vec<u8>>) {
        for name in self.files().keys() {
            fs::remove_file(self.file(name)).unwrap();
        }
        for (name, bytes) in files {
            fs::write(self.file(name), bytes).unwrap();
        }
    }
}

/// A byte is flipped at 60 places of the data, one at a time. Either nobody notices, since the place held
/// nothing that counts, and then every record is there; or the store is refused and its files are left alone,
/// so that mending that byte brings everything back.
#[test]
fn a_flipped_byte_is_harmless_or_refused_and_never_costs_a_record() {
    let directory = filled(400);
    let sound = directory.files();
    let mut refusals = 0;
    for place in 0..60 {
        let mut damaged = sound.clone();
        let data = damaged.get_mut("db").unwrap();
        let position = data.len() * place / 60 + place * 7;
        data[position] ^= 0x55;
        directory.restore(&damaged);
        match directory.reopen() {
            Ok(engine) => {
                assert_eq!(
                    engine.scan(b"p/", None, usize::MAX).unwrap().len(),
                    400,
                    "byte {position} cost records"
                );
                engine.close().unwrap();
            }
            Err(refused) => {
                refusals += 1;
                let known = matches!(refused, OpenError::Corrupt { .. } | OpenError::WentBack { .. });
                assert!(known, "byte {position}: {refused}");
                assert!(directory.files() == damaged, "byte {position}: refusing changed the files");
            }
        }
    }
    assert!(refusals > 20, "only {refusals} of 60 flips were noticed");
    directory.restore(&sound);
    directory.reopen().unwrap();
}

#[test]
fn a_file_cut_short_is_refused_and_left_alone() {
    let directory = filled(400);
    let sound = directory.files();
    for part in 1..20 {
        let mut damaged = sound.clone();
        let data = damaged.get_mut("db").unwrap();
        data.truncate(data.len() * part / 20);
        directory.restore(&damaged);
        let refused = directory.refusal();
        let known = matches!(
            refused,
            OpenError::Corrupt { .. } | OpenError::WentBack { .. } | OpenError::Empty { .. }
        );
        assert!(known, "cut at {part}/20: {refused}");
        assert!(directory.files() == damaged, "cut at {part}/20: refusing changed the files");
    }
}

#[test]
fn a_snapshot_or_configuration_with_a_flipped_byte_is_harmless_or_refused() {
    let directory = filled(50);
    drop(directory.reopen().unwrap());
    let sound = directory.files();
    for name in sound.keys().filter(|name| name.starts_with("snap.") || *name == "conf") {
        for place in 0..20 {
            let mut damaged = sound.clone();
            let bytes = damaged.get_mut(name).unwrap();
            let position = (bytes.len() - 1) * place / 19;
            bytes[position] ^= 0x55;
            directory.restore(&damaged);
            if let Ok(engine) = directory.reopen() {
                assert_eq!(engine.scan(b"p/", None, usize::MAX).unwrap().len(), 50, "{name} at {position}");
                engine.close().unwrap();
            }
        }
    }
}
