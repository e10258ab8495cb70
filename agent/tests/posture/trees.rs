//! The machines.

use super::tree::Tree;

const CLOSED: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.9"}},
 {"chain":{"family":"inet","table":"filter","name":"input","type":"filter","hook":"input","prio":0,"policy":"drop"}}]}"#;

const NO_RULES: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}}]}"#;

/// A laptop with Ubuntu: EFI, LUKS, LVM on it, swap in LVM, ufw, TPM, lockdown.
pub(crate) fn ubuntu_luks_lvm() -> Tree {
    let tree = Tree::empty();
    tree.file("/usr/lib/os-release", "ID=ubuntu\nVERSION_ID=\"24.04\"\nPRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\n")
        .link("/etc/os-release", "../usr/lib/os-release")
        .disk("nvme0n1", "259:0")
        .partition("nvme0n1", "nvme0n1p1", "259:1")
        .partition("nvme0n1", "nvme0n1p2", "259:2")
        .partition("nvme0n1", "nvme0n1p3", "259:3")
        .mapping("dm-0", "252:0", "dm_crypt-0", "CRYPT-LUKS2-0123-dm_crypt-0", &["nvme0n1/nvme0n1p3"])
        .mapping("dm-1", "252:1", "ubuntu--vg-root", "LVM-abc", &["virtual/dm-0"])
        .mapping("dm-2", "252:2", "ubuntu--vg-swap", "LVM-def", &["virtual/dm-0"])
        .disk("loop0", "7:0")
        .mounts(&[
            "252:1 / ext4 /dev/mapper/ubuntu--vg-root",
            "259:2 /boot ext4 /dev/nvme0n1p2",
            "259:1 /boot/efi vfat /dev/nvme0n1p1",
            "7:0 /snap/core22/1 squashfs /dev/loop0",
        ])
        .swaps(&["/dev/dm-2 partition"]);
    efi(&tree, 1, 0);
    tree.file("/sys/class/tpm/tpm0/tpm_version_major", "2\n")
        .file("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
        .file("/sys/kernel/security/lsm", "lockdown,capability,landlock,yama,apparmor")
        .file("/sys/module/apparmor/parameters/enabled", "Y\n")
        .file("/run/muster-agent/nft-ruleset.json", CLOSED)
        .file("/etc/ufw/ufw.conf", "# comment\nENABLED=yes\nLOGLEVEL=low\n")
        .file("/usr/sbin/sshd", "")
        .file(
            "/etc/ssh/sshd_config",
            "Include /etc/ssh/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\n",
        )
        .file("/etc/ssh/sshd_config.d/50-cloud-init.conf", "PasswordAuthentication no\n")
        .file("/run/systemd/timesync/synchronized", "")
        .file("/usr/share/update-notifier/notify-reboot-required", "");
    installed(&tree, &[("openssl", "3.0.13-0ubuntu3.4"), ("base-files", "13ubuntu10")]);
    security_list(&tree, &[("openssl", "3.0.13-0ubuntu3.4")]);
    tree
}

/// A virtual machine with Debian as its installer leaves it: nothing encrypted, no firewall, passwords over SSH.
pub(crate) fn debian_plain() -> Tree {
    let tree = Tree::empty();
    tree.file(
        "/etc/os-release",
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
    )
    .disk("vda", "254:0")
    .partition("vda", "vda1", "254:1")
    .partition("vda", "vda5", "254:5")
    .mounts(&["254:1 / ext4 /dev/vda1"])
    .swaps(&["/dev/vda5 partition"]);
    efi(&tree, 0, 0);
    tree.dir("/sys/class/net")
        .file("/sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        .file("/run/muster-agent/nft-ruleset.json", NO_RULES)
        .file("/usr/sbin/sshd", "")
        .file("/etc/ssh/sshd_config", "#PermitRootLogin yes\nPermitRootLogin yes\nUsePAM yes\n")
        .dir("/run/systemd/timesync")
        .file("/etc/kernel/postinst.d/unattended-upgrades", "")
        .file("/run/reboot-required", "*** System restart required ***\n")
        .file("/run/reboot-required.pkgs", "linux-image-6.1.0-25-amd64\n");
    installed(&tree, &[("openssl", "3.0.14-1~deb12u1"), ("curl", "7.88.1-10+deb12u12")]);
    security_list(&tree, &[("openssl", "3.0.14-1~deb12u2"), ("curl", "7.88.1-10+deb12u8"), ("nginx", "9")]);
    tree
}

/// A box that starts without EFI and has nothing that anybody could look at but its kernel's trees.
pub(crate) fn no_efi() -> Tree {
    let tree = Tree::empty();
    tree.file("/etc/os-release", "ID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME=\"Alpine Linux v3.22\"\n")
        .dir("/sys/firmware/acpi")
        .dir("/sys/class/tpm")
        .dir("/usr/bin")
        .file("/sys/kernel/security/lsm", "capability,landlock,yama")
        .disk("sda", "8:0")
        .partition("sda", "sda2", "8:2")
        .mounts(&["8:2 / ext4 /dev/sda2"])
        .swaps(&[]);
    tree
}

/// A workstation with Fedora: btrfs on LUKS, SELinux, firewalld, chrony, swap in memory.
pub(crate) fn fedora() -> Tree {
    let tree = Tree::empty();
    let btrfs = "/sys/fs/btrfs/11111111-2222-3333-4444-555555555555/devices";
    tree.file(
        "/etc/os-release",
        "NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=43\nPRETTY_NAME=\"Fedora Linux 43\"\n",
    )
    .disk("sda", "8:0")
    .partition("sda", "sda2", "8:2")
    .partition("sda", "sda3", "8:3")
    .mapping("dm-0", "253:0", "luks-1111", "CRYPT-LUKS2-1111-luks-1111", &["sda/sda3"])
    .link(&format!("{btrfs}/dm-0"), "/sys/devices/virtual/dm-0")
    .dir("/sys/fs/btrfs/features")
    .disk("zram0", "251:0")
    .mounts(&[
        "0:33 / btrfs /dev/mapper/luks-1111",
        "0:33 /home btrfs /dev/mapper/luks-1111",
        "8:2 /boot ext4 /dev/sda2",
    ])
    .swaps(&["/dev/zram0 partition"]);
    efi(&tree, 1, 0);
    let reject = r#"{"nftables":[
      {"chain":{"family":"inet","table":"firewalld","name":"filter_INPUT","type":"filter","hook":"input","prio":10,"policy":"accept"}},
      {"rule":{"family":"inet","table":"firewalld","chain":"filter_INPUT","expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established"]}},{"accept":null}]}},
      {"rule":{"family":"inet","table":"firewalld","chain":"filter_INPUT","expr":[{"reject":{"type":"icmpx","expr":"admin-prohibited"}}]}}]}"#;
    tree.file("/sys/class/tpm/tpm0/tpm_version_major", "2\n")
        .file("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
        .file("/sys/kernel/security/lsm", "lockdown,capability,yama,selinux")
        .file("/sys/fs/selinux/enforce", "1")
        .file("/run/muster-agent/nft-ruleset.json", reject)
        .file("/etc/firewalld/firewalld.conf", "DefaultZone=public\n")
        .dir("/usr/bin")
        .file("/var/lib/chrony/drift", "-12.3 0.1\n");
    tree
}

/// A Raspberry Pi: an SD card, a device tree instead of EFI, a swap file, the old name of the 32-bit system.
pub(crate) fn raspberry_pi() -> Tree {
    let tree = Tree::empty();
    tree.file(
        "/etc/os-release",
        "PRETTY_NAME=\"Raspbian GNU/Linux 12 (bookworm)\"\nID=raspbian\nVERSION_ID=\"12\"\n",
    )
    .dir("/sys/firmware/devicetree")
    .dir("/sys/class/net")
    .disk("mmcblk0", "179:0")
    .partition("mmcblk0", "mmcblk0p1", "179:1")
    .partition("mmcblk0", "mmcblk0p2", "179:2")
    .mounts(&["179:2 / ext4 /dev/root", "179:1 /boot/firmware vfat /dev/mmcblk0p1"])
    .swaps(&["/var/swap file"])
    .file("/usr/sbin/sshd", "")
    .file(
        "/etc/ssh/sshd_config",
        "Match User pi\n  PasswordAuthentication yes\nMatch all\nPasswordAuthentication no\n",
    )
    .file("/run/systemd/timesync/synchronized", "");
    installed(&tree, &[("bash", "5.2.15-2")]);
    tree.file(
        "/var/lib/apt/lists/raspbian.raspberrypi.com_raspbian_dists_bookworm_main_binary-armhf_Packages",
        "",
    );
    tree
}

fn efi(tree: &Tree, secure_boot: u8, setup_mode: u8) {
    for (name, value) in [("SecureBoot", secure_boot), ("SetupMode", setup_mode)] {
        let path = format!("/sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
        tree.file(&path, [6, 0, 0, 0, value]);
    }
}

fn installed(tree: &Tree, packages: &[(&str, &str)]) {
    let stanza = |(name, version): &(&str, &str)| {
        format!(
            "Package: {name}\nStatus: install ok installed\nPriority: optional\nArchitecture: amd64\nVersion: {version}\nDescription: x\n Version: 999\n\n"
        )
    };
    let removed = "Package: nginx\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n";
    let all: String = packages.iter().map(stanza).collect();
    tree.file("/var/lib/dpkg/status", format!("{all}{removed}"));
}

fn security_list(tree: &Tree, packages: &[(&str, &str)]) {
    let stanza = |(name, version): &(&str, &str)| {
        format!("Package: {name}\nArchitecture: amd64\nVersion: {version}\nFilename: pool/x.deb\n\n")
    };
    let all: String = packages.iter().map(stanza).collect();
    let list = "security.debian.org_debian-security_dists_bookworm-security_main_binary-amd64_Packages";
    tree.file(&format!("/var/lib/apt/lists/{list}"), all).dir("/var/lib/apt/lists/partial");
}
