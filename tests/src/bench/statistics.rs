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

/// Windows of equal length that [`Line::through_windows`] makes of a series.
const WINDOWS: usize = 10;
/// Two-sided 95 % of Student's t for that many points less two.
const STUDENT: f64 = 2.306;

/// A straight line through points, by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) slope: f64,
    /// The standard error of the slope, as if the residuals were independent.
    pub(super) error: f64,
}

impl Line {
    /// None of fewer than three points, or if all are at one place.
    fn through(points: &[Point]) -> Option<Self> {
        let n = points.len() as f64;
        let sum = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>();
        let (mean_x, mean_y) = (sum(&|p| p.0) / n, sum(&|p| p.1) / n);
        let sxx = sum(&|(x, _)| (x - mean_x).powi(2));
        if points.len() < 3 || sxx == 0.0 {
            return None;
        }
        let slope = sum(&|(x, y)| (x - mean_x) * (y - mean_y)) / sxx;
        let squares = sum(&|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2));
        Some(Self { slope, error: (squares / (n - 2.0) / sxx).sqrt() })
    }

    /// Through the means of ten windows. What a process holds now depends on what it held a moment ago:
    /// through the looks themselves the error would come out several times too small, because they are
    /// far from independent. None of fewer than two looks in each window.
    pub(super) fn through_windows(series: &[Point]) -> Option<Self> {
        let length = series.len() / WINDOWS;
        if length < 2 {
            return None;
        }
        // The first looks are left out if they do not fill a window.
        let windows = series[series.len() % WINDOWS..].chunks_exact(length);
        let mean = |window: &[Point], of: fn(&Point) -> f64| {
            window.iter().map(of).sum::<f64>() / window.len() as f64
        };
        let means: Vec<Point> = windows.map(|w| (mean(w, |p| p.0), mean(w, |p| p.1))).collect();
        Self::through(&means)
    }

    /// Whether no slope at all would give such a line in one of twenty cases or more often; of a line
    /// through windows.
    pub(super) fn is_flat(&self) -> bool {
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

    fn series(values: impl IntoIterator<Item = f64>) -> Vec<Point> {
        (0_u32..).map(f64::from).zip(values).collect()
    }

    #[test]
    fn a_line_has_its_slope_and_error() {
        let exact = Line::through(&[(0.0, 1.0), (1.0, 3.0), (3.0, 7.0)]).unwrap();
        assert_eq!(exact, Line { slope: 2.0, error: 0.0 });
        let noisy = Line::through(&series([0.0, 1.0, 0.0, 1.0])).unwrap();
        // Sxx = 5, Sxy = 1; residuals -0.2, 0.6, -0.6, 0.2: their squares sum to 0.8.
        assert!((noisy.slope - 0.2).abs() < 1e-12);
        assert!((noisy.error - (0.8_f64 / 2.0 / 5.0).sqrt()).abs() < 1e-12);
        assert_eq!(Line::through(&series([1.0, 2.0])), None);
        assert_eq!(Line::through(&[(1.0, 2.0); 5]), None);
    }

    #[test]
    fn memory_that_keeps_what_it_had_is_not_taken_for_many_observations() {
        // Moves of up to half a page that are half forgotten after ten looks: no slope, long runs.
        let mut state = 1_u32;
        let mut held = 0.0;
        let wandering = series((0..1_000).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            held = held * 0.93 + f64::from(state >> 16) / 65_536.0 - 0.5;
            held
        }));
        let (looks, windows) =
            (Line::through(&wandering).unwrap(), Line::through_windows(&wandering).unwrap());
        assert!(windows.is_flat(), "{windows:?}");
        assert!(windows.error > 2.5 * looks.error, "{windows:?} {looks:?}");
        // A leak shows through the same noise.
        let leaking: Vec<Point> = wandering.iter().map(|(x, y)| (*x, y + 0.005 * x)).collect();
        let leak = Line::through_windows(&leaking).unwrap();
        assert!(!leak.is_flat() && (leak.slope - windows.slope - 0.005).abs() < 1e-9, "{leak:?}");
        assert_eq!(Line::through_windows(&series([0.0; 19])), None);
    }
}
