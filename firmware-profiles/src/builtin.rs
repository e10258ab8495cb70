//! The profiles that come with Muster, built into the program from `profiles/*.toml`.

use crate::profile::Profile;
use std::sync::OnceLock;

/// File name and text of every built-in profile.
pub const SOURCES: &[(&str, &str)] = &[
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

/// The built-in profile of this name.
pub fn builtin(name: &str) -> Option<&'static Profile> {
    builtins().iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Approval, SerialRule};

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
    fn laptops_live_thirty_days_and_sensors_a_year() {
        assert_eq!(builtin("laptop-linux").unwrap().certificate.validity_s(), 30 * 86_400);
        assert_eq!(builtin("sensor-linux").unwrap().certificate.validity_s(), 365 * 86_400);
    }
}
