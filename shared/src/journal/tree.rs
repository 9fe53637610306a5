//! The Merkle tree over the entries (RFC 6962, section 2.1), grown leaf by leaf, and its proofs.
//! Holds one hash per 256 entries; asks for the leaf hashes of a bundle when a proof needs them.

use std::io;

use crate::{
    crypto::Digest,
    merkle::{node_hash, root},
};

/// Entries in a full bundle and hashes in a full tile (C2SP `tlog-tiles`).
pub(super) const BUNDLE: u64 = 256;

/// The roots of the complete subtrees that a tree of this size consists of, largest first.
#[derive(Clone, Default)]
struct Frontier {
    size: u64,
    roots: Vec<Digest>,
}

impl Frontier {
    fn push(&mut self, leaf: Digest) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.roots.push(node);
        self.size += 1;
    }

    fn root(&self) -> Digest {
        let right_to_left = self.roots.iter().copied().rev();
        right_to_left.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(|| root(&[]))
    }
}

/// A tree that only grows.
#[derive(Default)]
pub(super) struct Tree {
    frontier: Frontier,
    /// Leaf hashes since the last full bundle.
    tail: Vec<Digest>,
    /// The root of each full bundle: level 1 of the tiles.
    bundles: Vec<Digest>,
}

impl Tree {
    pub(super) fn size(&self) -> u64 {
        self.frontier.size
    }

    pub(super) fn root(&self) -> Digest {
        self.frontier.root()
    }

    /// The root that pushing `leaves` would give.
    pub(super) fn root_with(&self, leaves: impl Iterator<Item = Digest>) -> Digest {
        let mut frontier = self.frontier.clone();
        leaves.for_each(|leaf| frontier.push(leaf));
        frontier.root()
    }

    pub(super) fn push(&mut self, leaf: Digest) {
        self.frontier.push(leaf);
        self.tail.push(leaf);
        if self.tail.len() as u64 == BUNDLE {
            self.bundles.push(root(&self.tail));
            self.tail.clear();
        }
    }

    /// The roots of the full bundles among the first `size` entries.
    pub(super) fn full_bundles(&self, size: u64) -> &[Digest] {
        &self.bundles[..index(size / BUNDLE).min(self.bundles.len())]
    }
}

/// Counts of bundles held in memory fit the machine's word.
pub(super) fn index(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Hashes of ranges of entries, for proofs. `leaves` gives the leaf hashes of bundle n.
pub(super) struct Ranges<'a, F> {
    pub(super) tree: &'a Tree,
    pub(super) leaves: F,
}

impl<F: FnMut(u64) -> io::Result<Vec<Digest>>> Ranges<'_, F> {
    /// The tree hash of entries `from..to`, a range that occurs in an RFC 6962 tree.
    pub(super) fn hash(&mut self, from: u64, to: u64) -> io::Result<Digest> {
        if from.is_multiple_of(BUNDLE) && to.is_multiple_of(BUNDLE) {
            // Subtrees of whole bundles have the shape of a tree over the bundles.
            return Ok(root(&self.tree.bundles[index(from / BUNDLE)..index(to / BUNDLE)]));
        }
        if from / BUNDLE == (to - 1) / BUNDLE {
            let leaves = (self.leaves)(from / BUNDLE)?;
            let base = from - from % BUNDLE;
            return leaves
                .get(index(from - base)..index(to - base))
                .map(root)
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        let middle = from + split(to - from);
        Ok(node_hash(&self.hash(from, middle)?, &self.hash(middle, to)?))
    }

    /// RFC 6962, section 2.1.1: the audit path of entry `entry` in the tree of the first `size`.
    pub(super) fn inclusion(&mut self, entry: u64, size: u64) -> io::Result<Vec<Digest>> {
        let (mut from, mut to) = (0, size);
        let mut path = Vec::new();
        while to - from > 1 {
            let middle = from + split(to - from);
            if entry < middle {
                path.push(self.hash(middle, to)?);
                to = middle;
            } else {
                path.push(self.hash(from, middle)?);
                from = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// RFC 6962, section 2.1.2: that the tree of the first `old` entries is a prefix of that of
    /// the first `size`, for 0 < `old` <= `size`.
    pub(super) fn consistency(&mut self, old: u64, size: u64) -> io::Result<Vec<Digest>> {
        let (mut from, mut to) = (0, size);
        let mut path = Vec::new();
        while old < to {
            let middle = from + split(to - from);
            if old <= middle {
                path.push(self.hash(middle, to)?);
                to = middle;
            } else {
                path.push(self.hash(from, middle)?);
                from = middle;
            }
        }
        // The verifier knows the old root itself, so it is sent only where it is a part.
        if from > 0 {
            path.push(self.hash(from, to)?);
        }
        path.reverse();
        Ok(path)
    }
}

/// The largest power of two below `count`, for `count` > 1.
fn split(count: u64) -> u64 {
    count.next_power_of_two() / 2
}

/// Checks an audit path (RFC 9162, section 2.1.3.2): `leaf` is entry `entry` of the tree of
/// `size` entries with this root.
pub fn verify_inclusion(
    leaf: &Digest,
    entry: u64,
    size: u64,
    path: &[Digest],
    expected: &Digest,
) -> bool {
    if entry >= size {
        return false;
    }
    let (mut node, mut last) = (entry, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && hash == *expected
}

/// Checks a consistency proof (RFC 9162, section 2.1.4.2): the tree of `old` entries with root
/// `old_root` is a prefix of that of `size` entries with root `new_root`.
pub fn verify_consistency(
    old: u64,
    old_root: &Digest,
    size: u64,
    new_root: &Digest,
    path: &[Digest],
) -> bool {
    if old == 0 || old > size {
        return false;
    }
    if old == size {
        return path.is_empty() && old_root == new_root;
    }
    let (first, rest) = match path.split_first() {
        _ if old.is_power_of_two() => (old_root, path),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let trailing = (old - 1).trailing_ones();
    let (mut node, mut last) = (
        (old - 1).checked_shr(trailing).unwrap_or(0),
        (size - 1).checked_shr(trailing).unwrap_or(0),
    );
    let (mut from_old, mut from_new) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}

#[cfg(test)]
mod tests {
    use tlog_tiles::Hash;

    use super::*;
    use crate::merkle::leaf_hash;

    /// A tree of `size` leaves, and the leaves.
    fn tree(size: u64) -> (Tree, Vec<Digest>) {
        let leaves: Vec<Digest> = (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let mut tree = Tree::default();
        assert_eq!(tree.root_with(leaves.iter().copied()), root(&leaves));
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        (tree, leaves)
    }

    fn ranges<'a>(
        tree: &'a Tree,
        leaves: &'a [Digest],
    ) -> Ranges<'a, impl FnMut(u64) -> io::Result<Vec<Digest>>> {
        let bundle = |n: u64| {
            let end = leaves.len().min(index((n + 1) * BUNDLE));
            Ok(leaves[index(n * BUNDLE)..end].to_vec())
        };
        Ranges { tree, leaves: bundle }
    }

    /// Small trees, and those around the borders of bundles.
    fn sizes() -> impl Iterator<Item = u64> {
        (1..20).chain([255, 256, 257, 511, 512, 513, 700, 1_025])
    }

    #[test]
    fn growing_leaf_by_leaf_gives_the_roots_of_rfc_6962() {
        let (_, leaves) = tree(600);
        let mut grown = Tree::default();
        for (n, leaf) in leaves.iter().enumerate() {
            assert_eq!(grown.root(), root(&leaves[..n]), "{n} leaves");
            grown.push(*leaf);
        }
    }

    #[test]
    fn audit_paths_verify_here_and_elsewhere() {
        for size in sizes() {
            let (tree, leaves) = tree(size);
            let root = tree.root();
            for entry in (0..size).step_by(index(1 + size / 16)).chain([size - 1]) {
                let path = ranges(&tree, &leaves).inclusion(entry, size).unwrap();
                let leaf = &leaves[index(entry)];
                assert!(verify_inclusion(leaf, entry, size, &path, &root), "{entry} of {size}");
                let theirs = path.iter().map(|hash| Hash(hash.0)).collect();
                tlog_tiles::check_record(&theirs, size, Hash(root.0), entry, Hash(leaf.0)).unwrap();
                assert!(!verify_inclusion(&root, entry, size, &path, &leaf_hash(b"")));
                assert!(!verify_inclusion(leaf, entry + 1, size, &path, &root));
                let longer = [path, vec![root]].concat();
                assert!(!verify_inclusion(leaf, entry, size, &longer, &root));
            }
        }
    }

    #[test]
    fn consistency_proofs_verify_here_and_elsewhere() {
        for size in sizes() {
            let (tree, leaves) = tree(size);
            let new = tree.root();
            for old in (1..=size).step_by(index(1 + size / 16)).chain([size]) {
                let path = ranges(&tree, &leaves).consistency(old, size).unwrap();
                let old_root = root(&leaves[..index(old)]);
                assert!(verify_consistency(old, &old_root, size, &new, &path), "{old} of {size}");
                let theirs = path.iter().map(|hash| Hash(hash.0)).collect();
                let (a, b) = (Hash(old_root.0), Hash(new.0));
                tlog_tiles::check_tree(&theirs, size, b, old, a).unwrap();
                let other = leaf_hash(b"other");
                assert!(!verify_consistency(old, &other, size, &new, &path));
                assert!(!verify_consistency(old, &old_root, size, &other, &path));
                let longer = [path, vec![new]].concat();
                assert!(!verify_consistency(old, &old_root, size, &new, &longer));
            }
            assert!(!verify_consistency(0, &root(&[]), size, &new, &[]));
            assert!(!verify_consistency(size + 1, &new, size, &new, &[]));
        }
    }
}
