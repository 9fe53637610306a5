//! The roles together: whole attempts with members lost at each place, and what a bad member or a
//! careless caller meets.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::crypto::{AgreementKey, Digest, Key};

/// One attempt: every member's secrets, the list, and where shares belong.
struct Attempt {
    secrets: Vec<RoundSecrets>,
    members: Vec<Member>,
    plan: Digest,
    threshold: usize,
}

impl Attempt {
    fn new(n: u16, threshold: usize) -> Self {
        let plan = Digest::of(b"plan");
        let secrets: Vec<_> = (0..n).map(|i| secrets(i, &plan)).collect();
        let members = (0..n).zip(&secrets).map(|(i, s)| s.member(i)).collect();
        Self { secrets, members, plan, threshold }
    }

    fn sharing(&self, own: u16) -> Sharing {
        let list_root = Digest::of(b"list");
        Sharing { plan: self.plan, list_root, own, threshold: self.threshold }
    }

    fn context(&self) -> Digest {
        round_context(&self.plan, &Digest::of(b"list"), &Digest::of(b"headers"))
    }

    fn deal(&self, own: u16) -> Dealing {
        deal(&self.secrets[usize::from(own)], &self.sharing(own), &self.members).unwrap()
    }

    fn set(&self, members: impl IntoIterator<Item = u16>) -> Bitmap {
        Bitmap::of(self.members.len(), members).unwrap()
    }

    fn masked(&self, own: u16, sharers: &Bitmap, x: &[u32]) -> Vec<u32> {
        let secrets = &self.secrets[usize::from(own)];
        let masker = Masker::new(secrets, &self.context(), own, &self.members, sharers).unwrap();
        let mut y = x.to_vec();
        masker.mask(0, &mut y);
        y
    }

    /// What `holders` reveal, each piece checked against its dealer's leaves.
    fn revealed(
        &self,
        dealings: &[(u16, Dealing)],
        holders: impl IntoIterator<Item = u16>,
        sharers: &Bitmap,
        survivors: &Bitmap,
    ) -> Vec<(u16, SharePiece)> {
        let mut pieces = Vec::new();
        for holder in holders {
            let own = usize::from(holder);
            let open = |(dealer, dealing): &(u16, Dealing)| {
                let from = &self.members[usize::from(*dealer)];
                open_share(&self.secrets[own], &self.sharing(holder), from, &dealing.sealed[own])
                    .unwrap()
            };
            let held: Vec<HeldShare> = dealings.iter().map(open).collect();
            for piece in reveal(&held, sharers, survivors) {
                let (_, dealing) = dealings.iter().find(|(d, _)| *d == piece.dealer).unwrap();
                assert!(check_piece(&dealing.leaves, holder, &piece));
                pieces.push((holder, piece));
            }
        }
        pieces
    }

    fn recover(
        &self,
        sharers: &Bitmap,
        survivors: &Bitmap,
        pieces: &[(u16, SharePiece)],
    ) -> Result<Unmasker, RecoverError> {
        let (context, t) = (self.context(), self.threshold);
        Unmasker::recover(&context, &self.members, sharers, survivors, t, pieces)
    }
}

fn secrets(index: u16, plan: &Digest) -> RoundSecrets {
    let mut rho = [3; 32];
    rho[..2].copy_from_slice(&index.to_be_bytes());
    RoundSecrets::derive(&Key::new(rho), plan.as_bytes())
}

/// Arbitrary words that differ from member to member.
fn input(member: u16, dimension: usize) -> Vec<u32> {
    (0..)
        .zip(0..dimension)
        .map(|(i, _): (u32, _)| i.wrapping_mul(0x9e37_79b9) ^ (u32::from(member) << 17))
        .collect()
}

fn sum(members: &Bitmap, dimension: usize) -> Vec<u32> {
    let mut total = vec![0; dimension];
    for member in members.iter() {
        fold(&mut total, &input(member, dimension)).unwrap();
    }
    total
}

/// Runs an attempt in which `silent` never share, `lost` share but do not upload, and `late` upload
/// but reveal nothing; checks that the opened sum is exactly that over the survivors.
fn run(n: u16, c_max: usize, dimension: usize, silent: &[u16], lost: &[u16], late: &[u16]) {
    let attempt = Attempt::new(n, quorum(n.into(), c_max));
    let sharers = attempt.set((0..n).filter(|i| !silent.contains(i)));
    let survivors = attempt.set(sharers.iter().filter(|i| !lost.contains(i)));
    let dealings: Vec<_> = sharers.iter().map(|i| (i, attempt.deal(i))).collect();

    let mut acc = vec![0; dimension];
    for member in survivors.iter() {
        fold(&mut acc, &attempt.masked(member, &sharers, &input(member, dimension))).unwrap();
    }
    // The vote needs Q of L1, and so does the reveal; a member that was too slow to upload may do both.
    let holders: Vec<u16> = sharers.iter().filter(|i| !late.contains(i)).collect();
    let pieces = attempt.revealed(&dealings, holders, &sharers, &survivors);
    let unmasker = attempt.recover(&sharers, &survivors, &pieces).unwrap();

    // In two parts, the later first: pieces are independent.
    let cut = PIECE_WORDS.min(dimension);
    let (head, tail) = acc.split_at_mut(cut);
    unmasker.unmask(1, tail);
    unmasker.unmask(0, head);
    assert!(acc == sum(&survivors, dimension), "n = {n}, dimension = {dimension}");
}

/// Splits `count` distinct members over the three places where one can be lost.
fn places(n: u16, count: usize, picks: &[(Index, u8)]) -> [Vec<u16>; 3] {
    let mut left: Vec<u16> = (0..n).collect();
    let mut out = [vec![], vec![], vec![]];
    for (pick, place) in picks.iter().take(count) {
        out[usize::from(*place)].push(left.remove(pick.index(left.len())));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_opened_sum_is_that_of_the_survivors(
        n in 2_u16..=24,
        colluders in any::<Index>(),
        dimension in prop_oneof![
            1_usize..200,
            Just(PIECE_WORDS),
            PIECE_WORDS - 3..PIECE_WORDS + 3,
            2 * PIECE_WORDS..2 * PIECE_WORDS + 50,
        ],
        lost in any::<Index>(),
        picks in vec((any::<Index>(), 0_u8..3), 24),
    ) {
        let size = usize::from(n);
        let c_max = colluders.index((size - 1) / 3 + 1);
        let tolerated = dropouts_tolerated(size, c_max, 2).unwrap();
        let [silent, missing, late] = places(n, lost.index(tolerated + 1), &picks);
        run(n, c_max, dimension, &silent, &missing, &late);
    }
}

#[test]
fn all_that_is_tolerated_can_be_lost_at_each_place() {
    for n in [4, 7, 16] {
        let c_max = usize::from(n) / 10;
        let tolerated = dropouts_tolerated(n.into(), c_max, 2).unwrap();
        let first: Vec<u16> = (0..n).take(tolerated).collect();
        run(n, c_max, 33, &first, &[], &[]);
        run(n, c_max, 33, &[], &first, &[]);
        run(n, c_max, 33, &[], &[], &first);
    }
}

#[test]
fn sixty_four_members() {
    run(64, 6, 100, &[0, 63], &[1, 40, 62], &[2, 30]);
}

#[test]
fn the_largest_round() {
    run(256, 25, 9, &[17], &[0, 255], &[3]);
}

#[test]
fn a_resend_is_byte_identical_and_another_place_is_not() {
    let attempt = Attempt::new(4, 3);
    let again = Attempt::new(4, 3);
    assert_eq!(attempt.members, again.members);
    assert_eq!(attempt.deal(1), again.deal(1));
    let all = attempt.set(0..4);
    let y = attempt.masked(1, &all, &[5; 40]);
    assert!(y == again.masked(1, &all, &[5; 40]));

    let other = [
        Sharing { plan: Digest::of(b"other"), ..attempt.sharing(1) },
        Sharing { list_root: Digest::of(b"other"), ..attempt.sharing(1) },
        Sharing { threshold: 2, ..attempt.sharing(1) },
    ];
    for sharing in other {
        let dealing = deal(&attempt.secrets[1], &sharing, &attempt.members).unwrap();
        let mut both = attempt.deal(1).leaves;
        both.extend(&dealing.leaves);
        assert_eq!(both.iter().collect::<BTreeSet<_>>().len(), 16, "no share is dealt twice");
    }
    let rekeyed = RoundSecrets::derive(&Key::new([3; 32]), b"another attempt");
    assert_ne!(rekeyed.mask_key(), attempt.members[3].mask_key);
}

#[test]
fn another_context_gives_other_masks() {
    let attempt = Attempt::new(3, 2);
    let all = attempt.set(0..3);
    let digests = [b"a", b"b", b"c"].map(|bytes| Digest::of(bytes));
    let [a, b, c] = digests;
    let contexts = [
        round_context(&a, &b, &c),
        round_context(&b, &a, &c),
        round_context(&a, &b, &a),
        attempt.context(),
    ];
    let masks: BTreeSet<Vec<u32>> = contexts
        .iter()
        .map(|context| {
            let mut words = vec![0; 16];
            Masker::new(&attempt.secrets[0], context, 0, &attempt.members, &all)
                .unwrap()
                .mask(0, &mut words);
            words
        })
        .collect();
    assert_eq!(masks.len(), contexts.len());
}

/// With the masks of all others known to be absent (a lone member of L1), and with them, an upload of
/// zeros looks like random bits, and unlike every other piece of itself.
#[test]
fn one_upload_looks_unlike_its_input() {
    let attempt = Attempt::new(5, 3);
    for sharers in [attempt.set(0..5), attempt.set([2])] {
        let y = attempt.masked(2, &sharers, &vec![0; 2 * PIECE_WORDS]);
        let ones: u32 = y.iter().map(|word| word.count_ones()).sum();
        let share = f64::from(ones) / f64::from(u32::try_from(y.len()).unwrap() * 32);
        assert!((share - 0.5).abs() < 0.005, "{share}");
        let distinct = y.iter().collect::<BTreeSet<_>>().len();
        assert!(distinct > y.len() - 10, "{distinct}");
    }
}

/// The sum over the survivors stays hidden while one of them has not been opened.
#[test]
fn without_one_self_mask_the_sum_stays_hidden() {
    let attempt = Attempt::new(4, 3);
    let all = attempt.set(0..4);
    let dealings: Vec<_> = all.iter().map(|i| (i, attempt.deal(i))).collect();
    let mut pieces = attempt.revealed(&dealings, 0..4, &all, &all);
    pieces.retain(|(holder, piece)| piece.dealer != 2 || *holder < 2);
    let expected = RecoverError::TooFew { dealer: 2, given: 2, needed: 3 };
    assert_eq!(attempt.recover(&all, &all, &pieces).err(), Some(expected));
}

#[test]
fn never_both_shares_of_one_dealer() {
    let attempt = Attempt::new(6, 4);
    let dealings: Vec<_> = (0..6).map(|i| (i, attempt.deal(i))).collect();
    let sharers = attempt.set([0, 1, 2, 4, 5]);
    // Not a subset of L1, as a malicious coordinator might ask: member 3 is left out all the same.
    let survivors = attempt.set([0, 2, 3, 4]);
    let pieces = attempt.revealed(&dealings, [5], &sharers, &survivors);
    let kinds: Vec<_> = pieces.iter().map(|(_, p)| (p.dealer, p.kind)).collect();
    use ShareKind::{PairMask, SelfMask};
    let expected = [(0, SelfMask), (1, PairMask), (2, SelfMask), (4, SelfMask), (5, PairMask)];
    assert_eq!(kinds, expected);
    let sets = RecoverError::Sets { members: 6 };
    assert_eq!(attempt.recover(&sharers, &survivors, &pieces).err(), Some(sets));
    assert_eq!(attempt.recover(&sharers, &attempt.set([]), &pieces).err(), Some(sets));
}

#[test]
fn a_changed_or_misplaced_share_is_refused() {
    let attempt = Attempt::new(3, 2);
    let all = attempt.set(0..3);
    let dealing = attempt.deal(0);
    let root = dealing.root();
    let pieces = attempt.revealed(&[(0, dealing.clone())], [1], &all, &all);
    let (_, piece) = &pieces[0];
    assert!(!check_piece(&dealing.leaves, 2, piece), "another holder's place");
    assert!(!check_piece(&attempt.deal(2).leaves, 1, piece), "another dealer");
    assert!(!check_piece(&dealing.leaves, u16::MAX, piece));
    for position in 0..SharePiece::LEN {
        let mut bytes = piece.to_bytes();
        bytes[position] ^= 1;
        let changed = SharePiece::from_bytes(&bytes).unwrap();
        assert!(!check_piece(&dealing.leaves, 1, &changed), "byte {position}");
    }
    let mut bytes = piece.to_bytes();
    assert_eq!(SharePiece::from_bytes(&bytes).as_ref(), Some(piece));
    bytes[2] = 2;
    assert!(SharePiece::from_bytes(&bytes).is_none());
    let shown = format!("{piece:?}");
    assert_eq!(shown, "SharePiece { dealer: 0, kind: SelfMask, .. }");

    let mut other = dealing;
    other.leaves.swap(0, 1);
    assert_ne!(other.root(), root);
}

#[test]
fn a_sealed_share_opens_only_at_its_place() {
    let attempt = Attempt::new(3, 2);
    let dealing = attempt.deal(0);
    let open = |own: u16, sharing: &Sharing, from: usize, sealed: &[u8]| {
        let secrets = &attempt.secrets[usize::from(own)];
        open_share(secrets, sharing, &attempt.members[from], sealed).err()
    };
    let sealed = &dealing.sealed[1];
    let right = attempt.sharing(1);
    assert_eq!(sealed.len(), SEALED_SHARE_LEN);
    assert_eq!(open(1, &right, 0, sealed), None);
    assert_eq!(open(1, &right, 2, sealed), Some(DealError::Sealed(2)), "another dealer");
    assert!(open(2, &attempt.sharing(2), 0, sealed).is_some(), "another holder");
    assert!(open(1, &attempt.sharing(2), 0, sealed).is_some(), "another position");
    let plan = Digest::of(b"other");
    assert!(open(1, &Sharing { plan, ..right }, 0, sealed).is_some(), "another plan");
    assert!(open(1, &Sharing { list_root: plan, ..right }, 0, sealed).is_some(), "another list");
    assert!(open(1, &right, 0, &sealed[1..]).is_some());
    let mut changed = sealed.clone();
    changed[40] ^= 1;
    assert!(open(1, &right, 0, &changed).is_some());
}

/// A dealer whose shares are of other secrets than it announced, or are no scalars, is named.
#[test]
fn a_bad_dealer_is_named() {
    let attempt = Attempt::new(4, 3);
    let sharers = attempt.set(0..4);
    for (survivors, kind) in
        [(attempt.set(0..4), ShareKind::SelfMask), (attempt.set([0, 1, 3]), ShareKind::PairMask)]
    {
        let dealings: Vec<_> = sharers.iter().map(|i| (i, attempt.deal(i))).collect();
        let good = attempt.revealed(&dealings, 0..4, &sharers, &survivors);
        assert!(attempt.recover(&sharers, &survivors, &good).is_ok());
        for scalar in [[1; 32], [0xff; 32]] {
            let mut pieces = good.clone();
            let inconsistent = pieces
                .iter_mut()
                .find(|(holder, piece)| *holder == 1 && piece.dealer == 2 && piece.kind == kind);
            inconsistent.unwrap().1.scalar = scalar;
            let expected = RecoverError::BadDealer { dealer: 2 };
            assert_eq!(attempt.recover(&sharers, &survivors, &pieces).err(), Some(expected));
        }
    }
}

/// Every other way to a wrong list: positions, repeated keys, foreign or weak keys, sizes.
#[test]
fn a_wrong_list_is_refused() {
    let attempt = Attempt::new(4, 3);
    let refused = |change: &dyn Fn(&mut Vec<Member>)| {
        let mut members = attempt.members.clone();
        change(&mut members);
        deal(&attempt.secrets[0], &attempt.sharing(0), &members).err().unwrap()
    };
    assert_eq!(refused(&|m| m.swap(1, 2)), DealError::Unordered(1));
    assert_eq!(refused(&|m| m[2].mask_key = m[1].mask_key), DealError::Repeated(2));
    assert_eq!(refused(&|m| m[3].mask_key = m[3].share_key), DealError::Repeated(3));
    assert_eq!(refused(&|m| m[2].self_commitment = m[0].self_commitment), DealError::Repeated(2));
    assert_eq!(refused(&|m| m[0].mask_key = AgreementKey([9; 32])), DealError::NotOwnEntry(0));
    assert_eq!(refused(&|m| m[1].share_key = AgreementKey([0; 32])), DealError::WeakKey(1));
    assert_eq!(refused(&|m| m.truncate(1)), DealError::Size(1));
    assert_eq!(refused(&|m| m.truncate(2)), DealError::Threshold { threshold: 3, members: 2 });
}

#[test]
fn masking_needs_own_keys_a_place_in_l1_and_usable_peers() {
    let attempt = Attempt::new(3, 2);
    let (context, all) = (attempt.context(), attempt.set(0..3));
    let refused = |own, members: &[Member], sharers: &Bitmap| {
        Masker::new(&attempt.secrets[0], &context, own, members, sharers).err().unwrap()
    };
    assert_eq!(refused(0, &attempt.members, &attempt.set([1, 2])), MaskError::NotSharer(0));
    assert_eq!(refused(1, &attempt.members, &all), MaskError::NotOwnEntry(1));
    assert_eq!(refused(0, &attempt.members[..2], &all), MaskError::NoMember(2));
    let mut weak = attempt.members.clone();
    weak[1].mask_key = AgreementKey([0; 32]);
    assert_eq!(refused(0, &weak, &all), MaskError::WeakKey(1));
}

/// The points of small order of Curve25519 (RFC 7748, section 6.1; u = 0, 1, p - 1, and one of order 8).
#[test]
fn keys_of_small_order_are_unusable() {
    for bad in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    ] {
        assert!(!is_usable(&bad.parse().unwrap()), "{bad}");
    }
    assert!(is_usable(&secrets(0, &Digest::of(b"plan")).mask_key()));
}

/// The derivations are part of the protocol: a change here breaks every attempt that is under way.
/// The values are those of an independent implementation in Python (`hashlib`, `cryptography`).
#[test]
fn derivations_are_pinned() {
    let attempt = Attempt::new(2, 2);
    let all = attempt.set(0..2);
    let y = attempt.masked(0, &all, &[0; 64]);
    let bytes: Vec<u8> = y.iter().flat_map(|word| word.to_le_bytes()).collect();
    let dealing = attempt.deal(0);
    let sealed: Vec<&[u8]> = dealing.sealed.iter().map(Vec::as_slice).collect();
    let digests = [
        Digest::of(attempt.members[0].mask_key.as_bytes()),
        attempt.members[0].self_commitment,
        dealing.root(),
        Digest::of_parts("sealed", &sealed),
        Digest::of(&bytes),
    ];
    assert_eq!(
        digests.map(|digest| digest.short()),
        ["94bb1c48", "779da726", "99530c91", "bfb9e76a", "69014861"]
    );
}
