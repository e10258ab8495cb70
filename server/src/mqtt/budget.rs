//! How much one device may cost: messages, bytes and new sessions.
//!
//! Each allowance is a bucket that fills at a steady rate, kept as one instant: the one at which it will be full
//! again (the generic cell rate algorithm). Messages and bytes are never refused: who has spent more than its bucket
//! held waits until the debt is paid, and its connection is not read meanwhile. New sessions are refused, which damps
//! devices that reconnect in a loop and two that fight over one identity ([`Damping`]).
//!
//! Time comes from outside, in nanoseconds since any fixed instant; it must not go back, and if it does, waits grow
//! longer by as much and no more.

use muster_wire::id::DeviceId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many units a bucket gets back in a second, and how many it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    unit_ns: u64,
    burst_ns: u64,
}

impl Rate {
    /// `units` in each `period`, and `burst` at once; none may be 0, or the least that is not is taken.
    pub fn new(units: u32, period: Duration, burst: u32) -> Self {
        let unit_ns = (nanos(period) / u64::from(units.max(1))).max(1);
        Self { unit_ns, burst_ns: unit_ns.saturating_mul(u64::from(burst.max(1))) }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A bucket, full at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Takes `units` at `now_ns`, whether they are there or not; answers how long to wait until none is owed.
    pub fn charge(&mut self, rate: Rate, units: u64, now_ns: u64) -> Duration {
        self.full_at_ns = self.full_at_ns.max(now_ns).saturating_add(rate.unit_ns.saturating_mul(units));
        let empty_at = self.full_at_ns.saturating_sub(rate.burst_ns);
        Duration::from_nanos(empty_at.saturating_sub(now_ns))
    }

    /// Takes one unit at `now_ns` if it is there.
    pub fn take(&mut self, rate: Rate, now_ns: u64) -> bool {
        let mut after = *self;
        let there = after.charge(rate, 1, now_ns).is_zero();
        if there {
            *self = after;
        }
        there
    }

    fn is_full(self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }
}

/// What a session may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Packets.
    pub packets: Rate,
    /// Bytes.
    pub bytes: Rate,
}

/// What a session has sent lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    packets: Bucket,
    bytes: Bucket,
}

impl Spent {
    /// One packet of `bytes` came at `now_ns`; answers how long not to read the next.
    pub fn charge(&mut self, rates: Rates, bytes: usize, now_ns: u64) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let for_packets = self.packets.charge(rates.packets, 1, now_ns);
        for_packets.max(self.bytes.charge(rates.bytes, bytes, now_ns))
    }
}

/// One device's account, kept between its sessions until all of it is paid back.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    sessions: Bucket,
    spent: Spent,
}

impl Account {
    fn is_settled(&self, now_ns: u64) -> bool {
        [self.sessions, self.spent.packets, self.spent.bytes].iter().all(|bucket| bucket.is_full(now_ns))
    }
}

#[derive(Debug, Default)]
struct Accounts {
    of: HashMap<DeviceId, Account>,
    /// At how many accounts those that are settled are dropped.
    tidy_at: usize,
}

/// How often each device begins a session, and what its sessions spent.
#[derive(Debug)]
pub struct Damping {
    sessions: Rate,
    accounts: Mutex<Accounts>,
}

/// Fewest accounts that are looked through.
const TIDY_AT: usize = 1_024;

impl Damping {
    /// Lets each device begin sessions at the rate `sessions`.
    pub fn new(sessions: Rate) -> Self {
        Self { sessions, accounts: Mutex::new(Accounts { of: HashMap::new(), tidy_at: TIDY_AT }) }
    }

    /// `device` begins a session at `now_ns`: what its former ones spent, or nothing where it must be refused.
    pub fn begin(&self, device: DeviceId, now_ns: u64) -> Option<Spent> {
        let mut accounts = self.lock();
        accounts.tidy(now_ns);
        let account = accounts.of.entry(device).or_default();
        account.sessions.take(self.sessions, now_ns).then_some(account.spent)
    }

    /// A session of `device` ended, having `spent`.
    pub fn end(&self, device: DeviceId, spent: Spent) {
        self.lock().of.entry(device).or_default().spent = spent;
    }

    /// No code can panic between two changes that belong together, so a poisoned lock guards sound accounts.
    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    /// Drops what is settled once there are twice as many accounts as were left the last time: what each look
    /// costs is spread over the sessions that made it necessary.
    fn tidy(&mut self, now_ns: u64) {
        if self.of.len() < self.tidy_at {
            return;
        }
        self.of.retain(|_, account| !account.is_settled(now_ns));
        self.of.shrink_to(2 * self.of.len());
        self.tidy_at = (2 * self.of.len()).max(TIDY_AT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn device(n: u32) -> DeviceId {
        DeviceId::from_parts(u64::from(n), [0; 10])
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_is_kept() {
        let rate = Rate::new(10, Duration::from_secs(1), 5);
        let mut bucket = Bucket::default();
        let waits: Vec<_> = (0..8).map(|_| bucket.charge(rate, 1, S).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 100, 200, 300]);
        assert_eq!(bucket.charge(rate, 1, S + S).as_millis(), 0, "a second pays for ten");
    }

    #[test]
    fn bytes_are_paid_for_as_packets_are() {
        let rates = Rates {
            packets: Rate::new(1_000, Duration::from_secs(1), 1_000),
            bytes: Rate::new(1_024, Duration::from_secs(1), 4_096),
        };
        let mut spent = Spent::default();
        assert_eq!(spent.charge(rates, 4_096, S), Duration::ZERO);
        let wait = spent.charge(rates, 1_024, S);
        assert!((Duration::from_millis(999)..=Duration::from_secs(1)).contains(&wait), "{wait:?}");
    }

    #[test]
    fn a_clock_that_falls_back_makes_nobody_wait_longer_than_it_fell() {
        let rate = Rate::new(1, Duration::from_secs(1), 1);
        let mut bucket = Bucket::default();
        bucket.charge(rate, 1, 10 * S);
        assert_eq!(bucket.charge(rate, 1, 5 * S), Duration::from_secs(6));
    }

    #[test]
    fn a_device_that_reconnects_in_a_loop_is_refused_and_no_other_is() {
        let damping = Damping::new(Rate::new(30, Duration::from_secs(60), 30));
        let hundred_a_second = |n: u64| S + n * S / 100;
        let let_in = (0..1_000).filter(|n| damping.begin(device(1), hundred_a_second(*n)).is_some()).count();
        assert_eq!(let_in, 30 + 4, "the burst, and one every two seconds of the ten");
        assert!(damping.begin(device(2), hundred_a_second(999)).is_some());
        assert!(
            damping.begin(device(1), hundred_a_second(999) + 60 * S).is_some(),
            "who calms down comes in"
        );
    }

    #[test]
    fn a_new_session_does_not_forget_what_the_former_spent() {
        let damping = Damping::new(Rate::new(30, Duration::from_secs(60), 30));
        let rates = Rates {
            packets: Rate::new(1, Duration::from_secs(1), 1),
            bytes: Rate::new(1_000, Duration::from_secs(1), 1_000),
        };
        let mut spent = damping.begin(device(1), S).unwrap();
        spent.charge(rates, 1, S);
        damping.end(device(1), spent);
        let mut again = damping.begin(device(1), S).unwrap();
        assert!(!again.charge(rates, 1, S).is_zero());
    }

    #[test]
    fn settled_accounts_are_dropped() {
        let damping = Damping::new(Rate::new(30, Duration::from_secs(60), 30));
        for n in 0..100_000 {
            damping.begin(device(n), S + u64::from(n) * S);
        }
        assert!(damping.lock().of.len() <= 2 * TIDY_AT);
    }
}
