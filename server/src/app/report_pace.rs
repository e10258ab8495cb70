//! How often one device may report: more than enough for its intervals, its events and a new start.

use muster_wire::id::DeviceId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const WINDOW_MS: i64 = 60_000;

/// Reports and receipts that one device may send in a minute.
const PER_MINUTE: u32 = 120;

/// Most devices remembered at once; when full, windows that have passed are dropped, then all.
const DEVICES_MAX: usize = 262_144;

/// What becomes of one more report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It is looked at.
    Fits,
    /// It is not looked at.
    TooFast {
        /// Seconds until the window ends, at least 1.
        retry_after_s: u64,
        /// Whether it is the first of this window.
        first: bool,
    },
}

/// Reports per device and minute.
#[derive(Debug, Default)]
pub(super) struct ReportPace(Mutex<HashMap<DeviceId, (i64, u32)>>);

impl ReportPace {
    /// Counts a report of `device` at `now_ms` (unix milliseconds).
    pub(super) fn count(&self, device: DeviceId, now_ms: i64) -> Pace {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= DEVICES_MAX {
            windows.retain(|_, (began_ms, _)| is_running(*began_ms, now_ms));
            if windows.len() >= DEVICES_MAX {
                windows.clear();
            }
        }
        let (began_ms, count) = windows.entry(device).or_insert((now_ms, 0));
        if !is_running(*began_ms, now_ms) {
            (*began_ms, *count) = (now_ms, 0);
        }
        *count = count.saturating_add(1);
        if *count <= PER_MINUTE {
            return Pace::Fits;
        }
        let left_ms = began_ms.saturating_add(WINDOW_MS).saturating_sub(now_ms).max(1);
        let retry_after_s = u64::try_from(left_ms).unwrap_or(1).div_ceil(1000);
        Pace::TooFast { retry_after_s, first: *count == PER_MINUTE + 1 }
    }
}

/// A window that the clock has left, forwards or backwards, is over.
fn is_running(began_ms: i64, now_ms: i64) -> bool {
    (0..WINDOW_MS).contains(&now_ms.saturating_sub(began_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_reports_too_fast_waits_alone() {
        let pace = ReportPace::default();
        let (loud, quiet) = (DeviceId::from_bytes([1; 16]), DeviceId::from_bytes([2; 16]));
        for _ in 0..PER_MINUTE {
            assert_eq!(pace.count(loud, 0), Pace::Fits);
        }
        assert_eq!(pace.count(loud, 10_000), Pace::TooFast { retry_after_s: 50, first: true });
        assert_eq!(pace.count(loud, 10_000), Pace::TooFast { retry_after_s: 50, first: false });
        assert_eq!(pace.count(quiet, 10_000), Pace::Fits);
        assert_eq!(pace.count(loud, WINDOW_MS), Pace::Fits);
    }
}
