//! The lease: how long the device has been switched on since the newest word from the server.
//!
//! ```text
//! used = what the sheet says at its last mark + boot time since, or all of this boot where the mark is of another
//! ```
//! Only boot time counts (authority.md, "Time on a device"): it goes on while the device sleeps, begins anew with each boot,
//! and nobody can set it, so that neither a calendar that jumps nor a dead battery lets a lease lapse or keeps it alive. What
//! was used is kept on a sheet of its own beside the journal, which only grows, and written
//!
//! * when a newer word comes, when the agent starts and when it is told to end;
//! * while it runs after a minute, then each time that it has run twice as long, and at least once an hour.
//!
//! Time in a farewell session does not count: the server is there, but lets the device go and says no word that is new.
//! For how long the device has been *apart*, in no session at all, is counted beside ([`Meter::met`]): a server that has
//! nothing new to say, under a freeze for instance, is not silent. A kill in a session costs what passed since the last mark.
//!
//! That is no more than one write (two fsyncs) and one wake-up an hour. A power cut loses what was not marked: an hour, or
//! half of what this boot lasted. A device without a lease writes nothing.
//!
//! A word is new by itself ([`Mark`]). What was heard before renews nothing, over however new a connection it comes.

use std::time::Duration;

use muster_wire::desired::{Lapse, Lease};
use muster_wire::id::DeviceId;
use muster_wire::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::baseline::Mark;

/// The shortest time between two marks.
const SHORTEST: Duration = Duration::from_secs(60);
/// The longest.
const LONGEST: Duration = Duration::from_secs(3600);
/// A device that looks each [`LONGEST`] at least, and was not heard of for longer than this, was asleep.
const ASLEEP: Duration = Duration::from_secs(2 * 3600);

/// The boot in which the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// What the kernel calls it; empty where it does not say.
    pub id: String,
    /// For how long the device had been switched on when the agent started.
    pub age: Duration,
}

/// What is kept of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSheet {
    /// Whose.
    pub device: DeviceId,
    /// How new the newest word is.
    pub word: Mark,
    /// How long the device may go without a newer one, in seconds.
    pub lasts_s: u64,
    /// What it does then.
    pub on_lapse: Lapse,
    /// How long it had been switched on since that word at the last mark, in milliseconds.
    pub used_ms: u64,
    /// How much of that, at its end, it had been in no session with the server, in milliseconds.
    pub apart_ms: u64,
    /// The boot of that mark.
    pub boot: String,
    /// The age of that boot then, in milliseconds.
    pub marked_ms: u64,
}

impl LeaseSheet {
    /// How long the device has been switched on since the word, `age` into the boot `id`.
    pub fn used(&self, id: &str, age: Duration) -> Duration {
        Duration::from_millis(self.used_ms.saturating_add(self.since_mark_ms(id, age)))
    }

    /// How long it has been switched on in no session, `age` into the boot `id`.
    fn apart(&self, id: &str, age: Duration) -> Duration {
        Duration::from_millis(self.apart_ms.saturating_add(self.since_mark_ms(id, age)))
    }

    fn since_mark_ms(&self, id: &str, age: Duration) -> u64 {
        let (age_ms, marked_ms) = (millis(age), self.marked_ms);
        // Time goes back only from one boot to the next.
        if self.boot == id && age_ms >= marked_ms { age_ms - marked_ms } else { age_ms }
    }

    /// How long it lasts.
    pub fn lasts(&self) -> Duration {
        Duration::from_secs(self.lasts_s)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Counts a lease while the agent runs. Moments are given as the time since its start.
#[derive(Clone, Debug)]
pub struct Meter {
    device: DeviceId,
    boot: Boot,
    newest: Option<Mark>,
    sheet: Option<LeaseSheet>,
}

impl Meter {
    /// Goes on from the sheet that was `found`, if it is of this device.
    pub fn new(device: DeviceId, boot: Boot, found: Option<LeaseSheet>) -> Self {
        let sheet = found.filter(|sheet| sheet.device == device);
        Self { device, boot, newest: sheet.as_ref().map(|sheet| sheet.word), sheet }
    }

    /// The lease, if there is one.
    pub fn sheet(&self) -> Option<&LeaseSheet> {
        self.sheet.as_ref()
    }

    /// When the newest word was signed.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest.map(|word| Timestamp(word.issued_at_s))
    }

    /// A head was believed that is as new as `word` and grants `lease`. Answers whether that is newer than all before;
    /// then the lease begins anew.
    pub fn hear(&mut self, word: Mark, lease: Lease, now: Duration) -> bool {
        if self.newest.is_some_and(|newest| word <= newest) {
            return false;
        }
        self.newest = Some(word);
        self.sheet = (lease.lasts_s > 0).then(|| LeaseSheet {
            device: self.device,
            word,
            lasts_s: lease.lasts_s,
            on_lapse: lease.on_lapse,
            used_ms: 0,
            apart_ms: 0,
            boot: self.boot.id.clone(),
            marked_ms: millis(self.boot.age.saturating_add(now)),
        });
        true
    }

    /// Puts what was used until `now` on the sheet; the sheet to keep.
    pub fn mark(&mut self, now: Duration) -> Option<LeaseSheet> {
        self.count(self.used(now), self.apart(now), now);
        self.sheet.clone()
    }

    /// From `since`, the former event, to `now` the device was in a session: it was not apart, and in a `farewell` that
    /// time is not used.
    pub fn met(&mut self, since: Duration, now: Duration, farewell: bool) {
        self.count(self.used(if farewell { since } else { now }), Duration::ZERO, now);
    }

    /// Whether a device that was heard of at `since` and is again at `now` was asleep between.
    pub fn slept(since: Duration, now: Duration) -> bool {
        now.saturating_sub(since) >= ASLEEP
    }

    fn count(&mut self, used: Duration, apart: Duration, now: Duration) {
        let Some(sheet) = self.sheet.as_mut() else { return };
        (sheet.used_ms, sheet.apart_ms) = (millis(used), millis(apart));
        sheet.boot.clone_from(&self.boot.id);
        sheet.marked_ms = millis(self.boot.age.saturating_add(now));
    }

    /// How long the device has been switched on since the newest word; nothing without a lease.
    pub fn used(&self, now: Duration) -> Duration {
        let age = self.boot.age.saturating_add(now);
        self.sheet.as_ref().map_or(Duration::ZERO, |sheet| sheet.used(&self.boot.id, age))
    }

    /// How long of that it has been in no session, up to `now`.
    pub fn apart(&self, now: Duration) -> Duration {
        let age = self.boot.age.saturating_add(now);
        self.sheet.as_ref().map_or(Duration::ZERO, |sheet| sheet.apart(&self.boot.id, age))
    }

    /// Whether the lease has lapsed.
    pub fn has_lapsed(&self, now: Duration) -> bool {
        self.sheet.as_ref().is_some_and(|sheet| self.used(now) >= sheet.lasts())
    }

    /// When to look again, where the device does something once `left` has passed: then, or for the next mark.
    pub fn look_at(left: Duration, now: Duration) -> Duration {
        let left = left.max(Duration::from_millis(1));
        now.saturating_add(left.min(now.clamp(SHORTEST, LONGEST)))
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
