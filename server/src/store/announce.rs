//! Commits that are on their way, so that one sync can cover more of them.
//!
//! A commit alone is synced at once. When many requests are being worked on, their commits are a moment away,
//! and waiting for them costs nobody anything: the machine is busy with those very requests. A door says so by
//! holding an [`Announced`] from accept to answer. Only announcements of the last 128 ms count, so that
//! connections which were opened and then stall slow nobody down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Length of one slot in milliseconds.
const SLOT_MS: u64 = 16;

/// Slots that count.
const SLOTS: u64 = 8;

/// How many commits were announced lately and are not done.
#[derive(Debug)]
pub(super) struct Announcements {
    started: Instant,
    /// One slot per 16 ms: its epoch in the upper half, its count in the lower.
    slots: [AtomicU64; SLOTS as usize],
}

/// A commit on its way; it counts until it is dropped or 128 ms old.
#[derive(Debug)]
pub struct Announced {
    announcements: Arc<Announcements>,
    epoch: u32,
}

impl Announcements {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), slots: std::array::from_fn(|_| AtomicU64::new(0)) })
    }

    /// Counts one more until the answer is dropped.
    pub(super) fn announce(self: &Arc<Self>) -> Announced {
        let epoch = self.epoch();
        self.add(epoch);
        Announced { announcements: Arc::clone(self), epoch }
    }

    /// How many count now.
    pub(super) fn young(&self) -> usize {
        self.young_at(self.epoch())
    }

    /// The present slot since the start; epochs begin at 1, since untouched slots hold 0.
    fn epoch(&self) -> u32 {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        u32::try_from(elapsed / SLOT_MS + 1).unwrap_or(u32::MAX)
    }

    fn slot(&self, epoch: u32) -> Option<&AtomicU64> {
        self.slots.get((u64::from(epoch) % SLOTS) as usize)
    }

    fn add(&self, epoch: u32) {
        self.update(epoch, |slot| {
            let (held, count) = split(slot);
            Some(if held == epoch { join(epoch, count.saturating_add(1)) } else { join(epoch, 1) })
        });
    }

    fn remove(&self, epoch: u32) {
        self.update(epoch, |slot| {
            let (held, count) = split(slot);
            (held == epoch).then(|| join(epoch, count.saturating_sub(1)))
        });
    }

    fn update(&self, epoch: u32, change: impl FnMut(u64) -> Option<u64>) {
        if let Some(slot) = self.slot(epoch) {
            let _unchanged = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        }
    }

    fn young_at(&self, epoch: u32) -> usize {
        let slots = self.slots.iter().map(|slot| split(slot.load(Ordering::Acquire)));
        let young = slots.filter(|(held, _)| u64::from(*held) + SLOTS > u64::from(epoch));
        young.map(|(_, count)| count as usize).sum()
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.announcements.remove(self.epoch);
    }
}

fn split(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, (slot & u64::from(u32::MAX)) as u32)
}

fn join(epoch: u32, count: u32) -> u64 {
    u64::from(epoch) << 32 | u64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_counts_until_it_is_dropped() {
        let announcements = Announcements::new();
        let (first, second) = (announcements.announce(), announcements.announce());
        let epoch = first.epoch;
        assert_eq!(announcements.young_at(epoch), 2);
        drop(first);
        assert_eq!(announcements.young_at(epoch), 1);
        drop(second);
        assert_eq!(announcements.young_at(epoch), 0);
    }

    #[test]
    fn an_old_announcement_does_not_count() {
        let announcements = Announcements::new();
        announcements.add(100);
        assert_eq!(announcements.young_at(107), 1);
        assert_eq!(announcements.young_at(108), 0);
    }

    #[test]
    fn dropping_an_old_announcement_leaves_its_slots_successor_alone() {
        let announcements = Announcements::new();
        announcements.add(100);
        announcements.add(108);
        announcements.remove(100);
        assert_eq!(announcements.young_at(108), 1);
    }
}
