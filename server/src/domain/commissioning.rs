//! When a device passes muster.
//!
//! It has to have reported the baseline desired at its generation without a difference that is enforced, its posture
//! has to be good enough where rules judge it, and one order must have come back done. Whatever report or receipt
//! meets the last of these makes the device `active` in its own commit.

use super::device::{Device, DeviceState, Steps};
use super::posture::PostureRecord;
use super::reported::Reported;
use muster_firmware_profiles::appraise::Verdict;
use muster_wire::desired::{Baseline, Generation, Mode};

/// What a device has still to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It has not reported.
    Report,
    /// It has not reported the generation desired.
    Generation,
    /// It has reported differences in a section that is enforced.
    Drift,
    /// Its posture is judged and has not been reported.
    Posture,
    /// Its posture was judged and is not good enough.
    Verdict,
    /// Its posture could not be judged, since facts that have to be told are unknown.
    Untold,
    /// No order has come back done.
    Order,
}

impl Missing {
    /// The rule, for `muster device explain`.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Report => "commissioning.report",
            Self::Generation => "commissioning.generation",
            Self::Drift => "commissioning.drift",
            Self::Posture => "commissioning.posture",
            Self::Verdict => "commissioning.verdict",
            Self::Untold => "commissioning.untold",
            Self::Order => "commissioning.order",
        }
    }

    /// What to do about it, as a sentence.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Report => "The agent has not reported: see that it runs and reaches the MQTT port.",
            Self::Generation => {
                "Its baseline is not in place yet: `muster baseline diff` shows what is desired. If the device refused it or \
                 took it back, `muster device history` says why."
            }
            Self::Drift => "It reports differences from its baseline: `muster baseline diff` names them.",
            Self::Posture => "It has not reported its posture yet.",
            Self::Verdict => {
                "Its posture fails: `muster device show` names the facts, the profile their remedies."
            }
            Self::Untold => {
                "Its posture cannot be judged, since facts that have to be told are unknown. `muster-agent posture` on the \
                 device says what it lacks for each; where it can never tell, the profile's rule may tolerate that \
                 (unknown = \"tolerated\")."
            }
            Self::Order => {
                "The order to collect its posture has not come back: `muster order list` shows it."
            }
        }
    }
}

/// What is known of a device on its way.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What it last reported.
    pub reported: Option<&'a Reported>,
    /// How its posture was last judged.
    pub posture: Option<&'a PostureRecord>,
    /// The generation that it should have.
    pub desired: Generation,
    /// The baseline that it should have.
    pub baseline: &'a Baseline,
    /// Whether rules judge its posture.
    pub judged: bool,
    /// Whether an order has come back done.
    pub order_done: bool,
}

/// Everything that is still missing, in the order in which it usually comes.
pub fn missing(progress: &Progress<'_>) -> Vec<Missing> {
    let mut missing = Vec::new();
    missing.extend(baseline_missing(progress));
    missing.extend(posture_missing(progress));
    if !progress.order_done {
        missing.push(Missing::Order);
    }
    missing
}

fn baseline_missing(progress: &Progress<'_>) -> Option<Missing> {
    let Some(reported) = progress.reported else { return Some(Missing::Report) };
    if reported.in_place() != Some(progress.desired) {
        return Some(Missing::Generation);
    }
    let enforced = progress.baseline.sections.iter().filter(|section| section.mode == Mode::Enforce);
    let drifts = enforced.map(|section| section.content.kind()).any(|kind| reported.drifting.contains(&kind));
    drifts.then_some(Missing::Drift)
}

fn posture_missing(progress: &Progress<'_>) -> Option<Missing> {
    if !progress.judged {
        return None;
    }
    match progress.posture.map(|posture| posture.verdict) {
        Some(Verdict::Pass | Verdict::Grace) => None,
        Some(Verdict::Fail) => Some(Missing::Verdict),
        Some(Verdict::Unknown) => Some(Missing::Untold),
        None => Some(Missing::Posture),
    }
}

/// Notes in `device` which steps `progress` shows that it has taken at `now_ms`, and makes it active when nothing is
/// missing. A device that is not commissioning stays as it is.
pub fn advance(device: &mut Device, progress: &Progress<'_>, now_ms: i64) {
    if device.state != DeviceState::Commissioning {
        return;
    }
    let missing = missing(progress);
    let Steps { connected_at, baseline_at, posture_at, order_at, active_at, .. } = &mut device.steps;
    let take = |step: &mut Option<i64>, taken: bool| {
        if taken && step.is_none() {
            *step = Some(now_ms);
        }
    };
    take(connected_at, progress.reported.is_some());
    take(baseline_at, baseline_missing(progress).is_none());
    take(posture_at, progress.posture.is_some() && posture_missing(progress).is_none());
    take(order_at, progress.order_done);
    if missing.is_empty() {
        take(active_at, true);
        device.state = DeviceState::Active;
        device.changed_at = now_ms.div_euclid(1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::desired::settle;
    use crate::domain::device::DeviceState;
    use crate::domain::reported::{Taken, take};
    use muster_firmware_profiles::builtin::builtin;
    use muster_wire::desired::SectionKind;
    use muster_wire::id::{DeviceId, ReportId, TokenId};
    use muster_wire::posture::{Drift, StateReport};
    use muster_wire::time::Timestamp;
    use std::collections::BTreeMap;

    const DESIRED: Generation = Generation { restore_epoch: 0, counter: 1 };

    fn device() -> Device {
        let text = serde_json::json!({
            "v": 1, "id": DeviceId::from_bytes([1; 16]), "profile": "sensor-linux", "state": "commissioning",
            "token": TokenId::from_bytes([2; 16]), "created_at": 0, "changed_at": 0,
        });
        serde_json::from_value(text).unwrap()
    }

    fn reported(drift: &[SectionKind]) -> Reported {
        let report = StateReport {
            device: DeviceId::from_bytes([1; 16]),
            id: ReportId::from_bytes([3; 16]),
            generation: Some(DESIRED),
            drift: drift.iter().map(|section| Drift { section: *section, item: "x".into() }).collect(),
            agent_version: "1".into(),
            last_checkpoint: None,
            at: Timestamp(1),
        };
        match take(None, &report, 1, 0).unwrap() {
            Taken::New(reported) => *reported,
            Taken::Known => panic!("nothing was reported before"),
        }
    }

    fn with<T>(reported: Option<&Reported>, order_done: bool, look: impl FnOnce(&Progress<'_>) -> T) -> T {
        let settled = settle(builtin("sensor-linux").unwrap(), None, &BTreeMap::new());
        let baseline = &settled.baseline;
        look(&Progress { reported, posture: None, desired: DESIRED, baseline, judged: false, order_done })
    }

    #[test]
    fn a_device_that_said_nothing_lacks_everything() {
        assert_eq!(with(None, false, missing), [Missing::Report, Missing::Order]);
        let judged = with(None, true, |progress| missing(&Progress { judged: true, ..*progress }));
        assert_eq!(judged, [Missing::Report, Missing::Posture]);
    }

    #[test]
    fn only_differences_that_are_enforced_hold_a_device_back() {
        let (enforced, other) = (reported(&[SectionKind::Sysctl]), reported(&[SectionKind::Packages]));
        assert_eq!(with(Some(&enforced), true, missing), [Missing::Drift]);
        assert_eq!(with(Some(&other), true, missing), []);
    }

    #[test]
    fn steps_are_noted_once_and_the_last_makes_it_active() {
        let mut device = device();
        let reported = reported(&[]);
        with(Some(&reported), false, |progress| advance(&mut device, progress, 1_000));
        assert_eq!((device.state, device.steps.baseline_at), (DeviceState::Commissioning, Some(1_000)));
        with(Some(&reported), true, |progress| advance(&mut device, progress, 2_000));
        assert_eq!((device.state, device.changed_at), (DeviceState::Active, 2));
        assert_eq!((device.steps.baseline_at, device.steps.active_at), (Some(1_000), Some(2_000)));
    }

    #[test]
    fn a_posture_that_cannot_be_judged_is_not_called_a_failing_one() {
        let judged = |verdict: &str| {
            let report = ReportId::from_bytes([4; 16]);
            let posture: PostureRecord = serde_json::from_value(serde_json::json!({
                "v": 1, "facts": [], "at": 0, "received_at": 0, "report": report, "verdict": verdict, "history_at": 0,
            }))
            .unwrap();
            let reported = reported(&[]);
            with(Some(&reported), true, |progress| {
                missing(&Progress { judged: true, posture: Some(&posture), ..*progress })
            })
        };
        assert_eq!(judged("unknown"), [Missing::Untold]);
        assert_eq!(judged("fail"), [Missing::Verdict]);
        assert_eq!(judged("grace"), []);
    }

    #[test]
    fn a_device_in_any_other_state_stays_there() {
        let mut quarantined = Device { state: DeviceState::Quarantined, ..device() };
        with(Some(&reported(&[])), true, |progress| advance(&mut quarantined, progress, 2_000));
        assert_eq!(quarantined, Device { state: DeviceState::Quarantined, ..device() });
    }
}
