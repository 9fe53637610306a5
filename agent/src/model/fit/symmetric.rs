//! Symmetric positive definite systems of a few hundred unknowns, dense. Knows nothing of models.

/// The lower triangle of a symmetric matrix, by rows.
pub(super) struct Symmetric {
    size: usize,
    values: Vec<f64>,
}

impl Symmetric {
    pub(super) fn diagonal(values: &[f64]) -> Self {
        let size = values.len();
        let mut matrix = Self { size, values: vec![0.0; size * size] };
        values.iter().enumerate().for_each(|(j, v)| matrix.values[j * size + j] = *v);
        matrix
    }

    /// Adds `scale` x values to row `j`, up to the diagonal.
    pub(super) fn add_row(&mut self, j: usize, scale: f64, values: &[(usize, f64)]) {
        let row = &mut self.values[j * self.size..][..=j];
        values.iter().filter(|(k, _)| *k <= j).for_each(|&(k, x)| row[k] += scale * x);
    }

    /// Solves A x = b by Cholesky's factorisation in place; `None` if A is not positive definite.
    pub(super) fn solve(&mut self, b: &[f64]) -> Option<Vec<f64>> {
        self.factorise()?;
        let (n, l) = (self.size, &self.values);
        let mut x = b.to_vec();
        for i in 0..n {
            let known: f64 = (0..i).map(|k| l[i * n + k] * x[k]).sum();
            x[i] = (x[i] - known) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let known: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
            x[i] = (x[i] - known) / l[i * n + i];
        }
        x.iter().all(|v| v.is_finite()).then_some(x)
    }

    fn factorise(&mut self) -> Option<()> {
        let n = self.size;
        for i in 0..n {
            let (before, row) = self.values.split_at_mut(i * n);
            for j in 0..i {
                let other = &before[j * n..][..=j];
                let known: f64 = row[..j].iter().zip(other).map(|(a, b)| a * b).sum();
                row[j] = (row[j] - known) / other[j];
            }
            let pivot = row[i] - row[..i].iter().map(|a| a * a).sum::<f64>();
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            row[i] = pivot.sqrt();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::features::tests::assert_close;

    #[test]
    fn systems_are_solved() {
        let mut matrix = Symmetric { size: 2, values: vec![4.0, 0.0, 2.0, 3.0] };
        assert_close(&matrix.solve(&[10.0, 8.0]).unwrap(), &[1.75, 1.5], 1e-12);
        let mut indefinite = Symmetric { size: 2, values: vec![1.0, 0.0, 2.0, 1.0] };
        assert!(indefinite.solve(&[1.0, 1.0]).is_none());
    }
}
