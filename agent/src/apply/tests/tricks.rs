//! Links, pipes, mounts of meaning and odd names: whatever is asked for and whatever stands in the tree, nothing
//! outside the declared roots changes.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// Everything outside the declared root.
fn outside(device: &Device) -> Snapshot {
    let managed = device.at("/srv/managed");
    device.snapshot().into_iter().filter(|(path, _)| !path.starts_with(&managed)).collect()
}

/// A declared root full of ways out.
fn booby_trapped() -> Device {
    let device = Device::new();
    let managed = |name: &str| device.at(&format!("/srv/managed/{name}"));
    symlink(device.at("/outside"), managed("link")).unwrap();
    symlink("../../outside", managed("up")).unwrap();
    symlink(device.at("/outside/precious"), managed("file-link")).unwrap();
    symlink(device.at("/outside/not-there"), managed("dangling")).unwrap();
    fs::hard_link(device.at("/outside/precious"), managed("hard")).unwrap();
    fs::create_dir(managed("dir")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, managed("pipe"), rustix::fs::Mode::RUSR).unwrap();
    device
}

#[test]
fn links_and_special_files_are_refused_by_their_names() {
    let cases = [
        ("/srv/managed/link/precious", "symbolic link"),
        ("/srv/managed/up/precious", "symbolic link"),
        ("/srv/managed/file-link", "not a regular file"),
        ("/srv/managed/dangling", "not a regular file"),
        ("/srv/managed/dir", "not a regular file"),
        ("/srv/managed/pipe", "not a regular file"),
        ("/srv/managed/pipe/x", "not a regular file"),
    ];
    for (path, reason) in cases {
        let device = booby_trapped();
        let before = device.snapshot();
        let told = why(device.engine().apply(&state(1, vec![files(&[(path, "taken")])])).unwrap());
        assert!(told.starts_with(path) && told.contains(reason), "{told}");
        assert_eq!(device.snapshot(), before, "{path}");
    }
}

#[test]
fn a_hard_link_is_parted_from_its_other_name_not_written_through() {
    let device = booby_trapped();
    device.engine().apply(&state(1, vec![files(&[("/srv/managed/hard", "managed")])])).unwrap();
    assert_eq!(device.read("/srv/managed/hard"), "managed");
    assert_eq!(device.read("/outside/precious"), "precious");
}

#[test]
fn a_kernel_setting_that_is_a_link_or_has_a_second_name_is_not_written() {
    let setting = "/proc/sys/kernel/kptr_restrict";
    for trick in
        [|from: &Path, to: &Path| symlink(from, to), |from: &Path, to: &Path| fs::hard_link(from, to)]
    {
        let device = Device::new();
        fs::remove_file(device.at(setting)).unwrap();
        trick(&device.at("/outside/precious"), &device.at(setting)).unwrap();
        let before = outside(&device);
        why(device.engine().apply(&state(1, vec![kptr("2")])).unwrap());
        assert_eq!(outside(&device), before);
    }
}

#[test]
fn a_large_file_is_not_replaced_since_it_could_not_be_brought_back() {
    let device = Device::new();
    fs::write(device.at("/srv/managed/big"), vec![b'x'; (1 << 20) + 1]).unwrap();
    let told = why(device.engine().apply(&state(1, vec![files(&[("/srv/managed/big", "small")])])).unwrap());
    assert!(told.contains("larger than 1 MiB"), "{told}");
}

#[test]
fn the_agents_own_state_is_closed_even_where_a_declared_root_contains_it() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("var/lib/muster-agent");
    fs::create_dir_all(&state_dir).unwrap();
    fs::create_dir_all(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/passwd"), fs::read_to_string(Device::new().at("/etc/passwd")).unwrap())
        .unwrap();
    fs::write(dir.path().join("etc/group"), fs::read_to_string(Device::new().at("/etc/group")).unwrap())
        .unwrap();
    let apply = |path: &str, declared: &[&str]| {
        let declared: Vec<String> = declared.iter().map(|root| (*root).to_owned()).collect();
        let mut engine = Engine::new(&state_dir, dir.path(), &declared).unwrap();
        let counter = engine.highest().map_or(1, |(mark, _)| mark.counter + 1);
        let desired = admitted(counter, &baseline(vec![files(&[(path, "x")])]), &[1], &declared).unwrap();
        engine.apply(&desired).unwrap()
    };
    let journal = "/var/lib/muster-agent/journal";
    for declared in [&["/var"][..], &["/"], &["/var/lib/muster-agent"]] {
        assert!(why(apply(journal, declared)).contains("beyond the roots"), "{declared:?}");
    }
    let managed = "/var/lib/muster-agent/managed";
    assert!(matches!(apply("/var/lib/muster-agent/managed/a", &["/var", managed]), Outcome::Applied { .. }));
    assert!(why(apply(journal, &["/var", managed])).contains("beyond the roots"));
}

#[test]
fn a_directory_swapped_for_a_link_at_any_step_leads_nowhere() {
    for n in 0.. {
        let device = Device::new();
        fs::create_dir(device.at("/srv/managed/sub")).unwrap();
        let before = outside(&device);
        let (sub, away, target) =
            (device.at("/srv/managed/sub"), device.at("/srv/managed/away"), device.at("/outside"));
        let count = std::sync::Arc::new(AtomicUsize::new(0));
        let steps = std::sync::Arc::clone(&count);
        let gate = move |_| {
            if steps.fetch_add(1, Ordering::Relaxed) == n {
                fs::rename(&sub, &away).and_then(|()| symlink(&target, &sub)).unwrap();
            }
            Ok(())
        };
        let entries = [("/srv/managed/sub/precious", "taken"), ("/srv/managed/sub/other", "taken")];
        let mut engine = device.engine_on(Disk::gated(Box::new(gate))).unwrap();
        let _ = engine.apply(&state(1, vec![files(&entries)]));
        drop(engine);
        assert_eq!(outside(&device), before, "swapped at step {n}");
        if count.load(Ordering::Relaxed) <= n {
            assert!(n > 20, "only {n} steps were counted");
            break;
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => prop::sample::select(vec!["a", "dir", "link", "up", "file-link", "dangling", "hard", "pipe"]),
        2 => prop::sample::select(vec!["..", ".", "", "*", "new\nline", "precious", ".muster-agent.new"]),
    ];
    let start = prop_oneof![
        6 => Just("/srv/managed"),
        1 => prop::sample::select(vec!["", "/", "/outside", "/srv/managed-not", "srv/managed", "/etc", "//srv/managed"]),
    ];
    (start, prop::collection::vec(name, 1..4))
        .prop_map(|(start, names)| format!("{start}/{}", names.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_plan_nothing_outside_declared_roots_changes(
        plans in prop::collection::vec((path(), 0_u32..0o10_000, "[a-z]{0,9}"), 1..4),
        is_single in any::<bool>(),
    ) {
        let device = booby_trapped();
        let before = outside(&device);
        let mut engine = device.engine();
        let mode = |mode: u32| if is_single { 0o600 } else { mode };
        let entries = plans.iter().map(|(path, bits, text)| FileEntry { mode: mode(*bits), ..file(path, text) });
        if let Ok(desired) = admitted(1, &baseline(vec![Content::Files(entries.collect())]), &[1], &declared()) {
            let _ = engine.apply(&desired).unwrap();
            engine.repair().unwrap();
        }
        prop_assert_eq!(outside(&device), before);
    }
}
