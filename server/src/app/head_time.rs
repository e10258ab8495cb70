//! When heads of desired states are signed: a time that never goes back, whatever becomes of the clock.
//!
//! A device counts its lease from the newest head that it has heard, and a head is new by when it was signed. A server whose
//! clock was set back would sign nothing new until the clock has caught up, and every lease would lapse. So the time goes on
//! from the latest that was ever used: in this process by a clock that nobody sets, and after a start from the newest entry of
//! the audit log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A time that only goes forward.
#[derive(Debug)]
pub(super) struct HeadTime(Mutex<(i64, Instant)>);

impl HeadTime {
    /// Goes on from `latest`, unix seconds.
    pub(super) fn from(latest: i64) -> Self {
        Self(Mutex::new((latest, Instant::now())))
    }

    /// The time for a head when the clock says `now`, unix seconds.
    pub(super) fn at(&self, now: i64) -> i64 {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = onward(*held, now, Instant::now());
        held.0
    }
}

fn onward((latest, since): (i64, Instant), now: i64, moment: Instant) -> (i64, Instant) {
    if now > latest {
        return (now, moment);
    }
    // Whole seconds only; what is left of one counts the next time.
    let passed_s = moment.saturating_duration_since(since).as_secs();
    let goes_on = latest.saturating_add(i64::try_from(passed_s).unwrap_or(i64::MAX));
    if goes_on > now { (goes_on, since + Duration::from_secs(passed_s)) } else { (now, moment) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_does_not_take_the_time_back_and_does_not_stop_it() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut held = onward((1_000, start), 5_000, after(10));
        assert_eq!(held.0, 5_000, "ahead it follows");
        for (ms, expected) in [(10, 5_000), (1_009, 5_000), (1_010, 5_001), (1_900, 5_001), (2_010, 5_002)] {
            held = onward(held, 40, after(ms));
            assert_eq!(held.0, expected, "at {ms}");
        }
        assert_eq!(
            onward(held, 6_000, after(2_020)).0,
            6_000,
            "and the clock counts again once it has caught up"
        );
    }

    #[test]
    fn after_a_start_it_goes_on_from_what_was_used_before() {
        assert_eq!(HeadTime::from(9_000).at(100), 9_000);
    }
}
