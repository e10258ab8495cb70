//! In memory, with faults on demand.

use super::{Change, Engine, EngineError, Health, Versioned};

/// An engine over a [`Disk`] in memory.
#[derive(Debug, Default)]
pub struct Memory {
    disk: Disk,
}

/// What survives when a [`Memory`] engine is dropped; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Disk;

impl Memory {
    /// An engine over `disk`.
    #[must_use]
    pub fn on(disk: Disk) -> Self {
        Self { disk }
    }
}

impl Engine for Memory {
    fn get(&self, _key: &[u8]) -> Result<Option<Versioned>, EngineError> {
        let _ = &self.disk;
        unimplemented!()
    }

    fn scan(
        &self,
        _prefix: &[u8],
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, EngineError> {
        unimplemented!()
    }

    fn apply(&self, _changes: &[Change]) -> Result<(), EngineError> {
        unimplemented!()
    }

    fn sync(&self) -> Result<u32, EngineError> {
        unimplemented!()
    }

    fn synced(&self, _version: u64) {}

    fn health(&self) -> Result<Health, EngineError> {
        unimplemented!()
    }

    fn close(&self) -> Result<(), EngineError> {
        unimplemented!()
    }
}
