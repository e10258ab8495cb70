//! One sum over all records, kept by the writer, so that a record that damage took away is missed.
//!
//! sled checks each page that it reads, but pages that it cannot read when it recovers it leaves out without a
//! word: older values, or none, take their place. So every commit carries the sum of the SHA-256 of all records
//! (four 64-bit words, each added modulo 2^64, independent of order). A change subtracts the old record and adds
//! the new one. This finds damage; against someone who writes the files it proves nothing, the audit log does.

use super::key::{IDENTITY, LAST_VERSION};
use super::{Change, Versioned};
use sha2::{Digest, Sha256};

/// Bytes of a checksum as it is stored.
const BYTES: usize = 32;

/// The sum over a set of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checksum([u64; 4]);

impl Checksum {
    /// What [`Checksum::to_bytes`] gave; `None` for anything else.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        Some(Self(words(bytes)))
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// Counts `record` in. The store's own bookkeeping does not count.
    pub(super) fn add(&mut self, key: &[u8], record: &Versioned) {
        self.combine(key, record, u64::wrapping_add);
    }

    /// Follows `change`.
    pub(super) fn follow(&mut self, change: &Change) {
        if let Some(old) = &change.old {
            self.combine(&change.key, old, u64::wrapping_sub);
        }
        if let Some(new) = &change.new {
            self.add(&change.key, new);
        }
    }

    fn combine(&mut self, key: &[u8], record: &Versioned, combine: fn(u64, u64) -> u64) {
        if key == LAST_VERSION || key == IDENTITY {
            return;
        }
        let mut hash = Sha256::new();
        hash.update((key.len() as u64).to_be_bytes());
        hash.update(key);
        hash.update(&record.value);
        for (word, part) in self.0.iter_mut().zip(words(&hash.finalize().into())) {
            *word = combine(*word, part);
        }
    }
}

fn words(bytes: &[u8; BYTES]) -> [u64; 4] {
    let (parts, _) = bytes.as_chunks::<8>();
    let mut words = [0; 4];
    for (word, part) in words.iter_mut().zip(parts) {
        *word = u64::from_be_bytes(*part);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str) -> Versioned {
        Versioned { version: 1, value: value.into() }
    }

    #[test]
    fn following_changes_ends_where_adding_up_the_records_does() {
        let mut followed = Checksum::default();
        let change = |key: &str, old: Option<&str>, new: Option<&str>| Change {
            key: key.into(),
            old: old.map(record),
            new: new.map(record),
        };
        for change in [
            change("a", None, Some("1")),
            change("b", None, Some("1")),
            change("a", Some("1"), Some("2")),
            change("b", Some("1"), None),
            change("c", None, Some("")),
        ] {
            followed.follow(&change);
        }
        let mut added = Checksum::default();
        added.add(b"c", &record(""));
        added.add(b"a", &record("2"));
        assert_eq!(followed, added);
        assert_eq!(Checksum::from_bytes(&added.to_bytes()), Some(added));
        added.add(b"d", &record(""));
        assert_ne!(followed, added);
    }

    #[test]
    fn a_byte_that_moves_from_key_to_value_shows() {
        let (mut one, mut other) = (Checksum::default(), Checksum::default());
        one.add(b"ab", &record("c"));
        other.add(b"a", &record("bc"));
        assert_ne!(one, other);
    }
}
