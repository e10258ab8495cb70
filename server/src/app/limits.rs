//! How much strangers may cost: wrong tokens per address, refusals written per minute.
//!
//! Only wrong tokens count, never good ones: a factory line sits behind one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

const WINDOW_MS: i64 = 60_000;

/// Most addresses remembered at once; when full, windows that have passed are dropped, then all.
const ADDRESSES_MAX: usize = 65_536;

/// What became of a wrong token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Within the limit.
    Counted,
    /// Past it.
    Limited {
        /// Seconds until the window ends, at least 1.
        retry_after_s: u64,
        /// Whether it is the first past the limit in this window.
        first: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began_ms: i64,
    count: u32,
}

/// Wrong tokens per address and minute.
#[derive(Debug)]
pub(super) struct Strangers {
    per_minute: u32,
    windows: Mutex<HashMap<IpAddr, Window>>,
}

impl Strangers {
    /// Allows `per_minute` wrong tokens a minute from one address. IPv6 addresses count by their /64.
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute, windows: Mutex::default() }
    }

    /// Counts a wrong token from `from` at `now_ms` (unix milliseconds).
    pub(super) fn wrong(&self, from: IpAddr, now_ms: i64) -> Wrong {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= ADDRESSES_MAX {
            windows.retain(|_, window| is_running(window, now_ms));
            if windows.len() >= ADDRESSES_MAX {
                windows.clear();
            }
        }
        let window = windows.entry(network(from)).or_insert(Window { began_ms: now_ms, count: 0 });
        if !is_running(window, now_ms) {
            *window = Window { began_ms: now_ms, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        if window.count <= self.per_minute {
            return Wrong::Counted;
        }
        let left_ms = window.began_ms.saturating_add(WINDOW_MS).saturating_sub(now_ms).max(1);
        let retry_after_s = u64::try_from(left_ms).unwrap_or(1).div_ceil(1000);
        Wrong::Limited { retry_after_s, first: window.count == self.per_minute.saturating_add(1) }
    }
}

/// A window that the clock has left, forwards or backwards, is over.
fn is_running(window: &Window, now_ms: i64) -> bool {
    (0..WINDOW_MS).contains(&now_ms.saturating_sub(window.began_ms))
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(std::net::Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
    }
}

/// A budget that fills again every minute.
#[derive(Debug)]
pub(super) struct PerMinute {
    most: u32,
    window: Mutex<Window>,
}

impl PerMinute {
    /// A budget of `most` a minute.
    pub(super) fn new(most: u32) -> Self {
        Self { most, window: Mutex::new(Window { began_ms: i64::MIN, count: 0 }) }
    }

    /// Takes one at `now_ms` (unix milliseconds); `false` when nothing is left.
    pub(super) fn take(&self, now_ms: i64) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_running(&window, now_ms) {
            *window = Window { began_ms: now_ms, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        window.count <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_limit_engages_and_lets_go_after_a_minute() {
        let strangers = Strangers::new(2);
        assert_eq!(strangers.wrong(HERE, 0), Wrong::Counted);
        assert_eq!(strangers.wrong(HERE, 1), Wrong::Counted);
        assert_eq!(strangers.wrong(HERE, 10_000), Wrong::Limited { retry_after_s: 50, first: true });
        assert_eq!(strangers.wrong(HERE, 10_000), Wrong::Limited { retry_after_s: 50, first: false });
        assert_eq!(strangers.wrong(HERE, 60_000), Wrong::Counted);
    }

    #[test]
    fn a_clock_that_falls_back_locks_nobody_out() {
        let strangers = Strangers::new(1);
        strangers.wrong(HERE, 1_000_000);
        strangers.wrong(HERE, 1_000_000);
        assert_eq!(strangers.wrong(HERE, 5), Wrong::Counted);
    }

    #[test]
    fn one_v6_network_is_one_stranger() {
        let strangers = Strangers::new(1);
        strangers.wrong("2001:db8::1".parse().unwrap(), 0);
        assert!(matches!(strangers.wrong("2001:db8::2".parse().unwrap(), 0), Wrong::Limited { .. }));
        assert_eq!(strangers.wrong("2001:db8:0:1::1".parse().unwrap(), 0), Wrong::Counted);
    }

    #[test]
    fn addresses_do_not_fill_the_memory() {
        let strangers = Strangers::new(1);
        for n in 0..=(ADDRESSES_MAX as u32 + 10) {
            strangers.wrong(IpAddr::V4(n.into()), 0);
        }
        assert!(strangers.windows.lock().unwrap().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_budget_fills_again() {
        let budget = PerMinute::new(1);
        assert!(budget.take(0));
        assert!(!budget.take(1));
        assert!(budget.take(WINDOW_MS));
    }
}
