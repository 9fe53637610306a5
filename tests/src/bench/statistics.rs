//! Medians, spreads and slopes of what was measured.

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((sorted[middle - 1] + upper) / 2.0) }
}

/// A straight line through points, by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) slope: f64,
    /// The standard error of the slope, as if the residuals were independent.
    pub(super) error: f64,
}

impl Line {
    /// Through (0, y0), (1, y1), ...; none of fewer than three points.
    pub(super) fn through(values: &[f64]) -> Option<Self> {
        if values.len() < 3 {
            return None;
        }
        let n = values.len() as f64;
        let places = || (0_u32..).map(f64::from);
        let (mean_x, mean_y) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
        let sxx: f64 = places().zip(values).map(|(x, _)| (x - mean_x).powi(2)).sum();
        let sxy: f64 = places().zip(values).map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let slope = sxy / sxx;
        let residual = |x: f64, y: f64| (y - mean_y - slope * (x - mean_x)).powi(2);
        let squares: f64 = places().zip(values).map(|(x, y)| residual(x, *y)).sum();
        Some(Self { slope, error: (squares / (n - 2.0) / sxx).sqrt() })
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

    #[test]
    fn a_line_has_its_slope_and_error() {
        let exact = Line::through(&[1.0, 3.0, 5.0, 7.0]).unwrap();
        assert_eq!(exact, Line { slope: 2.0, error: 0.0 });
        let noisy = Line::through(&[0.0, 1.0, 0.0, 1.0]).unwrap();
        // Sxx = 5, Sxy = 1; residuals -0.2, 0.6, -0.6, 0.2: their squares sum to 0.8.
        assert!((noisy.slope - 0.2).abs() < 1e-12);
        assert!((noisy.error - (0.8_f64 / 2.0 / 5.0).sqrt()).abs() < 1e-12);
        assert_eq!(Line::through(&[1.0, 2.0]), None);
    }
}
