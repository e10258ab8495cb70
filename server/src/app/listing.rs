//! Lists, part by part: whatever is filtered, a part holds what was asked for.
//!
//! ```text
//! read some ─▶ keep those that fit ─▶ one more than asked for: there is a next part
//!     ▲______________│ too few            nothing left:          there is none
//!                    └ looked at enough:  the part is short, and the next goes on from here
//! ```

use super::{App, Error, Page};
use sha2::{Digest as _, Sha256};

/// Records that are looked at for one part, at most: a filter that fits few of many does not make a request long.
const LOOKED_AT_MAX: usize = 4_000;

/// Fewest entries that are read in one go.
const READ_LEAST: usize = 64;

/// An entry that was read, and the place from which a list goes on after it.
pub(super) type Placed<T> = (T, Vec<u8>);

/// Up to `limit` entries after `cursor` that `keep` makes something of. `read` answers up to so many entries after a
/// place, fewer only where none are left.
///
/// `next` is there when more follows, or may: it is not known after [`LOOKED_AT_MAX`] entries.
pub(super) fn part<T, U>(
    cursor: Option<&[u8]>,
    limit: usize,
    read: impl Fn(Option<&[u8]>, usize) -> Result<Vec<Placed<T>>, Error>,
    keep: impl Fn(T) -> Result<Option<U>, Error>,
) -> Result<Page<U>, Error> {
    let mut items = Vec::new();
    let (mut at, mut end) = (cursor.map(<[u8]>::to_vec), None);
    let mut looked_at = 0;
    while looked_at < LOOKED_AT_MAX {
        let wanted = (limit - items.len()).saturating_add(1).max(READ_LEAST);
        let entries = read(at.as_deref(), wanted)?;
        let is_all = entries.len() < wanted;
        looked_at += entries.len();
        for (entry, place) in entries {
            let kept = keep(entry)?;
            if kept.is_some() && items.len() == limit {
                return Ok(Page { items, next: end });
            }
            items.extend(kept);
            if items.len() == limit && end.is_none() {
                end = Some(place.clone());
            }
            at = Some(place);
        }
        if is_all {
            return Ok(Page { items, next: None });
        }
    }
    Ok(Page { items, next: end.or(at) })
}

/// Length of a seal, in bytes.
pub const SEAL_BYTES: usize = 16;

impl App {
    /// What only this installation can make of `parts`: with it, a cursor that comes back is known to be one of ours,
    /// and for which list it was made.
    pub fn seal<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; SEAL_BYTES] {
        let mut hash = Sha256::new();
        hash.update(b"muster cursor v1");
        hash.update(self.founding.derivation_seed.as_slice());
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut seal = [0; SEAL_BYTES];
        for (to, from) in seal.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        seal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers 0 to `size`, of which every `one_in`th fits.
    fn numbers(size: u32, one_in: u32, cursor: Option<&[u8]>, limit: usize) -> Page<u32> {
        let read = |after: Option<&[u8]>, wanted: usize| {
            let first = after.map_or(0, |at| u32::from_be_bytes(at.try_into().unwrap()) + 1);
            Ok((first..size).take(wanted).map(|n| (n, n.to_be_bytes().to_vec())).collect())
        };
        part(cursor, limit, read, |n| Ok((n % one_in == 0).then_some(n))).unwrap()
    }

    /// Every part of a list, one after the other.
    fn parts(size: u32, one_in: u32, limit: usize) -> Vec<Vec<u32>> {
        let mut parts = Vec::new();
        let mut cursor = None;
        loop {
            let page = numbers(size, one_in, cursor.as_deref(), limit);
            parts.push(page.items);
            let Some(next) = page.next else { return parts };
            cursor = Some(next);
        }
    }

    #[test]
    fn parts_are_full_until_the_last_and_nothing_is_missed_or_told_twice() {
        for (size, one_in, limit) in [(0, 1, 3), (10, 1, 3), (9, 1, 3), (1_000, 7, 1), (1_000, 90, 5)] {
            let parts = parts(size, one_in, limit);
            assert!(parts.iter().rev().skip(1).all(|part| part.len() == limit), "{size} {one_in} {limit}");
            let told: Vec<u32> = parts.into_iter().flatten().collect();
            assert_eq!(told, (0..size).filter(|n| n % one_in == 0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_part_with_which_the_list_ends_has_no_next() {
        assert_eq!(numbers(1_000, 900, None, 2).next, None);
        assert_eq!(numbers(64, 1, None, 64).next, None);
    }

    #[test]
    fn where_few_of_many_fit_a_part_may_be_short_and_the_list_goes_on() {
        let parts = parts(50_000, 40_000, 5);
        assert!(parts.len() > 1);
        assert_eq!(parts.concat(), [0, 40_000]);
    }
}
