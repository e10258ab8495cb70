//! Which kernel settings can be written at all; which of them need an approver, [`muster_wire::approval`] says.

use muster_wire::desired::Setting;

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

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::approval::LISTED;

    fn setting(key: &str, value: &str) -> Setting {
        Setting { key: key.into(), value: value.into() }
    }

    #[test]
    fn whatever_is_listed_as_hardening_can_be_written() {
        let listed = LISTED.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        for (key, value) in listed {
            assert_eq!(check(&setting(key, value)), Ok(()), "{key} = {value}");
        }
        assert!(LISTED.iter().any(|(key, _)| *key == "kernel.dmesg_restrict"));
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
