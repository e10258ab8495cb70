//! Quarantine: a device is held, mends itself or is looked at, and is let go again.
//!
//! ```text
//!                 by hand, or a rule's grace ends
//! commissioning ─┐                            ┌─▶ the state it was in
//! active ────────┴──────▶ quarantined ────────┘
//!                         by hand; or by itself, where a rule held it and none is due any more
//! ```
//! What a rule holds a rule releases; what a person holds only a person releases, and a person who holds what a rule
//! held takes it over. What is due when a person releases a device is not held against it again: only what fails
//! anew afterwards is.

use super::device::{Device, DeviceState};
use super::reported::plain;
use muster_firmware_profiles::appraise::Failing;
use muster_firmware_profiles::profile::Action;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How long a certificate lives that is issued to a device in quarantine: 7 days, in seconds.
pub const HELD_LEAF_S: i64 = 7 * 24 * 60 * 60;

/// Longest reason that an operator may give, in bytes.
pub const REASON_BYTES: usize = 200;

/// Who holds a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum By {
    /// A person.
    Manual {
        /// As the audit log calls them.
        operator: String,
    },
    /// A posture rule.
    Rule {
        /// The fact that the rule is about.
        fact: String,
    },
}

/// That a device is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// By whom or by what.
    #[serde(flatten)]
    pub by: By,
    /// Why, in words.
    pub reason: String,
    /// Since when, unix seconds.
    pub since: i64,
    /// The state that it goes back to.
    pub former: DeviceState,
}

/// Why a person holds or releases a device: 1 to [`REASON_BYTES`] bytes of plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Because(String);

/// A reason that is empty, too long or no plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {REASON_BYTES} bytes of text without control characters")]
pub struct BadReason;

impl FromStr for Because {
    type Err = BadReason;

    fn from_str(text: &str) -> Result<Self, BadReason> {
        let text = text.trim();
        let is_plain = text.len() <= REASON_BYTES && plain(text, REASON_BYTES) == text;
        if text.is_empty() || !is_plain { Err(BadReason) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person's wish to hold a device comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It is to be done.
    Do,
    /// It is so already.
    Already,
    /// It cannot be done from the state the device is in.
    Refused,
}

impl Device {
    /// Whether a person may hold this device.
    pub fn may_be_held(&self) -> Wish {
        let by_hand = matches!(&self.quarantine, Some(Quarantine { by: By::Manual { .. }, .. }));
        match (self.state.may_be_ended(), by_hand) {
            (false, _) => Wish::Refused,
            (true, true) => Wish::Already,
            (true, false) => Wish::Do,
        }
    }

    /// Whether a person may release this device.
    pub fn may_be_released(&self) -> Wish {
        match (self.state.may_be_ended(), &self.quarantine) {
            (false, _) => Wish::Refused,
            (true, Some(_)) => Wish::Do,
            (true, None) => Wish::Already,
        }
    }

    /// Holds this device from `now` (unix seconds) on. One that is held already is only held by somebody else.
    pub fn hold(&mut self, by: By, reason: String, now: i64) {
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.by = by;
            quarantine.reason = reason;
            return;
        }
        self.quarantine = Some(Quarantine { by, reason, since: now, former: self.state });
        self.state = DeviceState::Quarantined;
        self.changed_at = now;
    }

    /// Lets this device go back to where it was, at `now` (unix seconds); answers how it was held.
    pub fn release(&mut self, now: i64) -> Option<Quarantine> {
        let quarantine = self.quarantine.take()?;
        self.state = quarantine.former;
        self.changed_at = now;
        Some(quarantine)
    }

    /// A person has released this device at `now` (unix seconds): what is due by then is not held against it.
    pub fn excuse(&mut self, now: i64) {
        self.excused_until = Some(now);
    }
}

/// How long after a hold that the budget did not allow it is tried again, in seconds.
const AGAIN_S: i64 = 600;

/// What an appraisal does to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// It is to be held for this rule.
    Hold(&'a Failing),
    /// The rule that held it is satisfied, and no other is due.
    Release,
    /// Nothing changes.
    Stay,
}

/// What the rules that fail, as appraised at `now` (unix seconds), do to `device`.
pub fn by_posture<'a>(device: &Device, failing: &'a [Failing], now: i64) -> Step<'a> {
    let counts = |one: &&Failing| {
        let is_excused = device.excused_until.is_some_and(|until| one.due <= Timestamp(until));
        one.action == Action::Quarantine && one.is_due(Timestamp(now)) && !is_excused
    };
    let due = failing.iter().filter(counts).min_by_key(|one| one.due);
    let by_rule = matches!(&device.quarantine, Some(Quarantine { by: By::Rule { .. }, .. }));
    match (device.state, due) {
        (DeviceState::Commissioning | DeviceState::Active, Some(rule)) => Step::Hold(rule),
        (DeviceState::Quarantined, None) if by_rule => Step::Release,
        _ => Step::Stay,
    }
}

/// When the device is to be looked at again without a report, unix seconds, after [`by_posture`] was followed: when
/// the next grace ends; a little later where the budget kept a rule from holding it.
pub fn look_again_at(device: &Device, failing: &[Failing], now: i64) -> Option<i64> {
    if matches!(by_posture(device, failing, now), Step::Hold(_)) {
        return Some(now.saturating_add(AGAIN_S));
    }
    failing.iter().map(|one| one.due.seconds()).filter(|due| *due > now).min()
}

/// How many devices rules may hold in an hour, however many fail: a bad rule, or an agent that reports nonsense, must
/// not hold the whole fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// So many in any case.
    pub least: u32,
    /// Or so many of a hundred devices, if that is more.
    pub percent: u32,
}

impl Budget {
    /// How many in an hour, with `devices` in the fleet.
    pub fn of(self, devices: u64) -> u32 {
        let share = devices.saturating_mul(u64::from(self.percent)) / 100;
        self.least.max(u32::try_from(share).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn device(state: DeviceState) -> Device {
        let record = json!({
            "v": 1, "id": "01900000-0000-7000-8000-000000000000", "profile": "sensor-linux", "state": state,
            "token": "01900000-0000-7000-8000-000000000001", "created_at": 0, "changed_at": 0,
        });
        serde_json::from_value(record).unwrap()
    }

    fn failing(fact: &str, action: Action, due: i64) -> Failing {
        let remediation = "mend it".to_owned();
        Failing { fact: fact.into(), since: Timestamp(due - 1), action, remediation, due: Timestamp(due) }
    }

    fn rule() -> By {
        By::Rule { fact: "firewall".into() }
    }

    fn person() -> By {
        By::Manual { operator: "operator/admin".into() }
    }

    #[test]
    fn a_device_goes_back_to_where_it_was() {
        for former in [DeviceState::Commissioning, DeviceState::Active] {
            let mut device = device(former);
            device.hold(person(), "lost".into(), 5);
            assert_eq!((device.state, device.changed_at), (DeviceState::Quarantined, 5));
            assert_eq!(device.release(7).unwrap().since, 5);
            assert_eq!((device.state, device.changed_at), (former, 7));
            assert_eq!(device.release(8), None);
        }
    }

    #[test]
    fn a_person_takes_over_what_a_rule_held_and_no_rule_releases_it_then() {
        let mut device = device(DeviceState::Active);
        device.hold(rule(), "off".into(), 5);
        assert_eq!(device.may_be_held(), Wish::Do);
        assert_eq!(by_posture(&device, &[], 6), Step::Release);
        device.hold(person(), "stolen".into(), 6);
        assert_eq!(device.may_be_held(), Wish::Already);
        assert_eq!(by_posture(&device, &[], 7), Step::Stay);
        let quarantine = device.quarantine.unwrap();
        assert_eq!((quarantine.since, quarantine.former), (5, DeviceState::Active));
    }

    #[test]
    fn only_a_due_rule_that_says_so_holds_and_the_longest_due_is_named() {
        let device = device(DeviceState::Active);
        let rules = [
            failing("a", Action::Warn, 1),
            failing("b", Action::Quarantine, 9),
            failing("c", Action::Quarantine, 4),
        ];
        assert_eq!(by_posture(&device, &rules, 3), Step::Stay);
        assert_eq!(by_posture(&device, &rules, 10), Step::Hold(&rules[2]));
    }

    #[test]
    fn what_was_due_when_a_person_released_is_not_held_against_the_device_again() {
        let mut device = device(DeviceState::Active);
        device.hold(rule(), "off".into(), 5);
        device.release(20);
        device.excuse(20);
        let old = failing("firewall", Action::Quarantine, 5);
        assert_eq!(by_posture(&device, std::slice::from_ref(&old), 30), Step::Stay);
        let anew = failing("firewall", Action::Quarantine, 25);
        assert_eq!(by_posture(&device, std::slice::from_ref(&anew), 30), Step::Hold(&anew));
    }

    #[test]
    fn whose_life_is_over_is_neither_held_nor_released() {
        for state in [DeviceState::Retired, DeviceState::Pending, DeviceState::Deprovisioning] {
            let device = device(state);
            assert_eq!((device.may_be_held(), device.may_be_released()), (Wish::Refused, Wish::Refused));
            let due = [failing("a", Action::Quarantine, 0)];
            assert_eq!(by_posture(&device, &due, 1), Step::Stay);
        }
    }

    #[test]
    fn a_reason_is_short_plain_text() {
        assert_eq!(" left in a train ".parse::<Because>().unwrap().to_string(), "left in a train");
        for bad in ["", "  ", "a\u{1b}[31m", "a\nb", "\u{202e}txt", &"x".repeat(REASON_BYTES + 1)] {
            assert_eq!(bad.parse::<Because>(), Err(BadReason), "{bad:?}");
        }
    }

    #[test]
    fn the_budget_is_the_greater_of_a_number_and_a_share() {
        let budget = Budget { least: 10, percent: 5 };
        assert_eq!([0, 199, 200, 1_000, u64::MAX].map(|n| budget.of(n)), [10, 10, 10, 50, u32::MAX]);
    }

    proptest! {
        #[test]
        fn a_rule_never_touches_what_a_person_holds(due in 0i64..100, now in 0i64..100, excused in 0i64..100) {
            let mut device = device(DeviceState::Active);
            device.hold(person(), "x".into(), 0);
            device.excuse(excused);
            let rules = [failing("a", Action::Quarantine, due)];
            prop_assert_eq!(by_posture(&device, &rules, now), Step::Stay);
        }
    }
}
