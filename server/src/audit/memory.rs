//! A log in memory, and a site with all of its parts, for tests.

use super::entry::tests::draft;
use super::key::AuditKey;
use super::key::tests::key;
use super::{Log, OpenError, Pair, Publisher, Source, SourceError, found, open};
use crate::domain::ledger::{Ledger, Sealed};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

/// Keys and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl Memory {
    /// Writes what a ledger sealed.
    pub(crate) fn write(&mut self, sealed: Sealed) {
        self.0.extend(sealed.puts.into_iter().chain(sealed.fresh));
    }
}

impl Source for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, SourceError> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let all = self.0.range::<[u8], _>((from, Bound::Unbounded));
        let ours = all.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(ours.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// A store, its log, and the directory of its promises.
pub(crate) struct Site {
    pub(crate) _home: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) key: AuditKey,
    pub(crate) store: Memory,
    pub(crate) log: Log,
    pub(crate) publisher: Publisher,
}

impl Site {
    /// A founded site with an empty log.
    pub(crate) fn found() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (dir, key, store) = (home.path().join("audit"), key("example.com", 7), Memory::default());
        found(&dir, &key).unwrap();
        let (log, publisher) = open(&store, &dir, key.clone(), &[]).unwrap();
        Self { _home: home, dir, key, store, log, publisher }
    }

    /// A site whose log has `size` published entries.
    pub(crate) fn with(size: usize) -> Self {
        let mut site = Self::found();
        site.append(size);
        site.publish();
        site
    }

    /// Commits `count` entries in one batch.
    pub(crate) fn append(&mut self, count: usize) {
        let first = super::size(&self.store).unwrap();
        let drafts: Vec<_> = (first..).take(count).map(|n| draft(&format!("device/{n}"))).collect();
        let sealed = self.log.seal(&drafts);
        assert_eq!(sealed.first, first);
        self.store.write(sealed);
    }

    pub(crate) fn publish(&mut self) {
        self.publisher.publish(&self.store).unwrap();
    }

    /// Stops and starts: what is only in memory is gone.
    pub(crate) fn restart(&mut self) -> Result<(), OpenError> {
        (self.log, self.publisher) = open(&self.store, &self.dir, self.key.clone(), &[])?;
        Ok(())
    }

    /// Every entry's bytes.
    pub(crate) fn entries(&self) -> Vec<Vec<u8>> {
        self.store.scan(b"a/e/", None, usize::MAX).unwrap().into_iter().map(|(_, entry)| entry).collect()
    }
}
