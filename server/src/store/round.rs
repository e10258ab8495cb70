//! One round of the writer, as a pure decision: which batches are accepted, and what then changes.
//!
//! A batch is judged against the store plus the batches accepted before it in the same round. A refused batch
//! leaves no trace, not in the records and not in the ledger.

use super::checksum::Checksum;
use super::key::{LAST_VERSION, RESERVED};
use super::{
    Batch, Change, Collection, CommitError, Committed, DRAFT_CAP_BYTES, Engine, EngineError, Expect,
    RECORD_CAP_BYTES, Versioned, Write,
};
use crate::domain::ledger::{Draft, Ledger};
use std::collections::HashMap;

/// Why a batch does not become part of a round.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The caller is told; nothing changed.
    Answer(CommitError),
    /// The store fails.
    Engine(EngineError),
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// The records touched so far in a round.
pub(super) struct Round<'w> {
    engine: &'w dyn Engine,
    collections: &'static [Collection],
    slots: HashMap<Vec<u8>, Slot>,
    version: u64,
    accepted: usize,
}

/// A record as the engine has it and as the round leaves it.
struct Slot {
    old: Option<Versioned>,
    fate: Fate,
}

/// What a round does to a record.
enum Fate {
    Stays,
    Becomes(Versioned),
    Goes,
}

impl Slot {
    /// The record as the round leaves it.
    fn now(&self) -> Option<&Versioned> {
        match &self.fate {
            Fate::Stays => self.old.as_ref(),
            Fate::Becomes(new) => Some(new),
            Fate::Goes => None,
        }
    }
}

/// A write with the index entries its new value will have.
struct Planned {
    key: Vec<u8>,
    new: Option<Vec<u8>>,
    collection: Option<&'static Collection>,
    entries: Vec<Vec<u8>>,
}

impl<'w> Round<'w> {
    /// An empty round after the commit `version`.
    pub(super) fn new(engine: &'w dyn Engine, collections: &'static [Collection], version: u64) -> Self {
        Self { engine, collections, slots: HashMap::new(), version, accepted: 0 }
    }

    /// Takes `batch` into the round, or refuses it without a trace.
    pub(super) fn accept(&mut self, batch: Batch, ledger: &mut dyn Ledger) -> Result<Committed, Refusal> {
        check_drafts(&batch.audit).map_err(Refusal::Answer)?;
        let planned = self.plan(batch.writes).map_err(Refusal::Answer)?;
        self.check(&batch.preconditions)?;
        for write in &planned {
            self.load(&write.key)?;
        }
        self.version += 1;
        self.accepted += 1;
        for write in planned {
            self.write(write);
        }
        let first_sequence = self.seal(&batch.audit, ledger)?;
        Ok(Committed { version: self.version, first_sequence })
    }

    /// How many batches it took.
    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Version of the last batch it took.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What changes, sorted by key; `checksum` follows it and is stored with it.
    pub(super) fn finish(self, checksum: &mut Checksum) -> Vec<Change> {
        let slots = self.slots.into_iter();
        let mut changes: Vec<Change> = Vec::with_capacity(slots.len() + 1);
        changes.extend(slots.filter_map(|(key, Slot { old, fate })| match fate {
            Fate::Becomes(new) => Some(Change { key, old, new: Some(new) }),
            Fate::Goes if old.is_some() => Some(Change { key, old, new: None }),
            Fate::Goes | Fate::Stays => None,
        }));
        for change in &changes {
            checksum.follow(change);
        }
        let last = Versioned { version: self.version, value: checksum.to_bytes() };
        changes.push(Change { key: LAST_VERSION.to_vec(), old: None, new: Some(last) });
        changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    fn plan(&self, writes: Vec<Write>) -> Result<Vec<Planned>, CommitError> {
        writes.into_iter().map(|write| self.plan_one(write)).collect()
    }

    fn plan_one(&self, write: Write) -> Result<Planned, CommitError> {
        let (key, new) = match write {
            Write::Put { key, value } => (key, Some(value)),
            Write::Delete { key } => (key, None),
        };
        if key.first().is_none_or(|first| *first == RESERVED) {
            return Err(CommitError::ReservedKey);
        }
        check_size(&key, key.len() + new.as_ref().map_or(0, Vec::len))?;
        let collection = self.collections.iter().find(|collection| key.starts_with(collection.prefix));
        let entries = collection.zip(new.as_ref()).map_or_else(Vec::new, |(collection, value)| {
            collection.id(&key).map_or_else(Vec::new, |id| collection.index_entries(id, value))
        });
        for entry in &entries {
            check_size(&key, entry.len())?;
        }
        Ok(Planned { key, new, collection, entries })
    }

    fn check(&mut self, preconditions: &[(Vec<u8>, Expect)]) -> Result<(), Refusal> {
        for (key, expect) in preconditions {
            let found = self.load(key)?.map(|found| found.version);
            let holds = match expect {
                Expect::Absent => found.is_none(),
                Expect::Version(version) => found == Some(*version),
            };
            if !holds {
                return Err(Refusal::Answer(CommitError::Conflict { key: key.clone() }));
            }
        }
        Ok(())
    }

    /// The record as the round has it so far.
    fn load(&mut self, key: &[u8]) -> Result<Option<&Versioned>, EngineError> {
        if !self.slots.contains_key(key) {
            let old = self.engine.get(key)?;
            self.slots.insert(key.to_vec(), Slot { old, fate: Fate::Stays });
        }
        Ok(self.slots.get(key).and_then(Slot::now))
    }

    fn write(&mut self, write: Planned) {
        let stale =
            write.collection.map_or_else(Vec::new, |collection| self.entries_of(collection, &write.key));
        for entry in stale.iter().filter(|entry| !write.entries.contains(entry)) {
            self.unlist(entry);
        }
        for entry in write.entries {
            if !stale.contains(&entry) {
                self.list(entry);
            }
        }
        let version = self.version;
        if let Some(slot) = self.slots.get_mut(&write.key) {
            slot.fate = write.new.map_or(Fate::Goes, |value| Fate::Becomes(Versioned { version, value }));
        }
    }

    /// The index entries of the record as the round has it so far.
    fn entries_of(&self, collection: &Collection, key: &[u8]) -> Vec<Vec<u8>> {
        let record = self.slots.get(key).and_then(Slot::now);
        record.zip(collection.id(key)).map_or_else(Vec::new, |(record, id)| {
            if collection.indexes.is_empty() {
                Vec::new()
            } else {
                collection.index_entries(id, &record.value)
            }
        })
    }

    /// Adds an index entry. It is not in the engine: entries are there exactly while their record says so.
    fn list(&mut self, entry: Vec<u8>) {
        let new = Versioned { version: self.version, value: Vec::new() };
        self.slots.entry(entry).or_insert(Slot { old: None, fate: Fate::Stays }).fate = Fate::Becomes(new);
    }

    /// Removes an index entry that is in the engine or was added in this round.
    fn unlist(&mut self, entry: &[u8]) {
        if let Some(slot) = self.slots.get_mut(entry) {
            slot.fate = Fate::Goes;
        } else {
            let old = Some(Versioned { version: 0, value: Vec::new() });
            self.slots.insert(entry.to_vec(), Slot { old, fate: Fate::Goes });
        }
    }

    /// Seals the drafts and takes what the ledger writes into the round.
    fn seal(&mut self, drafts: &[Draft], ledger: &mut dyn Ledger) -> Result<Option<u64>, Refusal> {
        if drafts.is_empty() {
            return Ok(None);
        }
        let sealed = ledger.seal(drafts);
        for (key, value) in sealed.puts {
            check_sealed(&key, &value)?;
            self.load(&key)?;
            self.write(Planned { key, new: Some(value), collection: None, entries: Vec::new() });
        }
        for (key, value) in sealed.fresh {
            check_sealed(&key, &value)?;
            let fate = Fate::Becomes(Versioned { version: self.version, value });
            self.slots.insert(key, Slot { old: None, fate });
        }
        Ok(Some(sealed.first))
    }
}

/// The ledger has moved on, so there is no way to refuse: an entry that sled would keep outside of the file it
/// syncs must not be written at all.
fn check_sealed(key: &[u8], value: &[u8]) -> Result<(), EngineError> {
    let size_bytes = key.len() + value.len();
    if size_bytes > RECORD_CAP_BYTES {
        let detail = format!("the ledger wrote {size_bytes} bytes under one key");
        return Err(EngineError::Corrupt { operation: "seal", detail });
    }
    Ok(())
}

fn check_size(key: &[u8], size_bytes: usize) -> Result<(), CommitError> {
    if size_bytes > RECORD_CAP_BYTES {
        return Err(CommitError::ValueTooLarge { key: key.to_vec(), size_bytes });
    }
    Ok(())
}

fn check_drafts(drafts: &[Draft]) -> Result<(), CommitError> {
    for draft in drafts {
        let size_bytes = draft_size(draft);
        if size_bytes > DRAFT_CAP_BYTES {
            return Err(CommitError::ValueTooLarge { key: Vec::new(), size_bytes });
        }
    }
    Ok(())
}

/// How many bytes of text a draft holds once it is written as JSON.
fn draft_size(draft: &Draft) -> usize {
    let texts = [
        &draft.actor,
        &draft.sign_in,
        &draft.action,
        &draft.object,
        &draft.reason,
        &draft.request_id,
        &draft.prev_state,
        &draft.new_state,
        &draft.payload_sha256,
    ];
    let facts = draft.facts.iter().map(|(name, fact)| json_size(name) + json_size(fact));
    texts.iter().map(|text| json_size(text)).chain(facts).sum()
}

/// Bytes of `text` as a JSON string, without its quotes (RFC 8259 section 7).
fn json_size(text: &str) -> usize {
    let size = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(size).sum()
}
