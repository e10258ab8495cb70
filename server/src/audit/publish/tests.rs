use super::*;
use crate::audit::files::faults;
use crate::audit::memory::Site;
use crate::audit::verify::verify_live;
use proptest::prelude::*;

fn holds(site: &Site, size: u64) {
    let report = verify_live(&site.dir, &site.key.public());
    assert!(report.ok, "{report:?}");
    assert_eq!(report.size, size);
}

/// Every file under `dir`, relative.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for one in fs::read_dir(dir).unwrap().flatten() {
        let name = one.file_name().into_string().unwrap();
        if one.path().is_dir() {
            found.extend(files(&one.path()).into_iter().map(|rest| format!("{name}/{rest}")));
        } else {
            found.insert(name);
        }
    }
    found
}

#[test]
fn what_is_published_verifies_at_every_kind_of_size() {
    let mut site = Site::found();
    let mut size = 0;
    for more in [1, 1, 253, 1, 1, 255, 1, 600, 65_536] {
        site.append(more);
        size += more as u64;
        site.publish();
        holds(&site, size);
    }
}

#[test]
fn nothing_is_published_twice() {
    let mut site = Site::with(3);
    assert!(site.publisher.publish(&site.store).unwrap().is_none());
    site.append(1);
    assert_eq!(site.publisher.publish(&site.store).unwrap().unwrap().size, 4);
}

#[test]
fn partial_tiles_stay_for_one_more_checkpoint_and_then_go() {
    let mut site = Site::with(3);
    for _ in 0..4 {
        site.append(1);
        site.publish();
    }
    let expected =
        ["checkpoint", "tile/0/000.p/6", "tile/0/000.p/7", "tile/entries/000.p/6", "tile/entries/000.p/7"];
    assert_eq!(files(&site.dir), expected.map(str::to_owned).into());
    site.append(250);
    site.publish();
    site.append(1);
    site.publish();
    site.append(1);
    site.publish();
    assert!(!site.dir.join("tile/0/000.p").exists());
    holds(&site, 259);
}

#[test]
fn a_checkpoint_that_somebody_else_wrote_is_not_replaced() {
    let mut site = Site::with(3);
    let (_, mut other) = log::open(&site.store, &site.dir, site.key.clone(), &[]).unwrap();
    site.append(1);
    site.publish();
    assert!(matches!(other.publish(&site.store), Err(PublishError::Overtaken { .. })));
    fs::remove_file(site.dir.join(CHECKPOINT)).unwrap();
    site.append(1);
    assert!(matches!(site.publisher.publish(&site.store), Err(PublishError::Overtaken { .. })));
}

#[test]
fn a_store_that_goes_back_or_changes_under_a_running_server_is_a_contradiction() {
    let mut site = Site::with(3);
    let old = site.store.clone();
    site.append(2);
    site.publish();
    let refused = site.publisher.publish(&old);
    assert!(matches!(refused, Err(PublishError::Contradiction { signed: 5, found: 3 })));
    site.append(2);
    let entry = site.entries()[6].clone();
    site.store.0.insert(b"a/e/\0\0\0\0\0\0\0\x05".to_vec(), entry);
    assert!(matches!(site.publisher.publish(&site.store), Err(PublishError::Contradiction { .. })));
    holds(&site, 5);
}

#[test]
fn lost_tiles_are_written_again_at_the_next_start() {
    let mut site = Site::with(600);
    let whole = files(&site.dir);
    fs::remove_dir_all(site.dir.join("tile")).unwrap();
    site.restart().unwrap();
    assert_eq!(files(&site.dir), whole);
    holds(&site, 600);
}

/// Does what a crash at the N-th step leaves, for every N until a round is clean; then goes on.
#[test]
fn a_crash_at_any_step_of_publishing_loses_nothing() {
    for (before, more) in [(0, 1), (3, 2), (255, 1), (256, 300)] {
        for steps in 0.. {
            let mut site = Site::with(before);
            site.append(more);
            let outcome = faults::after(steps, || site.publisher.publish(&site.store).map(|_| ()));
            let clean = outcome.is_ok();
            site.restart().unwrap();
            let promised = site.publisher.last().size;
            assert!(promised == before as u64 || promised == (before + more) as u64);
            holds(&site, promised);
            site.append(1);
            site.publish();
            holds(&site, (before + more + 1) as u64);
            if clean {
                assert!(steps > 8, "faults are not injected");
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_passes_and_publishing_goes_on() {
    for steps in 0..30 {
        let mut site = Site::with(250);
        site.append(10);
        let _ = faults::after(steps, || site.publisher.publish(&site.store).map(|_| ()));
        site.append(10);
        site.publish();
        holds(&site, 270);
        site.restart().unwrap();
    }
}

#[test]
fn a_checkpoint_is_due_after_an_interval_or_when_enough_entries_wait() {
    let pace = Pace { interval: Duration::from_secs(1), entries: 256 };
    assert!(!pace.is_due(0, Duration::from_secs(9)));
    assert!(!pace.is_due(1, Duration::from_millis(999)));
    assert!(pace.is_due(1, Duration::from_secs(1)));
    assert!(pace.is_due(256, Duration::from_millis(200)));
    assert!(!pace.is_due(1000, Duration::from_millis(199)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn appending_publishing_and_restarting_in_any_order_verifies(
        steps in prop::collection::vec((0usize..3, 1usize..300), 1..12),
    ) {
        let mut site = Site::found();
        for (what, count) in steps {
            match what {
                0 => site.append(count),
                1 => site.publish(),
                _ => site.restart().unwrap(),
            }
        }
        site.publish();
        holds(&site, crate::audit::size(&site.store).unwrap());
    }
}
