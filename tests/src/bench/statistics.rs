//! Medians, spreads and slopes of what was measured.

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((sorted[middle - 1] + upper) / 2.0) }
}

/// A point: where, and what was measured there.
pub(super) type Point = (f64, f64);

/// Windows of as many looks each that [`Drift::of`] makes of a series.
const WINDOWS: usize = 10;
/// Two-sided 95 % of Student's t for the nine steps between them: eight degrees of freedom.
const STUDENT: f64 = 2.306;

/// How what a process holds for good moves, as a random walk with drift. Memory comes and goes in steps, a
/// heap's or a stack's, and keeps where it went: a line fitted through looks, as if each told something of
/// its own, makes growth of any one step and an error that is many times too small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drift {
    /// The mean step from one window to the next, for each unit of the place.
    pub(super) slope: f64,
    /// The standard error of that mean.
    pub(super) error: f64,
}

impl Drift {
    /// Of the least that was held in each of ten windows: what is held for a moment is in none of them.
    /// None of fewer than two looks in a window.
    pub(super) fn of(series: &[Point]) -> Option<Self> {
        let looks = series.len() / WINDOWS;
        if looks < 2 {
            return None;
        }
        // The first looks are left out if they do not fill a window.
        let windows = &series[series.len() % WINDOWS..];
        let span = windows[windows.len() - looks].0 - windows[0].0;
        let least = windows
            .chunks_exact(looks)
            .map(|window| window.iter().map(|(_, held)| *held).fold(f64::INFINITY, f64::min));
        let least: Vec<f64> = least.collect();
        let steps: Vec<f64> = least.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let n = steps.len() as f64;
        let mean = steps.iter().sum::<f64>() / n;
        let squares: f64 = steps.iter().map(|step| (step - mean).powi(2)).sum();
        let window = span / n;
        Some(Self { slope: mean / window, error: (squares / (n - 1.0) / n).sqrt() / window })
    }

    /// Whether a walk without drift would come as far in one of twenty cases or more often.
    pub(super) fn is_zero(&self) -> bool {
        self.slope.abs() <= STUDENT * self.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    /// What is held at 1,000 looks, two rounds apart.
    fn series(held: impl Fn(u32) -> f64) -> Vec<Point> {
        (0..1_000).map(|look| (f64::from(2 * look), held(look))).collect()
    }

    #[test]
    fn a_drift_is_the_mean_step_and_its_error() {
        let exact = Drift::of(&series(f64::from)).unwrap();
        assert_eq!(exact, Drift { slope: 0.5, error: 0.0 });
        assert!(!exact.is_zero());
        assert_eq!(Drift::of(&series(|_| 7.0)).unwrap(), Drift { slope: 0.0, error: 0.0 });
        assert_eq!(Drift::of(&series(f64::from)[..19]), None);
        // One step of 9 in nine: a mean of 1, deviations of 8 and eight times -1, over 200 rounds.
        let step = Drift::of(&series(|look| if look < 450 { 0.0 } else { 9.0 })).unwrap();
        assert!((step.slope - 1.0 / 200.0).abs() < 1e-12, "{step:?}");
        assert!((step.error - (72.0_f64 / 8.0 / 9.0).sqrt() / 200.0).abs() < 1e-12, "{step:?}");
    }

    #[test]
    fn one_step_is_no_growth_and_a_staircase_is() {
        let step = |look| if look < 333 { 0.0 } else { 65_536.0 };
        assert!(Drift::of(&series(step)).unwrap().is_zero());
        // 12 KB every sixteen rounds, under buffers of a megabyte that are there at every third look.
        let stairs = |look| f64::from(look / 8) * 12_288.0;
        let buffer = |look: u32| if look.is_multiple_of(3) { 0.0 } else { f64::from(1 << 20) };
        let leak = Drift::of(&series(|look| stairs(look) + buffer(look))).unwrap();
        assert!(!leak.is_zero() && (leak.slope - 768.0).abs() < 10.0, "{leak:?}");
    }
}
