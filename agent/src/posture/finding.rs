//! What one collector found, before it becomes a fact on the wire.
//!
//! Texts come from files that whoever owns the device may write: here they lose what a terminal would obey and
//! everything beyond a length.

use muster_wire::posture::{Fact, FactName, FactState, FactValue};
use muster_wire::time::Timestamp;

/// Characters of one text on the wire.
const TEXT_CAP: usize = 400;

/// Texts in one list on the wire.
const LIST_CAP: usize = 16;

/// What one collector found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) state: FactState,
    pub(super) value: FactValue,
    pub(super) evidence: String,
    pub(super) source: String,
}

impl Finding {
    /// As it should be.
    pub(super) fn pass(value: FactValue, evidence: impl Into<String>) -> Self {
        Self::new(FactState::Pass, value, evidence)
    }

    /// Not as it should be.
    pub(super) fn fail(value: FactValue, evidence: impl Into<String>) -> Self {
        Self::new(FactState::Fail, value, evidence)
    }

    /// Could not be told, for the reason in `evidence`.
    pub(super) fn unknown(evidence: impl Into<String>) -> Self {
        Self::new(FactState::Unknown, FactValue::Nothing, evidence)
    }

    /// Means nothing here, for the reason in `evidence`.
    pub(super) fn not_applicable(evidence: impl Into<String>) -> Self {
        Self::new(FactState::NotApplicable, FactValue::Nothing, evidence)
    }

    /// As it should be, or not.
    pub(super) fn judged(holds: bool, value: FactValue, evidence: impl Into<String>) -> Self {
        Self::new(if holds { FactState::Pass } else { FactState::Fail }, value, evidence)
    }

    pub(super) fn new(state: FactState, value: FactValue, evidence: impl Into<String>) -> Self {
        Self { state, value, evidence: evidence.into(), source: String::new() }
    }

    /// The same, from `source`.
    pub(super) fn from(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// The fact called `name`, its texts bounded and harmless.
    pub(super) fn into_fact(self, name: FactName, collected_at: Timestamp) -> Fact {
        let value = match self.value {
            FactValue::Text(text) => FactValue::Text(bounded(&text)),
            FactValue::List(texts) => {
                FactValue::List(texts.iter().take(LIST_CAP).map(|text| bounded(text)).collect())
            }
            plain @ (FactValue::Nothing | FactValue::Bool(_) | FactValue::Number(_)) => plain,
        };
        let (evidence, source) = (bounded(&self.evidence), bounded(&self.source));
        Fact { name, state: self.state, value, evidence, source, collected_at }
    }
}

/// `text` without control characters and marks that turn the direction of reading, at most [`TEXT_CAP`] long.
pub(super) fn bounded(text: &str) -> String {
    let harmless = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}') { '\u{fffd}' } else { c }
    };
    let mut kept: String = text.chars().map(harmless).take(TEXT_CAP).collect();
    if text.chars().nth(TEXT_CAP).is_some() {
        kept.pop();
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_obey_does_not_leave_the_device() {
        assert_eq!(bounded("a\x1b[2J\r\nb\u{202e}c"), "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c");
    }

    proptest! {
        #[test]
        fn texts_are_bounded_and_keep_what_is_plain(text in "\\PC{0,900}") {
            let kept = bounded(&text);
            prop_assert!(kept.chars().count() <= TEXT_CAP);
            prop_assert!(kept.chars().all(|c| !c.is_control()));
        }
    }
}
