//! Merkle trees of RFC 6962 §2.1: a warrant's list of targets and the audit log are such trees.
//!
//! Verification follows RFC 9162 §2.1.3.2 and §2.1.4.2 step by step. The builders hold all leaf hashes in memory;
//! a log that keeps tiles on disk computes its own. Everywhere a leaf is given as its hash, made by
//! [`leaf_hash`].

use crate::cbor::record;
use crate::digest::Sha256Digest;
use sha2::{Digest as _, Sha256};

/// A proof does not show what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Sizes, index or length of the proof cannot belong together.
    #[error("the proof does not fit the sizes it is for")]
    Shape,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// That a leaf stands at `index` of the tree with `size` leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InclusionProof {
    /// Where the leaf stands, counted from 0.
    pub index: u64,
    /// How many leaves the tree has.
    pub size: u64,
    /// The siblings from the leaf up to the root.
    pub path: Vec<Sha256Digest>,
}
record!(InclusionProof { index, size, path });

/// That the tree with `from_size` leaves is the beginning of a larger one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// How many leaves the smaller tree has.
    pub from_size: u64,
    /// The nodes of RFC 6962 §2.1.2.
    pub path: Vec<Sha256Digest>,
}
record!(ConsistencyProof { from_size, path });

/// How large a tree is and what its root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// How many leaves.
    pub size: u64,
    /// The root.
    pub root: Sha256Digest,
}
record!(TreeHead { size, root });

/// The hash of a leaf: SHA-256 of `0x00 ‖ leaf`.
pub fn leaf_hash(leaf: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

/// The hash of an inner node: SHA-256 of `0x01 ‖ left ‖ right`.
pub fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    Sha256Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The root over `leaves`; of none, SHA-256 of nothing.
pub fn root_of(leaves: &[Sha256Digest]) -> Sha256Digest {
    match leaves {
        [] => Sha256Digest::of(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

/// Proves that the leaf at `index` stands in the tree over `leaves`; nothing when there is no such leaf.
pub fn prove_inclusion(leaves: &[Sha256Digest], index: usize) -> Option<InclusionProof> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    inclusion_path(leaves, index, &mut path);
    Some(InclusionProof { index: u64::try_from(index).ok()?, size: u64::try_from(leaves.len()).ok()?, path })
}

/// Proves that the tree over the first `from_size` leaves is the beginning of the one over `leaves`; nothing
/// when there are fewer.
pub fn prove_consistency(leaves: &[Sha256Digest], from_size: usize) -> Option<ConsistencyProof> {
    if from_size > leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    if from_size > 0 {
        consistency_path(leaves, from_size, Known::Yes, &mut path);
    }
    Some(ConsistencyProof { from_size: u64::try_from(from_size).ok()?, path })
}

/// Verifies that `leaf` stands where `proof` says, in the tree with that root.
///
/// # Errors
/// [`ProofError::Shape`], [`ProofError::Root`].
pub fn verify_inclusion(
    leaf: &Sha256Digest,
    proof: &InclusionProof,
    root: &Sha256Digest,
) -> Result<(), ProofError> {
    if proof.index >= proof.size {
        return Err(ProofError::Shape);
    }
    let mut climb = Climb { node: proof.index, last: proof.size - 1 };
    let mut hash = *leaf;
    for sibling in &proof.path {
        hash = match climb.step()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    if climb.last != 0 {
        return Err(ProofError::Shape);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Verifies that the tree `to` begins with the tree `from`.
///
/// # Errors
/// [`ProofError::Shape`] when the proof is for another size or the trees shrink; [`ProofError::Root`].
pub fn verify_consistency(
    from: &TreeHead,
    to: &TreeHead,
    proof: &ConsistencyProof,
) -> Result<(), ProofError> {
    if proof.from_size != from.size || from.size > to.size {
        return Err(ProofError::Shape);
    }
    if from.size == 0 || from.size == to.size {
        let expected = if from.size == 0 { root_of(&[]) } else { to.root };
        let shape = if proof.path.is_empty() { Ok(()) } else { Err(ProofError::Shape) };
        return if from.root == expected { shape } else { Err(ProofError::Root) };
    }
    let mut climb = Climb { node: from.size - 1, last: to.size - 1 };
    while climb.node & 1 == 1 {
        climb.up();
    }
    // A smaller tree that is complete is a node of the larger one, and the proof leaves it out.
    let (first, rest) = if from.size.is_power_of_two() {
        (&from.root, &proof.path[..])
    } else {
        proof.path.split_first().ok_or(ProofError::Shape)?
    };
    let (mut old, mut new) = (*first, *first);
    for node in rest {
        match climb.step()? {
            Side::Left => {
                old = node_hash(node, &old);
                new = node_hash(node, &new);
            }
            Side::Right => new = node_hash(&new, node),
        }
    }
    if climb.last != 0 {
        return Err(ProofError::Shape);
    }
    if old == from.root && new == to.root { Ok(()) } else { Err(ProofError::Root) }
}

/// On which side of the path the next node of a proof lies.
enum Side {
    Left,
    Right,
}

/// A way from a leaf to the root: the node reached, and the last node of its level.
struct Climb {
    node: u64,
    last: u64,
}

impl Climb {
    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }

    /// Where the next node of the proof belongs; moves up past it.
    fn step(&mut self) -> Result<Side, ProofError> {
        if self.last == 0 {
            return Err(ProofError::Shape);
        }
        let left = self.node & 1 == 1 || self.node == self.last;
        if left {
            // A last node without a sibling stands for itself on the levels above.
            while self.node & 1 == 0 && self.node != 0 {
                self.up();
            }
        }
        self.up();
        Ok(if left { Side::Left } else { Side::Right })
    }
}

/// The largest power of two below `len`, which is at least 2.
fn split(len: usize) -> usize {
    len.next_power_of_two() / 2
}

fn inclusion_path(leaves: &[Sha256Digest], index: usize, path: &mut Vec<Sha256Digest>) {
    if leaves.len() < 2 {
        return;
    }
    let middle = split(leaves.len());
    let (left, right) = leaves.split_at(middle);
    if index < middle {
        inclusion_path(left, index, path);
        path.push(root_of(right));
    } else {
        inclusion_path(right, index - middle, path);
        path.push(root_of(left));
    }
}

/// Whether the verifier knows the root of a subtree already.
#[derive(Clone, Copy)]
enum Known {
    Yes,
    No,
}

/// SUBPROOF of RFC 6962 §2.1.2.
fn consistency_path(leaves: &[Sha256Digest], from: usize, known: Known, path: &mut Vec<Sha256Digest>) {
    if from == leaves.len() {
        if matches!(known, Known::No) {
            path.push(root_of(leaves));
        }
        return;
    }
    let middle = split(leaves.len());
    let (left, right) = leaves.split_at(middle);
    if from <= middle {
        consistency_path(left, from, known, path);
        path.push(root_of(right));
    } else {
        consistency_path(right, from - middle, Known::No, path);
        path.push(root_of(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Sha256Digest> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    fn head(leaves: &[Sha256Digest]) -> TreeHead {
        TreeHead { size: leaves.len() as u64, root: root_of(leaves) }
    }

    /// The leaves and roots that the certificate-transparency project tests with.
    #[test]
    fn published_roots_are_met() {
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let leaves: Vec<_> = inputs.iter().map(|input| leaf_hash(&hex::decode(input).unwrap())).collect();
        for (size, root) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(root_of(&leaves[..size]).to_string(), root, "{size}");
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proven_and_nothing_else() {
        for size in 1..34 {
            let leaves = leaves(size);
            let root = root_of(&leaves);
            for index in 0..size {
                let proof = prove_inclusion(&leaves, index).unwrap();
                assert_eq!(verify_inclusion(&leaves[index], &proof, &root), Ok(()), "{index} of {size}");
                for other in (0..size).filter(|other| *other != index) {
                    assert!(verify_inclusion(&leaves[other], &proof, &root).is_err());
                    let moved = InclusionProof { index: other as u64, ..proof.clone() };
                    assert!(
                        verify_inclusion(&leaves[index], &moved, &root).is_err(),
                        "{index} as {other} of {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_small_tree_is_proven_to_begin_every_larger_one() {
        let all = leaves(33);
        for to in 0..=all.len() {
            for from in 0..=to {
                let proof = prove_consistency(&all[..to], from).unwrap();
                let (old, new) = (head(&all[..from]), head(&all[..to]));
                assert_eq!(verify_consistency(&old, &new, &proof), Ok(()), "{from} in {to}");
                let forked = TreeHead { root: Sha256Digest([9; 32]), ..old };
                assert!(verify_consistency(&forked, &new, &proof).is_err(), "{from} in {to}");
                if from > 0 {
                    let forked = TreeHead { root: Sha256Digest([9; 32]), ..new };
                    assert!(verify_consistency(&old, &forked, &proof).is_err(), "{from} in {to}");
                }
            }
        }
    }

    #[test]
    fn a_tree_that_shrank_is_not_consistent() {
        let all = leaves(8);
        let proof = ConsistencyProof { from_size: 8, path: vec![] };
        assert_eq!(verify_consistency(&head(&all), &head(&all[..4]), &proof), Err(ProofError::Shape));
    }

    #[test]
    fn a_proof_binds_the_size_only_as_far_as_its_shape() {
        // This is why a warrant names its count beside its root, and why a signer counts the leaves.
        let leaves = leaves(8);
        let proof = prove_inclusion(&leaves, 2).unwrap();
        let passes = |size: u64| {
            verify_inclusion(&leaves[2], &InclusionProof { size, ..proof.clone() }, &root_of(&leaves)).is_ok()
        };
        assert_eq!((0..64).filter(|size| passes(*size)).collect::<Vec<_>>(), [5, 6, 7, 8]);
    }

    proptest! {
        #[test]
        fn no_proof_panics(
            index in any::<u64>(), size in any::<u64>(), from in any::<u64>(),
            path in proptest::collection::vec(any::<[u8; 32]>(), 0..70),
        ) {
            let path: Vec<_> = path.into_iter().map(Sha256Digest).collect();
            let (leaf, root) = (Sha256Digest([1; 32]), Sha256Digest([2; 32]));
            let inclusion = InclusionProof { index, size, path: path.clone() };
            prop_assert!(verify_inclusion(&leaf, &inclusion, &root).is_err());
            let (old, new) = (TreeHead { size: from, root: leaf }, TreeHead { size, root });
            let consistency = ConsistencyProof { from_size: from, path };
            prop_assert!(verify_consistency(&old, &new, &consistency).is_err());
        }
    }
}
