//! What a device's facts amount to, measured by its profile's rules.
//!
//! ```text
//!             seen to fail            due = since + grace
//!   (holds) ───────────────▶ failing in grace ───────────▶ failing, the action is due
//!      ▲                          │                              │
//!      └────── seen to pass ──────┴──────────────────────────────┘
//! ```
//! A fact that cannot be told is no pass, yet it never begins a failure: only what was *seen* to fail runs through
//! grace to an action, and only what was *seen* to pass, or means nothing on this device, ends it. So a device
//! cannot leave quarantine by falling silent, and none is quarantined for what its agent could not find out.
//! Everything here is a function of its arguments; nothing reads a clock.

use crate::profile::{Action, PostureRule, WhenUnknown};
use crate::support;
use muster_wire::posture::{Fact, FactState};
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How a device stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every rule holds.
    Pass,
    /// A rule fails, within its grace.
    Grace,
    /// A rule fails beyond its grace.
    Fail,
    /// No rule fails beyond its grace, and one that does not tolerate it cannot be told.
    Unknown,
}

impl Verdict {
    /// The word that people and programs read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Grace => "grace",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// The fact it is about.
    pub fact: String,
    /// When it was first seen to fail.
    pub since: Timestamp,
    /// What happens at `due`.
    pub action: Action,
    /// What the person at the device does about it.
    pub remediation: String,
    /// The end of its grace.
    pub due: Timestamp,
}

impl Failing {
    /// Whether its grace is over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.due
    }
}

/// What the facts amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraisal {
    /// In one word.
    pub verdict: Verdict,
    /// The rules that do not hold, in the profile's order.
    pub failing: Vec<Failing>,
    /// The strongest action that is due now. A device quarantined by a rule is released when this is no longer
    /// [`Action::Quarantine`].
    pub action: Option<Action>,
    /// Facts of rules that could not be told and have to be, in the profile's order.
    pub unknown: Vec<String>,
    /// The facts with what only the server knows: `os_support` judged by its date.
    pub facts: Vec<Fact>,
}

impl Appraisal {
    /// The rule for which the device is to be quarantined now, the longest due first.
    pub fn quarantined_for(&self, now: Timestamp) -> Option<&Failing> {
        let due = self.failing.iter().filter(|one| one.action == Action::Quarantine && one.is_due(now));
        due.min_by_key(|one| one.due)
    }

    /// When the same facts have to be appraised again because a grace ends; none when nothing is waited for.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.failing.iter().map(|one| one.due).filter(|due| *due > now).min()
    }
}

/// How one rule stands, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Holds,
    Untold,
    Fails,
}

/// Appraises `facts` by `rules` at `now`; `before` is what failed in the last appraisal.
///
/// Without a report, call it again with the same facts at [`Appraisal::next_due`]. A rule that has changed keeps
/// the moment since when its fact fails and gets the new grace; a rule that has gone takes its failure with it.
pub fn appraise(rules: &[PostureRule], facts: &[Fact], before: &[Failing], now: Timestamp) -> Appraisal {
    let facts = judged(facts, now);
    let mut failing = Vec::new();
    let mut unknown = Vec::new();
    for rule in rules {
        let earlier = before.iter().find(|one| one.fact == rule.fact);
        match (standing(rule, &facts), earlier) {
            (Standing::Holds, _) => {}
            (Standing::Fails, _) => failing.push(failure(rule, earlier.map_or(now, |one| one.since))),
            (Standing::Untold, Some(earlier)) => failing.push(failure(rule, earlier.since)),
            (Standing::Untold, None) if rule.unknown == WhenUnknown::Tolerated => {}
            (Standing::Untold, None) => unknown.push(rule.fact.clone()),
        }
    }
    let action = failing.iter().filter(|one| one.is_due(now)).map(|one| one.action).max();
    let verdict = match (action, unknown.is_empty(), failing.is_empty()) {
        (Some(_), _, _) => Verdict::Fail,
        (None, false, _) => Verdict::Unknown,
        (None, true, false) => Verdict::Grace,
        (None, true, true) => Verdict::Pass,
    };
    Appraisal { verdict, failing, action, unknown, facts }
}

fn judged(facts: &[Fact], now: Timestamp) -> Vec<Fact> {
    let judge = |fact: &Fact| match fact.name.as_str() {
        support::FACT => support::judge(fact, now),
        _ => fact.clone(),
    };
    facts.iter().map(judge).collect()
}

/// A fact that is told twice counts as the worse of the two.
fn standing(rule: &PostureRule, facts: &[Fact]) -> Standing {
    let told = facts.iter().filter(|fact| fact.name.as_str() == rule.fact);
    let standings = told.map(|fact| match fact.state {
        FactState::Pass | FactState::NotApplicable => Standing::Holds,
        FactState::Unknown | FactState::Error => Standing::Untold,
        FactState::Fail => Standing::Fails,
    });
    standings.max().unwrap_or(Standing::Untold)
}

fn failure(rule: &PostureRule, since: Timestamp) -> Failing {
    Failing {
        fact: rule.fact.clone(),
        since,
        action: rule.action,
        remediation: rule.remediation.clone(),
        due: since.plus_seconds(rule.grace_s()),
    }
}

#[cfg(test)]
#[path = "appraise_tests.rs"]
mod tests;
