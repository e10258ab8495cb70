//! What cannot be undone leaves only when a checkpoint on the disk covers it (`security.md`, rule 3): a server that is
//! set back to before the order is found out by its own log, and not only by the device that was wiped.

use super::{App, Error, LogSource};
use crate::audit;
use crate::domain::order::{Ask, OrderRecord};
use muster_wire::id::{DeviceId, OrderId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How far the log is promised on the disk, and which orders wait for more of it.
pub(super) struct Covered {
    /// Entries that the newest published checkpoint covers.
    size: AtomicU64,
    /// Orders that were met since, each with the size of the log at which it had its entry for certain.
    waiting: Mutex<HashMap<OrderId, (DeviceId, u64)>>,
}

impl Covered {
    pub(super) fn from(size: u64) -> Self {
        Self { size: AtomicU64::new(size), waiting: Mutex::default() }
    }

    /// Whether an order may leave that stands in the log of `now` entries. One that may not is remembered.
    fn covers(&self, order: &OrderRecord, now: u64) -> bool {
        let covered = self.size.load(Ordering::Acquire);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let needs = waiting.get(&order.id).map_or(now, |(_, needs)| *needs);
        if covered >= needs {
            waiting.remove(&order.id);
            return true;
        }
        waiting.insert(order.id, (order.device, needs));
        false
    }

    /// A checkpoint over `size` entries is on the disk; answers whose orders waited for it.
    fn reaches(&self, size: u64) -> Vec<DeviceId> {
        self.size.fetch_max(size, Ordering::AcqRel);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.values().filter(|(_, needs)| *needs <= size).map(|(device, _)| *device).collect()
    }
}

impl App {
    /// Whether `order` may leave now. Whoever stops something waits for nothing.
    ///
    /// # Errors
    /// [`Error::Internal`] where the log cannot be read.
    pub(super) fn may_leave(&self, order: &OrderRecord) -> Result<bool, Error> {
        if order.warrant.is_none() || matches!(order.ask, Ask::Stop { .. }) {
            return Ok(true);
        }
        let entries = audit::size(&LogSource(self.store.clone()));
        let entries = entries.map_err(|error| Error::internal("reading the log")(Box::new(error)))?;
        Ok(self.covered.covers(order, entries))
    }

    /// A checkpoint over `size` entries is on the disk: sessions whose orders waited for it look again.
    pub(super) fn checkpoint_reaches(&self, size: u64) {
        for device in self.covered.reaches(size) {
            self.doors.registry.nudge(&device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::Phase;
    use muster_wire::warrant::Level;

    fn order(number: u8) -> OrderRecord {
        OrderRecord {
            v: 1,
            id: OrderId::from_bytes([number; 16]),
            device: DeviceId::from_bytes([number; 16]),
            ask: Ask::Wipe { level: Level::Clear, data_roots: Vec::new() },
            warrant: None,
            counter: 1,
            by: "server".into(),
            made_at: 0,
            expires: 0,
            phase: Phase::Ordered,
            receipts: Vec::new(),
            replaced: 0,
            excess_noted: false,
        }
    }

    #[test]
    fn an_order_waits_for_the_checkpoint_over_the_log_in_which_it_was_first_met_and_for_no_later_one() {
        let covered = Covered::from(10);
        assert!(covered.covers(&order(1), 10));
        assert!(!covered.covers(&order(2), 12));
        assert_eq!(covered.reaches(11), []);
        assert!(!covered.covers(&order(2), 500), "what came after it does not hold it back");
        assert_eq!(covered.reaches(12), [order(2).device]);
        assert!(covered.covers(&order(2), 600));
        assert_eq!(covered.reaches(700), [], "nobody waits any more");
    }
}
