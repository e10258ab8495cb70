//! How keys are spelled: collections, the index keys that the writer keeps for them, and the parts of a key.
//!
//! A *collection* owns every key that starts with its prefix; what follows is the id of a record. An *index*
//! names values drawn from a record, so that a list by state or by expiry reads only what it shows. Index
//! keys live under [`RESERVED`], a byte no collection may start with, together with the store's own records:
//!
//! ```text
//! 00 'v'                                                        version of the last commit
//! 00 's'                                                        identity of this store
//! 00 'p' …                                                      records that share a key of sled (`packing.rs`)
//! 00 'i' <collection name> 00 <index name> 00 <value> 00 01 <id>   one index entry; its value is empty
//! ```
//!
//! In an index entry each zero byte of the value is written `00 FF`, so that entries sort by value and then
//! by id whatever either holds. The list of concrete collections is not here but in `collections.rs`.

/// First byte of every key that belongs to the store itself.
pub const RESERVED: u8 = 0;

/// Key of the version of the last commit.
pub(super) const LAST_VERSION: &[u8] = &[RESERVED, b'v'];

/// Key of the identity that ties the files of a store together.
pub(super) const IDENTITY: &[u8] = &[RESERVED, b's'];

/// Records of one kind: every key under one prefix.
#[derive(Debug)]
pub struct Collection {
    /// Its name, unique, without a zero byte; part of every index key and so never changed.
    pub name: &'static str,
    /// What all of its keys start with; no prefix may be the start of another collection's.
    pub prefix: &'static [u8],
    /// What its records are listed by.
    pub indexes: &'static [Index],
}

/// One way to list a collection.
#[derive(Debug)]
pub struct Index {
    /// Its name, unique within the collection, without a zero byte.
    pub name: &'static str,
    /// The values under which the record `(id, value)` is listed; none, one or several, in any order.
    ///
    /// Must be a pure function of its arguments: the writer calls it on the old record to find what to remove.
    pub keys: fn(id: &[u8], value: &[u8]) -> Vec<Vec<u8>>,
}

impl Collection {
    /// The key of the record with this id.
    #[must_use]
    pub fn key(&self, id: &[u8]) -> Vec<u8> {
        [self.prefix, id].concat()
    }

    /// The id within `key`, when the key belongs to this collection.
    #[must_use]
    pub fn id<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        key.strip_prefix(self.prefix)
    }

    /// The index of this name.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<&'static Index> {
        self.indexes.iter().find(|index| index.name == name)
    }

    /// What every entry of one of its indexes starts with.
    pub(super) fn index_base(&self, index: &str) -> Vec<u8> {
        let mut base = Vec::with_capacity(self.name.len() + index.len() + 4);
        base.extend_from_slice(&[RESERVED, b'i']);
        base.extend_from_slice(self.name.as_bytes());
        base.push(0);
        base.extend_from_slice(index.as_bytes());
        base.push(0);
        base
    }

    /// The entries that list the record `(id, value)`, over all indexes.
    pub(super) fn index_entries(&self, id: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
        let mut entries = Vec::new();
        for index in self.indexes {
            for listed in (index.keys)(id, value) {
                let mut entry = self.index_base(index.name);
                push_escaped(&mut entry, &listed);
                entry.extend_from_slice(&[0, 1]);
                entry.extend_from_slice(id);
                entries.push(entry);
            }
        }
        entries
    }
}

/// Appends `value` so that it sorts as it did and no zero byte stands alone.
pub(super) fn push_escaped(key: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        key.push(byte);
        if byte == 0 {
            key.push(0xff);
        }
    }
}

/// Splits what follows the base of an index entry into the listed value and the id.
///
/// `None` when the bytes are no index entry.
pub(super) fn split_index_entry(tail: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::with_capacity(tail.len());
    let mut rest = tail;
    loop {
        match rest {
            [0, 0xff, after @ ..] => {
                value.push(0);
                rest = after;
            }
            [0, 1, id @ ..] => return Some((value, id)),
            [] | [0, ..] => return None,
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
        }
    }
}

/// An unsigned number as eight bytes that sort as it does.
#[must_use]
pub fn ordinal(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// A signed number, such as a time in unix seconds, as eight bytes that sort as it does.
#[must_use]
pub fn instant(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The smallest key above every key that starts with `prefix`; `None` when there is no such key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_value(_: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
        vec![value.to_vec()]
    }

    static THINGS: Collection =
        Collection { name: "things", prefix: b"t/", indexes: &[Index { name: "value", keys: by_value }] };

    fn entry(value: &[u8], id: &[u8]) -> Vec<u8> {
        THINGS.index_entries(id, value).remove(0)
    }

    proptest! {
        #[test]
        fn index_entries_sort_by_value_and_then_by_id(
            a in (proptest::collection::vec(0u8..3, 0..5), proptest::collection::vec(0u8..3, 0..5)),
            b in (proptest::collection::vec(0u8..3, 0..5), proptest::collection::vec(0u8..3, 0..5)),
        ) {
            prop_assert_eq!(entry(&a.0, &a.1).cmp(&entry(&b.0, &b.1)), a.cmp(&b));
        }

        #[test]
        fn an_index_entry_gives_back_value_and_id(value: Vec<u8>, id: Vec<u8>) {
            let whole = entry(&value, &id);
            let tail = &whole[THINGS.index_base("value").len()..];
            prop_assert_eq!(split_index_entry(tail), Some((value, id.as_slice())));
        }

        #[test]
        fn instants_sort_as_numbers_do(a: i64, b: i64) {
            prop_assert_eq!(instant(a).cmp(&instant(b)), a.cmp(&b));
        }
    }

    #[test]
    fn the_end_of_a_prefix_lies_above_its_last_key() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff]), None);
        assert_eq!(prefix_end(&[]), None);
    }

    #[test]
    fn half_an_escape_is_no_index_entry() {
        assert_eq!(split_index_entry(&[5, 0]), None);
        assert_eq!(split_index_entry(&[5]), None);
        assert_eq!(split_index_entry(&[5, 0, 2, 1]), None);
    }
}
