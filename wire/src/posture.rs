//! What devices report: state, posture facts, events.
//!
//! A fact is never a bare boolean: it says whether it passed, what was found, on what evidence and from which
//! source (`agent.md`, "Posture"). Names that RFC 9711 has a claim for travel as that claim's number, others as
//! text, each name in one form only. Reports are signed only when the broker is not ours; a report that came
//! through the gate is plain CBOR, read with [`crate::cbor::decode`].

use crate::cbor::{Cbor, CborError, Reader, Writer, document, record, words};
use crate::desired::{Generation, SectionKind};
use crate::id::{DeviceId, ReportId};
use crate::merkle::TreeHead;
use crate::time::Timestamp;
use minicbor::data::Type;
use std::str::FromStr;

words! {
    /// How a fact stands.
    FactState {
        /// As it should be.
        Pass = "pass",
        /// Not as it should be.
        Fail = "fail",
        /// Could not be told.
        Unknown = "unknown",
        /// Means nothing on this device.
        NotApplicable = "not_applicable",
        /// Looking went wrong.
        Error = "error",
    }
}

/// Claims of RFC 9711 that our facts are about, by name and number.
const EAT_CLAIMS: &[(&str, u64)] = &[
    ("hwmodel", 259),
    ("hwversion", 260),
    ("uptime", 261),
    ("oemboot", 262),
    ("dbgstat", 263),
    ("bootcount", 267),
    ("swname", 270),
    ("swversion", 271),
];

/// A fact's name: 1 to 64 of `a-z 0-9 _`, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactName(String);

/// A text that names no fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fact's name is 1 to 64 of a-z, 0-9 and '_', beginning with a letter")]
pub struct FactNameError;

impl FactName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim of RFC 9711 that says the same.
    pub fn eat_claim(&self) -> Option<u64> {
        EAT_CLAIMS.iter().find(|(name, _)| *name == self.0).map(|(_, claim)| *claim)
    }
}

impl FromStr for FactName {
    type Err = FactNameError;

    fn from_str(text: &str) -> Result<Self, FactNameError> {
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        let fits = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if begins && fits && text.len() <= 64 { Ok(Self(text.to_owned())) } else { Err(FactNameError) }
    }
}

impl Cbor for FactName {
    fn write(&self, out: &mut Writer) {
        match self.eat_claim() {
            Some(claim) => out.unsigned(claim),
            None => out.text(&self.0),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        let wrong = CborError::Value { field: "fact name" };
        if input.next_type()? == Type::String {
            return input.text()?.parse().map_err(|_| wrong);
        }
        let number = input.unsigned()?;
        let known = EAT_CLAIMS.iter().find(|(_, claim)| *claim == number);
        known.map(|(name, _)| Self((*name).to_owned())).ok_or(wrong)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// Nothing that can be said.
    Nothing,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
}

impl Cbor for FactValue {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Nothing => out.null(),
            Self::Bool(value) => out.boolean(*value),
            Self::Number(value) => out.signed(*value),
            Self::Text(value) => out.text(value),
            Self::List(values) => values.write(out),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        if input.take_null()? {
            return Ok(Self::Nothing);
        }
        let next = input.next_type()?;
        if next == Type::Bool {
            return input.boolean().map(Self::Bool);
        }
        if next == Type::String {
            return Cbor::read(input).map(Self::Text);
        }
        if next == Type::Array { Cbor::read(input).map(Self::List) } else { input.signed().map(Self::Number) }
    }
}

/// One posture fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub name: FactName,
    /// How it stands.
    pub state: FactState,
    /// What was found.
    pub value: FactValue,
    /// What shows it, for a person.
    pub evidence: String,
    /// Where it was looked up.
    pub source: String,
    /// When.
    pub collected_at: Timestamp,
}
record!(Fact { name, state, value, evidence, source, collected_at });

/// A difference between desired and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// In which section.
    pub section: SectionKind,
    /// What: a path, a key, a unit's or package's name.
    pub item: String,
}
record!(Drift { section, item });

/// What state a device is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateReport {
    /// Whose.
    pub device: DeviceId,
    /// Its name; the same report may come twice.
    pub id: ReportId,
    /// The generation that is in place; none before the first.
    pub generation: Option<Generation>,
    /// What differs from it.
    pub drift: Vec<Drift>,
    /// The agent's version.
    pub agent_version: String,
    /// The last checkpoint verified; none before the first.
    pub last_checkpoint: Option<TreeHead>,
    /// When.
    pub at: Timestamp,
}
document!(StateReport, "report-state", 64 * 1024, SignedOnce, {
    device, id, generation, drift, agent_version, last_checkpoint, at,
});

/// How a device stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostureReport {
    /// Whose.
    pub device: DeviceId,
    /// Its name; the same report may come twice.
    pub id: ReportId,
    /// The facts.
    pub facts: Vec<Fact>,
    /// When.
    pub at: Timestamp,
}
document!(PostureReport, "report-posture", 64 * 1024, SignedOnce, { device, id, facts, at });

words! {
    /// What may happen on a device that somebody should know.
    EventKind {
        /// A message was refused.
        Refused = "refused",
        /// Two checkpoints contradict each other.
        LogContradiction = "log_contradiction",
        /// The lease lapsed.
        LeaseLapsed = "lease_lapsed",
        /// A lease that had lapsed was renewed.
        LeaseRenewed = "lease_renewed",
        /// A generation was rolled back.
        RolledBack = "rolled_back",
        /// The clock jumped.
        ClockJumped = "clock_jumped",
        /// A renewal failed.
        RenewalFailed = "renewal_failed",
        /// What differed from the desired state was put right.
        DriftRepaired = "drift_repaired",
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventReport {
    /// Where.
    pub device: DeviceId,
    /// Its name; the same report may come twice.
    pub id: ReportId,
    /// What.
    pub kind: EventKind,
    /// Particulars, for a person. Written by the device, hence by whoever owns it.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}
document!(EventReport, "report-event", 16 * 1024, SignedOnce, { device, id, kind, detail, at });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::{decode, encode};

    fn fact(name: &str, value: FactValue) -> Fact {
        Fact {
            name: name.parse().unwrap(),
            state: FactState::Pass,
            value,
            evidence: "CRYPT-LUKS2".into(),
            source: "/sys/dev/block".into(),
            collected_at: Timestamp(1_000),
        }
    }

    #[test]
    fn every_value_reads_back() {
        let facts = vec![
            fact("disk_encryption", FactValue::Bool(true)),
            fact("uptime", FactValue::Number(-1)),
            fact("swname", FactValue::Text("Debian".into())),
            fact("ports", FactValue::List(vec!["22/tcp".into()])),
            fact("tpm", FactValue::Nothing),
        ];
        let id = ReportId::from_bytes([2; 16]);
        let report = PostureReport { device: DeviceId::from_bytes([1; 16]), id, facts, at: Timestamp(1_001) };
        assert_eq!(decode::<PostureReport>(&encode(&report)).unwrap(), report);
    }

    #[test]
    fn a_name_with_a_claim_travels_as_its_number_only() {
        let name: FactName = "uptime".parse().unwrap();
        assert_eq!(encode(&name), [0x19, 0x01, 0x05]);
        assert_eq!(decode::<FactName>(&[0x19, 0x01, 0x05]).unwrap(), name);
        let as_text = decode::<FactName>(b"\x66uptime");
        assert!(matches!(as_text, Err(CborError::NotDeterministic)), "{as_text:?}");
        assert!(matches!(decode::<FactName>(&[0x05]), Err(CborError::Value { field: "fact name" })));
    }

    #[test]
    fn names_are_plain() {
        for bad in ["", "Uptime", "up time", "1up", "up-time", "é", &"a".repeat(65)] {
            assert_eq!(bad.parse::<FactName>(), Err(FactNameError), "{bad}");
        }
    }

    #[test]
    fn floats_and_maps_are_no_values() {
        for bytes in [
            &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0xa0],
            &[0x40],
            &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert!(decode::<FactValue>(bytes).is_err(), "{bytes:x?}");
        }
    }
}
