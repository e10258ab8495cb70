//! What a device is shown of the log: a checkpoint over everything durable, and the proof that it continues the one
//! that the device saw last (RFC 6962 §2.1.2).
//!
//! Entries in the store are durable and never change, so a checkpoint over them may be signed at any time, whether or
//! not the tiles on the disk have come so far. Nodes are read from the tile roots in the store; at most two levels of
//! 128 hashes are read for each node of a proof.

use super::key::AuditKey;
use super::publish::Checkpoint;
use super::tiles::perfect_root;
use super::tree::{Hash, leaf_hash, node_hash};
use super::{ReadError, Source, log};
use muster_wire::key::SignError;
use muster_wire::merkle::ConsistencyProof;

/// Why there is no checkpoint to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShowError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The audit key cannot be used.
    #[error("the audit key cannot sign")]
    Sign(#[from] SignError),
}

/// A checkpoint over everything durable in `source`, as a signed note, and the proof that it continues the tree of
/// `from` entries.
///
/// A tree larger than ours cannot be continued: the proof is empty then, and whoever holds that tree will say so.
///
/// # Errors
/// [`ShowError`].
pub fn show(source: &dyn Source, key: &AuditKey, from: u64) -> Result<(String, ConsistencyProof), ShowError> {
    let edge = log::right_edge(source)?;
    let checkpoint = Checkpoint::sign(key, edge.size(), edge.root())?;
    let note = String::from_utf8_lossy(&checkpoint.note).into_owned();
    let mut path = Vec::new();
    if from > 0 && from < edge.size() {
        consistency(source, (0, edge.size()), from, Known::Yes, &mut path)?;
    }
    Ok((note, ConsistencyProof { from_size: from, path }))
}

/// Whether the verifier knows the root of the subtree already.
#[derive(Clone, Copy)]
enum Known {
    Yes,
    No,
}

/// SUBPROOF of RFC 6962 §2.1.2 over the leaves `low..high`, for the tree that ends at `from`.
fn consistency(
    source: &dyn Source,
    (low, high): (u64, u64),
    from: u64,
    known: Known,
    path: &mut Vec<Hash>,
) -> Result<(), ReadError> {
    if from == high {
        if matches!(known, Known::No) {
            path.push(range_root(source, low, high)?);
        }
        return Ok(());
    }
    let middle = low + split(high - low);
    if from <= middle {
        consistency(source, (low, middle), from, known, path)?;
        path.push(range_root(source, middle, high)?);
    } else {
        consistency(source, (middle, high), from, Known::No, path)?;
        path.push(range_root(source, low, middle)?);
    }
    Ok(())
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    count.next_power_of_two() / 2
}

/// The root over the leaves `low..high`, a subtree of the whole tree.
fn range_root(source: &dyn Source, low: u64, high: u64) -> Result<Hash, ReadError> {
    let count = high - low;
    if count.is_power_of_two() {
        return perfect(source, low, count.trailing_zeros());
    }
    let middle = low + split(count);
    Ok(node_hash(&range_root(source, low, middle)?, &range_root(source, middle, high)?))
}

/// The root over the `2^height` leaves from `low` on, which is a multiple of that.
fn perfect(source: &dyn Source, low: u64, height: u32) -> Result<Hash, ReadError> {
    let level = u8::try_from(height / 8).unwrap_or(u8::MAX);
    let (first, width) = (low >> (height / 8 * 8), 1_usize << (height % 8));
    let hashes = match level {
        0 => leaves(source, first, width)?,
        _ => (first..).take(width).map(|index| log::root(source, level, index)).collect::<Result<_, _>>()?,
    };
    Ok(perfect_root(&hashes))
}

fn leaves(source: &dyn Source, first: u64, count: usize) -> Result<Vec<Hash>, ReadError> {
    let mut hashes = Vec::with_capacity(count);
    log::each_entry(source, first, count, |_, entry| {
        hashes.push(leaf_hash(entry));
        Ok::<_, ReadError>(())
    })?;
    if hashes.len() == count {
        Ok(hashes)
    } else {
        Err(ReadError::Missing { seq: first + hashes.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::key::tests::key;
    use crate::audit::memory::{Memory, Site};
    use muster_wire::checkpoint::Checkpoint as Note;
    use muster_wire::merkle::{TreeHead, root_of, verify_consistency};

    fn check(source: &Memory, leaves: &[Hash], from: usize) {
        let key = key("example.com", 7);
        let (note, proof) = show(source, &key, from as u64).unwrap();
        let to = Note::verify(&note, key.origin(), &[key.public().key()]).unwrap().head;
        assert_eq!(to, TreeHead { size: leaves.len() as u64, root: root_of(leaves) });
        let before = TreeHead { size: from as u64, root: root_of(&leaves[..from]) };
        assert_eq!(verify_consistency(&before, &to, &proof), Ok(()), "{from} of {}", leaves.len());
    }

    #[test]
    fn every_beginning_of_a_log_is_proven_to_be_one() {
        let mut site = Site::found();
        for count in [1, 1, 5, 250, 1, 300] {
            site.append(count);
            let leaves: Vec<_> = site.entries().iter().map(|entry| leaf_hash(entry)).collect();
            let around = [0, 1, 2, 3, 128, 255, 256, 257, 300, 512, leaves.len() - 1, leaves.len()];
            for from in around.into_iter().filter(|from| *from <= leaves.len()) {
                check(&site.store, &leaves, from);
            }
        }
    }

    #[test]
    fn a_larger_tree_than_ours_gets_no_proof() {
        let site = Site::with(3);
        let (_, proof) = show(&site.store, &site.key, 9).unwrap();
        assert_eq!((proof.from_size, proof.path.len()), (9, 0));
    }
}
