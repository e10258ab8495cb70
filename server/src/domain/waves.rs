//! How many devices of a warrant are let go at a time (`security.md`, rail 5): a canary of three, then waves, each of which
//! waits until everything before it has ended.

/// Devices that go first.
pub const CANARY: u64 = 3;

/// Of so many that have ended, one may have ended without proof.
const TOLERATED: u64 = 10;

/// How many targets, counted from the first, may have an order, of a warrant over `count` devices of which `ended` have
/// ended, `proven` of them with proof.
///
/// Three, then ten more, then always twice as many as before, once all of those have ended. Where more than a tenth ended
/// without proof nothing further is let go: a person looks at it, and stops the warrant or asks for another.
pub fn released(count: u64, ended: u64, proven: u64) -> u64 {
    let mut released = CANARY;
    let (mut wave, failed) = (10, ended.saturating_sub(proven));
    while released < count && ended >= released && failed.saturating_mul(TOLERATED) <= ended {
        released = released.saturating_add(wave);
        wave = wave.saturating_mul(2);
    }
    released.min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_warrant_goes_at_once() {
        assert_eq!([0, 1, 3].map(|count| released(count, 0, 0)), [0, 1, 3]);
    }

    #[test]
    fn each_wave_waits_for_the_one_before() {
        let at = |ended| released(100, ended, ended);
        assert_eq!([0, 2, 3, 12, 13, 32, 33, 73].map(at), [3, 3, 13, 13, 33, 33, 73, 100]);
    }

    #[test]
    fn a_canary_that_fails_holds_the_others_back() {
        assert_eq!(released(100, 3, 2), 3);
        assert_eq!(released(100, 13, 12), 33, "one of thirteen is an accident");
        assert!(released(100, 13, 11) <= 13, "two are not");
    }

    #[test]
    fn what_is_let_go_never_shrinks_while_all_goes_well() {
        let all = (0..=500).map(|ended| released(500, ended, ended)).collect::<Vec<_>>();
        assert!(all.is_sorted() && all.iter().zip(0..).all(|(released, ended)| *released >= ended));
    }
}
