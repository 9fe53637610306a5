//! Shamir's secret sharing (Shamir 1979, "How to share a secret") over the scalar field of
//! Curve25519, of prime order 2^252 + 27742317777372353535851937790883648493. Owns the polynomial
//! and the interpolation. Draws no randomness and does not check a dealer's honesty: who recovers
//! compares the secret with what the dealer committed to.

use curve25519_dalek::scalar::Scalar;
use thiserror::Error;

use crate::crypto::Secret;

/// Why shares could not be made or put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShamirError {
    #[error("{given} shares are too few: {needed} are needed")]
    TooFew { given: usize, needed: usize },
    #[error("two shares are for holder {0}")]
    Duplicate(u16),
    #[error("a share at x = 0 would be the secret itself")]
    AtZero,
    #[error(
        "a threshold of {threshold} with {holders} holders: it must be from 1 to the number of holders"
    )]
    Threshold { threshold: usize, holders: u16 },
}

/// Shares `secret` among holders at x = 1 to `holders`: the values there of
/// f(x) = secret + c_1 x + ... + c_(t-1) x^(t-1), where `coefficients` are c_1 to c_(t-1), uniform
/// and used for this secret alone. The threshold t is one more than their number.
pub fn share(
    secret: &Scalar,
    coefficients: &[Scalar],
    holders: u16,
) -> Result<Secret<Vec<Scalar>>, ShamirError> {
    let threshold = coefficients.len() + 1;
    if threshold > usize::from(holders) {
        return Err(ShamirError::Threshold { threshold, holders });
    }
    let at = |x: u16| {
        let x = Scalar::from(x);
        let upper = coefficients.iter().rev().fold(Scalar::ZERO, |sum, c| (sum + c) * x);
        upper + secret
    };
    Ok(Secret::new((1..=holders).map(at).collect()))
}

/// Recovers f(0) from `threshold` of the points (x, f(x)) by Lagrange interpolation:
/// f(0) = sum_j f(x_j) prod_(m != j) x_m / (x_m - x_j). All points are checked; the first
/// `threshold` are used.
pub fn recover(points: &[(u16, Scalar)], threshold: usize) -> Result<Secret<Scalar>, ShamirError> {
    let mut seen: Vec<u16> = points.iter().map(|(x, _)| *x).collect();
    seen.sort_unstable();
    if seen.first() == Some(&0) {
        return Err(ShamirError::AtZero);
    }
    if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ShamirError::Duplicate(pair[0]));
    }
    let used = match threshold {
        0 => return Err(ShamirError::Threshold { threshold, holders: 0 }),
        t => points.get(..t).ok_or(ShamirError::TooFew { given: points.len(), needed: t })?,
    };
    let xs: Vec<Scalar> = used.iter().map(|(x, _)| Scalar::from(*x)).collect();
    // With P the product of all x_m, the weight of point j is P / (x_j prod_(m != j) (x_m - x_j)).
    // No factor is zero: the x are distinct, not zero, and far below the field's order.
    let mut weights: Vec<Scalar> = xs
        .iter()
        .map(|xj| xs.iter().filter(|xm| *xm != xj).fold(*xj, |product, xm| product * (xm - xj)))
        .collect();
    Scalar::invert_batch_alloc(&mut weights);
    let product: Scalar = xs.iter().product();
    let sum: Scalar = used.iter().zip(&weights).map(|((_, y), weight)| y * weight).sum();
    Ok(Secret::new(sum * product))
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::*,
        sample::{Index, subsequence},
    };

    use super::*;

    fn scalars(bytes: &[[u8; 32]]) -> Vec<Scalar> {
        bytes.iter().copied().map(Scalar::from_bytes_mod_order).collect()
    }

    fn points(secret: &Scalar, coefficients: &[Scalar], holders: u16) -> Vec<(u16, Scalar)> {
        let shares = share(secret, coefficients, holders).unwrap();
        (1..=holders).zip(shares.expose().iter().copied()).collect()
    }

    /// f(x) = 1234 + 166x + 94x^2, the textbook polynomial.
    #[test]
    fn small_numbers_are_as_by_hand() {
        let made = points(&1234_u64.into(), &[166_u64.into(), 94_u64.into()], 6);
        let expected = [1494_u64, 1942, 2578, 3402, 4414, 5614].map(Scalar::from);
        assert!(made.iter().map(|p| p.1).eq(expected));
        let some = [made[1], made[3], made[4]];
        assert!(*recover(&some, 3).unwrap().expose() == Scalar::from(1234_u64));
    }

    /// f(x) = -1 + x wraps around the field's order: f(1) = 0, f(2) = 1.
    #[test]
    fn arithmetic_is_modulo_the_order() {
        let made = points(&-Scalar::ONE, &[Scalar::ONE], 2);
        assert!(made[0].1 == Scalar::ZERO && made[1].1 == Scalar::ONE);
        let order_minus_one = "ecd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
        let secret = recover(&made, 2).unwrap();
        assert_eq!(hex::encode(secret.expose().as_bytes()), order_minus_one);
    }

    #[test]
    fn bad_points_are_refused() {
        let p = points(&5_u64.into(), &[7_u64.into()], 3);
        let error = |points: &[(u16, Scalar)], t| recover(points, t).err().unwrap();
        assert_eq!(error(&p[..1], 2), ShamirError::TooFew { given: 1, needed: 2 });
        assert_eq!(error(&[p[0], p[1], p[0]], 2), ShamirError::Duplicate(1));
        assert_eq!(error(&[p[0], (0, p[1].1)], 2), ShamirError::AtZero);
        assert_eq!(error(&p, 0), ShamirError::Threshold { threshold: 0, holders: 0 });
        assert!(share(&Scalar::ONE, &[Scalar::ONE; 3], 3).is_err());
    }

    proptest! {
        #[test]
        fn any_threshold_of_points_recovers(
            secret in any::<[u8; 32]>(),
            random in vec(any::<[u8; 32]>(), 0..12),
            more in 0_u16..8,
            cut in any::<Index>(),
            order in any::<u64>(),
        ) {
            let secret = Scalar::from_bytes_mod_order(secret);
            let threshold = random.len() + 1;
            let made = points(&secret, &scalars(&random), u16::try_from(threshold).unwrap() + more);
            let mut some = made;
            let turn = usize::try_from(order % 64).unwrap() % some.len();
            some.rotate_left(turn);
            while some.len() > threshold {
                some.remove(cut.index(some.len()));
            }
            prop_assert!(*recover(&some, threshold).unwrap().expose() == secret);
        }

        #[test]
        fn any_subset_recovers(kept in subsequence((0..9_usize).collect::<Vec<_>>(), 4..=9)) {
            let made = points(&99_u64.into(), &[3_u64, 1, 4].map(Scalar::from), 9);
            let some: Vec<_> = kept.iter().map(|i| made[*i]).collect();
            prop_assert!(*recover(&some, 4).unwrap().expose() == Scalar::from(99_u64));
        }

        /// One point short of the threshold, every secret is still possible: with the point (x, y)
        /// that fits a guess g, the same shares recover g.
        #[test]
        fn too_few_points_fit_any_secret(
            secret in any::<[u8; 32]>(),
            guess in any::<[u8; 32]>(),
            random in vec(any::<[u8; 32]>(), 1..8),
        ) {
            let [secret, guess] = [secret, guess].map(Scalar::from_bytes_mod_order);
            let threshold = random.len() + 1;
            let n = u16::try_from(threshold).unwrap();
            let mut some = points(&secret, &scalars(&random), n);
            // f(0) is linear in the last y; move y so that f(0) becomes the guess.
            let last = threshold - 1;
            some[last].1 = Scalar::ZERO;
            let base = *recover(&some, threshold).unwrap().expose();
            some[last].1 = Scalar::ONE;
            let slope = *recover(&some, threshold).unwrap().expose() - base;
            some[last].1 = (guess - base) * slope.invert();
            prop_assert!(*recover(&some, threshold).unwrap().expose() == guess);
        }
    }
}
