//! An engine in memory, for tests: what is applied is lost unless it is synced, and faults come on demand.
//!
//! A [`Disk`] plays the disk. It outlives its engines, so a test drops one engine and opens another to see what
//! a power cut would have left. Faults follow the two cases that a caller cannot tell apart: a sync that failed
//! although everything was stored, and one that failed and stored nothing.

use super::{Change, Engine, EngineError, Health, Versioned};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// Records by key.
type Records = BTreeMap<Vec<u8>, Versioned>;

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The write into the engine fails; nothing is stored.
    Apply,
    /// The sync fails, and nothing of the round is on the disk.
    SyncNotStored,
    /// The sync fails, and the whole round is on the disk all the same.
    SyncStored,
    /// The engine panics in the middle of a write.
    Panic,
}

/// What survives when a [`Memory`] engine is dropped, and the switches for its faults; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inner: Arc<DiskInner>,
}

#[derive(Debug)]
struct DiskInner {
    durable: Mutex<Records>,
    faults: Mutex<Vec<(u64, Fault)>>,
    rounds: AtomicU64,
    free_bytes: AtomicU64,
    gate: Mutex<Gate>,
    moved: Condvar,
}

impl Default for DiskInner {
    fn default() -> Self {
        Self {
            durable: Mutex::default(),
            faults: Mutex::default(),
            rounds: AtomicU64::new(0),
            free_bytes: AtomicU64::new(u64::MAX),
            gate: Mutex::default(),
            moved: Condvar::new(),
        }
    }
}

/// Whether syncs are held up, and whether one is waiting.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    shut: bool,
    waiting: bool,
}

impl Disk {
    /// A fresh disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `fault` happen in the `nth` round from now on; 0 is the next one.
    pub fn fail(&self, nth: u64, fault: Fault) {
        let round = self.inner.rounds.load(Ordering::SeqCst) + nth;
        lock(&self.inner.faults).push((round, fault));
    }

    /// Pretends that this much space is left.
    pub fn set_free_bytes(&self, free_bytes: u64) {
        self.inner.free_bytes.store(free_bytes, Ordering::SeqCst);
    }

    /// Holds up every sync until the answer is dropped.
    #[must_use]
    pub fn hold_syncs(&self) -> Held {
        lock(&self.inner.gate).shut = true;
        Held { disk: self.clone() }
    }

    /// Rounds begun so far.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.inner.rounds.load(Ordering::SeqCst)
    }

    fn fault(&self, round: u64, wanted: &[Fault]) -> Option<Fault> {
        let faults = lock(&self.inner.faults);
        faults.iter().find(|(when, fault)| *when == round && wanted.contains(fault)).map(|(_, fault)| *fault)
    }

    fn pass_gate(&self) {
        let mut gate = lock(&self.inner.gate);
        while gate.shut {
            gate.waiting = true;
            self.inner.moved.notify_all();
            gate = self.inner.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.waiting = false;
    }
}

/// Syncs are held up while this lives.
#[derive(Debug)]
pub struct Held {
    disk: Disk,
}

impl Held {
    /// Waits until a sync is being held up: its round is applied and not durable.
    pub fn wait_for_sync(&self) {
        let mut gate = lock(&self.disk.inner.gate);
        while !gate.waiting {
            gate = self.disk.inner.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *lock(&self.disk.inner.gate) = Gate::default();
        self.disk.inner.moved.notify_all();
    }
}

/// An engine over a [`Disk`].
#[derive(Debug)]
pub struct Memory {
    disk: Disk,
    applied: RwLock<Records>,
    closed: AtomicBool,
}

impl Memory {
    /// An engine over what is durable on `disk`.
    #[must_use]
    pub fn on(disk: Disk) -> Self {
        let durable = lock(&disk.inner.durable).clone();
        Self { disk, applied: RwLock::new(durable), closed: AtomicBool::new(false) }
    }

    fn records(&self) -> Result<std::sync::RwLockReadGuard<'_, Records>, EngineError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(EngineError::Closed);
        }
        Ok(self.applied.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, EngineError> {
        Ok(self.records()?.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, EngineError> {
        let records = self.records()?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = records.range::<[u8], _>((start, Bound::Unbounded));
        let within = range.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(within.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    #[expect(clippy::panic, reason = "a fault that a test asked for")]
    fn apply(&self, changes: &[Change]) -> Result<(), EngineError> {
        drop(self.records()?);
        let round = self.disk.rounds();
        match self.disk.fault(round, &[Fault::Apply, Fault::Panic]) {
            Some(Fault::Panic) => panic!("the engine panics on demand"),
            Some(_) => return Err(EngineError::OnDemand { operation: "apply" }),
            None => {}
        }
        let mut records = self.applied.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match &change.new {
                Some(new) => records.insert(change.key.clone(), new.clone()),
                None => records.remove(&change.key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<u32, EngineError> {
        self.disk.pass_gate();
        let round = self.disk.inner.rounds.fetch_add(1, Ordering::SeqCst);
        let fault = self.disk.fault(round, &[Fault::SyncStored, Fault::SyncNotStored]);
        if fault != Some(Fault::SyncNotStored) {
            lock(&self.disk.inner.durable).clone_from(&*self.records()?);
        }
        match fault {
            Some(_) => Err(EngineError::OnDemand { operation: "sync" }),
            None => Ok(1),
        }
    }

    fn synced(&self, _version: u64) {}

    fn health(&self) -> Result<Health, EngineError> {
        Ok(Health { free_bytes: self.disk.inner.free_bytes.load(Ordering::SeqCst), stray_values: 0 })
    }

    fn close(&self) -> Result<(), EngineError> {
        self.closed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
