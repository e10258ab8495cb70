//! A kill, a full disk or one failed call at every step there is: the steps are counted, none is chosen by hand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

use super::super::disk::Step;
use super::*;

/// A disk that asks `verdict` about the n-th step, counted from 0; and the count.
fn counted(verdict: impl Fn(usize, Step) -> Result<(), Errno> + Send + 'static) -> (Disk, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let steps = Arc::clone(&count);
    let gate = move |step| verdict(steps.fetch_add(1, Ordering::Relaxed), step).map_err(io::Error::from);
    (Disk::gated(Box::new(gate)), count)
}

/// The power fails before step `n`: that one and all later ones come to nothing.
fn killed_at(n: usize) -> (Disk, Arc<AtomicUsize>) {
    counted(move |step, _| if step < n { Ok(()) } else { Err(Errno::IO) })
}

fn first() -> Admitted {
    state(1, vec![files(&[("/srv/managed/a", "one"), ("/srv/managed/gone", "one")]), kptr("1")])
}

fn second() -> Admitted {
    state(2, vec![kptr("2"), files(&[("/srv/managed/a", "two"), ("/srv/managed/new/deep/b", "two")])])
}

/// A device on which the first generation is in force, and how it looks with the first and with the second.
fn prepared() -> (Device, Snapshot) {
    let device = Device::new();
    device.engine().apply(&first()).unwrap();
    let snapshot = device.snapshot();
    (device, snapshot)
}

fn relative(device: &Device, snapshot: &Snapshot) -> Snapshot {
    let root = device.root();
    let inside = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_owned();
    snapshot.iter().map(|(path, what)| (inside(path), what.clone())).collect()
}

fn after_the_second() -> Snapshot {
    let (device, _) = prepared();
    device.engine().apply(&second()).unwrap();
    relative(&device, &device.snapshot())
}

/// After a start the device is at one generation or the other, wholly, and the second can be applied.
fn assert_whole(device: &Device, former: &Snapshot, latter: &Snapshot, when: &str) {
    let mut engine = device.engine();
    let now = device.snapshot();
    match engine.current().unwrap().counter {
        1 => assert_eq!(&now, former, "{when}"),
        2 => assert_eq!(&relative(device, &now), latter, "{when}"),
        other => panic!("{when}: generation {other}"),
    }
    assert!(!device.has_undo(), "{when}");
    let outcome = engine.apply(&second()).unwrap();
    assert!(matches!(outcome, Outcome::Applied { .. } | Outcome::Unchanged), "{when}: {outcome:?}");
    assert_eq!(&relative(device, &device.snapshot()), latter, "{when}");
    assert_eq!(engine.drift().unwrap(), [], "{when}");
}

#[test]
fn killed_at_any_step_the_next_start_finishes_or_goes_back() {
    let latter = after_the_second();
    let (mut finished, mut rolled_back) = (0, 0);
    for n in 0.. {
        let (device, former) = prepared();
        let (disk, count) = killed_at(n);
        let outcome = device.engine_on(disk).unwrap().apply(&second());
        if count.load(Ordering::Relaxed) <= n {
            assert_eq!(outcome.unwrap(), applied(2));
            assert!(n > 40, "only {n} steps were counted");
            break;
        }
        match device.engine().recovery() {
            Recovery::Clean => {}
            Recovery::Finished => finished += 1,
            Recovery::RolledBack { generation } => {
                assert_eq!(generation.counter, 2);
                rolled_back += 1;
            }
        }
        assert_whole(&device, &former, &latter, &format!("killed at step {n}"));
    }
    assert!(finished >= 1 && rolled_back >= 10, "{finished} finished, {rolled_back} rolled back");
}

#[test]
fn killed_again_at_any_step_of_going_back_the_start_after_that_ends_it() {
    let latter = after_the_second();
    for n in [14, 25, 36] {
        for m in 0.. {
            let (device, former) = prepared();
            let _ = device.engine_on(killed_at(n).0).unwrap().apply(&second());
            let (disk, count) = killed_at(m);
            let settled = device.engine_on(disk).is_ok();
            assert_whole(&device, &former, &latter, &format!("killed at step {n}, then at {m}"));
            if count.load(Ordering::Relaxed) <= m {
                assert!(settled && m > 3, "{m} steps to go back from {n}");
                break;
            }
        }
    }
}

#[test]
fn one_failed_call_rolls_back_at_once_and_says_why() {
    let latter = after_the_second();
    let mut rolled_back = 0;
    for n in 0.. {
        let (device, former) = prepared();
        let (disk, count) = counted(move |step, _| if step == n { Err(Errno::ROFS) } else { Ok(()) });
        let outcome = device.engine_on(disk).unwrap().apply(&second());
        if count.load(Ordering::Relaxed) <= n {
            break;
        }
        if let Ok(Outcome::RolledBack { why, .. }) = outcome {
            assert!(why.contains("Read-only file system"), "{why}");
            assert_eq!(device.snapshot(), former, "step {n}");
            assert!(!device.engine().taken_back().is_empty(), "step {n}: a kill now, and nobody hears of it");
            rolled_back += 1;
        }
        assert_whole(&device, &former, &latter, &format!("failed at step {n}"));
    }
    assert!(rolled_back >= 30, "{rolled_back}");
}

#[test]
fn on_a_disk_that_fills_up_at_any_step_nothing_is_half_done_once_there_is_room_again() {
    let latter = after_the_second();
    for n in 0.. {
        let (device, former) = prepared();
        let takes_room = |step| matches!(step, Step::MakeDirectory | Step::Create | Step::Write);
        let full = move |at, step| if at >= n && takes_room(step) { Err(Errno::NOSPC) } else { Ok(()) };
        let (disk, count) = counted(full);
        let outcome = device.engine_on(disk).unwrap().apply(&second());
        if count.load(Ordering::Relaxed) <= n {
            break;
        }
        if let Ok(Outcome::RolledBack { why, .. }) = outcome {
            assert!(why.contains("No space left"), "{why}");
            assert_eq!(device.snapshot(), former, "step {n}");
        }
        assert_whole(&device, &former, &latter, &format!("full from step {n}"));
    }
}

#[test]
fn killed_at_any_step_of_a_repair_the_next_one_ends_it() {
    for n in 0.. {
        let (device, former) = prepared();
        device.write("/srv/managed/a", "drifted");
        fs::remove_file(device.at("/srv/managed/gone")).unwrap();
        device.write("/proc/sys/kernel/kptr_restrict", "0\n");
        let (disk, count) = killed_at(n);
        let _ = device.engine_on(disk).unwrap().repair().unwrap();
        let left = device.engine().repair().unwrap().left;
        assert_eq!((left, device.snapshot()), (vec![], former), "step {n}");
        if count.load(Ordering::Relaxed) <= n {
            assert!(n > 10, "only {n} steps were counted");
            break;
        }
    }
}

#[test]
fn killed_at_any_step_of_a_repair_what_was_put_right_is_found_until_it_is_told_and_no_longer() {
    let mut put_right_before = 0;
    for n in 0.. {
        let (device, _) = prepared();
        device.write("/srv/managed/a", "by hand");
        let (disk, count) = killed_at(n);
        let looked = device.engine_on(disk).unwrap().repair();
        put_right_before += usize::from(device.read("/srv/managed/a") == "one");

        let mut engine = device.engine();
        let Repair { untold, left, .. } = engine.repair().unwrap();
        let items: Vec<&str> = untold.iter().map(|drift| drift.item.as_str()).collect();
        assert_eq!((&items[..], &left[..]), (&["/srv/managed/a"][..], &[][..]), "killed at step {n}");
        assert_eq!(device.read("/srv/managed/a"), "one");
        engine.told(&[]);
        assert_eq!(device.engine().repair().unwrap().untold, untold, "nothing of it was told");
        engine.told(&untold);
        assert_eq!(engine.repair().unwrap(), Repair::default());
        assert_eq!(device.engine().repair().unwrap(), Repair::default(), "after another start, too");
        if count.load(Ordering::Relaxed) <= n {
            assert_eq!(looked.unwrap().left, []);
            break;
        }
    }
    assert!(put_right_before > 1, "killed after the file was put right only {put_right_before} times");
}

#[test]
fn killed_at_any_step_a_generation_that_was_taken_back_is_untold_until_it_is_told_and_no_longer() {
    let mut taken_back = 0;
    for n in 0.. {
        let (device, _) = prepared();
        let (disk, count) = killed_at(n);
        let _ = device.engine_on(disk).unwrap().apply(&second());
        if count.load(Ordering::Relaxed) <= n {
            break;
        }
        // Killed again as soon as everything is as it was: the start after that finds nothing to settle, and knows.
        let is_back = matches!(device.engine().recovery(), Recovery::RolledBack { .. });
        let mut engine = device.engine();
        assert_eq!(engine.recovery(), Recovery::Clean, "killed at step {n}");
        let untold = engine.taken_back().to_vec();
        assert_eq!(untold.len(), usize::from(is_back), "killed at step {n}");
        taken_back += untold.len();
        engine.told_taken_back(&untold);
        assert_eq!(device.engine().taken_back(), [], "killed at step {n}");
    }
    assert!(taken_back >= 10, "{taken_back}");
}

#[test]
fn what_can_never_be_put_right_is_written_down_no_more_and_told_once_it_is_right() {
    let (device, _) = prepared();
    device.write("/proc/sys/kernel/kptr_restrict", "0\n");
    let refuses = Arc::new(AtomicBool::new(true));
    let kernel = Arc::clone(&refuses);
    let (disk, count) = counted(move |_, step| {
        if step == Step::SetKernel && kernel.load(Ordering::Relaxed) { Err(Errno::PERM) } else { Ok(()) }
    });
    let mut engine = device.engine_on(disk).unwrap();
    let mut steps = || {
        let before = count.load(Ordering::Relaxed);
        let repair = engine.repair().unwrap();
        (count.load(Ordering::Relaxed) - before, repair)
    };
    let (first, repair) = steps();
    assert_eq!((repair.left.len(), &repair.untold[..]), (1, &[][..]));
    let (second, repair) = steps();
    assert_eq!((repair.left.len(), &repair.untold[..]), (1, &[][..]));
    assert!(first > 2 && second == 1, "{first}, then {second}: nothing but the setting is tried");
    assert_eq!(steps().0, 1);
    refuses.store(false, Ordering::Relaxed);
    let (_, repair) = steps();
    assert_eq!((repair.left.len(), repair.untold.len()), (0, 1));
    assert_eq!(device.engine().repair().unwrap().untold, repair.untold, "after another start, too");
}

#[test]
fn what_an_earlier_look_put_right_is_told_although_the_next_one_cannot() {
    let (device, _) = prepared();
    let refuses = Arc::new(AtomicBool::new(false));
    let kernel = Arc::clone(&refuses);
    let (disk, _) = counted(move |_, step| {
        if step == Step::SetKernel && kernel.load(Ordering::Relaxed) { Err(Errno::PERM) } else { Ok(()) }
    });
    let mut engine = device.engine_on(disk).unwrap();
    device.write("/proc/sys/kernel/kptr_restrict", "0\n");
    let untold = engine.repair().unwrap().untold;
    assert_eq!(untold.len(), 1);
    // Nobody was told, and it drifts again.
    device.write("/proc/sys/kernel/kptr_restrict", "0\n");
    refuses.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let repair = engine.repair().unwrap();
        assert_eq!((repair.left.len(), &repair.untold), (1, &untold));
    }
    engine.told(&untold);
    assert_eq!(engine.repair().unwrap().untold, []);
}
