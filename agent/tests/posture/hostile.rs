//! Trees made to mislead, to hurt or to keep the collector busy. Each ends soon, with the reason in words.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use muster_wire::cbor;
use muster_wire::id::{DeviceId, ReportId};
use muster_wire::posture::{FactState, FactValue, PostureReport};

use super::tree::{Tree, now};
use super::trees;
use muster_agent::posture;

#[test]
fn an_empty_tree_and_none_at_all_know_nothing() {
    for root in [Tree::empty().root().to_owned(), "/nowhere/at/all".into()] {
        let facts = posture::collect(&root, now());
        assert_eq!(facts.len(), 13);
        assert!(facts.is_sorted_by(|a, b| a.name < b.name));
        for fact in facts {
            assert_eq!(fact.state, FactState::Unknown, "{}: {}", fact.name.as_str(), fact.evidence);
            assert!(!fact.evidence.is_empty() && !fact.source.is_empty(), "{}", fact.name.as_str());
        }
    }
}

#[test]
fn devices_that_stand_on_each_other_end_as_unknown() {
    let tree = Tree::empty();
    tree.mapping("dm-0", "253:0", "a", "LVM-a", &["virtual/dm-1"])
        .mapping("dm-1", "253:1", "b", "LVM-b", &["virtual/dm-0", "virtual/dm-1"])
        .mounts(&["253:0 / ext4 /dev/mapper/a"]);
    let fact = tree.fact("disk_encryption");
    assert_eq!(fact.state, FactState::Unknown);
    assert!(fact.evidence.contains("circle"), "{}", fact.evidence);
}

#[test]
fn a_link_that_leaves_the_tree_stays_in_it() {
    let tree = Tree::empty();
    tree.link("/etc/os-release", "/../../../../etc/os-release");
    assert_eq!(tree.state("os_support"), FactState::Unknown);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("sshd"), "").unwrap();
    tree.dir("/usr/bin").link("/usr/sbin", outside.path().to_str().unwrap());
    assert_eq!(tree.state("ssh_password"), FactState::NotApplicable);
}

#[test]
fn links_in_a_circle_pipes_and_directories_are_not_read() {
    let tree = Tree::empty();
    tree.link("/etc/os-release", "/usr/lib/os-release").link("/usr/lib/os-release", "/etc/os-release");
    tree.dir("/proc/self/mountinfo");
    let pipe = tree.path("/proc/swaps");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for name in ["os_support", "disk_encryption", "swap_encryption"] {
        assert_eq!(tree.state(name), FactState::Unknown, "{name}");
    }
    assert!(tree.fact("swap_encryption").evidence.contains("no regular file"));
}

#[test]
fn a_file_beyond_its_cap_is_not_read() {
    let tree = trees::debian_plain();
    for path in [
        "/etc/os-release",
        "/etc/ssh/sshd_config",
        "/proc/self/mountinfo",
        "/run/muster-agent/nft-ruleset.json",
    ] {
        // A hole: larger than memory, and no byte of it on the disk.
        fs::File::create(tree.path(path)).unwrap().set_len(1 << 40).unwrap();
    }
    for name in ["os_support", "ssh_password", "disk_encryption", "firewall"] {
        let fact = tree.fact(name);
        assert_eq!(fact.state, FactState::Unknown, "{name}");
        assert!(fact.evidence.contains("larger than"), "{name}: {}", fact.evidence);
    }
}

#[test]
fn a_line_without_an_end_is_cut_and_the_list_is_refused() {
    let tree = trees::debian_plain();
    fs::File::create(tree.path("/var/lib/dpkg/status")).unwrap().set_len(1 << 40).unwrap();
    let fact = tree.fact("security_updates");
    assert_eq!(fact.state, FactState::Unknown);
    assert!(fact.evidence.contains("larger than"), "{}", fact.evidence);
}

#[test]
fn what_is_no_utf8_is_read_as_far_as_it_is() {
    let tree = Tree::empty();
    tree.file("/etc/os-release", b"ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"\xff\xfe\x1b[31mred\"\n");
    let fact = tree.fact("os_support");
    assert_eq!(fact.value, FactValue::Text("debian 12".into()));
    assert!(!fact.evidence.contains('\x1b') && fact.evidence.contains("red"), "{:?}", fact.evidence);
    tree.dir("/etc/ssh/sshd_config.d").file("/usr/sbin/sshd", "");
    let name = std::ffi::OsStr::from_bytes(b"\xff\xff.conf");
    fs::write(tree.path("/etc/ssh/sshd_config.d").join(name), "PermitRootLogin yes\n").unwrap();
    tree.file("/etc/ssh/sshd_config", "Include sshd_config.d/*.conf\n");
    assert_eq!(tree.facts().len(), 13);
}

#[test]
fn a_device_that_lies_about_its_numbers_is_not_followed() {
    let tree = Tree::empty();
    tree.mounts(&["8:../.. / ext4 /dev/sda", "8:1 /srv ext4 /dev/sda1"])
        .file("/sys/dev/block/8:1/partition", "1")
        .file("/sys/dev/block/dev", "../../../etc/shadow");
    assert_eq!(tree.state("disk_encryption"), FactState::Unknown);
}

#[test]
fn the_worst_report_fits_on_the_wire() {
    let tree = trees::debian_plain();
    let long = "\u{1F980}".repeat(20_000);
    tree.file("/etc/os-release", format!("ID=debian\nPRETTY_NAME=\"{long}\"\n"))
        .file("/run/reboot-required.pkgs", &long)
        .file("/sys/kernel/security/lockdown", format!("[{long}]"))
        .file("/etc/ssh/sshd_config", format!("PermitRootLogin {long}\n"))
        .file("/sys/class/tpm/tpm0/tpm_version_major", &long);
    let id = ReportId::from_bytes([1; 16]);
    let report = PostureReport { device: DeviceId::from_bytes([2; 16]), id, facts: tree.facts(), at: now() };
    let bytes = cbor::encode(&report);
    assert!(bytes.len() < 32 * 1024, "{} bytes", bytes.len());
    assert_eq!(cbor::decode::<PostureReport>(&bytes).unwrap(), report);
}
