//! When to ask for the next certificate: at two thirds of the life, spread so that a fleet does not ask at once.

/// The life of a certificate, seconds since 1970, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before_s: i64,
    /// Last second.
    pub not_after_s: i64,
}

/// How soon and how late the next attempt may be, counted from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Never sooner than this many seconds from now.
    pub min_wait_s: i64,
    /// Never later than this many seconds from now.
    pub max_wait_s: i64,
}

/// When the agent should ask for its next certificate, in seconds since 1970.
///
/// The instant lies two thirds into `validity`, no earlier than `min_wait_s` and no later than `max_wait_s` after
/// `now_s`. `jitter` is in `0.0..=1.0` (anything else counts as the nearer end) and moves the instant earlier by up
/// to 5 % of the life, so that a fleet enrolled in one hour does not renew in one hour. An expired certificate, or
/// one whose dates are in the wrong order, answers `now_s + min_wait_s`.
#[must_use]
pub fn refresh_at(validity: Validity, bounds: Bounds, jitter: f64, now_s: i64) -> i64 {
    let life_s = validity.not_after_s.saturating_sub(validity.not_before_s).max(0);
    let two_thirds_s = life_s / 3 * 2 + life_s % 3 * 2 / 3;
    let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
    let spread_s = scale(life_s / 20, jitter);
    let at_s = validity.not_before_s.saturating_add(two_thirds_s).saturating_sub(spread_s);
    let earliest_s = now_s.saturating_add(bounds.min_wait_s);
    let latest_s = now_s.saturating_add(bounds.max_wait_s.max(bounds.min_wait_s));
    at_s.clamp(earliest_s, latest_s)
}

/// `value` times a factor in `0.0..=1.0`, in thousandths.
fn scale(value: i64, factor: f64) -> i64 {
    let thousandths = (factor * 1000.0) as i64;
    value / 1000 * thousandths + value % 1000 * thousandths / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const LIFE: Validity = Validity { not_before_s: 0, not_after_s: 30 * DAY };
    const BOUNDS: Bounds = Bounds { min_wait_s: 60, max_wait_s: 100 * DAY };

    #[test]
    fn two_thirds_of_the_life_without_jitter() {
        assert_eq!(refresh_at(LIFE, BOUNDS, 0.0, 0), 20 * DAY);
    }

    #[test]
    fn jitter_moves_earlier_by_at_most_a_twentieth() {
        assert_eq!(refresh_at(LIFE, BOUNDS, 1.0, 0), 20 * DAY - 3 * DAY / 2);
        assert_eq!(refresh_at(LIFE, BOUNDS, 7.0, 0), refresh_at(LIFE, BOUNDS, 1.0, 0));
        assert_eq!(refresh_at(LIFE, BOUNDS, f64::NAN, 0), 20 * DAY);
        let half = refresh_at(LIFE, BOUNDS, 0.5, 0);
        assert!((20 * DAY - 3 * DAY / 2..20 * DAY).contains(&half), "{half}");
    }

    #[test]
    fn an_expired_certificate_waits_the_least() {
        assert_eq!(refresh_at(LIFE, BOUNDS, 0.0, 40 * DAY), 40 * DAY + 60);
        let backwards = Validity { not_before_s: 30 * DAY, not_after_s: 0 };
        assert_eq!(refresh_at(backwards, BOUNDS, 0.0, 40 * DAY), 40 * DAY + 60);
    }

    #[test]
    fn a_clock_that_runs_far_behind_still_asks_within_the_most() {
        let bounds = Bounds { min_wait_s: 60, max_wait_s: DAY };
        assert_eq!(refresh_at(LIFE, bounds, 0.0, -1000 * DAY), -999 * DAY);
        assert_eq!(refresh_at(LIFE, bounds, 0.0, i64::MAX), i64::MAX);
    }
}
