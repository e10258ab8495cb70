//! Variables of the environment that look like ours and are not: a misspelt one would be ignored without a word.

use super::KEYS;
use super::keys::Key;
use muster_firmware_profiles::schema::nearest;

/// What all of our variables begin with.
const PREFIX: &str = "MUSTER_";

/// Variables that are read beside those of the settings.
const OTHERS: [&str; 4] = ["MUSTER_CREDENTIAL", "MUSTER_DATA_DIR", "MUSTER_LOG", "MUSTER_SERVER"];

/// Those of `names` that nothing reads, each with the one that was probably meant. What looks like none of ours belongs to
/// somebody else.
pub fn misspelt(names: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let settings: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known: Vec<&str> = settings.iter().map(String::as_str).chain(OTHERS).collect();
    let meant = |name: String| {
        let rest = name.strip_prefix(PREFIX)?;
        if known.contains(&name.as_str()) {
            return None;
        }
        let found = nearest(rest, known.iter().filter_map(|one| one.strip_prefix(PREFIX)))?.to_owned();
        Some((name, format!("{PREFIX}{found}")))
    };
    names.into_iter().filter_map(meant).collect()
}

/// The same of this process's environment, each as a sentence.
pub fn warnings() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let told = |(name, meant)| format!("the variable {name} is not read; did you mean {meant}?");
    misspelt(names).into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<String> {
        misspelt([name.to_owned()]).pop().map(|(_, meant)| meant)
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("MUSTER_DATADIR", "MUSTER_DATA_DIR"),
            ("MUSTER_SERVR", "MUSTER_SERVER"),
            ("MUSTER_CREDENTIALS", "MUSTER_CREDENTIAL"),
            ("MUSTER_PUBLICNAME", "MUSTER_PUBLIC_NAME"),
            ("MUSTER_LISTEN_DEVCIE", "MUSTER_LISTEN_DEVICE"),
        ] {
            assert_eq!(of(name).as_deref(), Some(meant), "{name}");
        }
    }

    #[test]
    fn what_is_read_and_what_is_somebody_elses_is_not() {
        for name in [
            "MUSTER_DATA_DIR",
            "MUSTER_LISTEN_DEVICE",
            "MUSTER_AGENT_BIN",
            "MUSTER_BIN",
            "MUSTER_SEED",
            "MUSTER_SOAK_DIR",
            "PATH",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
