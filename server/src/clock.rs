//! The one door through which time enters.
//!
//! Everything that judges by time is handed a [`Clock`]; tests hand in a [`ManualClock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Where the present comes from. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| unix_millis(std_now())))
    }

    /// The present in milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> i64 {
        (self.0)()
    }

    /// The present in whole seconds since 1970-01-01T00:00:00Z, rounded down.
    pub fn now_s(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({} ms)", self.now_ms())
    }
}

/// A clock that stands still until a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `unix_ms` milliseconds since 1970.
    pub fn at_ms(unix_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(unix_ms)))
    }

    /// Moves the clock by `ms` milliseconds; negative moves it back.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// The clock to hand in.
    pub fn clock(&self) -> Clock {
        let shared = Arc::clone(&self.0);
        Clock(Arc::new(move || shared.load(Ordering::SeqCst)))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one door through which time enters")]
fn std_now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

fn unix_millis(now: std::time::SystemTime) -> i64 {
    match now.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}
