//! What each machine says of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use muster_wire::posture::{FactState, FactValue};
use muster_wire::time::Timestamp;

use super::tree::{Tree, now};
use super::trees;
use muster_agent::posture;

/// Compares line by line; a line that ends with `…` is compared up to it.
fn compare(found: &str, expected: &str) {
    let expected: Vec<_> = expected.trim().lines().map(str::trim).collect();
    let found: Vec<_> = found.lines().collect();
    for (found, expected) in found.iter().zip(&expected) {
        match expected.strip_suffix('…') {
            Some(lead) => assert!(found.starts_with(lead), "{found}\nis not\n{expected}"),
            None => assert_eq!(found, expected),
        }
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_laptop_with_luks_beneath_lvm_passes() {
    compare(
        &trees::ubuntu_luks_lvm().golden(),
        "agent_integrity unknown DIGEST | no list of the release's digests is here
         disk_encryption pass true | / encrypted by dm-crypt LUKS2 dm_crypt-0
         firewall pass [\"inet\"] | input is refused unless allowed (inet); ufw.conf says enabled
         kernel_lockdown pass integrity | lockdown is integrity, modules lockdown,capability,landlock,yama,apparmor, AppArmor is on
         os_support unknown ubuntu 24.04 | Ubuntu 24.04.1 LTS
         reboot_required pass false | packages leave a mark here, and there is none
         secure_boot pass true | SecureBoot is 1, SetupMode 0
         security_updates pass 0 | none pending, lists fetched at …
         ssh_password pass false | only keys are accepted
         ssh_root_login pass prohibit-password | PermitRootLogin is prohibit-password
         swap_encryption pass true | /dev/dm-2 encrypted by dm-crypt LUKS2 dm_crypt-0
         time_sync pass systemd-timesyncd | systemd-timesyncd set the clock, last at …
         tpm pass 2.0 | tpm0 speaks TPM 2.0",
    );
}

#[test]
fn a_plain_debian_fails_where_it_should() {
    compare(
        &trees::debian_plain().golden(),
        "agent_integrity unknown DIGEST | no list of the release's digests is here
         disk_encryption fail false | / plain on vda, as far as the kernel sees (OPAL cannot be seen)
         firewall fail [] | input is accepted by default
         kernel_lockdown fail none | lockdown is none
         os_support unknown debian 12 | Debian GNU/Linux 12 (bookworm)
         reboot_required fail true | the mark is set, by linux-image-6.1.0-25-amd64
         secure_boot fail false | SecureBoot is 0
         security_updates fail 1 | 1 pending, lists fetched at …
         ssh_password fail true | PasswordAuthentication is not no
         ssh_root_login fail yes | PermitRootLogin is yes
         swap_encryption fail false | /dev/vda5 plain on vda, as far as the kernel sees (OPAL cannot be seen)
         time_sync fail - | systemd-timesyncd runs and has not set the clock since boot
         tpm fail none | the kernel knows no TPM",
    );
}

#[test]
fn a_machine_without_efi_has_no_secure_boot_to_judge() {
    compare(
        &trees::no_efi().golden(),
        "agent_integrity unknown DIGEST | no list of the release's digests is here
         disk_encryption fail false | / plain on sda, as far as the kernel sees (OPAL cannot be seen)
         firewall unknown - | /run/muster-agent/nft-ruleset.json is not there
         kernel_lockdown fail none | the kernel has no lockdown, modules capability,landlock,yama
         os_support unknown alpine 3.22.1 | Alpine Linux v3.22
         reboot_required unknown - | no mark, and nothing installed that would leave one
         secure_boot not_applicable - | the kernel was not started by EFI
         security_updates unknown - | no dpkg here; updates of alpine are not read
         ssh_password not_applicable - | sshd is not installed
         ssh_root_login not_applicable - | sshd is not installed
         swap_encryption not_applicable - | nothing is swapped out
         time_sync unknown - | no file of systemd-timesyncd, chrony or ntp says when the clock was last set
         tpm fail none | the kernel knows no TPM",
    );
}

#[test]
fn a_fedora_on_btrfs_is_followed_to_its_devices() {
    compare(
        &trees::fedora().golden(),
        "agent_integrity unknown DIGEST | no list of the release's digests is here
         disk_encryption pass true | / encrypted by dm-crypt LUKS2 luks-1111; /home encrypted by dm-crypt LUKS2 luks-1111
         firewall pass [\"inet\"] | input is refused unless allowed (inet); firewalld is configured
         kernel_lockdown pass confidentiality | lockdown is confidentiality, modules lockdown,capability,yama,selinux, SELinux enforces
         os_support unknown fedora 43 | Fedora Linux 43
         reboot_required unknown - | no mark, and nothing installed that would leave one
         secure_boot pass true | SecureBoot is 1, SetupMode 0
         security_updates unknown - | no dpkg here; updates of fedora are not read
         ssh_password not_applicable - | sshd is not installed
         ssh_root_login not_applicable - | sshd is not installed
         swap_encryption pass true | /dev/zram0 in memory (zram0)
         time_sync pass chrony | chrony noted the clock's drift at …
         tpm pass 2.0 | tpm0 speaks TPM 2.0",
    );
}

#[test]
fn a_raspberry_pi_says_what_it_can() {
    compare(
        &trees::raspberry_pi().golden(),
        "agent_integrity unknown DIGEST | no list of the release's digests is here
         disk_encryption fail false | / plain on mmcblk0, as far as the kernel sees (OPAL cannot be seen)
         firewall unknown - | /run/muster-agent/nft-ruleset.json is not there
         kernel_lockdown unknown - | securityfs is not mounted at /sys/kernel/security
         os_support unknown raspbian 12 | Raspbian GNU/Linux 12 (bookworm)
         reboot_required unknown - | no mark, and nothing installed that would leave one
         secure_boot not_applicable - | the kernel was not started by EFI
         security_updates unknown - | /var/lib/apt/lists holds no list of a security archive
         ssh_password fail true | passwords are accepted for Match User pi
         ssh_root_login pass prohibit-password | PermitRootLogin is prohibit-password
         swap_encryption fail false | /var/swap plain on mmcblk0, as far as the kernel sees (OPAL cannot be seen)
         time_sync pass systemd-timesyncd | systemd-timesyncd set the clock, last at …
         tpm fail none | the kernel knows no TPM",
    );
}

#[test]
fn one_plain_device_beneath_is_enough_to_be_plain() {
    let tree = Tree::empty();
    tree.disk("sda", "8:0")
        .disk("sdb", "8:16")
        .mapping("dm-0", "253:0", "luks", "CRYPT-LUKS2-x", &["sda"])
        .mapping("dm-1", "253:1", "data", "LVM-x", &["virtual/dm-0", "sdb"])
        .mounts(&["253:0 / ext4 /dev/mapper/luks", "253:1 /srv xfs /dev/mapper/data"]);
    let fact = tree.fact("disk_encryption");
    assert_eq!(fact.state, FactState::Fail);
    assert!(fact.evidence.starts_with("/srv plain on sdb"), "{}", fact.evidence);
}

#[test]
fn what_encrypts_out_of_sight_is_unknown() {
    for (mount, why) in [
        ("0:40 / zfs rpool/ROOT", "ZFS"),
        ("0:41 / overlay overlay", "overlay"),
        ("0:42 / btrfs /dev/sda", "btrfs"),
    ] {
        let tree = Tree::empty();
        tree.disk("sda", "8:0").mounts(&[mount]);
        let fact = tree.fact("disk_encryption");
        assert_eq!((fact.state, fact.value), (FactState::Unknown, FactValue::Nothing), "{mount}");
        assert!(fact.evidence.contains(why), "{}", fact.evidence);
    }
    let tree = Tree::empty();
    tree.disk("sda", "8:0").mounts(&["8:0 / ext4 /dev/sda"]).dir("/.fscrypt");
    assert_eq!(tree.state("disk_encryption"), FactState::Unknown);
}

#[test]
fn a_stick_that_is_plugged_in_does_not_count() {
    let tree = Tree::empty();
    tree.disk("sda", "8:0")
        .disk("sdb", "8:16")
        .file("/sys/devices/sdb/removable", "1\n")
        .mapping("dm-0", "253:0", "luks", "CRYPT-LUKS2-x", &["sda"])
        .mounts(&["253:0 / ext4 /dev/mapper/luks", "8:16 /media/stick vfat /dev/sdb"]);
    assert_eq!(tree.state("disk_encryption"), FactState::Pass);
}

#[test]
fn swap_in_memory_that_is_written_back_to_a_disk_is_unknown() {
    let tree = trees::fedora();
    tree.file("/sys/devices/zram0/backing_dev", "none\n");
    assert_eq!(tree.state("swap_encryption"), FactState::Pass);
    tree.file("/sys/devices/zram0/backing_dev", "/dev/sda4\n");
    assert_eq!(tree.state("swap_encryption"), FactState::Unknown);
}

#[test]
fn setup_mode_and_odd_variables_are_no_secure_boot() {
    let tree = trees::ubuntu_luks_lvm();
    let path = |name: &str| format!("/sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    tree.file(&path("SetupMode"), [6, 0, 0, 0, 1]);
    assert_eq!(tree.state("secure_boot"), FactState::Fail);
    tree.file(&path("SecureBoot"), [6, 0, 0]);
    assert_eq!(tree.state("secure_boot"), FactState::Unknown);
}

#[test]
fn lists_that_are_old_or_compressed_prove_nothing() {
    let tree = trees::ubuntu_luks_lvm();
    let later = now().plus_seconds(8 * 86_400);
    let facts = posture::collect(tree.root(), later);
    let old = facts.iter().find(|fact| fact.name.as_str() == "security_updates").unwrap();
    assert_eq!((old.state, &old.value), (FactState::Unknown, &FactValue::Number(0)));
    tree.file("/var/lib/apt/lists/x_dists_noble-security_main_binary-amd64_Packages.lz4", "");
    let packed = tree.fact("security_updates");
    assert_eq!(packed.state, FactState::Unknown);
    assert!(packed.evidence.contains("compressed"), "{}", packed.evidence);
}

#[test]
fn an_update_that_is_installed_is_no_longer_pending() {
    let tree = trees::debian_plain();
    assert_eq!(tree.fact("security_updates").value, FactValue::Number(1));
    let status = fs::read_to_string(tree.path("/var/lib/dpkg/status")).unwrap();
    tree.file("/var/lib/dpkg/status", status.replace("3.0.14-1~deb12u1", "3.0.14-1~deb12u10"));
    assert_eq!(tree.fact("security_updates").value, FactValue::Number(0));
}

#[test]
fn the_running_program_is_compared_with_its_release() {
    let tree = Tree::empty();
    let FactValue::Text(digest) = tree.fact("agent_integrity").value else { panic!("no digest") };
    let release = "/usr/share/muster-agent/release.sha256";
    tree.file(release, format!("{}  other\n{digest}  muster-agent\n", "0".repeat(64)));
    assert_eq!(tree.state("agent_integrity"), FactState::Pass);
    tree.file(release, format!("{}  muster-agent\n", "0".repeat(64)));
    assert_eq!(tree.state("agent_integrity"), FactState::Fail);
}

#[test]
fn an_identity_that_others_may_read_fails() {
    let tree = Tree::empty();
    let key = "/var/lib/muster-agent/identity/key.pem";
    tree.file(key, "");
    let mode =
        |path: &str, bits| fs::set_permissions(tree.path(path), fs::Permissions::from_mode(bits)).unwrap();
    mode("/var/lib/muster-agent/identity", 0o700);
    mode(key, 0o600);
    assert_eq!(tree.state("agent_integrity"), FactState::Unknown);
    mode(key, 0o640);
    let fact = tree.fact("agent_integrity");
    assert_eq!(
        (fact.state, fact.evidence.as_str()),
        (FactState::Fail, "mode 0640 lets others at identity/key.pem")
    );
}

#[test]
fn a_drift_file_of_yesterday_proves_nothing() {
    let tree = trees::fedora();
    let facts = posture::collect(tree.root(), Timestamp(now().seconds() + 2 * 86_400));
    let sync = facts.iter().find(|fact| fact.name.as_str() == "time_sync").unwrap();
    assert_eq!(sync.state, FactState::Unknown);
}
