//! Which kernel settings a command key may ask for without an approver: those that only harden, each with the
//! values that do. A key on the list with another value needs approvers like a key that is not on it.

use muster_wire::desired::Setting;

/// Key, and the values that need no approver.
const LISTED: &[(&str, &[&str])] = &[
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

/// Longest value, in bytes.
const MAX_VALUE: usize = 256;

/// Why a kernel setting cannot be managed, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingFlaw {
    /// Not names joined by dots.
    #[error("write the key as names joined by dots, such as kernel.kptr_restrict")]
    Key,
    /// Empty, too long, or not one line of plain text.
    #[error("a value is one line of 1 to 256 printable ASCII characters")]
    Value,
}

/// Whether the setting can be written at all.
pub(super) fn check(setting: &Setting) -> Result<(), SettingFlaw> {
    let plain = |name: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        !name.is_empty() && name.bytes().all(fits)
    };
    if setting.key.len() > MAX_VALUE || !setting.key.contains('.') || !setting.key.split('.').all(plain) {
        return Err(SettingFlaw::Key);
    }
    let value = setting.value.trim();
    let one_line = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if value.is_empty() || value.len() > MAX_VALUE || !one_line {
        return Err(SettingFlaw::Value);
    }
    Ok(())
}

/// Whether the setting needs no approver.
pub(super) fn is_listed(setting: &Setting) -> bool {
    LISTED.iter().any(|(key, values)| *key == setting.key && values.contains(&setting.value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str) -> Setting {
        Setting { key: key.into(), value: value.into() }
    }

    #[test]
    fn the_list_is_sorted_and_can_be_written() {
        assert!(LISTED.is_sorted_by(|a, b| a.0 < b.0));
        for (key, values) in LISTED {
            for value in *values {
                assert_eq!(check(&setting(key, value)), Ok(()), "{key}");
            }
        }
    }

    #[test]
    fn hardening_is_listed_and_loosening_is_not() {
        assert!(is_listed(&setting("kernel.dmesg_restrict", "1")));
        assert!(!is_listed(&setting("kernel.dmesg_restrict", "0")));
        assert!(!is_listed(&setting("kernel.core_pattern", "|/tmp/x")));
        assert!(!is_listed(&setting("kernel.modprobe", "/tmp/x")));
    }

    #[test]
    fn keys_lead_nowhere_but_beneath_proc_sys() {
        for bad in ["", "kernel", "kernel..x", ".x", "x.", "kernel/x", "a.b/../../etc", "a.\n", "a. b"] {
            assert_eq!(check(&setting(bad, "1")), Err(SettingFlaw::Key), "{bad:?}");
        }
        for bad in ["", " ", "1\n2", "1\0", "é", &"1".repeat(257)] {
            assert_eq!(check(&setting("a.b", bad)), Err(SettingFlaw::Value), "{bad:?}");
        }
    }
}
