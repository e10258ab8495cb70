//! What a device last said of its posture, and how it was judged.

use super::reported::plain;
use muster_firmware_profiles::appraise::{Appraisal, Failing, Verdict};
use muster_wire::id::ReportId;
use muster_wire::posture::{Fact, FactState, FactValue, PostureReport};
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Facts that are kept of one report.
pub const FACTS_KEPT: usize = 32;

/// Longest text in a fact, in bytes.
const TEXT_BYTES: usize = 256;

/// Most texts of a list.
const LIST_KEPT: usize = 8;

/// A fact as it is kept: bounded, and plain to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactNote {
    /// What it is about.
    pub name: String,
    /// How it stands.
    pub state: FactState,
    /// What was found.
    pub value: serde_json::Value,
    /// What shows it.
    pub evidence: String,
    /// Where it was looked up.
    pub source: String,
    /// When, by the device's clock, unix seconds.
    pub collected_at: i64,
}

impl FactNote {
    /// What is kept of `fact`.
    pub fn of(fact: &Fact) -> Self {
        Self {
            name: fact.name.as_str().to_owned(),
            state: fact.state,
            value: value(&fact.value),
            evidence: plain(&fact.evidence, TEXT_BYTES),
            source: plain(&fact.source, TEXT_BYTES),
            collected_at: fact.collected_at.seconds(),
        }
    }
}

impl FactNote {
    fn fact(&self) -> Option<Fact> {
        Some(Fact {
            name: self.name.parse().ok()?,
            state: self.state,
            value: fact_value(&self.value),
            evidence: self.evidence.clone(),
            source: self.source.clone(),
            collected_at: Timestamp(self.collected_at),
        })
    }
}

/// The inverse of [`value`].
fn fact_value(value: &serde_json::Value) -> FactValue {
    use serde_json::Value;
    match value {
        Value::Null | Value::Object(_) => FactValue::Nothing,
        Value::Bool(value) => FactValue::Bool(*value),
        Value::Number(number) => number.as_i64().map_or(FactValue::Nothing, FactValue::Number),
        Value::String(text) => FactValue::Text(text.clone()),
        Value::Array(items) => {
            FactValue::List(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
    }
}

fn value(value: &FactValue) -> serde_json::Value {
    let text = |text: &String| serde_json::Value::from(plain(text, TEXT_BYTES));
    match value {
        FactValue::Nothing => serde_json::Value::Null,
        FactValue::Bool(value) => (*value).into(),
        FactValue::Number(value) => (*value).into(),
        FactValue::Text(value) => text(value),
        FactValue::List(values) => values.iter().take(LIST_KEPT).map(text).collect(),
    }
}

/// The last posture report of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureRecord {
    /// Version of this record's form.
    pub v: u8,
    /// The facts.
    pub facts: Vec<FactNote>,
    /// When they were reported, by the device's clock, unix seconds.
    pub at: i64,
    /// When the report came, unix milliseconds.
    pub received_at: i64,
    /// The report's name.
    pub report: ReportId,
    /// How it was judged by the profile's rules.
    pub verdict: Verdict,
    /// The rules that do not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<Failing>,
    /// Facts of rules that could not be told and have to be; records of older servers do not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// When the last entry of the history was made, unix milliseconds.
    pub history_at: i64,
}

/// A report of the same posture makes an entry in the history only when the last is this old, in milliseconds.
const HISTORY_EVERY_MS: i64 = 24 * 60 * 60 * 1000;

impl PostureRecord {
    /// What is kept of a report that was appraised so and came at `received_at` (unix milliseconds), following on
    /// `before`.
    pub fn new(
        report: &PostureReport,
        appraisal: &Appraisal,
        before: Option<&Self>,
        received_at: i64,
    ) -> Self {
        let mut record = Self {
            v: 1,
            facts: appraisal.facts.iter().take(FACTS_KEPT).map(FactNote::of).collect(),
            at: report.at.seconds(),
            received_at,
            report: report.id,
            verdict: appraisal.verdict,
            failing: appraisal.failing.clone(),
            unknown: appraisal.unknown.clone(),
            history_at: received_at,
        };
        if let Some(before) = before
            && !record.is_news(Some(before))
        {
            record.history_at = before.history_at;
        }
        record
    }

    /// This record, its facts judged anew.
    pub fn judged_again(&self, appraisal: &Appraisal, now_ms: i64) -> Self {
        let mut record = Self {
            verdict: appraisal.verdict,
            failing: appraisal.failing.clone(),
            unknown: appraisal.unknown.clone(),
            ..self.clone()
        };
        if record.is_news(Some(self)) {
            record.history_at = now_ms;
        }
        record
    }

    /// The facts, to be appraised again when a grace ends.
    pub fn facts(&self) -> Vec<Fact> {
        self.facts.iter().filter_map(FactNote::fact).collect()
    }

    /// Each fact that could not be told and has to be, with what the device said of it.
    pub fn untold(&self) -> Vec<String> {
        let evidence = |name: &String| {
            let told = self.facts.iter().find(|fact| fact.name == *name)?;
            (!told.evidence.is_empty()).then(|| format!("{name} ({})", told.evidence))
        };
        self.unknown.iter().map(|name| evidence(name).unwrap_or_else(|| name.clone())).collect()
    }

    /// Whether this report, following on `before`, belongs in the history: something changed, or a day has passed.
    pub fn is_news(&self, before: Option<&Self>) -> bool {
        let states = |record: &Self| -> Vec<(String, FactState)> {
            record.facts.iter().map(|fact| (fact.name.clone(), fact.state)).collect()
        };
        before.is_none_or(|before| {
            self.verdict != before.verdict
                || states(self) != states(before)
                || self.received_at.saturating_sub(before.history_at) >= HISTORY_EVERY_MS
        })
    }
}

/// One entry of a device's posture history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureHistory {
    /// Version of this record's form.
    pub v: u8,
    /// When the report came, unix milliseconds.
    pub at: i64,
    /// How it was judged.
    pub verdict: Verdict,
    /// How each fact stood.
    pub facts: Vec<(String, FactState)>,
}

impl PostureHistory {
    /// The entry that `record` makes.
    pub fn of(record: &PostureRecord) -> Self {
        Self {
            v: 1,
            at: record.received_at,
            verdict: record.verdict,
            facts: record.facts.iter().map(|fact| (fact.name.clone(), fact.state)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_firmware_profiles::appraise::appraise;
    use muster_firmware_profiles::builtin::builtin;
    use muster_wire::id::DeviceId;

    fn report(state: FactState, evidence: &str) -> PostureReport {
        let fact = Fact {
            name: "firewall".parse().unwrap(),
            state,
            value: FactValue::List(vec!["a\u{1b}b".into(); 20]),
            evidence: evidence.into(),
            source: "nft".into(),
            collected_at: Timestamp(3),
        };
        PostureReport {
            device: DeviceId::from_bytes([1; 16]),
            id: ReportId::from_bytes([2; 16]),
            facts: vec![fact],
            at: Timestamp(4),
        }
    }

    fn record(state: FactState, before: Option<&PostureRecord>, at: i64) -> PostureRecord {
        let report = report(state, "<b>\u{202e}");
        PostureRecord::new(&report, &appraise(&[], &report.facts, &[], Timestamp(4)), before, at)
    }

    #[test]
    fn a_fact_is_kept_plain_and_reads_back_as_one() {
        let kept = record(FactState::Pass, None, 0);
        assert_eq!(kept.facts[0].evidence, "<b>\u{fffd}");
        assert_eq!(kept.facts[0].value.as_array().unwrap().len(), LIST_KEPT);
        assert_eq!(kept.facts().iter().map(FactNote::of).collect::<Vec<_>>(), kept.facts);
    }

    #[test]
    fn what_could_not_be_told_and_has_to_be_is_kept_with_what_the_device_said_of_it() {
        let rules = &builtin("laptop-linux").unwrap().posture.rules;
        let report = report(FactState::Unknown, "no rules were found");
        let appraisal = appraise(rules, &report.facts, &[], Timestamp(4));
        let kept = PostureRecord::new(&report, &appraisal, None, 0);
        assert_eq!((kept.verdict, &kept.unknown), (Verdict::Unknown, &appraisal.unknown));
        assert!(kept.untold().contains(&"firewall (no rules were found)".to_owned()), "{:?}", kept.untold());
        assert!(kept.untold().contains(&"disk_encryption".to_owned()), "it was not reported at all");
    }

    #[test]
    fn the_history_hears_of_changes_and_once_a_day() {
        let first = record(FactState::Pass, None, 0);
        assert!(first.is_news(None));
        let same = record(FactState::Pass, Some(&first), 1_000);
        assert!(!same.is_news(Some(&first)));
        assert_eq!(same.history_at, 0);
        assert!(record(FactState::Fail, Some(&same), 2_000).is_news(Some(&same)));
        assert!(record(FactState::Pass, Some(&same), HISTORY_EVERY_MS).is_news(Some(&same)));
    }
}
