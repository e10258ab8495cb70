//! How long to wait before asking again.
//!
//! Doubling from one second to five minutes, each wait spread over its upper half, so that ten thousand devices
//! that lost power together do not come back together. A server's Retry-After is honoured as the least.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// The wait before attempt `attempt + 1`, when `attempt` attempts have failed.
///
/// `at_least` is what the server asked for; `jitter` is in `0.0..=1.0` and moves the wait earlier by at most half
/// of it, never below `at_least`.
pub fn wait(attempt: u32, at_least: Duration, jitter: f64) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1).min(16))).min(LONGEST);
    let spread = doubled.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
    spread.max(at_least)
}

/// A fresh jitter in `0.0..=1.0` from the operating system; 0.5 when it gives no randomness.
pub fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, 1000].map(|n| wait(n, Duration::ZERO, 0.0).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        assert_eq!(wait(3, Duration::ZERO, 1.0), Duration::from_secs(2));
    }

    #[test]
    fn what_the_server_asked_for_is_the_least() {
        assert_eq!(wait(1, Duration::from_secs(30), 1.0), Duration::from_secs(30));
    }
}
