//! C2SP tlog-tiles: how the tree is cut into files, and the right edge in those pieces.
//!
//! A tile of level L holds up to 256 hashes: leaf hashes at level 0, roots of full tiles of the level below
//! elsewhere. `tile/<L>/<N>` is the N-th tile of its level, `tile/<L>/<N>.p/<W>` one that holds only W hashes yet;
//! `tile/entries/<N>` holds the entries behind the N-th tile of level 0, each after its length in two bytes. N is
//! written in groups of three digits, `x001/x234/067`.

use super::tree::{Frontier, Hash, node_hash};

/// Hashes in a full tile.
pub(crate) const WIDTH: usize = 256;

/// What a file of the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Entries.
    Entries,
    /// Hashes of this level.
    Hashes(u8),
}

/// The path of a tile with `width` of its 256 places taken.
pub(crate) fn path(kind: Kind, index: u64, width: usize) -> String {
    let stem = stem(kind, index);
    if width == WIDTH { stem } else { format!("{stem}.p/{width}") }
}

/// The path of the directory that holds the partial forms of a tile.
pub(crate) fn partial_dir(kind: Kind, index: u64) -> String {
    format!("{}.p", stem(kind, index))
}

fn stem(kind: Kind, index: u64) -> String {
    let mut groups = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.reverse();
    let place = groups.join("/");
    match kind {
        Kind::Entries => format!("tile/entries/{place}"),
        Kind::Hashes(level) => format!("tile/{level}/{place}"),
    }
}

/// Every file of a log of `size` entries: kind, index, places taken.
pub(crate) fn all(size: u64) -> impl Iterator<Item = (Kind, u64, usize)> {
    let entries = of_level(Kind::Entries, size);
    let hashes = (0..8u8).map_while(move |level| Some((level, hashes_of_level(size, level)?)));
    entries.chain(hashes.flat_map(|(level, count)| of_level(Kind::Hashes(level), count)))
}

/// The partial tiles of hashes of a log of `size` entries, lowest level first: kind, index, places taken, which may
/// be none.
pub(crate) fn right_edge(size: u64) -> impl Iterator<Item = (Kind, u64, usize)> {
    let levels = (0..8u8).map_while(move |level| Some((level, hashes_of_level(size, level)?)));
    levels.map(|(level, count)| {
        let width = count % WIDTH as u64;
        (Kind::Hashes(level), count / WIDTH as u64, usize::try_from(width).unwrap_or(0))
    })
}

/// Number of hashes in the tiles of `level`; `None` above the highest level in use.
fn hashes_of_level(size: u64, level: u8) -> Option<u64> {
    Some(size >> (8 * u32::from(level))).filter(|count| *count > 0)
}

fn of_level(kind: Kind, count: u64) -> impl Iterator<Item = (Kind, u64, usize)> {
    let width = WIDTH as u64;
    (0..count.div_ceil(width)).map(move |index| {
        let left = count - index * width;
        (kind, index, usize::try_from(left).unwrap_or(WIDTH).min(WIDTH))
    })
}

/// The bytes of a tile of hashes.
pub(crate) fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// Appends `entry` to the bytes of an entry tile. Entries are far smaller than 65,535 bytes, see [`super::entry`].
pub(crate) fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry.get(..usize::from(length)).unwrap_or_default());
}

/// The entries of an entry tile, up to the first length that does not fit; whether the bytes ended cleanly.
pub(crate) fn split_entries(mut bundle: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bundle.split_first_chunk::<2>() {
        let Some((entry, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            return (entries, false);
        };
        entries.push(entry);
        bundle = rest;
    }
    (entries, bundle.is_empty())
}

/// The tiles that are not full yet, one a level: the right edge of the tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// Number of leaves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The edge of a tree of `size` leaves with these partial tiles, lowest level first; `None` when their widths
    /// are not those of such a tree.
    pub(crate) fn from_levels(size: u64, levels: Vec<Vec<Hash>>) -> Option<Self> {
        let widths = (0..8u32).map(|level| (size >> (8 * level)) & 0xff);
        let given = levels.iter().map(|tile| tile.len() as u64).chain(std::iter::repeat(0));
        (levels.len() <= 8 && widths.eq(given.take(8))).then_some(Self { size, levels })
    }

    /// Appends a leaf; `full` hears of each tile that it fills: level, index, the 256 hashes.
    pub(crate) fn append(&mut self, leaf: Hash, mut full: impl FnMut(u8, u64, &[Hash])) {
        let mut hash = leaf;
        for level in 0u8..8 {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::with_capacity(WIDTH));
            }
            let Some(tile) = self.levels.get_mut(usize::from(level)) else { break };
            tile.push(hash);
            if tile.len() < WIDTH {
                break;
            }
            full(level, self.size >> (8 * (u32::from(level) + 1)), tile);
            hash = perfect_root(tile);
            tile.clear();
        }
        self.size += 1;
    }

    /// The tiles that are not full and not empty: level, index, hashes.
    pub(crate) fn partial(&self) -> impl Iterator<Item = (u8, u64, &[Hash])> {
        let levels = (0u8..).zip(&self.levels).filter(|(_, tile)| !tile.is_empty());
        levels.map(|(level, tile)| (level, self.size >> (8 * (u32::from(level) + 1)), tile.as_slice()))
    }

    /// The same edge as a compact range.
    pub(crate) fn frontier(&self) -> Frontier {
        let mut nodes = Vec::new();
        for tile in self.levels.iter().rev() {
            let mut rest = tile.as_slice();
            for bit in (0..8).rev() {
                if tile.len() & (1 << bit) != 0 {
                    let (subtree, after) = rest.split_at(1 << bit);
                    nodes.push(perfect_root(subtree));
                    rest = after;
                }
            }
        }
        Frontier::from_parts(self.size, nodes).unwrap_or_default()
    }

    /// The tree's root.
    pub(crate) fn root(&self) -> Hash {
        self.frontier().root()
    }
}

/// The root over a power of two of nodes.
pub(crate) fn perfect_root(nodes: &[Hash]) -> Hash {
    match nodes {
        [] => Hash::of(b""),
        [one] => *one,
        _ => {
            let (left, right) = nodes.split_at(nodes.len() / 2);
            node_hash(&perfect_root(left), &perfect_root(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tree::leaf_hash;

    #[test]
    fn places_are_written_in_groups_of_three_digits() {
        assert_eq!(path(Kind::Hashes(0), 0, WIDTH), "tile/0/000");
        assert_eq!(path(Kind::Hashes(2), 1_234_067, WIDTH), "tile/2/x001/x234/067");
        assert_eq!(path(Kind::Entries, 1000, 3), "tile/entries/x001/000.p/3");
    }

    #[test]
    fn edge_and_frontier_agree_at_every_size() {
        let (mut edge, mut frontier) = (Edge::default(), Frontier::default());
        for n in 0u32..70_000 {
            let leaf = leaf_hash(&n.to_be_bytes());
            edge.append(leaf, |_, _, _| {});
            frontier.append(leaf, |_, _, _| {});
            if n < 1000 || n % 256 < 2 || n > 69_990 {
                assert_eq!(edge.frontier(), frontier, "{n}");
            }
        }
        assert_eq!(edge.levels.len(), 3);
    }

    #[test]
    fn a_filled_tile_is_announced_with_its_place_and_the_rest_is_partial() {
        let (mut edge, mut full) = (Edge::default(), Vec::new());
        for n in 0u32..66_000 {
            edge.append(leaf_hash(&n.to_be_bytes()), |level, index, hashes| {
                full.push((level, index, hashes.len()))
            });
        }
        let mut files: Vec<_> =
            full.iter().map(|(level, index, width)| path(Kind::Hashes(*level), *index, *width)).collect();
        files.extend(edge.partial().map(|(level, index, tile)| path(Kind::Hashes(level), index, tile.len())));
        let mut expected: Vec<_> = all(66_000)
            .filter(|(kind, _, _)| *kind != Kind::Entries)
            .map(|(k, i, w)| path(k, i, w))
            .collect();
        files.sort();
        expected.sort();
        assert_eq!(files, expected);
    }

    #[test]
    fn an_empty_log_has_no_files_and_a_full_tile_no_partial_one() {
        assert_eq!(all(0).count(), 0);
        let files: Vec<_> = all(256).map(|(kind, index, width)| path(kind, index, width)).collect();
        assert_eq!(files, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
    }

    #[test]
    fn an_edge_of_the_wrong_widths_is_none() {
        assert!(Edge::from_levels(257, vec![vec![Hash([0; 32])], vec![Hash([0; 32])]]).is_some());
        assert!(Edge::from_levels(257, vec![vec![Hash([0; 32])], vec![]]).is_none());
        assert!(Edge::from_levels(256, vec![vec![Hash([0; 32])]]).is_none());
    }

    #[test]
    fn entries_read_back_and_a_torn_bundle_is_seen() {
        let mut bundle = Vec::new();
        push_entry(&mut bundle, b"one");
        push_entry(&mut bundle, b"");
        push_entry(&mut bundle, b"three");
        assert_eq!(split_entries(&bundle), (vec![&b"one"[..], b"", b"three"], true));
        assert_eq!(split_entries(&bundle[..bundle.len() - 1]), (vec![&b"one"[..], b""], false));
        assert_eq!(split_entries(&bundle[..6]), (vec![&b"one"[..]], false));
    }
}
