//! exp(-x) times a ratio in fixed point with 128 bits after the point, for the draws that doubles cannot
//! decide. Integers only; knows nothing of noise.

/// Everything below this is a fraction of 2^128.
const LOW: u128 = u64::MAX as u128;

/// floor(exp(-`over` / `under`) * 2^128), off by less than 2^15, and 0 from 128 on. `over` must be below
/// 2^120 and `under` from 1 to 2^63.
pub(super) fn exp_minus(over: u128, under: u128) -> u128 {
    let whole = over / under;
    if whole >= 128 {
        return 0;
    }
    // x / 128 in 128 bits after the point, by long division.
    let high = ((over % under) << 64) / under;
    let rest = ((over % under) << 64) % under;
    let fraction = (high << 64) | ((rest << 64) / under);
    let small = (whole << 121) | (fraction >> 7);
    // exp(-x) = exp(-x / 128)^128.
    (0..7).fold(exp_minus_fraction(small), |power, _| product(power, power))
}

/// exp(-x) for x < 1, both in 128 bits after the point: 1 - (x - x^2/2 + x^3/6 - ..), by Horner.
/// Each of the 40 steps drops less than two of the last bit, and 1/40! is below 2^-128.
fn exp_minus_fraction(x: u128) -> u128 {
    let inner = |rest: u128, k: u128| product(x, u128::MAX - rest) / k;
    // inner(k) = x/k (1 - x/(k+1) (1 - ..)); the outermost is 1 - exp(-x).
    u128::MAX - (1..=40).rev().fold(0, inner)
}

/// The upper 128 bits of a product.
fn product(a: u128, b: u128) -> u128 {
    let (a_high, a_low, b_high, b_low) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (left, right) = (a_high * b_low, a_low * b_high);
    let middle = ((a_low * b_low) >> 64) + (left & LOW) + (right & LOW);
    a_high * b_high + (left >> 64) + (right >> 64) + (middle >> 64)
}

/// floor(`value` * `over` / `under`), or the largest number if that does not fit.
pub(super) fn scaled(value: u128, over: u64, under: u64) -> u128 {
    let (over, under) = (u128::from(over), u128::from(under));
    let low = (value & LOW) * over;
    let high = (value >> 64) * over + (low >> 64);
    // Long division, 64 bits at a time from the top.
    let top = high >> 64;
    if top >= under {
        return u128::MAX;
    }
    let next = (top << 64) | (high & LOW);
    let last = ((next % under) << 64) | (low & LOW);
    ((next / under) << 64) | (last / under)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with mpmath at 80 digits.
    #[test]
    fn exponentials_are_right_to_the_last_bits() {
        for (over, under, exact) in [
            (0, 1, u128::MAX),
            (1, 2, 0x9b45_97e3_7cb0_4ff3_d675_a355_30cd_d767),
            (1, 1, 0x5e2d_58d8_b3bc_df1a_bade_c782_9054_f90d),
            (7, 3, 0x18d3_27a6_9b3b_e5a8_9091_f41b_3ea8_3993),
            (255, 2, 0),
            (88, 1, 2),
            (1, 1_000_000_000, 0xffff_fffb_b47d_05ff_8389_bc22_622e_aced),
            (12_345_678_901_234_567, 1_000_000_000_000_000, 0x48f4_ada7_68bd_e2e3_cb3b_f249_f63a),
            (128, 1, 0),
            (1 << 119, 1, 0),
        ] {
            let found = exp_minus(over, under);
            assert!(found.abs_diff(exact) < 1 << 15, "{over}/{under}: {found:x}, not {exact:x}");
        }
    }

    proptest! {
        #[test]
        fn exponentials_are_those_of_doubles(over in 0..1_u128 << 66, under in 1..1_u128 << 60) {
            let exact = (-(over as f64) / under as f64).exp();
            let found = exp_minus(over, under) as f64 / 2_f64.powi(128);
            prop_assert!((found - exact).abs() <= 1e-13 * exact + 2_f64.powi(-112));
        }

        #[test]
        fn scaling_is_exact(value: u128, over: u64, under in 1..u64::MAX, small: u64) {
            let wide = scaled(value, over, under);
            let near = value as f64 * over as f64 / under as f64;
            if near < 2_f64.powi(127) {
                prop_assert!((wide as f64 - near).abs() <= 1e-14 * near + 1.0);
            }
            let fits = u128::from(small) * u128::from(over) / u128::from(under);
            prop_assert_eq!(scaled(small.into(), over, under), fits);
            prop_assert_eq!(scaled(value, 1, 1), value);
            prop_assert_eq!(scaled(u128::MAX, 2, 1), u128::MAX);
        }
    }
}
