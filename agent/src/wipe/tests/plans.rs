//! A thousand random plans over random trees, with somebody who moves, links and swaps things while the wipe runs: nothing
//! outside the declared root changes, and a wipe that is called done has left nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::*;

/// Numbers that are the same in every run (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }
}

const NAMES: [&[u8]; 9] =
    [b"a", b"b c", b"new\nline", b"*", b"..x", b"-rf", b"\xff\xfe", "ü".as_bytes(), b"$(id)"];
const ROOTS: [&str; 9] = [
    "/srv/data",
    "/srv",
    "/srv/data/a",
    "/home",
    "/srv/../home",
    "/srv/data/../../home",
    "/",
    "/srv/*",
    "srv",
];

/// Grows a tree of things, some of which lead or belong outside.
fn grow(chance: &mut Chance, dir: &Path, outside: &Path, depth: usize) {
    for _ in 0..1 + chance.below(4) {
        let path = dir.join(OsString::from_vec(NAMES[chance.below(NAMES.len())].to_vec()));
        // Whatever stands there already stays.
        let _ = match chance.below(8) {
            0..=2 => fs::write(&path, vec![7; chance.below(5_000)]),
            3 => std::os::unix::fs::symlink(outside, &path),
            4 => std::os::unix::fs::symlink("../../..", &path),
            5 => fs::hard_link(outside.join("someone/precious"), &path),
            _ if depth < 3 => fs::create_dir(&path).map(|()| grow(chance, &path, outside, depth + 1)),
            _ => Ok(()),
        };
    }
}

/// Somebody who knows the tree plays a trick with it.
fn trick(chance: &mut Chance, data: &Path, outside: &Path) {
    let Ok(entries) = fs::read_dir(data) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    if paths.is_empty() {
        return;
    }
    let path = &paths[chance.below(paths.len())];
    // Each may fail for what was done before, which is as good.
    let _ = match chance.below(5) {
        0 => fs::rename(path, data.with_file_name("moved"))
            .and_then(|()| std::os::unix::fs::symlink(outside, path)),
        1 => fs::remove_file(path)
            .and_then(|()| std::os::unix::fs::symlink(outside.join("someone/precious"), path)),
        2 => fs::remove_file(path).and_then(|()| fs::hard_link(outside.join("someone/precious"), path)),
        3 => fs::rename(path, data.join("renamed")),
        // Never through a link that an earlier trick has laid there.
        _ => fs::File::create_new(data.join("late")).map(drop),
    };
}

/// What the precious things are, but for how many names they have.
fn content(device: &Device) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    device.outside().into_iter().map(|(path, (_, mode, content))| (path, (mode, content))).collect()
}

#[test]
fn in_a_thousand_random_plans_nothing_outside_the_declared_root_changes() {
    let (mut done, mut refused, mut failed) = (0, 0, 0);
    for seed in 0..1_000 {
        let mut chance = Chance(seed);
        let device = Device::new();
        let (data, outside) = (device.at("/srv/data"), device.at("/home"));
        grow(&mut chance, &data, &outside, 0);
        let before = content(&device);
        let roots: Vec<String> =
            (0..1 + chance.below(2)).map(|_| ROOTS[chance.below(ROOTS.len())].to_owned()).collect();
        let task = WipeTask { data_roots: roots.clone(), ..task(Level::Clear) };
        let (at, player) = (chance.below(12), Mutex::new((chance, 0)));
        let (there, home) = (data.clone(), outside.clone());
        let engine = device.engine().gated(Box::new(move |_| {
            let (chance, steps) = &mut *player.lock().unwrap();
            *steps += 1;
            if *steps % 12 == at {
                trick(chance, &there, &home);
            }
            Ok(())
        }));
        let mut report = engine.phase(&task, ReceiptPhase::Accepted, &device).unwrap();
        for phase in DEEDS {
            if report.outcome == ReceiptOutcome::Done {
                report = engine.phase(&task, phase, &device).unwrap();
            }
        }
        assert_eq!(content(&device), before, "plan {seed}: {roots:?}");
        match report.outcome {
            ReceiptOutcome::Refused => refused += 1,
            ReceiptOutcome::Failed => {
                failed += 1;
                assert!(
                    report.items.iter().any(|item| item.fate == ItemFate::Failed),
                    "plan {seed}: {report:?}"
                );
            }
            ReceiptOutcome::Done => done += 1,
        }
    }
    assert!(done > 20 && refused > 300 && failed > 100, "{done} done, {refused} refused, {failed} failed");
}

#[test]
fn left_alone_a_random_tree_goes_whole_or_what_stays_is_named() {
    for seed in 0..200 {
        let mut chance = Chance(seed);
        let device = Device::new();
        grow(&mut chance, &device.at("/srv/data"), &device.at("/home"), 0);
        let report = device.wipe(Level::Clear);
        let is_linked = report.items.iter().any(|item| item.what.ends_with("(another name of it is left)"));
        let expected = if is_linked { ReceiptOutcome::Failed } else { ReceiptOutcome::Done };
        assert_eq!(report.outcome, expected, "plan {seed}: {report:?}");
        assert_eq!(fs::read_dir(device.at("/srv/data")).unwrap().count(), 0, "plan {seed}");
    }
}
