//! One entry of the log: canonical JSON.
//!
//! Keys sorted by their bytes, no space, escapes only where JSON demands them (`\"`, `\\`, `\b`, `\f`, `\n`, `\r`,
//! `\t`, `\u00xx` in lower case): one entry has one spelling, and [`Entry::decode`] takes no other.
//!
//! An entry fits one record of the store. A draft that would make it larger than [`MAX_BYTES`] is cut by this rule:
//! every text, fact name and fact value whose JSON form is longer than [`CUT_BYTES`] becomes `cut:sha256:` and the
//! digest of the whole text in hexadecimal, and of the facts only the first [`CUT_FACTS`] by name stay, with one
//! more, `facts_dropped`, that counts the others.

use crate::domain::ledger::{Draft, Outcome};
use muster_wire::digest::Sha256Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most bytes of an entry.
pub const MAX_BYTES: usize = 4000;
/// Longest JSON form, quotes included, that a text of an entry which was too large keeps.
pub const CUT_BYTES: usize = 96;
/// Number of facts that an entry which was too large keeps.
pub const CUT_FACTS: usize = 8;
/// The version written in `v`.
pub const VERSION: u8 = 1;

/// What the log says about one act. Fields stand in the order of their names, for that is their order in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The act, as the authorisation table spells it.
    pub action: String,
    /// Who acted.
    pub actor: String,
    /// One-way facts by name.
    pub facts: BTreeMap<String, String>,
    /// State after; empty when there is none.
    pub new_state: String,
    /// What it was done to.
    pub object: String,
    /// Done or refused.
    pub outcome: Outcome,
    /// SHA-256 in hexadecimal of what was sent or issued; empty when there was nothing.
    pub payload_sha256: String,
    /// Version of the authorisation table that judged.
    pub policy_version: u32,
    /// State before; empty when there was none.
    pub prev_state: String,
    /// A stable code; empty when there is nothing to say.
    pub reason: String,
    /// The request that caused it; empty for the server's own acts.
    pub request_id: String,
    /// Place in the log, from 0.
    pub seq: u64,
    /// How the actor proved who it is.
    pub sign_in: String,
    /// When, in milliseconds since 1970-01-01T00:00:00Z.
    pub ts: i64,
    /// Version of this form: 1.
    pub v: u8,
}

impl Entry {
    /// The entry that `draft` makes at `seq`, before any cut.
    pub fn new(draft: &Draft, seq: u64) -> Self {
        Self {
            action: draft.action.clone(),
            actor: draft.actor.clone(),
            facts: draft.facts.clone(),
            new_state: draft.new_state.clone(),
            object: draft.object.clone(),
            outcome: draft.outcome,
            payload_sha256: draft.payload_sha256.clone(),
            policy_version: draft.policy_version,
            prev_state: draft.prev_state.clone(),
            reason: draft.reason.clone(),
            request_id: draft.request_id.clone(),
            seq,
            sign_in: draft.sign_in.clone(),
            ts: draft.ts,
            v: VERSION,
        }
    }

    /// The entry's bytes, at most [`MAX_BYTES`], cut where it has to be.
    pub fn encode(&self) -> Vec<u8> {
        let json = self.to_json();
        if json.len() <= MAX_BYTES {
            return json;
        }
        self.cut().to_json()
    }

    /// The entry with these bytes; `None` unless they are exactly what [`Entry::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let entry: Self = serde_json::from_slice(bytes).ok()?;
        (entry.v == VERSION && entry.encode() == bytes).then_some(entry)
    }

    fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(768);
        #[expect(clippy::expect_used, reason = "texts, numbers and a map with text keys; writing to memory")]
        serde_json::to_writer(&mut json, self).expect("entries serialise");
        json
    }

    fn cut(&self) -> Self {
        let mut facts: BTreeMap<_, _> =
            self.facts.iter().take(CUT_FACTS).map(|(name, value)| (cut(name), cut(value))).collect();
        let dropped = self.facts.len().saturating_sub(CUT_FACTS);
        if dropped > 0 {
            facts.insert("facts_dropped".to_owned(), dropped.to_string());
        }
        Self {
            action: cut(&self.action),
            actor: cut(&self.actor),
            facts,
            new_state: cut(&self.new_state),
            object: cut(&self.object),
            outcome: self.outcome,
            payload_sha256: cut(&self.payload_sha256),
            policy_version: self.policy_version,
            prev_state: cut(&self.prev_state),
            reason: cut(&self.reason),
            request_id: cut(&self.request_id),
            seq: self.seq,
            sign_in: cut(&self.sign_in),
            ts: self.ts,
            v: self.v,
        }
    }
}

fn cut(text: &str) -> String {
    let json_len = 2 + text.bytes().map(escaped_len).sum::<usize>();
    if json_len <= CUT_BYTES {
        text.to_owned()
    } else {
        format!("cut:sha256:{}", Sha256Digest::of(text.as_bytes()))
    }
}

/// Bytes that JSON takes for `byte` of a text.
fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | 0x0c | b'\n' | b'\r' | b'\t' => 2,
        0..=0x1f => 6,
        _ => 1,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn draft(object: &str) -> Draft {
        Draft {
            ts: 1_700_000_000_123,
            actor: "operator/ada".to_owned(),
            sign_in: "credential".to_owned(),
            policy_version: 1,
            action: "device.revoke".to_owned(),
            object: object.to_owned(),
            outcome: Outcome::Done,
            reason: "key_compromise".to_owned(),
            request_id: "r1".to_owned(),
            prev_state: "active".to_owned(),
            new_state: "retired".to_owned(),
            payload_sha256: String::new(),
            facts: BTreeMap::from([("device".to_owned(), "d".to_owned())]),
        }
    }

    #[test]
    fn an_entry_is_json_with_sorted_keys_and_no_space() {
        let json = String::from_utf8(Entry::new(&draft("device/ä\n\u{1}\u{7f}"), 7).encode()).unwrap();
        assert_eq!(
            json,
            "{\"action\":\"device.revoke\",\"actor\":\"operator/ada\",\"facts\":{\"device\":\"d\"},\
             \"new_state\":\"retired\",\"object\":\"device/ä\\n\\u0001\u{7f}\",\"outcome\":\"done\",\
             \"payload_sha256\":\"\",\"policy_version\":1,\"prev_state\":\"active\",\"reason\":\"key_compromise\",\
             \"request_id\":\"r1\",\"seq\":7,\"sign_in\":\"credential\",\"ts\":1700000000123,\"v\":1}"
        );
    }

    #[test]
    fn another_spelling_of_an_entry_is_no_entry() {
        let json = String::from_utf8(Entry::new(&draft("device/d"), 7).encode()).unwrap();
        assert!(Entry::decode(json.as_bytes()).is_some());
        for (from, to) in [
            ("\"seq\":7", "\"seq\": 7"),
            ("\"v\":1", "\"v\":2"),
            ("ada", "\\u0061da"),
            ("\"reason\":\"key_compromise\",", ""),
            ("\"v\":1}", "\"v\":1,\"w\":1}"),
            ("\"v\":1}", "\"v\":1} "),
        ] {
            let other = json.replace(from, to);
            assert_ne!(other, json);
            assert_eq!(Entry::decode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn an_entry_that_fits_is_never_cut() {
        let mut large = draft(&"x".repeat(3500));
        large.actor = "y".repeat(100);
        let entry = Entry::new(&large, 0);
        assert_eq!(Entry::decode(&entry.encode()), Some(entry));
    }

    #[test]
    fn an_entry_that_does_not_fit_keeps_short_texts_and_the_digests_of_long_ones() {
        let long = "x".repeat(5000);
        let entry = Entry::decode(&Entry::new(&draft(&long), 0).encode()).unwrap();
        assert_eq!(entry.object, format!("cut:sha256:{}", Sha256Digest::of(long.as_bytes())));
        assert_eq!(entry.actor, "operator/ada");
        assert_eq!(entry.facts["device"], "d");
    }

    #[test]
    fn the_largest_draft_makes_an_entry_that_fits() {
        let worst = |tag: usize| format!("{tag}{}", "\u{1}".repeat(3000));
        let mut large = draft(&worst(0));
        large.facts = (0..40).map(|tag| (worst(tag), worst(tag))).collect();
        for text in [&mut large.actor, &mut large.action, &mut large.sign_in, &mut large.reason] {
            *text = worst(1);
        }
        for text in [&mut large.request_id, &mut large.prev_state, &mut large.new_state] {
            *text = worst(1);
        }
        large.payload_sha256 = worst(1);
        let entry = Entry::decode(&Entry::new(&large, u64::MAX).encode()).unwrap();
        assert_eq!(entry.facts["facts_dropped"], "32");
    }

    proptest! {
        #[test]
        fn every_draft_makes_one_entry_that_fits_and_reads_back(
            object in ".{0,600}", reason in ".{0,600}", name in ".{0,300}", value in ".{0,900}", seq: u64, ts: i64,
        ) {
            let mut draft = draft(&object);
            draft.reason = reason;
            draft.ts = ts;
            draft.facts = BTreeMap::from([(name, value)]);
            let bytes = Entry::new(&draft, seq).encode();
            prop_assert!(bytes.len() <= MAX_BYTES);
            prop_assert_eq!(Entry::decode(&bytes).unwrap().encode(), bytes);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = Entry::decode(&bytes);
        }
    }
}
