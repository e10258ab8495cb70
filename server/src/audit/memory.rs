//! A source in memory, for tests.

use super::{Pair, Source, SourceError};
use crate::domain::ledger::Sealed;
use std::collections::BTreeMap;

/// Keys and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl Memory {
    /// Writes what a ledger sealed.
    pub(crate) fn write(&mut self, sealed: Sealed) {
        self.0.extend(sealed.puts);
    }
}

impl Source for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, SourceError> {
        let all = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
        let later = all.filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after));
        Ok(later.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
