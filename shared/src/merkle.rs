//! Merkle trees over SHA-256 as in RFC 6962, section 2.1: leaves and inner nodes are hashed under
//! different prefixes, so that neither can pass for the other. Owns the hash functions and the root
//! of a whole list; holds no tree, no proof and no storage.

use crate::crypto::{Digest, Hasher};

/// The hash of one leaf: SHA-256(0x00 || data).
pub fn leaf_hash(data: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&[0x00]);
    hasher.update(data);
    hasher.finish()
}

/// The hash of an inner node: SHA-256(0x01 || left || right).
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&[0x01]);
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    hasher.finish()
}

/// The Merkle tree hash over leaves that [`leaf_hash`] has already hashed, in their order. The root
/// of no leaves is SHA-256 of the empty string.
pub fn root(leaf_hashes: &[Digest]) -> Digest {
    match leaf_hashes {
        [] => Digest::of(b""),
        [one] => *one,
        many => {
            // RFC 6962: the left subtree is the largest power of two smaller than the list.
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight leaves and the roots of 0 to 8 of them: the vectors that the Certificate
    /// Transparency project publishes with its RFC 6962 implementations.
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ]
        .map(|text| leaf_hash(&hex::decode(text).unwrap()));
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (n, expected) in roots.iter().enumerate() {
            assert_eq!(root(&leaves[..n]).to_string(), *expected, "{n} leaves");
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
        let inner = [a.as_bytes().as_slice(), b.as_bytes()].concat();
        assert_ne!(node_hash(&a, &b), leaf_hash(&inner));
        assert_ne!(node_hash(&a, &b), node_hash(&b, &a));
    }
}
