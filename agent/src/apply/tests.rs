//! The engine on small trees in temporary directories, with a gate before every step where a test wants one.

mod kills;
mod tricks;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use muster_wire::desired::{Baseline, Content, FileEntry, Section, Setting};
use tempfile::TempDir;

use super::*;
use crate::core::baseline::SYSCTL_DROP_IN;
use crate::core::baseline::tests::{admitted, baseline};

/// A device: a state directory, and a tree with accounts, a kernel and a declared root.
pub(super) struct Device(TempDir);

/// Everything in a tree: kind, mode, link count and content by path.
type Snapshot = BTreeMap<PathBuf, (char, u32, Vec<u8>)>;

impl Device {
    pub(super) fn new() -> Self {
        let device = Self(tempfile::tempdir().unwrap());
        for dir in ["state", "root/etc", "root/proc/sys/kernel", "root/srv/managed", "root/outside"] {
            fs::create_dir_all(device.0.path().join(dir)).unwrap();
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        device.write("/etc/passwd", &format!("me:x:{uid}:{gid}::/:\n"));
        device.write("/etc/group", &format!("us:x:{gid}:\n"));
        device.write("/proc/sys/kernel/kptr_restrict", "0\n");
        device.write("/outside/precious", "precious");
        device
    }

    pub(super) fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub(super) fn engine(&self) -> Engine {
        self.engine_on(Disk::system()).unwrap()
    }

    pub(super) fn engine_on(&self, disk: Disk) -> Result<Engine, ApplyError> {
        Engine::with_disk(&self.0.path().join("state"), &self.root(), &declared(), disk)
    }

    pub(super) fn has_undo(&self) -> bool {
        self.0.path().join("state").join(UNDO).exists()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        look(&self.root(), &mut all);
        all
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&self.0.path().join("state"), &self.root(), &declared()).unwrap()
    }
}

fn look(dir: &Path, all: &mut Snapshot) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mode = meta.permissions().mode();
        if kind.is_dir() {
            look(&path, all);
            all.insert(path, ('d', mode, Vec::new()));
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap().to_string_lossy().into_owned();
            all.insert(path, ('l', 0, target.into_bytes()));
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap();
            all.insert(path, ('f', mode, content));
        } else {
            let special = if kind.is_fifo() { 'p' } else { 's' };
            all.insert(path, (special, mode, Vec::new()));
        }
    }
}

pub(super) fn declared() -> Vec<String> {
    vec!["/srv/managed".to_owned()]
}

pub(super) fn file(path: &str, text: &str) -> FileEntry {
    let (owner, group) = ("me".to_owned(), "us".to_owned());
    FileEntry { path: path.into(), mode: 0o640, owner, group, content: text.into() }
}

pub(super) fn files(entries: &[(&str, &str)]) -> Content {
    Content::Files(entries.iter().map(|(path, text)| file(path, text)).collect())
}

pub(super) fn kptr(value: &str) -> Content {
    Content::Sysctl(vec![Setting { key: "kernel.kptr_restrict".into(), value: value.into() }])
}

pub(super) fn state(counter: u64, contents: Vec<Content>) -> Admitted {
    admitted(counter, &baseline(contents), &[1], &declared()).unwrap()
}

fn applied(counter: u64) -> Outcome {
    Outcome::Applied { generation: Generation { restore_epoch: 0, counter } }
}

fn why(outcome: Outcome) -> String {
    match outcome {
        Outcome::RolledBack { why, .. } => why,
        other @ (Outcome::Applied { .. } | Outcome::Unchanged) => panic!("not rolled back but {other:?}"),
    }
}

#[test]
fn a_desired_state_is_put_in_place_and_read_back_by_the_next_start() {
    let device = Device::new();
    let desired = state(1, vec![files(&[("/srv/managed/deep/a", "hello")]), kptr("2")]);
    assert_eq!(device.engine().apply(&desired).unwrap(), applied(1));
    assert_eq!(device.read("/srv/managed/deep/a"), "hello");
    assert_eq!(fs::metadata(device.at("/srv/managed/deep/a")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(device.read("/proc/sys/kernel/kptr_restrict"), "2\n");
    assert!(device.read(SYSCTL_DROP_IN).ends_with("\nkernel.kptr_restrict = 2\n"));
    let mut engine = device.engine();
    assert_eq!(engine.recovery(), Recovery::Clean);
    assert_eq!(engine.current().unwrap().counter, 1);
    assert_eq!(engine.profile(), Some("laptop-linux"));
    assert_eq!(engine.drift().unwrap(), []);
    let inode = fs::metadata(device.at("/srv/managed/deep/a")).unwrap().ino();
    assert_eq!(engine.apply(&desired).unwrap(), Outcome::Unchanged);
    assert_eq!(
        fs::metadata(device.at("/srv/managed/deep/a")).unwrap().ino(),
        inode,
        "nothing is applied twice"
    );
}

#[test]
fn one_thing_that_cannot_be_keeps_everything_as_it_was() {
    let device = Device::new();
    let mut engine = device.engine();
    engine.apply(&state(1, vec![files(&[("/srv/managed/a", "one")])])).unwrap();
    let before = device.snapshot();
    let nobody = FileEntry { owner: "nobody-here".into(), ..file("/srv/managed/b", "") };
    let no_group = FileEntry { group: "none".into(), ..file("/srv/managed/b", "") };
    let unknown = Setting { key: "net.ipv4.tcp_syncookies".into(), value: "1".into() };
    let cases = [
        (Content::Files(vec![file("/srv/managed/a", "two"), nobody]), "no user \"nobody-here\""),
        (Content::Files(vec![file("/srv/managed/a", "two"), no_group]), "no group \"none\""),
        (files(&[("/srv/managed/a", "two"), ("/srv/managed/a/b", "below a file")]), "not a regular file"),
        (Content::Sysctl(vec![unknown]), "no such setting"),
    ];
    for (counter, (content, reason)) in (2..).zip(cases) {
        let desired = state(counter, vec![content]);
        let told = why(engine.apply(&desired).unwrap());
        assert!(told.contains(reason), "{told}");
        assert_eq!(device.snapshot(), before, "{reason}");
        assert_eq!(engine.current().unwrap().counter, 1);
        assert_eq!(engine.failed().unwrap().0.counter, counter);
        let again = engine.apply(&desired).unwrap();
        assert!(matches!(again, Outcome::RolledBack { is_repeated: true, .. }), "{again:?}");
    }
    assert_eq!(engine.apply(&state(9, vec![files(&[("/srv/managed/a", "nine")])])).unwrap(), applied(9));
    assert_eq!(engine.failed(), None);
}

#[test]
fn below_the_highest_nothing_is_applied_even_if_the_highest_failed() {
    let device = Device::new();
    let mut engine = device.engine();
    let nobody = FileEntry { owner: "nobody-here".into(), ..file("/srv/managed/b", "") };
    why(engine.apply(&state(5, vec![Content::Files(vec![nobody])])).unwrap());
    let mut engine = device.engine();
    assert_eq!(engine.highest().unwrap().0.counter, 5);
    let older = engine.apply(&state(4, vec![files(&[("/srv/managed/a", "old")])]));
    assert!(matches!(older, Err(ApplyError::Stale)), "{older:?}");
    assert!(!device.at("/srv/managed/a").exists());
}

#[test]
fn files_that_are_named_no_more_go_only_if_they_are_ours_and_untouched() {
    let device = Device::new();
    device.write("/srv/managed/before", "theirs");
    let names = ["/srv/managed/before", "/srv/managed/ours", "/srv/managed/touched"];
    let mut engine = device.engine();
    engine.apply(&state(1, vec![files(&names.map(|name| (name, "x"))), kptr("1")])).unwrap();
    device.write("/srv/managed/touched", "by somebody");
    assert_eq!(engine.apply(&state(2, vec![])).unwrap(), applied(2));
    assert_eq!(device.read("/srv/managed/before"), "x");
    assert_eq!(device.read("/srv/managed/touched"), "by somebody");
    assert!(!device.at("/srv/managed/ours").exists());
    assert!(!device.at(SYSCTL_DROP_IN).exists());
    assert_eq!(device.read("/proc/sys/kernel/kptr_restrict"), "1\n", "until the next boot");
}

#[test]
fn enforced_drift_is_repaired_and_audited_drift_only_told() {
    let device = Device::new();
    let mut engine = device.engine();
    let audited = Baseline {
        profile: "laptop-linux".into(),
        sections: vec![
            Section {
                mode: Mode::Enforce,
                content: files(&[("/srv/managed/a", "a"), ("/srv/managed/b", "b")]),
            },
            Section { mode: Mode::Audit, content: kptr("2") },
        ],
    };
    let desired = admitted(1, &audited, &[1], &declared()).unwrap();
    assert_eq!(engine.apply(&desired).unwrap(), applied(1));
    assert!(!device.at(SYSCTL_DROP_IN).exists());
    device.write("/srv/managed/a", "changed");
    fs::remove_file(device.at("/srv/managed/b")).unwrap();
    let drift = |section, item: &str| Drift { section, item: item.into() };
    let kernel = drift(SectionKind::Sysctl, "kernel.kptr_restrict");
    let all = vec![
        drift(SectionKind::Files, "/srv/managed/a"),
        drift(SectionKind::Files, "/srv/managed/b"),
        kernel.clone(),
    ];
    assert_eq!(engine.drift().unwrap(), all);
    assert_eq!(device.read("/srv/managed/a"), "changed", "looking changes nothing");
    assert_eq!(
        engine.repair().unwrap(),
        Repair { found: all.clone(), left: vec![(kernel.clone(), None)], untold: all[..2].to_vec() }
    );
    assert_eq!(device.read("/srv/managed/a"), "a");
    assert_eq!(device.read("/srv/managed/b"), "b");
    assert_eq!(device.read("/proc/sys/kernel/kptr_restrict"), "0\n");
    assert_eq!(engine.drift().unwrap(), [kernel]);
}

#[test]
fn a_changed_mode_is_drift_and_a_link_in_the_place_of_a_file_is_told_and_left() {
    let device = Device::new();
    let mut engine = device.engine();
    engine.apply(&state(1, vec![files(&[("/srv/managed/a", "a"), ("/srv/managed/b", "b")])])).unwrap();
    fs::set_permissions(device.at("/srv/managed/a"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::remove_file(device.at("/srv/managed/b")).unwrap();
    std::os::unix::fs::symlink(device.at("/outside/precious"), device.at("/srv/managed/b")).unwrap();
    let repair = engine.repair().unwrap();
    assert_eq!(repair.found.len(), 2);
    assert_eq!(repair.left.len(), 1);
    assert_eq!(repair.left[0].1.as_deref(), Some("what stands there is not a regular file"));
    assert_eq!(fs::metadata(device.at("/srv/managed/a")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(device.read("/outside/precious"), "precious");
}

#[test]
fn where_no_kernel_runs_settings_hold_from_the_next_boot() {
    let device = Device::new();
    fs::remove_dir_all(device.at("/proc")).unwrap();
    let mut engine = device.engine();
    assert_eq!(engine.apply(&state(1, vec![kptr("2")])).unwrap(), applied(1));
    assert!(device.read(SYSCTL_DROP_IN).contains("kernel.kptr_restrict = 2"));
    fs::remove_file(device.at(SYSCTL_DROP_IN)).unwrap();
    assert_eq!(engine.drift().unwrap()[0].item, SYSCTL_DROP_IN);
    assert!(!device.at("/proc").exists());
}

#[test]
fn a_head_signed_again_with_other_intervals_is_kept_without_applying_anything() {
    let device = Device::new();
    let mut engine = device.engine();
    let first = state(1, vec![kptr("2")]);
    engine.apply(&first).unwrap();
    let later = crate::core::baseline::tests::admitted_later(&first, 5);
    assert_eq!(engine.apply(&later).unwrap(), Outcome::Unchanged);
    assert_eq!(device.engine().head().unwrap().intervals.drift_s, 5);
}

#[test]
fn a_plan_tells_what_would_change_and_changes_nothing() {
    let device = Device::new();
    assert_eq!(device.plan().generation, None);
    let mut engine = device.engine();
    engine.apply(&state(1, vec![files(&[("/srv/managed/a", "a")]), kptr("2")])).unwrap();
    assert_eq!(device.plan().steps, []);
    device.write("/srv/managed/a", "changed");
    let nobody = FileEntry { owner: "nobody-here".into(), ..file("/srv/managed/b", "") };
    why(engine.apply(&state(2, vec![Content::Files(vec![file("/srv/managed/a", "a2"), nobody])])).unwrap());
    let before = device.snapshot();
    let plan = device.plan();
    assert_eq!((plan.generation.unwrap().counter, plan.in_force.unwrap().counter), (2, 1));
    let told: Vec<_> = plan.steps.iter().map(|step| (step.item.as_str(), step.action)).collect();
    assert_eq!(
        told,
        [
            ("/srv/managed/a", Action::Replace),
            ("/srv/managed/b", Action::Replace),
            (SYSCTL_DROP_IN, Action::Remove)
        ]
    );
    assert!(plan.steps[1].problem.as_deref().unwrap().contains("nobody-here"));
    assert_eq!(device.snapshot(), before);
}

#[test]
fn a_damaged_memory_is_said_and_not_guessed_at() {
    let device = Device::new();
    device.engine().apply(&state(1, vec![kptr("2")])).unwrap();
    let path = device.0.path().join("state").join(LEDGER);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = device.engine_on(Disk::system()).unwrap_err();
    assert!(matches!(error, ApplyError::Sheet { what: LEDGER, .. }), "{error}");
}
