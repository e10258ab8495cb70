//! Until when an operating system gets security updates, and what that makes of the fact `os_support`.
//!
//! A device says what it runs; it cannot know what has since been announced. The table is `data/os-support.toml`,
//! each list with its source. What the table does not name stays unknown: a release too new for this build is no
//! more supported than one too old for the table.

use muster_wire::posture::{Fact, FactState, FactValue};
use muster_wire::time::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The table's text.
pub const SOURCE: &str = include_str!("../data/os-support.toml");

/// The fact that this table judges.
pub const FACT: &str = "os_support";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    looked_up: String,
    system: Vec<System>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct System {
    id: String,
    source: String,
    ends: BTreeMap<String, String>,
}

/// Until when one release gets security updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportEnd {
    /// The day, `2028-06-30`.
    pub day: &'static str,
    /// The first second after that day.
    pub ended_at: Timestamp,
    /// Who says so.
    pub source: &'static str,
}

/// The end of support of the release `version` (VERSION_ID) of the system `id` (ID of /etc/os-release).
pub fn end_of(id: &str, version: &str) -> Option<SupportEnd> {
    let system = table().system.iter().find(|system| system.id == id)?;
    let mut version = version;
    loop {
        if let Some(day) = system.ends.get(version) {
            let ended_at = last_second(day)?.plus_seconds(1);
            return Some(SupportEnd { day, ended_at, source: &system.source });
        }
        version = version.rsplit_once('.')?.0;
    }
}

/// The fact `os_support` as it stands at `now`: what the device runs, looked up in the table.
///
/// The value is ID and VERSION_ID with a space between. A fact without such a value comes back as it is, but never
/// as passed: that is not for the device to say.
pub fn judge(fact: &Fact, now: Timestamp) -> Fact {
    let unknown = |why: &str| Fact {
        state: FactState::Unknown,
        evidence: format!("{}{why}", lead(&fact.evidence)),
        ..fact.clone()
    };
    let FactValue::Text(value) = &fact.value else {
        return if fact.state == FactState::Pass { unknown("no system is named") } else { fact.clone() };
    };
    let Some((id, version)) = value.split_once(' ') else {
        return unknown("a release without a version has no date");
    };
    let Some(end) = end_of(id, version) else {
        let looked_up = &table().looked_up;
        return unknown(&format!("not in the table of supported releases of {looked_up}"));
    };
    let (state, words) =
        if now < end.ended_at { (FactState::Pass, "until") } else { (FactState::Fail, "ended") };
    Fact {
        state,
        evidence: format!("{}security support {words} {}", lead(&fact.evidence), end.day),
        ..fact.clone()
    }
}

fn lead(evidence: &str) -> String {
    if evidence.is_empty() { String::new() } else { format!("{evidence}: ") }
}

fn last_second(day: &str) -> Option<Timestamp> {
    format!("{day}T23:59:59Z").parse().ok()
}

fn table() -> &'static Table {
    static PARSED: OnceLock<Table> = OnceLock::new();
    PARSED.get_or_init(|| {
        #[expect(clippy::expect_used, reason = "the text is compiled in and a test reads every line of it")]
        toml::from_str(SOURCE).expect("the table of supported releases parses")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str) -> Timestamp {
        format!("{day}T12:00:00Z").parse().unwrap()
    }

    fn fact(value: FactValue) -> Fact {
        Fact {
            name: FACT.parse().unwrap(),
            state: FactState::Unknown,
            value,
            evidence: "Debian GNU/Linux 12 (bookworm)".into(),
            source: "/etc/os-release".into(),
            collected_at: Timestamp(1),
        }
    }

    fn judged(value: &str, day: &str) -> (FactState, String) {
        let fact = judge(&fact(FactValue::Text(value.into())), at(day));
        (fact.state, fact.evidence)
    }

    #[test]
    fn every_date_is_a_day_and_every_list_names_its_source() {
        assert!(last_second(&table().looked_up).is_some());
        for system in &table().system {
            assert!(system.source.contains("https://"), "{}", system.id);
            for (version, day) in &system.ends {
                assert!(last_second(day).is_some(), "{} {version}: {day}", system.id);
            }
        }
    }

    #[test]
    fn a_release_is_supported_through_its_last_day() {
        let last = end_of("debian", "12").unwrap();
        assert_eq!(last.day, "2028-06-30");
        assert_eq!(last.ended_at.to_string(), "2028-07-01T00:00:00Z");
        assert_eq!(judged("debian 12", "2028-06-30").0, FactState::Pass);
        assert_eq!(judged("debian 12", "2028-07-01").0, FactState::Fail);
    }

    #[test]
    fn the_evidence_says_what_runs_and_until_when() {
        let (_, evidence) = judged("debian 12", "2026-11-23");
        assert_eq!(evidence, "Debian GNU/Linux 12 (bookworm): security support until 2028-06-30");
    }

    #[test]
    fn a_minor_release_is_looked_up_by_its_major_one() {
        assert_eq!(end_of("rhel", "9.4"), end_of("rhel", "9"));
        assert_eq!(end_of("alpine", "3.22.1"), end_of("alpine", "3.22"));
        assert!(end_of("ubuntu", "24").is_none());
    }

    #[test]
    fn what_the_table_does_not_name_is_unknown() {
        for value in ["debian 99", "arch", "linuxmint 22", "debian ", "", " ", "debian .", "debian 12.x y"] {
            let expected = if value == "debian 12.x y" { FactState::Pass } else { FactState::Unknown };
            assert_eq!(judged(value, "2026-11-23").0, expected, "{value:?}");
        }
    }

    #[test]
    fn a_device_cannot_pass_itself() {
        let mut boast = fact(FactValue::Bool(true));
        boast.state = FactState::Pass;
        assert_eq!(judge(&boast, at("2026-11-23")).state, FactState::Unknown);
    }
}
