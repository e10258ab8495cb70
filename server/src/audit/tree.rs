//! The Merkle tree of RFC 6962 §2.1, as much of it as appending needs.

pub(crate) use muster_wire::digest::Sha256Digest as Hash;
pub(crate) use muster_wire::merkle::{leaf_hash, node_hash};

/// The compact range `[0, size)`: the roots of the perfect subtrees of a tree, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Number of leaves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf; `completed` hears of each perfect subtree that it completes: its level, its index among
    /// those of its level, its root.
    pub(crate) fn append(&mut self, leaf: Hash, mut completed: impl FnMut(u32, u64, &Hash)) {
        let (mut node, mut level, mut index) = (leaf, 0, self.size);
        while index & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            node = node_hash(&left, &node);
            level += 1;
            index >>= 1;
            completed(level, index, &node);
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// The tree's root; that of an empty tree is the hash of nothing.
    pub(crate) fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return Hash::of(b"") };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The subtree roots, largest first; the inverse of [`Frontier::from_parts`].
    pub(crate) fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// The range of `size` leaves with these subtree roots, largest first; `None` when their number is wrong.
    pub(crate) fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::merkle::root_of;

    #[test]
    fn appending_gives_the_root_of_rfc_6962_at_every_size() {
        let leaves: Vec<_> = (0u16..600).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let mut frontier = Frontier::default();
        for size in 0..leaves.len() {
            assert_eq!(frontier.root(), root_of(&leaves[..size]));
            frontier.append(leaves[size], |_, _, _| {});
        }
    }

    #[test]
    fn every_completed_subtree_is_announced_once_with_its_place() {
        let leaves: Vec<_> = (0u8..8).map(|n| leaf_hash(&[n])).collect();
        let (mut frontier, mut heard) = (Frontier::default(), Vec::new());
        for leaf in &leaves {
            frontier.append(*leaf, |level, index, root| heard.push((level, index, *root)));
        }
        assert_eq!(heard.len(), 7);
        assert!(heard.contains(&(2, 1, root_of(&leaves[4..8]))));
        assert!(heard.contains(&(3, 0, root_of(&leaves))));
    }

    #[test]
    fn a_frontier_with_the_wrong_number_of_nodes_is_none() {
        assert!(Frontier::from_parts(3, vec![Hash([0; 32]); 2]).is_some());
        assert!(Frontier::from_parts(3, vec![Hash([0; 32]); 3]).is_none());
        assert!(Frontier::from_parts(0, vec![Hash([0; 32])]).is_none());
    }
}
