//! The one door through which time enters the agent.
//!
//! `now = max(system clock, floor)` (authority.md, "Time on a device"): a device whose clock has fallen back to
//! 1970 must not accept what had expired before it was built. The floor is the moment of the build where
//! `SOURCE_DATE_EPOCH` names it, else the first day of the year in which this line was written; documents signed
//! by the quorum will raise it. The certificate in use is a floor, too, while the agent runs: it was taken because it was
//! valid by then, so the present is no earlier than its first second. A device that comes up in 1970 or a year ago can so
//! still judge its server.
//!
//! While the calendar lies below the floor it says nothing, and the date in the server's answers, with what has passed
//! since, is the best there is. It is not kept, and counts no more once somebody sets the calendar.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use muster_wire::time::Timestamp;

/// 2026-01-01T00:00:00Z, for builds that do not say when they were made.
const FALLBACK_FLOOR_S: i64 = 1_767_225_600;

/// Where the present comes from. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    source: Source,
    /// Seconds that pass, from whatever beginning, and that nobody can set.
    passing: Source,
    floor_s: Arc<AtomicI64>,
    /// What the server said last of the present, less what had passed by then.
    heard_s: Arc<AtomicI64>,
}

type Source = Arc<dyn Fn() -> i64 + Send + Sync>;

impl Clock {
    /// The operating system's clock, never earlier than [`floor_s`].
    pub fn system() -> Self {
        let clock = Self::of(system_s, passing_since_now());
        clock.never_before(Timestamp(floor_s()));
        clock
    }

    /// A clock that stands still at `unix_s` seconds since 1970, for tests and rehearsals.
    pub fn fixed(unix_s: i64) -> Self {
        Self::of(move || unix_s, || 0)
    }

    fn of(
        source: impl Fn() -> i64 + Send + Sync + 'static,
        passing: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        let unknown = || Arc::new(AtomicI64::new(i64::MIN));
        Self { source: Arc::new(source), passing: Arc::new(passing), floor_s: unknown(), heard_s: unknown() }
    }

    /// From here on, this clock and its clones say no moment before `floor`. Nothing is kept for the next start.
    pub fn never_before(&self, floor: Timestamp) {
        self.floor_s.fetch_max(floor.seconds(), Ordering::Relaxed);
    }

    /// The present in whole seconds since 1970-01-01T00:00:00Z.
    pub fn now_s(&self) -> i64 {
        let (calendar, floor) = ((self.source)(), self.floor_s.load(Ordering::Relaxed));
        if calendar >= floor {
            return calendar;
        }
        floor.max(self.heard_s.load(Ordering::Relaxed).saturating_add((self.passing)()))
    }

    /// The present as documents write it.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.now_s())
    }

    /// Whether the calendar lies below what is known to have passed, so that it says nothing of the present.
    pub fn has_no_calendar(&self) -> bool {
        (self.source)() < self.floor_s.load(Ordering::Relaxed)
    }

    /// Takes the server's word for the present, which counts for as long as the calendar says nothing.
    pub fn heard(&self, time: Timestamp) {
        self.heard_s.store(time.seconds().saturating_sub((self.passing)()), Ordering::Relaxed);
    }

    /// What the calendar says, however far behind it is: by this one sees that somebody has set it.
    pub fn calendar(&self) -> Timestamp {
        Timestamp((self.source)())
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({} s)", self.now_s())
    }
}

/// Seconds from now on, by a clock that nobody can set.
fn passing_since_now() -> impl Fn() -> i64 {
    let began = Instant::now();
    move || i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX)
}

/// The earliest moment this build believes in, in seconds since 1970.
pub fn floor_s() -> i64 {
    option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).unwrap_or(FALLBACK_FLOOR_S)
}

/// What the operating system says, floor or not, in seconds since 1970. Only `doctor` asks for this one.
#[expect(clippy::disallowed_methods, reason = "this is the one door through which time enters")]
pub fn system_s() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_never_before_the_build() {
        assert!(Clock::system().now_s() >= floor_s());
    }

    #[test]
    fn a_floor_lifts_a_clock_that_is_behind_and_its_clones_and_is_never_lowered() {
        let clock = Clock::fixed(100);
        let clone = clock.clone();
        clock.never_before(Timestamp(50));
        assert_eq!(clone.now_s(), 100);
        clock.never_before(Timestamp(200));
        clock.never_before(Timestamp(150));
        assert_eq!((clock.now_s(), clone.now_s()), (200, 200));
        assert_eq!(clock.calendar(), Timestamp(100), "the calendar says what it says");
    }

    #[test]
    fn the_servers_word_and_what_has_passed_since_count_until_somebody_sets_the_calendar() {
        let (calendar, passed) = (Arc::new(AtomicI64::new(100)), Arc::new(AtomicI64::new(7)));
        let read = |held: &Arc<AtomicI64>| {
            let held = Arc::clone(held);
            move || held.load(Ordering::Relaxed)
        };
        let clock = Clock::of(read(&calendar), read(&passed));
        clock.heard(Timestamp(200));
        assert_eq!((clock.now_s(), clock.has_no_calendar()), (100, false), "it has a calendar of its own");
        clock.never_before(Timestamp(150));
        assert_eq!((clock.now_s(), clock.has_no_calendar()), (200, true));
        passed.store(17, Ordering::Relaxed);
        assert_eq!(clock.now_s(), 210);
        clock.heard(Timestamp(120));
        assert_eq!(clock.now_s(), 150, "what is known to have passed has passed");
        clock.heard(Timestamp(900));
        calendar.store(160, Ordering::Relaxed);
        assert_eq!((clock.now_s(), clock.has_no_calendar()), (160, false), "whatever the server said");
    }
}
