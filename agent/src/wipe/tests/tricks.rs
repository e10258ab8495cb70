//! Links, mounts, other names, things that vanish or come back, a disk that is full or read-only: each is named.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::*;

/// An engine that does `deed` once, just before the first step `at`.
fn tricked(device: &Device, at: Step, deed: impl Fn() + Send + Sync + 'static) -> Engine {
    let is_done = AtomicBool::new(false);
    device.engine().gated(Box::new(move |step| {
        if step == at && !is_done.swap(true, Ordering::Relaxed) {
            deed();
        }
        Ok(())
    }))
}

fn failing(device: &Device, at: Step, error: Errno) -> Engine {
    device.engine().gated(Box::new(move |step| if step == at { Err(error.into()) } else { Ok(()) }))
}

#[test]
fn a_directory_swapped_for_a_link_in_the_middle_leads_nowhere_and_is_named() {
    let device = Device::furnished();
    let outside = device.outside();
    device.accept(Level::Clear);
    let (deep, home) = (device.at("/srv/data/deep"), device.at("/home"));
    let moved = device.at("/srv/moved");
    let engine = tricked(&device, Step::SyncEvidence, move || {
        fs::rename(&deep, &moved).unwrap();
        std::os::unix::fs::symlink(&home, &deep).unwrap();
    });
    let report = device.wipe_with(&engine, Level::Clear).unwrap();
    assert_eq!(device.outside(), outside);
    // What was moved out of the data root was not reached, and the name that leads elsewhere now was only taken away.
    assert!(!device.at("/srv/data/deep").exists() && device.at("/srv/moved").exists());
    assert_eq!(report.phase, ReceiptPhase::Verified);
}

#[test]
fn a_managed_file_whose_directory_became_a_link_fails_by_name() {
    let device = Device::new();
    fs::create_dir_all(device.at("/srv/app")).unwrap();
    device.manage("/srv/app/key", "secret", 0o600);
    device.accept(Level::Retire);
    fs::rename(device.at("/srv/app"), device.at("/srv/elsewhere")).unwrap();
    std::os::unix::fs::symlink(device.at("/srv/elsewhere"), device.at("/srv/app")).unwrap();
    let keys = device.engine().phase(&task(Level::Retire), ReceiptPhase::KeysDestroyed, &device).unwrap();
    assert_eq!(keys.outcome, ReceiptOutcome::Failed);
    assert_eq!(find(&keys, "/srv/app/key").what, "/srv/app/key (a symbolic link is in the way)");
    assert!(device.at("/srv/elsewhere/key").exists());
}

#[test]
fn a_planned_file_that_vanished_is_a_failure_and_not_a_deletion() {
    let device = Device::furnished();
    device.accept(Level::Retire);
    fs::remove_file(device.at("/srv/secret")).unwrap();
    let report = device.engine().phase(&task(Level::Retire), ReceiptPhase::KeysDestroyed, &device).unwrap();
    assert_eq!(report.outcome, ReceiptOutcome::Failed);
    assert_eq!(find(&report, "/srv/secret").what, "/srv/secret (it vanished before it was destroyed)");
    assert!(!device.at("/srv/config").exists(), "the rest goes all the same");
}

#[test]
fn what_comes_back_before_the_last_look_is_named_and_nothing_is_proven() {
    let device = Device::furnished();
    device.accept(Level::Clear);
    for phase in [ReceiptPhase::KeysDestroyed, ReceiptPhase::DataDestroyed] {
        assert_eq!(
            device.engine().phase(&task(Level::Clear), phase, &device).unwrap().outcome,
            ReceiptOutcome::Done
        );
    }
    device.write("/srv/data/again", "again");
    let report = device.engine().phase(&task(Level::Clear), ReceiptPhase::Verified, &device).unwrap();
    assert_eq!((report.phase, report.outcome), (ReceiptPhase::Verified, ReceiptOutcome::Failed));
    assert_eq!(find(&report, "/srv/data/again").fate, ItemFate::Failed);
}

#[test]
fn another_name_outside_keeps_its_content_and_the_wipe_is_not_called_done() {
    let device = Device::furnished();
    fs::hard_link(device.at("/home/someone/precious"), device.at("/srv/data/stolen")).unwrap();
    let report = device.wipe(Level::Clear);
    assert_eq!(report.outcome, ReceiptOutcome::Failed);
    assert_eq!(find(&report, "/srv/data/stolen").what, "/srv/data/stolen (another name of it is left)");
    assert_eq!(fs::read(device.at("/home/someone/precious")).unwrap(), b"precious");
    assert!(!device.at("/srv/data/stolen").exists());
}

#[test]
fn names_of_one_file_that_all_go_are_no_failure() {
    let device = Device::furnished();
    fs::hard_link(device.at("/srv/data/one"), device.at("/srv/data/deep/deeper/same")).unwrap();
    let report = device.wipe(Level::Clear);
    assert_eq!(report.outcome, ReceiptOutcome::Done, "{report:?}");
}

#[test]
fn the_agents_own_state_inside_a_data_root_stays_and_is_named() {
    let device = Device::furnished();
    fs::rename(device.dir.path().join("state"), device.at("/srv/data/state")).unwrap();
    let declared = ["/srv".to_owned()];
    let engine = Engine::new(&device.at("/srv/data/state"), &device.at("/"), &declared);
    let report = device.wipe_with(&engine, Level::Clear).unwrap();
    assert_eq!(report.outcome, ReceiptOutcome::Done, "{report:?}");
    assert_eq!(find(&report, "/srv/data/state").fate, ItemFate::Kept);
    assert!(device.at("/srv/data/state/wipe/evidence").exists() && !device.at("/srv/data/one").exists());
}

#[test]
fn a_mount_beneath_a_data_root_is_not_entered() {
    // Looking changes nothing, so the machine's own `/dev` will do; `/dev/shm` is a file system of its own.
    let state = tempfile::tempdir().unwrap();
    let engine = Engine::new(state.path(), Path::new("/"), &["/dev".to_owned()]);
    let rehearsal = engine.rehearse(Level::Clear, &["/dev".to_owned()], &[]).unwrap();
    let shm = rehearsal.missed.iter().find(|missed| missed.starts_with("/dev/shm "));
    assert_eq!(shm.map(String::as_str), Some("/dev/shm (a mount is in the way)"), "{:?}", rehearsal.missed);
    assert!(!rehearsal.would_remove.iter().any(|item| item.path.starts_with("/dev/shm/")));
}

#[test]
fn a_rehearsal_names_each_thing_once_and_says_what_is_a_secret_and_what_stays() {
    let device = Device::furnished();
    device.manage("/srv/data/managed", "setting", 0o644);
    let managed = device.managed.lock().unwrap().clone();
    let key = device.dir.path().join("state/key.pem");
    fs::write(&key, "key").unwrap();
    let rehearse = |level| device.engine().rehearse(level, &["/srv/data".to_owned()], &managed).unwrap();
    let clear = rehearse(Level::Clear).with_own(&[key.clone(), device.dir.path().join("state/none")]);
    let things = |path: &str| -> Vec<Thing> {
        let named = clear.would_remove.iter().filter(|item| item.path == path);
        named.map(|item| item.what).collect()
    };
    assert_eq!(things("/srv/data/managed"), [Thing::Managed]);
    assert_eq!(things("/srv/secret"), [Thing::Secret]);
    assert_eq!(things("/srv/data/one"), [Thing::Data]);
    assert_eq!(clear.would_remove.last().map(|item| item.path.clone()), Some(key.display().to_string()));
    let retire = rehearse(Level::Retire);
    assert!(retire.stays[0].starts_with("what no baseline put beneath /srv/data"), "{:?}", retire.stays);
    assert!(!clear.stays.iter().any(|what| what.contains("/srv/data")), "{:?}", clear.stays);
}

#[test]
fn where_nothing_can_be_taken_away_every_thing_is_named_and_nothing_is_called_done() {
    for (error, why) in [(Errno::ROFS, "read-only"), (Errno::NOSPC, "full"), (Errno::PERM, "immutable")] {
        let device = Device::furnished();
        let report = device.wipe_with(&failing(&device, Step::Unlink, error), Level::Clear).unwrap();
        assert_eq!((report.phase, report.outcome), (ReceiptPhase::KeysDestroyed, ReceiptOutcome::Failed));
        for what in ["/srv/secret", "/srv/config", "/srv/data/one", "/srv/data/deep/two\\nlines"] {
            let item = find(&report, what);
            assert!(item.fate == ItemFate::Failed && item.what.contains(why), "{item:?}");
        }
    }
}

#[test]
fn a_full_disk_that_lets_nothing_be_overwritten_makes_it_deleted_and_no_more() {
    let device = Device::furnished();
    let report = device.wipe_with(&failing(&device, Step::Overwrite, Errno::NOSPC), Level::Clear).unwrap();
    assert_eq!(report.outcome, ReceiptOutcome::Done);
    // The applier's memory is its own matter.
    let mut files = report.items.iter().filter(|item| item.what.starts_with('/'));
    assert!(files.all(|item| item.fate == ItemFate::Deleted), "{report:?}");
}

#[test]
fn where_no_evidence_can_be_kept_nothing_is_destroyed() {
    let device = Device::furnished();
    device.accept(Level::Clear);
    let engine = failing(&device, Step::SyncEvidence, Errno::NOSPC);
    assert!(engine.phase(&task(Level::Clear), ReceiptPhase::KeysDestroyed, &device).is_err());
    assert!(device.at("/srv/secret").exists() && device.at("/srv/data/one").exists());
}

#[test]
fn a_policy_and_a_ledger_that_cannot_be_read_destroy_nothing() {
    struct Damaged;
    impl Ledger for Damaged {
        fn managed(&self) -> Result<Vec<ManagedFile>, String> {
            Err("damaged".into())
        }
        fn forget(&self) -> Result<ItemFate, String> {
            unreachable!("nothing is to be forgotten")
        }
    }
    let device = Device::furnished();
    let report = device.engine().phase(&task(Level::Clear), ReceiptPhase::Accepted, &Damaged).unwrap();
    assert_eq!(report.outcome, ReceiptOutcome::Failed);
    device.write("/etc/muster/wipe-policy", "???");
    let report = device.wipe(Level::Clear);
    assert_eq!(report.outcome, ReceiptOutcome::Refused);
    assert!(device.at("/srv/secret").exists());
}

#[test]
fn a_plan_that_is_gone_or_of_another_order_fails() {
    let device = Device::furnished();
    device.accept(Level::Clear);
    let other = WipeTask { order: OrderId::from_parts(2, [2; 10]), ..task(Level::Clear) };
    for task in [other, WipeTask { level: Level::CryptoErase, ..task(Level::Clear) }] {
        let report = device.engine().phase(&task, ReceiptPhase::KeysDestroyed, &device).unwrap();
        assert_eq!(report.outcome, ReceiptOutcome::Failed);
    }
    assert!(device.at("/srv/secret").exists());
}

#[test]
fn directories_that_lie_too_deep_are_named() {
    let device = Device::new();
    let mut path = device.at("/srv/data");
    for _ in 0..300 {
        path.push("d");
        fs::create_dir(&path).unwrap();
    }
    let report = device.wipe(Level::Clear);
    assert_eq!(report.outcome, ReceiptOutcome::Failed);
    assert!(report.items.iter().any(|item| item.what.ends_with("(it lies too deep)")), "{report:?}");
}

#[test]
fn a_gate_is_asked_before_every_kind_of_step() {
    let device = Device::with_everything();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let engine = device.engine().gated(Box::new(move |step| {
        noted.lock().unwrap().push(step);
        Ok::<(), io::Error>(())
    }));
    device.wipe_with(&engine, Level::FactoryReset).unwrap();
    let seen = seen.lock().unwrap();
    for step in [
        Step::Plan,
        Step::Evidence,
        Step::SyncEvidence,
        Step::Overwrite,
        Step::Sync,
        Step::Unlink,
        Step::SyncDirectory,
        Step::Forget,
        Step::Program,
    ] {
        assert!(seen.contains(&step), "{step:?}");
    }
}
