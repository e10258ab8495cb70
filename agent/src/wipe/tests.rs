//! The engine on small trees in temporary directories: every level, every trick, a kill before every step.

mod kills;
mod plans;
mod tricks;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use muster_wire::digest::Sha256Digest;
use muster_wire::id::OrderId;
use muster_wire::receipt::{ItemFate, ReceiptItem, ReceiptOutcome, ReceiptPhase};
use muster_wire::warrant::Level;
use tempfile::TempDir;

use super::*;
use crate::core::wiping::{PhaseReport, WipeTask};

const DEEDS: [ReceiptPhase; 3] =
    [ReceiptPhase::KeysDestroyed, ReceiptPhase::DataDestroyed, ReceiptPhase::Verified];

/// A device: a state directory, a tree with a declared root, and precious things around it.
struct Device {
    dir: TempDir,
    managed: Mutex<Vec<ManagedFile>>,
}

/// Everything in a tree: link count, mode and content by path.
type Snapshot = BTreeMap<PathBuf, (u64, u32, Vec<u8>)>;

impl Ledger for Device {
    fn managed(&self) -> Result<Vec<ManagedFile>, String> {
        Ok(self.managed.lock().unwrap().clone())
    }

    fn forget(&self) -> Result<ItemFate, String> {
        let forgotten = std::mem::take(&mut *self.managed.lock().unwrap());
        Ok(if forgotten.is_empty() { ItemFate::Kept } else { ItemFate::Cleared })
    }
}

impl Device {
    fn new() -> Self {
        let device = Self { dir: tempfile::tempdir().unwrap(), managed: Mutex::default() };
        for dir in ["state", "root/etc/muster/hooks", "root/srv/data", "root/home/someone"] {
            fs::create_dir_all(device.dir.path().join(dir)).unwrap();
        }
        for dir in ["root/etc", "root/etc/muster", "root/etc/muster/hooks"] {
            fs::set_permissions(device.dir.path().join(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
        device.write("/home/someone/precious", "precious");
        device
    }

    /// With a managed file, a managed secret, and data.
    fn furnished() -> Self {
        let device = Self::new();
        device.manage("/srv/config", "setting", 0o644);
        device.manage("/srv/secret", "password", 0o600);
        fs::create_dir_all(device.at("/srv/data/deep/deeper")).unwrap();
        device.write("/srv/data/one", "one");
        device.write("/srv/data/deep/two\nlines", &"two".repeat(100_000));
        std::os::unix::fs::symlink("/home", device.at("/srv/data/deep/link")).unwrap();
        device
    }

    /// With a LUKS2 container whose passphrase is `pass`, and a hook for a factory reset.
    fn with_everything() -> Self {
        let device = Self::furnished();
        format_luks(&device.at("/home/volume"));
        device.write("/etc/muster/wipe-volumes", "/home/volume\n");
        device.write("/etc/muster/hooks/factory-reset", "#!/bin/sh\nexit 0\n");
        let hook = device.at("/etc/muster/hooks/factory-reset");
        fs::set_permissions(hook, fs::Permissions::from_mode(0o700)).unwrap();
        device
    }

    fn manage(&self, path: &str, text: &str, mode: u32) {
        self.write(path, text);
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
        let (sha256, is_secret) = (Sha256Digest::of(text.as_bytes()), mode & 0o077 == 0);
        let file = ManagedFile { path: path.into(), sha256, is_ours: true, is_secret };
        self.managed.lock().unwrap().push(file);
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    fn engine(&self) -> Engine {
        let declared = ["/srv".to_owned()];
        Engine::new(&self.dir.path().join("state"), &self.dir.path().join("root"), &declared)
    }

    fn accept(&self, level: Level) -> PhaseReport {
        self.engine().phase(&task(level), ReceiptPhase::Accepted, self).unwrap()
    }

    /// Every phase of a wipe; the last report that there is.
    fn wipe(&self, level: Level) -> PhaseReport {
        self.wipe_with(&self.engine(), level).unwrap()
    }

    fn wipe_with(&self, engine: &Engine, level: Level) -> Result<PhaseReport, WipeError> {
        let mut report = engine.phase(&task(level), ReceiptPhase::Accepted, self)?;
        for phase in DEEDS {
            if report.outcome == ReceiptOutcome::Done {
                report = engine.phase(&task(level), phase, self)?;
            }
        }
        Ok(report)
    }

    fn outside(&self) -> Snapshot {
        let mut all = Snapshot::new();
        look(&self.at("/home"), &mut all);
        look(&self.at("/etc"), &mut all);
        all
    }
}

fn task(level: Level) -> WipeTask {
    WipeTask { order: OrderId::from_parts(1, [1; 10]), level, data_roots: vec!["/srv/data".into()] }
}

fn look(dir: &Path, all: &mut Snapshot) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            look(&path, all);
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        all.insert(path, (links, meta.permissions().mode(), content));
    }
}

fn find<'r>(report: &'r PhaseReport, what: &str) -> &'r ReceiptItem {
    let found = report.items.iter().find(|item| item.what.starts_with(what));
    found.unwrap_or_else(|| panic!("{what} is not told: {report:?}"))
}

/// A small LUKS2 container: the header with room for few keys.
pub(super) fn format_luks(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(2 << 20).unwrap();
    let words = "luksFormat --type luks2 -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
                 --luks2-metadata-size 16k --luks2-keyslots-size 256k --key-file -";
    assert!(cryptsetup(words, path), "install cryptsetup-bin");
}

/// Whether the passphrase opens the container.
pub(super) fn opens(path: &Path) -> bool {
    cryptsetup("open --test-passphrase --key-file -", path)
}

fn cryptsetup(words: &str, path: &Path) -> bool {
    let mut child = Command::new("cryptsetup")
        .args(words.split_whitespace())
        .arg(path)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"pass").unwrap();
    child.wait().unwrap().success()
}

#[test]
fn retire_takes_what_baselines_put_there_and_leaves_the_data() {
    let device = Device::furnished();
    let report = device.wipe(Level::Retire);
    assert_eq!((report.phase, report.outcome), (ReceiptPhase::Verified, ReceiptOutcome::Done));
    assert!(!device.at("/srv/config").exists() && !device.at("/srv/secret").exists());
    assert!(device.at("/srv/data/one").exists());
    assert!(device.managed.lock().unwrap().is_empty());
    let told: Vec<&str> = report.items.iter().map(|item| item.what.as_str()).collect();
    assert_eq!(told, ["/srv/config", "/srv/secret", "the baseline that the agent remembers"]);
}

#[test]
fn clear_empties_the_data_roots_and_tells_each_thing_by_name_size_and_fate() {
    let device = Device::furnished();
    let outside = device.outside();
    let report = device.wipe(Level::Clear);
    assert_eq!(report.outcome, ReceiptOutcome::Done, "{report:?}");
    assert_eq!(fs::read_dir(device.at("/srv/data")).unwrap().count(), 0);
    assert_eq!(find(&report, "/srv/data/deep/two\\nlines").size_bytes, 300_000);
    assert_eq!(find(&report, "/srv/data/deep/link").fate, ItemFate::Deleted);
    let fates = [ItemFate::Cleared, ItemFate::Deleted];
    assert!(fates.contains(&find(&report, "/srv/data/one").fate));
    assert_eq!(device.outside(), outside);
}

#[test]
fn secrets_go_with_the_keys_before_the_data() {
    let device = Device::furnished();
    device.accept(Level::Clear);
    let keys = device.engine().phase(&task(Level::Clear), ReceiptPhase::KeysDestroyed, &device).unwrap();
    assert_eq!(keys.outcome, ReceiptOutcome::Done);
    assert!(!device.at("/srv/secret").exists() && device.at("/srv/config").exists());
    assert!(device.at("/srv/data/one").exists());
}

#[test]
fn crypto_erase_leaves_a_container_that_its_passphrase_opens_no_more() {
    let device = Device::with_everything();
    let volume = device.at("/home/volume");
    assert!(opens(&volume));
    let report = device.wipe(Level::CryptoErase);
    assert_eq!(report.outcome, ReceiptOutcome::Done, "{report:?}");
    assert_eq!(find(&report, "key slots of /home/volume").fate, ItemFate::KeyDestroyed);
    assert!(!opens(&volume));
    assert!(volume.exists(), "the container stays");
}

#[test]
fn a_volume_that_is_none_or_is_not_there_refuses_before_anything_is_destroyed() {
    for (text, why) in [("/home/someone/precious\n", "no LUKS2 container"), ("/home/none\n", "not there")] {
        let device = Device::with_everything();
        device.write("/etc/muster/wipe-volumes", text);
        let report = device.wipe(Level::CryptoErase);
        assert_eq!((report.phase, report.outcome), (ReceiptPhase::Accepted, ReceiptOutcome::Refused));
        assert!(report.items[0].what.contains(why), "{report:?}");
        assert!(device.at("/srv/secret").exists());
    }
}

#[test]
fn a_volume_that_vanishes_after_it_was_accepted_fails_and_the_data_goes_all_the_same() {
    let device = Device::with_everything();
    device.accept(Level::CryptoErase);
    fs::remove_file(device.at("/home/volume")).unwrap();
    let engine = device.engine();
    let report = engine.phase(&task(Level::CryptoErase), ReceiptPhase::KeysDestroyed, &device).unwrap();
    assert_eq!((report.phase, report.outcome), (ReceiptPhase::KeysDestroyed, ReceiptOutcome::Failed));
    assert_eq!(find(&report, "key slots of /home/volume").fate, ItemFate::Failed);
    assert_eq!(fs::read_dir(device.at("/srv/data")).unwrap().count(), 0);
}

#[test]
fn factory_reset_ends_with_the_hook_and_is_refused_without_one() {
    let device = Device::with_everything();
    let trace = device.dir.path().join("reset");
    let text = format!("#!/bin/sh\nls {} > {}\n", device.at("/srv/data").display(), trace.display());
    device.write("/etc/muster/hooks/factory-reset", &text);
    let report = device.wipe(Level::FactoryReset);
    assert_eq!(report.outcome, ReceiptOutcome::Done, "{report:?}");
    assert_eq!(fs::read_to_string(&trace).unwrap(), "", "the data was gone before");

    let device = Device::with_everything();
    fs::remove_file(device.at("/etc/muster/hooks/factory-reset")).unwrap();
    let report = device.wipe(Level::FactoryReset);
    assert_eq!(report.outcome, ReceiptOutcome::Refused);
    assert_eq!(report.items[0].what, "refused: no factory-reset hook on this device");
    assert!(opens(&device.at("/home/volume")));
}

#[test]
fn a_wipe_of_very_many_things_is_told_in_one_receipt_that_fits() {
    let device = Device::new();
    (0..3_000).for_each(|n| device.write(&format!("/srv/data/{n:050}"), ""));
    let report = device.wipe(Level::Clear);
    assert_eq!(report.outcome, ReceiptOutcome::Done);
    assert_eq!(find(&report, "3000 things in all").fate, ItemFate::Deleted);
    let evidence = fs::read(device.dir.path().join("state/wipe/evidence")).unwrap();
    assert_eq!(report.evidence, Sha256Digest::of(&evidence), "the whole of it is kept on the device");
}
