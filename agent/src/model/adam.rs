//! Adam, on parameters that lie in one vector. Owns the moments of one run of steps.

const FIRST: f32 = 0.9;
const SECOND: f32 = 0.999;
const LEAST: f32 = 1e-8;

/// The optimiser of Kingma & Ba 2015 (ICLR, algorithm 1, in the form at the end of section 2).
#[derive(Debug)]
pub(crate) struct Adam {
    moments: Vec<(f32, f32)>,
    steps: i32,
}

impl Adam {
    pub(crate) fn new(parameters: usize) -> Self {
        Self { moments: vec![(0.0, 0.0); parameters], steps: 0 }
    }

    /// One step down `gradient`, which has a value for each parameter.
    pub(crate) fn step(&mut self, parameters: &mut [f32], gradient: &[f32], rate: f64) {
        self.steps = self.steps.saturating_add(1);
        let unbiased = rate * (1.0 - f64::from(SECOND).powi(self.steps)).sqrt()
            / (1.0 - f64::from(FIRST).powi(self.steps));
        let rate = super::single(unbiased);
        for ((value, slope), (first, second)) in
            parameters.iter_mut().zip(gradient).zip(&mut self.moments)
        {
            *first = FIRST * *first + (1.0 - FIRST) * slope;
            *second = SECOND * *second + (1.0 - SECOND) * slope * slope;
            *value -= rate * *first / (second.sqrt() + LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_steps_are_those_of_the_paper() {
        let (mut adam, mut at) = (Adam::new(2), [1.0, -2.0]);
        // Whatever the slope, the first step is as long as the rate.
        adam.step(&mut at, &[0.5, -3.0], 0.1);
        assert!((at[0] - 0.9).abs() < 1e-6 && (at[1] + 1.9).abs() < 1e-6, "{at:?}");
        // By hand, for the slopes 0.5 and then -0.25: m = .02, v = 3.1225e-4, corrected .105263 and .156203.
        adam.step(&mut at, &[-0.25, 0.0], 0.1);
        assert!((at[0] - (0.9 - 0.1 * 0.105_263 / 0.395_225)).abs() < 1e-5, "{at:?}");
    }
}
