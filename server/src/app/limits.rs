//! How much callers may cost: wrong tokens per address, certificates per device, batch and site, refusals written
//! per minute.
//!
//! Per address only what is wrong counts, never what is good: a factory line sits behind one address.

use crate::domain::quarantine::Budget;
use muster_wire::id::{DeviceId, TokenId};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

const WINDOW_MS: i64 = 60_000;

/// Most addresses remembered at once; when full, windows that have passed are dropped, then all.
const ADDRESSES_MAX: usize = 65_536;

/// Most devices, batches or sites remembered at once, likewise.
const NAMES_MAX: usize = 262_144;

const HOUR_MS: i64 = 60 * WINDOW_MS;

/// What became of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Within the limit.
    Within,
    /// Past it.
    Past(Past),
}

/// One too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past {
    /// Seconds until the window ends, at least 1.
    pub(super) retry_after_s: u64,
    /// Whether it is the first past the limit in this window.
    pub(super) first: bool,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began_ms: i64,
    count: u32,
}

/// So many in a window for each key. What it remembers is lost with the process.
#[derive(Debug)]
pub(super) struct Limiter<K> {
    most: u32,
    window_ms: i64,
    remembered: usize,
    windows: Mutex<HashMap<K, Window>>,
}

impl<K: Eq + Hash> Limiter<K> {
    fn new(most: u32, window_ms: i64, remembered: usize) -> Self {
        Self { most, window_ms, remembered, windows: Mutex::default() }
    }

    /// One more for `key` at `now_ms` (unix milliseconds).
    pub(super) fn take(&self, key: K, now_ms: i64) -> Taken {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= self.remembered {
            windows.retain(|_, window| is_running(window, self.window_ms, now_ms));
            if windows.len() >= self.remembered {
                windows.clear();
            }
        }
        let window = windows.entry(key).or_insert(Window { began_ms: now_ms, count: 0 });
        if !is_running(window, self.window_ms, now_ms) {
            *window = Window { began_ms: now_ms, count: 0 };
        }
        window.take(self.most, self.window_ms, now_ms)
    }
}

impl Window {
    /// One more of `most`, in a window that runs.
    fn take(&mut self, most: u32, window_ms: i64, now_ms: i64) -> Taken {
        self.count = self.count.saturating_add(1);
        if self.count <= most {
            return Taken::Within;
        }
        let left_ms = self.began_ms.saturating_add(window_ms).saturating_sub(now_ms).max(1);
        Taken::Past(Past {
            retry_after_s: u64::try_from(left_ms).unwrap_or(1).div_ceil(1000),
            first: self.count == most.saturating_add(1),
        })
    }
}

/// What strangers do wrong, per address and minute.
#[derive(Debug)]
pub(super) struct Strangers(Limiter<IpAddr>);

impl Strangers {
    /// Allows `per_minute` wrong tokens a minute from one address. IPv6 addresses count by their /64.
    pub(super) fn new(per_minute: u32) -> Self {
        Self(Limiter::new(per_minute, WINDOW_MS, ADDRESSES_MAX))
    }

    /// Counts something wrong from `from` at `now_ms` (unix milliseconds).
    pub(super) fn wrong(&self, from: IpAddr, now_ms: i64) -> Taken {
        self.0.take(network(from), now_ms)
    }
}

/// How often certificates may be issued, however good the credential. 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issuance {
    /// Renewals of one device in an hour.
    pub device_renewals_per_hour: u32,
    /// Enrolments in a minute with tokens that were made together.
    pub batch_enrolments_per_minute: u32,
    /// Enrolments in a minute at one site; tokens without a site are one site.
    pub site_enrolments_per_minute: u32,
}

/// What was issued lately, against [`Issuance`].
#[derive(Debug)]
pub(super) struct Issuances {
    devices: Option<Limiter<DeviceId>>,
    batches: Option<Limiter<TokenId>>,
    sites: Option<Limiter<String>>,
}

impl Issuances {
    /// Nothing so far.
    pub(super) fn new(limits: Issuance) -> Self {
        fn limited<K: Eq + Hash>(most: u32, window_ms: i64) -> Option<Limiter<K>> {
            (most > 0).then(|| Limiter::new(most, window_ms, NAMES_MAX))
        }
        Self {
            devices: limited(limits.device_renewals_per_hour, HOUR_MS),
            batches: limited(limits.batch_enrolments_per_minute, WINDOW_MS),
            sites: limited(limits.site_enrolments_per_minute, WINDOW_MS),
        }
    }

    /// One more renewal of `device` at `now_ms` (unix milliseconds).
    pub(super) fn renewal(&self, device: DeviceId, now_ms: i64) -> Taken {
        self.devices.as_ref().map_or(Taken::Within, |devices| devices.take(device, now_ms))
    }

    /// One more enrolment with a token of `batch` at `site`; when it is too many, by which rule.
    pub(super) fn enrolment(
        &self,
        batch: TokenId,
        site: Option<&str>,
        now_ms: i64,
    ) -> Result<(), (&'static str, Past)> {
        let batches = self.batches.as_ref().map(|batches| batches.take(batch, now_ms));
        if let Some(Taken::Past(past)) = batches {
            return Err(("limits.batch", past));
        }
        let site = || site.unwrap_or_default().to_owned();
        match self.sites.as_ref().map(|sites| sites.take(site(), now_ms)) {
            Some(Taken::Past(past)) => Err(("limits.site", past)),
            Some(Taken::Within) | None => Ok(()),
        }
    }
}

/// How many devices posture rules have held in this hour, against their budget.
#[derive(Debug)]
pub(super) struct RuleHolds {
    budget: Budget,
    window: Mutex<(Window, Option<u32>)>,
}

impl RuleHolds {
    /// None so far.
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, window: Mutex::new((Window { began_ms: i64::MIN, count: 0 }, None)) }
    }

    /// One more at `now_ms` (unix milliseconds). How many `devices` there are is asked at most once in a window, and
    /// only where the least that the budget allows is spent.
    ///
    /// # Errors
    /// Whatever keeps `devices` from answering; nothing is taken then.
    pub(super) fn take<E>(&self, devices: impl FnOnce() -> Result<u64, E>, now_ms: i64) -> Result<Taken, E> {
        let mut guard = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (window, most) = &mut *guard;
        if !is_running(window, HOUR_MS, now_ms) {
            (*window, *most) = (Window { began_ms: now_ms, count: 0 }, None);
        }
        if window.count < self.budget.least {
            window.count += 1;
            return Ok(Taken::Within);
        }
        let most = match *most {
            Some(most) => most,
            None => *most.insert(self.budget.of(devices()?)),
        };
        Ok(window.take(most, HOUR_MS, now_ms))
    }
}

/// A window that the clock has left, forwards or backwards, is over.
fn is_running(window: &Window, window_ms: i64, now_ms: i64) -> bool {
    (0..window_ms).contains(&now_ms.saturating_sub(window.began_ms))
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
        if !is_running(&window, WINDOW_MS, now_ms) {
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
        assert_eq!(strangers.wrong(HERE, 0), Taken::Within);
        assert_eq!(strangers.wrong(HERE, 1), Taken::Within);
        assert_eq!(strangers.wrong(HERE, 10_000), Taken::Past(Past { retry_after_s: 50, first: true }));
        assert_eq!(strangers.wrong(HERE, 10_000), Taken::Past(Past { retry_after_s: 50, first: false }));
        assert_eq!(strangers.wrong(HERE, 60_000), Taken::Within);
    }

    #[test]
    fn a_clock_that_falls_back_locks_nobody_out() {
        let strangers = Strangers::new(1);
        strangers.wrong(HERE, 1_000_000);
        strangers.wrong(HERE, 1_000_000);
        assert_eq!(strangers.wrong(HERE, 5), Taken::Within);
    }

    #[test]
    fn one_v6_network_is_one_stranger() {
        let strangers = Strangers::new(1);
        strangers.wrong("2001:db8::1".parse().unwrap(), 0);
        assert!(matches!(strangers.wrong("2001:db8::2".parse().unwrap(), 0), Taken::Past(_)));
        assert_eq!(strangers.wrong("2001:db8:0:1::1".parse().unwrap(), 0), Taken::Within);
    }

    #[test]
    fn addresses_do_not_fill_the_memory() {
        let strangers = Strangers::new(1);
        for n in 0..=(ADDRESSES_MAX as u32 + 10) {
            strangers.wrong(IpAddr::V4(n.into()), 0);
        }
        assert!(strangers.0.windows.lock().unwrap().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn rules_hold_so_many_devices_in_an_hour_and_the_fleet_is_counted_once() {
        let holds = RuleHolds::new(Budget { least: 1, percent: 5 });
        let ask = |now_ms| holds.take(|| Ok::<_, ()>(40), now_ms);
        let unasked = || -> Result<u64, ()> { panic!("the least is enough, or it is known") };
        assert_eq!(holds.take(unasked, 0), Ok(Taken::Within));
        assert_eq!(holds.take(|| Err(()), 1), Err(()));
        assert_eq!(ask(1), Ok(Taken::Within));
        assert_eq!(holds.take(unasked, 2_000), Ok(Taken::Past(Past { retry_after_s: 3_598, first: true })));
        assert_eq!(holds.take(unasked, 2_000), Ok(Taken::Past(Past { retry_after_s: 3_598, first: false })));
        assert_eq!(holds.take(unasked, HOUR_MS), Ok(Taken::Within));
    }

    #[test]
    fn a_budget_fills_again() {
        let budget = PerMinute::new(1);
        assert!(budget.take(0));
        assert!(!budget.take(1));
        assert!(budget.take(WINDOW_MS));
    }
}
