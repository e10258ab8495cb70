//! The budget of destructive acts (`security.md`, "Destructive orders: rails that are on by default", 2, 4 and 6).
//!
//! ```text
//! act ─ within the budget ─▶ spent ─▶ done
//!  └─── beyond it ─▶ waits (4 h, or until approvers waive it) ─ asked again after that ─▶ spent ─▶ done
//! ```
//! What was spent lies in one document, written in the commit of the act; a clock that was set back does not give any of it
//! back. A device labelled [`PROTECTED`] is exempt from all of it; one that is somebody's own is let go and nothing more.

use super::device::Device;
use super::refusal::Refusal;
use muster_wire::problem::Code;
use muster_wire::warrant::Level;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The label of devices that nothing destructive is done to.
pub const PROTECTED: &str = "protected";

/// Label and value of devices that are somebody's own.
pub const OWNERSHIP: (&str, &str) = ("ownership", "personal");

/// From what age on a device counts for the budget, in seconds of its being active: 30 days.
pub const GROWN_UP_S: i64 = 30 * DAY_S;

/// How long an act that has waited may be asked for again, in seconds.
const OPEN_S: i64 = DAY_S;
const DAY_S: i64 = 24 * 60 * 60;
const HOUR_S: i64 = 60 * 60;

/// Most acts that wait at once; more are refused.
const WAITING_MAX: usize = 256;

/// Most acts of one actor that wait at once; more are refused.
const WAITING_EACH: usize = 32;

/// How much may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Devices in 24 hours in any case.
    pub day_least: u32,
    /// Or so many of a hundred devices that have been active for 30 days, if that is more.
    pub day_percent: u32,
    /// Devices in an hour.
    pub hour: u32,
    /// How long an act beyond that waits, in seconds.
    pub cooling_off_s: u32,
}

impl Limits {
    /// How many devices in 24 hours, of `grown_up` that have been active for 30 days.
    pub fn day(&self, grown_up: u64) -> u64 {
        let percent = grown_up.saturating_mul(u64::from(self.day_percent)).div_ceil(100);
        percent.max(u64::from(self.day_least))
    }
}

/// Devices that something destructive was done to at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// When, unix seconds.
    pub at: i64,
    /// How many devices.
    pub devices: u64,
}

/// An act beyond the budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What it is and to which devices, as a digest in hexadecimal.
    pub key: String,
    /// What it is: `wipe`, `revoke`, ….
    pub act: String,
    /// How many devices.
    pub devices: u64,
    /// Who asked first, as the audit log names them.
    pub by: String,
    /// When, unix seconds.
    pub since: i64,
    /// From when on it is done when it is asked for again, unix seconds.
    pub until: i64,
    /// The waiver with the approvers' signatures so far, COSE_Sign in hexadecimal; empty before the first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiver: String,
}

/// What was spent lately, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Version of this record's form.
    pub v: u8,
    /// The last 24 hours, oldest first.
    #[serde(default)]
    pub spent: Vec<Spent>,
    /// Oldest first.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
}

/// What an act comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be done.
    Within,
    /// It waits until then, unix seconds; `fresh` when it was not asked for before.
    Waits {
        /// When it may be asked for again.
        until: i64,
        /// Whether nobody has asked for it before.
        fresh: bool,
    },
    /// Too many acts wait already, or too many of who asks.
    Crowded,
}

impl Ledger {
    /// Devices spent in the last `seconds` before `now`; what lies in the future counts as well.
    fn lately(&self, seconds: i64, now: i64) -> u64 {
        let recent = self.spent.iter().filter(|spent| now.saturating_sub(spent.at) < seconds);
        recent.map(|spent| spent.devices).fold(0, u64::saturating_add)
    }

    /// Devices spent in the last hour and in the last 24 hours.
    pub fn used(&self, now: i64) -> (u64, u64) {
        (self.lately(HOUR_S, now), self.lately(DAY_S, now))
    }

    /// Whether no further act that `by` asks for may wait at `now`.
    pub fn is_crowded(&self, by: &str, now: i64) -> bool {
        let open = self.waiting.iter().filter(|waiting| !waiting.is_over(now));
        let own = open.clone().filter(|waiting| waiting.by == by).count();
        own >= WAITING_EACH || open.count() >= WAITING_MAX
    }

    /// Judges an act on `devices` devices that is called `key` and that `by` asks for, at `now`. How many devices are
    /// grown up is asked only where it matters.
    ///
    /// # Errors
    /// Whatever keeps `grown_up` from answering.
    pub fn judge<E>(
        &self,
        limits: &Limits,
        (key, by, devices): (&str, &str, u64),
        grown_up: impl FnOnce() -> Result<u64, E>,
        now: i64,
    ) -> Result<Verdict, E> {
        let (hour, day) = self.used(now);
        if hour.saturating_add(devices) <= u64::from(limits.hour) {
            let day = day.saturating_add(devices);
            if day <= u64::from(limits.day_least) || day <= limits.day(grown_up()?) {
                return Ok(Verdict::Within);
            }
        }
        if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.key == key && !waiting.is_over(now))
        {
            let until = waiting.until;
            return Ok(if now >= until { Verdict::Within } else { Verdict::Waits { until, fresh: false } });
        }
        if self.is_crowded(by, now) {
            return Ok(Verdict::Crowded);
        }
        Ok(Verdict::Waits { until: now.saturating_add(i64::from(limits.cooling_off_s)), fresh: true })
    }

    /// Counts an act on `devices` devices that is called `key`, at `now`.
    pub fn spend(&mut self, key: &str, devices: u64, now: i64) {
        self.tidy(now);
        self.waiting.retain(|waiting| waiting.key != key);
        match self.spent.last_mut() {
            // By the minute, so that the record stays small.
            Some(last) if (0..60).contains(&now.saturating_sub(last.at)) => {
                last.devices = last.devices.saturating_add(devices);
            }
            _ => self.spent.push(Spent { at: now, devices }),
        }
    }

    /// What waits under this name at `now`, or has waited and may be asked for again.
    pub fn cooling(&self, key: &str, now: i64) -> Option<&Waiting> {
        self.waiting.iter().find(|waiting| waiting.key == key && !waiting.is_over(now))
    }

    /// Keeps the signatures under `waiver` with what is called `key`; where there are enough, it waits no longer.
    pub fn waive(&mut self, key: &str, waiver: String, is_enough: bool, now: i64) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.key == key) {
            waiting.waiver = waiver;
            waiting.until = if is_enough { waiting.until.min(now) } else { waiting.until };
        }
    }

    /// Lets `waiting` wait.
    pub fn cool(&mut self, waiting: Waiting, now: i64) {
        self.tidy(now);
        if !self.waiting.iter().any(|known| known.key == waiting.key) {
            self.waiting.push(waiting);
        }
    }

    fn tidy(&mut self, now: i64) {
        self.spent.retain(|spent| now.saturating_sub(spent.at) < DAY_S);
        self.waiting.retain(|waiting| !waiting.is_over(now));
    }
}

impl Waiting {
    /// Whether it is done at `now` when it is asked for again.
    pub fn is_ready(&self, now: i64) -> bool {
        self.until <= now
    }

    fn is_over(&self, now: i64) -> bool {
        now.saturating_sub(self.until) >= OPEN_S
    }
}

/// Whether `labels` say that a device is somebody's own.
pub fn is_labelled_personal(labels: &BTreeMap<String, String>) -> bool {
    let (label, personal) = OWNERSHIP;
    labels.get(label).is_some_and(|value| value == personal)
}

/// Whether something destructive may be done to `device` at all; `wipe` where it is a wipe, as far as that. No label
/// takes from a device what a personal profile promises.
///
/// # Errors
/// The rule that exempts it.
pub fn may_be_done(device: &Device, wipe: Option<Level>, is_personal_profile: bool) -> Result<(), Refusal> {
    if device.labels.contains_key(PROTECTED) {
        return Err(Refusal::by("rails.protected", Code::DeviceStateRefused).at("labels"));
    }
    match wipe {
        Some(level)
            if (is_personal_profile || is_labelled_personal(&device.labels)) && level != Level::Retire =>
        {
            Err(Refusal::by("rails.personal", Code::DeviceStateRefused).at("level"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { day_least: 3, day_percent: 1, hour: 10, cooling_off_s: 4 * 3600 };

    fn judge(ledger: &Ledger, devices: u64, grown_up: u64, now: i64) -> Verdict {
        ledger.judge(&LIMITS, ("key", "operator/a", devices), || Ok::<_, ()>(grown_up), now).unwrap()
    }

    fn waiting(key: &str, until: i64) -> Waiting {
        Waiting {
            key: key.into(),
            act: "revoke".into(),
            devices: 1,
            by: String::new(),
            since: 0,
            until,
            waiver: String::new(),
        }
    }

    #[test]
    fn a_small_fleet_loses_three_devices_a_day_and_a_large_one_a_hundredth() {
        assert_eq!([0, 100, 301, 10_000].map(|grown_up| LIMITS.day(grown_up)), [3, 3, 4, 100]);
    }

    #[test]
    fn a_loop_of_single_acts_ends_where_one_act_on_all_of_them_would() {
        let mut ledger = Ledger::default();
        for now in 0..3 {
            assert_eq!(judge(&ledger, 1, 50, now), Verdict::Within);
            ledger.spend("key", 1, now);
        }
        let waits = Verdict::Waits { until: 3 + 4 * 3600, fresh: true };
        assert_eq!(judge(&ledger, 1, 50, 3), waits);
        assert_eq!(judge(&Ledger::default(), 4, 50, 3), waits);
        assert_eq!(judge(&ledger, 1, 50, DAY_S + 60), Verdict::Within, "a day later");
    }

    #[test]
    fn an_hour_has_a_limit_of_its_own() {
        let mut ledger = Ledger::default();
        ledger.spend("key", 10, 0);
        assert!(matches!(judge(&ledger, 1, 100_000, 60), Verdict::Waits { .. }));
        assert_eq!(judge(&ledger, 1, 100_000, HOUR_S), Verdict::Within);
    }

    #[test]
    fn who_has_waited_may_and_who_asks_again_too_early_or_too_late_waits() {
        let mut ledger = Ledger::default();
        ledger.spend("other", 3, 0);
        ledger.cool(waiting("key", 100), 0);
        assert_eq!(judge(&ledger, 1, 0, 99), Verdict::Waits { until: 100, fresh: false });
        assert_eq!(judge(&ledger, 1, 0, 100), Verdict::Within);
        ledger.spend("other", 3, DAY_S);
        let late = 100 + OPEN_S;
        assert_eq!(judge(&ledger, 1, 0, late), Verdict::Waits { until: late + 4 * 3600, fresh: true });
    }

    #[test]
    fn a_clock_that_is_set_back_gives_nothing_back() {
        let mut ledger = Ledger::default();
        ledger.spend("key", 3, 1_000_000);
        assert!(matches!(judge(&ledger, 1, 0, 5), Verdict::Waits { .. }));
    }

    #[test]
    fn what_waits_does_not_fill_the_disk() {
        let mut ledger = Ledger::default();
        ledger.spend("other", 3, 0);
        (0..WAITING_MAX).for_each(|n| ledger.cool(waiting(&n.to_string(), 100), 0));
        assert_eq!(judge(&ledger, 1, 0, 1), Verdict::Crowded);
        assert_eq!(ledger.waiting.len(), WAITING_MAX);
    }

    #[test]
    fn one_actor_leaves_room_for_the_acts_of_others() {
        let mut ledger = Ledger::default();
        ledger.spend("other", 3, 0);
        for n in 0..WAITING_EACH {
            assert!(matches!(judge(&ledger, 1, 0, 1), Verdict::Waits { .. }), "{n}");
            ledger.cool(Waiting { by: "operator/a".into(), ..waiting(&n.to_string(), 100) }, 0);
        }
        assert_eq!(judge(&ledger, 1, 0, 1), Verdict::Crowded);
        assert!(!ledger.is_crowded("operator/b", 1));
        assert!(!ledger.is_crowded("operator/a", 100 + OPEN_S), "what nobody asks for again makes room");
    }

    #[test]
    fn no_label_takes_from_a_device_what_a_personal_profile_promises() {
        let device = |labels: serde_json::Value| -> Device {
            let text = serde_json::json!({
                "v": 1, "id": muster_wire::id::DeviceId::from_bytes([1; 16]), "profile": "p", "state": "active",
                "token": muster_wire::id::TokenId::from_bytes([2; 16]), "created_at": 0, "changed_at": 0,
                "labels": labels,
            });
            serde_json::from_value(text).unwrap()
        };
        let (company, own) =
            (serde_json::json!({"ownership": "company"}), serde_json::json!({"ownership": "personal"}));
        for (labels, is_personal_profile, may) in [
            (&company, false, true),
            (&company, true, false),
            (&own, false, false),
            (&serde_json::json!({}), true, false),
        ] {
            let device = device(labels.clone());
            let cleared = may_be_done(&device, Some(Level::Clear), is_personal_profile);
            assert_eq!(cleared.is_ok(), may, "{labels} {is_personal_profile}");
            assert!(may_be_done(&device, Some(Level::Retire), is_personal_profile).is_ok());
        }
    }
}
