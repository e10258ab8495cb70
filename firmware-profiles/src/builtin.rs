//! The profiles that come with Muster, built into the program from `profiles/*.toml`.

use crate::profile::Profile;
use std::sync::OnceLock;

/// File name and text of every built-in profile.
pub const SOURCES: &[(&str, &str)] = &[
    ("gateway-android.toml", include_str!("../profiles/gateway-android.toml")),
    ("gateway-linux.toml", include_str!("../profiles/gateway-linux.toml")),
    ("laptop-linux.toml", include_str!("../profiles/laptop-linux.toml")),
    ("sensor-linux.toml", include_str!("../profiles/sensor-linux.toml")),
];

/// The built-in profiles, sorted by name.
pub fn builtins() -> &'static [Profile] {
    static PARSED: OnceLock<Vec<Profile>> = OnceLock::new();
    PARSED.get_or_init(|| {
        SOURCES
            .iter()
            .map(|(file, text)| {
                #[expect(
                    clippy::expect_used,
                    reason = "the texts are compiled in and every one is parsed by a test"
                )]
                Profile::parse(file, text).expect("built-in profiles parse")
            })
            .collect()
    })
}

/// The text of the built-in profile of this name.
pub fn source(name: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(file, _)| file.strip_suffix(".toml") == Some(name)).map(|(_, text)| *text)
}

/// The built-in profile of this name.
pub fn builtin(name: &str) -> Option<&'static Profile> {
    builtins().iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Action, Approval, SerialRule};

    #[test]
    fn built_in_profiles_ask_for_no_approval_and_no_serial() {
        for profile in builtins() {
            assert_eq!(profile.enrollment.approval, Approval::None, "{}", profile.name);
            assert_eq!(profile.enrollment.serial, SerialRule::Ignore, "{}", profile.name);
            assert!(!profile.est.server_keygen && !profile.est.tls12, "{}", profile.name);
        }
    }

    #[test]
    fn a_built_in_profile_is_found_by_the_name_of_its_file() {
        for (file, _) in SOURCES {
            let name = file.strip_suffix(".toml").unwrap();
            assert_eq!(builtin(name).unwrap().name, name);
        }
        assert!(builtin("toaster").is_none());
    }

    #[test]
    fn built_in_profiles_are_sorted_by_name() {
        assert!(builtins().is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn gateways_live_ninety_days_and_only_those_of_linux_have_kernel_settings() {
        for name in ["gateway-android", "gateway-linux"] {
            assert_eq!(builtin(name).unwrap().certificate.validity_s(), 90 * 86_400, "{name}");
        }
        assert!(builtin("gateway-android").unwrap().baseline.sysctl.is_empty());
        assert!(!builtin("gateway-linux").unwrap().baseline.sysctl.is_empty());
    }

    #[test]
    fn a_gateway_is_judged_by_what_it_is_exposed_with() {
        let facts = |name: &str| -> Vec<_> {
            builtin(name).unwrap().posture.rules.iter().map(|rule| rule.fact.as_str()).collect()
        };
        for fact in ["firewall", "ssh_root_login", "ssh_password", "security_updates", "agent_integrity"] {
            assert!(facts("gateway-linux").contains(&fact), "{fact}");
        }
        assert!(facts("gateway-android").contains(&"disk_encryption"));
    }

    #[test]
    fn no_built_in_rule_quarantines_at_once_for_what_needs_a_person_to_repair() {
        for profile in builtins() {
            for rule in profile.posture.rules.iter().filter(|rule| rule.action == Action::Quarantine) {
                let is_tampering = rule.fact == "agent_integrity";
                assert!(is_tampering || rule.grace_hours >= 24, "{} {}", profile.name, rule.fact);
            }
        }
    }

    #[test]
    fn laptops_live_thirty_days_and_sensors_a_year() {
        assert_eq!(builtin("laptop-linux").unwrap().certificate.validity_s(), 30 * 86_400);
        assert_eq!(builtin("sensor-linux").unwrap().certificate.validity_s(), 365 * 86_400);
    }
}
