//! Which records share one key of the embedded engine, and how they lie in it.
//!
//! sled pays for keys, not for bytes: a leaf splits at seventeen, and each split writes the whole index node above
//! it. So small records that are born together live together: four neighbouring numbers, or the index entries of
//! one value whose ids (UUIDv7) begin in the same 64 ms. Nobody above the engine sees it.
//!
//! ```text
//! 00 'p' <key up to and with the shared byte, its low bits cleared>   a bucket
//!        its value: entries in order, each  <tail length 1> <body length 2> <tail> <version 8> <value>
//! ```
//! A record's key is what the bucket's key says, without its last byte, and the tail. A record that finds its bucket
//! full lies under its own key, as all others do. It only ever moves from its bucket to its own key, when it has
//! outgrown the bucket; who reads the bucket first and the own key second therefore misses nothing.

use super::key::RESERVED;
use std::cmp::Ordering;
use std::ops::Range;

/// What the key of every bucket starts with.
pub(super) const BUCKETS: &[u8] = &[RESERVED, b'p'];

/// Bytes of key and value up to which a bucket takes one more record.
const FULL_BYTES: usize = 4096;

/// Bytes of key and value up to which records in a bucket may grow; seventeen of these fit a leaf that sled keeps
/// in the file that is synced (128 KiB).
const BURST_BYTES: usize = 6144;

/// Bytes in front of a tail.
const HEAD_BYTES: usize = 3;

/// Bytes of a UUID's text (RFC 9562 section 4).
const UUID_TEXT: usize = 36;

/// How many of them a bucket's key keeps: the first 44 bits of a UUIDv7's milliseconds and the hyphen among them.
const UUID_SHARED: usize = 12;

/// Keys that are packed.
#[derive(Clone, Copy, Debug)]
pub enum Packed {
    /// Those of this prefix and a number of eight bytes: four in a bucket.
    Numbers(&'static [u8]),
    /// Those of this prefix that end in `00 01` and a UUIDv7: one bucket for 64 ms.
    Ids(&'static [u8]),
    /// Those of this prefix, a UUIDv7 as text, a zero byte and a number of eight bytes: one bucket for 16 ms.
    Histories(&'static [u8]),
}

/// Where a packed record lies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'k> {
    /// Key of the bucket.
    pub(super) bucket: Vec<u8>,
    /// What tells the record from others in the bucket.
    pub(super) tail: &'k [u8],
}

impl Packed {
    const fn prefix(&self) -> &'static [u8] {
        match self {
            Self::Numbers(prefix) | Self::Ids(prefix) | Self::Histories(prefix) => prefix,
        }
    }

    /// Length of the tail of `key`, and which bits of its first byte the bucket's key keeps.
    fn cut(&self, key: &[u8]) -> Option<(usize, u8)> {
        let rest = key.strip_prefix(self.prefix())?;
        match self {
            Self::Numbers(_) => (rest.len() == 8).then_some((1, 0xfc)),
            Self::Ids(_) => {
                let (before, _id) = rest.split_last_chunk::<16>()?;
                before.ends_with(&[0, 1]).then_some((11, 0xc0))
            }
            Self::Histories(_) => {
                let (object, _number) = rest.split_last_chunk::<8>()?;
                let ours = object.len() == UUID_TEXT + 1 && object.last() == Some(&0);
                ours.then_some((rest.len() - (UUID_SHARED - 1), 0xff))
            }
        }
    }
}

/// Where the record of `key` lies if it is packed.
pub(super) fn place<'k>(packed: &[Packed], key: &'k [u8]) -> Option<Place<'k>> {
    let (tail, mask) = packed.iter().find_map(|packed| packed.cut(key))?;
    let (stem, tail) = key.split_at_checked(key.len().checked_sub(tail)?)?;
    let shared = tail.first()? & mask;
    Some(Place { bucket: [BUCKETS, stem, &[shared]].concat(), tail })
}

/// Whether a record under `prefix` may be packed.
pub(super) fn concerns(packed: &[Packed], prefix: &[u8]) -> bool {
    packed.iter().map(Packed::prefix).any(|packed| packed.starts_with(prefix) || prefix.starts_with(packed))
}

/// The key of the record that lies in `bucket` under `tail`.
pub(super) fn key_of(bucket: &[u8], tail: &[u8]) -> Vec<u8> {
    let stem = bucket.get(BUCKETS.len()..bucket.len().saturating_sub(1)).unwrap_or_default();
    [stem, tail].concat()
}

/// The entries of a bucket's value, in order, until the first that is none.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    spans(bytes).filter_map(|(tail, body)| Some((bytes.get(tail)?, bytes.get(body)?)))
}

/// Whether `bytes` are entries from the first to the last byte.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    spans(bytes).last().map_or(0, |(_, body)| body.end) == bytes.len()
}

/// The body of the record `tail` in a bucket's value.
pub(super) fn find<'b>(bytes: &'b [u8], tail: &[u8]) -> Option<&'b [u8]> {
    entries(bytes).find_map(|(found, body)| (found == tail).then_some(body))
}

fn spans(bytes: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (head, rest) = bytes.get(at..)?.split_first_chunk::<HEAD_BYTES>()?;
        let [tail, high, low] = *head;
        let (tail, body) = (usize::from(tail), usize::from(u16::from_be_bytes([high, low])));
        if rest.len() < tail + body {
            return None;
        }
        let start = at + HEAD_BYTES;
        at = start + tail + body;
        Some((start..start + tail, start + tail..at))
    })
}

/// A bucket that is being changed.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    key: Vec<u8>,
    bytes: Vec<u8>,
}

impl Bucket {
    /// The bucket under `key` whose value is `bytes`; empty when there is none yet.
    pub(super) fn new(key: Vec<u8>, bytes: &[u8]) -> Self {
        Self { key, bytes: bytes.to_vec() }
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its value as it now is.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the record `tail` lies here.
    pub(super) fn has(&self, tail: &[u8]) -> bool {
        find(&self.bytes, tail).is_some()
    }

    /// Puts `body` under `tail`, in its order; says whether there was room. Without room nothing of `tail` is left.
    pub(super) fn put(&mut self, tail: &[u8], body: &[u8]) -> bool {
        let (span, cap) = match self.locate(tail) {
            Ok(span) => (span, BURST_BYTES),
            Err(at) => (at..at, FULL_BYTES),
        };
        let size = HEAD_BYTES + tail.len() + body.len();
        let fits = self.key.len() + self.bytes.len() - span.len() + size <= cap;
        let lengths = u8::try_from(tail.len()).ok().zip(u16::try_from(body.len()).ok());
        let Some((tail_length, body_length)) = lengths.filter(|_| fits) else {
            self.bytes.drain(span);
            return false;
        };
        let [high, low] = body_length.to_be_bytes();
        let head = [tail_length, high, low];
        self.bytes.splice(span, head.iter().chain(tail).chain(body).copied());
        true
    }

    /// Takes out the record `tail`.
    pub(super) fn remove(&mut self, tail: &[u8]) {
        if let Ok(span) = self.locate(tail) {
            self.bytes.drain(span);
        }
    }

    /// The bytes of the record `tail` with its head, or where they would begin.
    fn locate(&self, tail: &[u8]) -> Result<Range<usize>, usize> {
        for (found, body) in spans(&self.bytes) {
            let start = found.start - HEAD_BYTES;
            match self.bytes.get(found).unwrap_or_default().cmp(tail) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(start..body.end),
                Ordering::Greater => return Err(start),
            }
        }
        Err(self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKED: &[Packed] =
        &[Packed::Numbers(b"c/"), Packed::Ids(b"\0idevices\0by\0"), Packed::Histories(b"a/o/device/")];

    fn numbered(number: u64) -> Vec<u8> {
        [b"c/".as_slice(), &number.to_be_bytes()].concat()
    }

    fn listed(value: &[u8], ms: u64) -> Vec<u8> {
        let id = [&ms.to_be_bytes()[2..], &[7; 10]].concat();
        [b"\0idevices\0by\0".as_slice(), value, &[0, 1], &id].concat()
    }

    fn told(object: &str, number: u64) -> Vec<u8> {
        [b"a/o/device/", object.as_bytes(), b"\0", &number.to_be_bytes()].concat()
    }

    fn bucket_of(key: &[u8]) -> Vec<u8> {
        place(PACKED, key).unwrap().bucket
    }

    #[test]
    fn four_numbers_share_a_bucket_and_so_do_ids_of_64_ms_under_one_value() {
        assert_eq!(bucket_of(&numbered(4)), bucket_of(&numbered(7)));
        assert_ne!(bucket_of(&numbered(7)), bucket_of(&numbered(8)));
        assert_eq!(bucket_of(&listed(b"sx", 64)), bucket_of(&listed(b"sx", 127)));
        assert_ne!(bucket_of(&listed(b"sx", 127)), bucket_of(&listed(b"sx", 128)));
        assert_ne!(bucket_of(&listed(b"sx", 64)), bucket_of(&listed(b"sy", 64)));
    }

    #[test]
    fn histories_of_16_ms_share_a_bucket() {
        let one = told("0198c0de-1230-7000-8000-000000000000", 1);
        assert_eq!(bucket_of(&one), bucket_of(&told("0198c0de-123f-7fff-8000-000000000001", 900)));
        assert_ne!(bucket_of(&one), bucket_of(&told("0198c0de-1240-7000-8000-000000000000", 1)));
        assert_eq!(place(PACKED, &told("a-name-that-is-no-id", 1)), None);
    }

    #[test]
    fn a_key_of_another_form_is_not_packed() {
        for key in [b"c/1".as_slice(), b"d/12345678", b"\0idevices\0by\0sx", b"\0v"] {
            assert_eq!(place(PACKED, key), None, "{key:?}");
        }
    }

    #[test]
    fn bucket_and_tail_give_the_key_back() {
        let history = told("0198c0de-1234-7000-8000-000000000000", 7);
        for key in [numbered(5), numbered(u64::MAX), listed(b"e\0\xff", 1_700_000_000_123), history] {
            let place = place(PACKED, &key).unwrap();
            assert_eq!(key_of(&place.bucket, place.tail), key);
        }
    }

    #[test]
    fn entries_stay_in_order_whatever_the_order_of_writing() {
        let mut bucket = Bucket::new(b"b".to_vec(), b"");
        for tail in [2, 0, 3, 1] {
            assert!(bucket.put(&[tail], &[tail; 9]));
        }
        assert!(bucket.put(&[3], b"another"));
        bucket.remove(&[0]);
        let tails: Vec<u8> = entries(bucket.bytes()).map(|(tail, _)| tail[0]).collect();
        assert_eq!(tails, [1, 2, 3]);
        assert_eq!(find(bucket.bytes(), &[3]), Some(b"another".as_slice()));
        assert!(is_whole(bucket.bytes()) && !is_whole(&bucket.bytes()[1..]));
    }

    #[test]
    fn a_full_bucket_takes_no_more_but_lets_what_it_has_grow_until_it_bursts() {
        let mut bucket = Bucket::new(b"b".to_vec(), b"");
        assert!(bucket.put(&[0], &[0; 2000]) && bucket.put(&[1], &[0; 2000]));
        assert!(!bucket.put(&[2], &[0; 200]));
        assert!(bucket.put(&[1], &[0; 4000]) && bucket.has(&[1]));
        assert!(!bucket.put(&[1], &[0; 4200]) && !bucket.has(&[1]), "it moved to its own key");
        assert!(bucket.has(&[0]));
    }
}
