//! When the running agent does what nobody asks it to: connect again, report, look for drift, renew.
//!
//! Instants are boot-time ([`Moment::since_start`]), so that a clock that jumps neither floods the server nor silences
//! the device; only the end of a certificate is a matter of the calendar. Everything is spread, so that devices that
//! were switched on together do not stay together. The shell sleeps until the earliest alarm and no shorter.

use std::time::Duration;

use muster_wire::desired::Intervals;
use muster_wire::time::Timestamp;

use super::trust::Leaf;

/// The first ceiling of the wait before a connection is tried again; it doubles from here.
const FIRST: Duration = Duration::from_secs(1);
/// The last ceiling: a server that came back is found again within this.
const LONGEST: Duration = Duration::from_secs(300);
/// The calendar is looked at no less often than this, since it can be set while the agent sleeps.
const CALENDAR: Duration = Duration::from_secs(6 * 3600);
/// What a server may ask for is never taken more often than this.
const LEAST: Duration = Duration::from_secs(30);
/// A calendar that differs from what has passed by more than this was set.
const JUMP_S: u64 = 300;

/// The intervals of a device that has not heard of any.
pub const UNTOLD: Intervals = Intervals { state_s: 3600, posture_s: 6 * 3600, drift_s: 3600 };

/// The present, with the randomness for whatever follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the calendar, and no earlier than what is known to have passed.
    pub wall: Timestamp,
    /// By the calendar alone, which anybody may set.
    pub calendar: Timestamp,
    /// By a clock that nobody can set, since the agent started.
    pub since_start: Duration,
    /// Fresh from the operating system.
    pub random: [u8; 16],
}

impl Moment {
    /// By how many seconds the calendar was set since `seen`, if by more than a few minutes; forward is positive.
    pub fn jump_s(&self, seen: (Timestamp, Duration)) -> Option<i64> {
        let (calendar, since_start) = seen;
        let passed = self.since_start.saturating_sub(since_start).as_secs();
        let expected = calendar.plus_seconds(i64::try_from(passed).unwrap_or(i64::MAX));
        let jump_s = self.calendar.seconds().saturating_sub(expected.seconds());
        (jump_s.unsigned_abs() > JUMP_S).then_some(jump_s)
    }

    /// A number in `0.0..=1.0`.
    pub fn jitter(&self) -> f64 {
        let [a, b, c, d, ..] = self.random;
        f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }
}

/// What is due when. `None` is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Try to connect.
    pub connect: Option<Duration>,
    /// Report the state.
    pub state: Option<Duration>,
    /// Report posture.
    pub posture: Option<Duration>,
    /// Look for drift.
    pub drift: Option<Duration>,
    /// Fetch the baseline.
    pub fetch: Option<Duration>,
    /// Look whether the certificate is to be renewed.
    pub renew: Option<Duration>,
    /// Give up waiting for a certificate.
    pub credential: Option<Duration>,
    /// Call the desired state stale.
    pub lease: Option<Duration>,
    /// Go on with the wipe in hand.
    pub wipe: Option<Duration>,
}

impl Alarms {
    /// The earliest of them.
    pub fn earliest(&self) -> Option<Duration> {
        let Self { connect, state, posture, drift, fetch, renew, credential, lease, wipe } = *self;
        [connect, state, posture, drift, fetch, renew, credential, lease, wipe].into_iter().flatten().min()
    }
}

/// Takes `alarm` away if it has gone off at `now`.
pub fn went_off(alarm: &mut Option<Duration>, now: Duration) -> bool {
    let is_due = alarm.is_some_and(|at| at <= now);
    if is_due {
        *alarm = None;
    }
    is_due
}

/// Full jitter: the wait before attempt `attempt + 1`, anywhere between nothing and a ceiling that doubles up to
/// five minutes.
pub fn reconnect_after(attempt: u32, jitter: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1).min(16));
    FIRST.saturating_mul(doubled).min(LONGEST).mul_f64(jitter.clamp(0.0, 1.0))
}

/// An interval of `seconds`, shortened by up to a tenth, and never below half a minute.
pub fn interval(seconds: u64, jitter: f64) -> Duration {
    Duration::from_secs(seconds).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 10.0).max(LEAST)
}

/// How long until `leaf` is to be renewed: nothing when it is due, never longer than six hours.
///
/// `percent` of its life, earlier by up to a twentieth of it. The jitter is the certificate's own, so that asking
/// twice gives one answer.
pub fn until_renewal(leaf: &Leaf, percent: u64, now: Timestamp) -> Duration {
    let life_s = leaf.not_after.seconds().saturating_sub(leaf.not_before.seconds()).max(0);
    let percent = i64::try_from(percent.clamp(1, 95)).unwrap_or(66);
    let spread_s = life_s / 20 * i64::from(leaf.sha256.0[0]) / 255;
    let due = leaf.not_before.plus_seconds(life_s / 100 * percent + life_s % 100 * percent / 100 - spread_s);
    let wait_s = u64::try_from(due.seconds().saturating_sub(now.seconds())).unwrap_or(0);
    Duration::from_secs(wait_s).min(CALENDAR)
}

#[cfg(test)]
mod tests {
    use muster_wire::digest::Sha256Digest;
    use muster_wire::id::DeviceId;

    use super::*;

    fn leaf(first: u8) -> Leaf {
        Leaf {
            der: Vec::new(),
            sha256: Sha256Digest([first; 32]),
            spki: Sha256Digest([0; 32]),
            serial: "01".into(),
            not_before: Timestamp(0),
            not_after: Timestamp(30_000),
            trust_domain: "fleet.example".into(),
            device: DeviceId::from_parts(1, [1; 10]),
            hardware_serial: None,
        }
    }

    #[test]
    fn waits_lie_anywhere_below_a_ceiling_that_doubles_up_to_five_minutes() {
        let ceilings: Vec<u64> = [1, 2, 3, 9, 10, 1000].map(|n| reconnect_after(n, 1.0).as_secs()).into();
        assert_eq!(ceilings, [1, 2, 4, 256, 300, 300]);
        assert_eq!(reconnect_after(1000, 0.0), Duration::ZERO);
        assert_eq!(reconnect_after(10, 0.5), Duration::from_secs(150));
    }

    #[test]
    fn no_server_makes_a_device_report_more_often_than_twice_a_minute() {
        assert_eq!(interval(0, 1.0), LEAST);
        assert_eq!(interval(3600, 1.0), Duration::from_secs(3240));
    }

    #[test]
    fn a_certificate_is_renewed_at_its_percentage_or_up_to_a_twentieth_earlier() {
        assert_eq!(until_renewal(&leaf(0), 66, Timestamp(0)), Duration::from_secs(19_800));
        assert_eq!(until_renewal(&leaf(255), 66, Timestamp(0)), Duration::from_secs(18_300));
        assert_eq!(until_renewal(&leaf(0), 66, Timestamp(19_800)), Duration::ZERO);
        assert_eq!(until_renewal(&leaf(0), 66, Timestamp(1_000_000)), Duration::ZERO);
    }

    #[test]
    fn a_clock_far_behind_is_looked_at_again_within_hours() {
        assert_eq!(until_renewal(&leaf(0), 66, Timestamp(i64::MIN / 2)), CALENDAR);
    }

    #[test]
    fn a_calendar_that_was_set_is_told_from_time_that_passed() {
        let moment = |calendar, s| Moment {
            wall: Timestamp(1_000_000),
            calendar: Timestamp(calendar),
            since_start: Duration::from_secs(s),
            random: [0; 16],
        };
        let seen = (Timestamp(1_000_000), Duration::from_secs(10));
        assert_eq!(moment(1_080_000, 80_010).jump_s(seen), None, "asleep for a day");
        assert_eq!(moment(1_000_200, 20).jump_s(seen), None, "disciplined by a time server");
        assert_eq!(moment(1_000_010 + 31_536_000, 20).jump_s(seen), Some(31_536_000));
        assert_eq!(moment(0, 20).jump_s(seen), Some(-1_000_010));
    }

    #[test]
    fn the_earliest_alarm_wakes_and_goes_off_once() {
        let mut alarms = Alarms { state: Some(LEAST), posture: Some(FIRST), ..Alarms::default() };
        assert_eq!(alarms.earliest(), Some(FIRST));
        assert!(!went_off(&mut alarms.posture, Duration::ZERO));
        assert!(went_off(&mut alarms.posture, FIRST));
        assert!(!went_off(&mut alarms.posture, LEAST));
        assert_eq!(alarms.earliest(), Some(LEAST));
    }
}
