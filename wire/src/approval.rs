//! What of a baseline counts as what (`authority.md`, "The authority document"): the agent asks for approvers' signatures
//! by it, and the server says beforehand for what it will.
//!
//! A command key alone may ask for what cannot run code as root: plain files beneath the declared roots, and kernel
//! settings on a list of those that only harden. All else is for approvers.

use crate::authority::Matter;
use crate::desired::{Baseline, Content, FileEntry, Setting};

/// The roots that are declared when nobody declares others at enrolment.
pub const DECLARED_ROOTS: &[&str] = &["/var/lib/muster-agent/managed"];

/// Kernel settings that only harden, by key, and the values that do. A key on the list with another value is for approvers
/// like a key that is not on it.
pub const LISTED: &[(&str, &[&str])] = &[
    ("fs.protected_fifos", &["1", "2"]),
    ("fs.protected_hardlinks", &["1"]),
    ("fs.protected_regular", &["1", "2"]),
    ("fs.protected_symlinks", &["1"]),
    ("fs.suid_dumpable", &["0"]),
    ("kernel.dmesg_restrict", &["1"]),
    ("kernel.kptr_restrict", &["1", "2"]),
    ("kernel.perf_event_paranoid", &["2", "3"]),
    ("kernel.randomize_va_space", &["2"]),
    ("kernel.unprivileged_bpf_disabled", &["1", "2"]),
    ("kernel.yama.ptrace_scope", &["1", "2"]),
    ("net.core.bpf_jit_harden", &["1", "2"]),
    ("net.ipv4.conf.all.accept_redirects", &["0"]),
    ("net.ipv4.conf.all.accept_source_route", &["0"]),
    ("net.ipv4.conf.all.log_martians", &["1"]),
    ("net.ipv4.conf.all.rp_filter", &["1", "2"]),
    ("net.ipv4.conf.all.secure_redirects", &["0"]),
    ("net.ipv4.conf.all.send_redirects", &["0"]),
    ("net.ipv4.conf.default.accept_redirects", &["0"]),
    ("net.ipv4.conf.default.accept_source_route", &["0"]),
    ("net.ipv4.conf.default.rp_filter", &["1", "2"]),
    ("net.ipv4.conf.default.send_redirects", &["0"]),
    ("net.ipv4.icmp_echo_ignore_broadcasts", &["1"]),
    ("net.ipv4.icmp_ignore_bogus_error_responses", &["1"]),
    ("net.ipv4.tcp_rfc1337", &["1"]),
    ("net.ipv4.tcp_syncookies", &["1"]),
    ("net.ipv6.conf.all.accept_redirects", &["0"]),
    ("net.ipv6.conf.all.accept_source_route", &["0"]),
    ("net.ipv6.conf.default.accept_redirects", &["0"]),
    ("net.ipv6.conf.default.accept_source_route", &["0"]),
];

/// As what `file` counts on a device that has declared the roots `declared`.
pub fn of_file<R: AsRef<str>>(file: &FileEntry, declared: &[R]) -> Matter {
    let is_declared = declared_root(&file.path, declared).is_some();
    if is_declared && !is_executable(file.mode) { Matter::Files } else { Matter::FilesElsewhere }
}

/// As what `setting` counts.
pub fn of_setting(setting: &Setting) -> Matter {
    let is_listed =
        LISTED.iter().any(|(key, values)| *key == setting.key && values.contains(&setting.value.trim()));
    if is_listed { Matter::Sysctl } else { Matter::SysctlOther }
}

/// As what a section counts that is judged whole; nothing for one whose every item is.
pub fn of_section(content: &Content) -> Option<Matter> {
    match content {
        Content::Files(_) | Content::Sysctl(_) => None,
        Content::SystemdUnits(_) => Some(Matter::SystemdUnits),
        Content::Ssh(_) => Some(Matter::Ssh),
        Content::Time(_) => Some(Matter::Time),
        Content::Packages(_) => Some(Matter::Packages),
        Content::Agent(_) => Some(Matter::DeclaredRoots),
    }
}

/// Every item of `baseline`, by path, key or section, and as what it counts on a device with the roots `declared`.
pub fn items<R: AsRef<str>>(baseline: &Baseline, declared: &[R]) -> Vec<(String, Matter)> {
    let of = |content: &Content| match content {
        Content::Files(files) => {
            files.iter().map(|file| (file.path.clone(), of_file(file, declared))).collect::<Vec<_>>()
        }
        Content::Sysctl(settings) => {
            settings.iter().map(|setting| (setting.key.clone(), of_setting(setting))).collect()
        }
        whole @ (Content::SystemdUnits(_)
        | Content::Ssh(_)
        | Content::Time(_)
        | Content::Packages(_)
        | Content::Agent(_)) => {
            of_section(whole).map(|matter| (whole.kind().to_string(), matter)).into_iter().collect()
        }
    };
    baseline.sections.iter().flat_map(|section| of(&section.content)).collect()
}

/// Whether a file of this mode could be run, or carries setuid, setgid or sticky.
fn is_executable(mode: u32) -> bool {
    mode & 0o7111 != 0
}

/// The innermost of `declared` beneath which `path` lies; never the path itself.
pub fn declared_root<'a, R: AsRef<str>>(path: &str, declared: &'a [R]) -> Option<&'a str> {
    let contains = |root: &&'a str| {
        let inside = path.strip_prefix(root.trim_end_matches('/'));
        inside.is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    };
    let sound = declared.iter().map(AsRef::as_ref).filter(|root| root.starts_with('/'));
    sound.filter(contains).max_by_key(|root| root.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{Mode, Section};

    fn setting(key: &str, value: &str) -> Setting {
        Setting { key: key.into(), value: value.into() }
    }

    fn file(path: &str, mode: u32) -> FileEntry {
        let (owner, group) = ("root".to_owned(), "root".to_owned());
        FileEntry { path: path.into(), mode, owner, group, content: Vec::new() }
    }

    #[test]
    fn the_list_of_settings_is_sorted() {
        assert!(LISTED.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn hardening_is_listed_and_loosening_is_not() {
        assert_eq!(of_setting(&setting("kernel.dmesg_restrict", "1 ")), Matter::Sysctl);
        for (key, value) in [
            ("kernel.dmesg_restrict", "0"),
            ("kernel.core_pattern", "|/tmp/x"),
            ("kernel.modprobe", "/tmp/x"),
        ] {
            assert_eq!(of_setting(&setting(key, value)), Matter::SysctlOther, "{key}");
        }
    }

    #[test]
    fn a_plain_file_beneath_a_declared_root_is_for_nobody_and_every_other_for_approvers() {
        let of = |path, mode| of_file(&file(path, mode), DECLARED_ROOTS);
        assert_eq!(of("/var/lib/muster-agent/managed/motd", 0o644), Matter::Files);
        assert_eq!(of("/etc/motd", 0o644), Matter::FilesElsewhere);
        for mode in [0o755, 0o010, 0o001, 0o4644, 0o2600, 0o1600] {
            assert_eq!(of("/var/lib/muster-agent/managed/motd", mode), Matter::FilesElsewhere, "{mode:o}");
        }
    }

    #[test]
    fn every_item_of_a_baseline_is_named_with_what_it_counts_as() {
        let section = |content| Section { mode: Mode::Enforce, content };
        let sections = vec![
            section(Content::Files(vec![file("/etc/motd", 0o644)])),
            section(Content::Sysctl(vec![setting("fs.suid_dumpable", "0"), setting("kernel.modprobe", "x")])),
            section(Content::Ssh(vec![setting("PermitRootLogin", "no")])),
        ];
        let found = items(&Baseline { profile: "p".into(), sections }, DECLARED_ROOTS);
        let expected = [
            ("/etc/motd".to_owned(), Matter::FilesElsewhere),
            ("fs.suid_dumpable".to_owned(), Matter::Sysctl),
            ("kernel.modprobe".to_owned(), Matter::SysctlOther),
            ("ssh".to_owned(), Matter::Ssh),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_root_contains_what_lies_beneath_it_and_not_what_begins_alike() {
        let declared = ["/srv", "/srv/a/", "relative"];
        assert_eq!(declared_root("/srv/x", &declared), Some("/srv"));
        assert_eq!(declared_root("/srv/a/x", &declared), Some("/srv/a/"));
        for outside in ["/srv", "/srv/", "/srvx/a", "/etc/x", "relative/x"] {
            assert_eq!(declared_root(outside, &declared), None, "{outside}");
        }
        assert_eq!(declared_root("/etc/x", &["/"]), Some("/"));
    }
}
