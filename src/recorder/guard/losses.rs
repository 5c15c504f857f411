//! Whether the loss diverges: its running mean against its least so far.

/// Steps before the first verdict, and about as many that the running mean is made of.
const STEPS: usize = 50;
/// One step counts at most so many times as far above the least mean as the limit is.
const REACH_MAX: f64 = 4.0;

/// A divergence: the running mean, the limit, and the least mean so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Diverging {
    pub mean: f64,
    pub limit: f64,
    pub least: f64,
}

/// The running mean of the steps' mean losses.
#[derive(Debug)]
pub(super) struct LossTrend {
    times: f64,
    /// Mean losses of the first steps.
    first: Vec<f64>,
    /// The scale of the loss in the first steps.
    scale: f64,
    mean: f64,
    least: f64,
    /// Whether the divergence was told, and the mean has not come down since.
    told: bool,
    /// Sum and number of losses of the open step.
    open: (f64, u64),
}

impl LossTrend {
    pub(super) fn new(times: f64) -> Self {
        let first = Vec::with_capacity(STEPS);
        Self { times, first, scale: 0.0, mean: 0.0, least: f64::INFINITY, told: false, open: (0.0, 0) }
    }

    /// Adds losses of the open step.
    pub(super) fn add(&mut self, losses: impl Iterator<Item = f32>) {
        for loss in losses.filter(|loss| loss.is_finite()) {
            self.open = (self.open.0 + f64::from(loss), self.open.1 + 1);
        }
    }

    /// Forgets the losses of a step that nobody takes.
    pub(super) fn forget_step(&mut self) {
        self.open = (0.0, 0);
    }

    /// Ends the step. Says once that the loss diverges.
    pub(super) fn end_step(&mut self) -> Option<Diverging> {
        let (sum, count) = std::mem::take(&mut self.open);
        if count == 0 {
            return None;
        }
        self.take_step(sum / count as f64)
    }

    fn take_step(&mut self, loss: f64) -> Option<Diverging> {
        if self.first.len() < STEPS {
            self.first.push(loss);
            if self.first.len() == STEPS {
                let mean = self.first.iter().sum::<f64>() / STEPS as f64;
                let deviation = self.first.iter().map(|loss| (loss - mean).abs()).sum::<f64>() / STEPS as f64;
                self.scale = deviation.max(mean.abs() / 10.0);
                (self.mean, self.least) = (mean, mean);
            }
            return None;
        }
        let scale = self.scale.max(self.least.abs());
        let rise = (self.times - 1.0) * scale;
        let loss = loss.min(self.least + REACH_MAX * rise);
        self.mean += (loss - self.mean) / STEPS as f64;
        self.least = self.least.min(self.mean);
        let above = self.mean - self.least;
        if self.told {
            self.told = above > rise / 2.0;
            return None;
        }
        self.told = above > rise;
        let diverging = Diverging { mean: self.mean, limit: self.least + rise, least: self.least };
        self.told.then_some(diverging)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps at which a divergence is told.
    fn told(times: f64, losses: impl IntoIterator<Item = f64>) -> Vec<usize> {
        let mut trend = LossTrend::new(times);
        let told = |(step, loss): (usize, f64)| {
            trend.add([loss as f32].into_iter());
            trend.end_step().map(|_| step)
        };
        losses.into_iter().enumerate().filter_map(told).collect()
    }

    fn noise(step: usize) -> f64 {
        let state = (step as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((state ^ (state >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    }

    #[test]
    fn a_loss_that_falls_and_stays_is_none() {
        let falls = |least: f64| (0..3_000).map(move |i| least + 2.3 * (-(i as f64) / 100.0).exp());
        assert!(told(3.0, falls(0.0)).is_empty() && told(3.0, falls(1e-5)).is_empty());
        assert!(told(3.0, falls(-20.0)).is_empty());
        // With noise about 0, and about a small loss.
        assert!(told(3.0, (0..5_000).map(noise)).is_empty());
        let noisy = (0..5_000).map(|i| 2.3 * (-(i as f64) / 100.0).exp() + 0.05 * (1.0 + noise(i)));
        assert!(told(3.0, noisy).is_empty());
        assert!(told(3.0, [1.0; 400]).is_empty() && told(3.0, [0.0; 400]).is_empty());
    }

    #[test]
    fn a_loss_that_rises_is_told_once() {
        // Falls to 0.3, and rises to 5 from step 500 on.
        let loss = |i: usize| if i < 500 { 0.3 + 2.0 * (-(i as f64) / 60.0).exp() } else { 5.0 };
        let found = told(3.0, (0..2_000).map(loss));
        assert_eq!(found.len(), 1);
        assert!((505..520).contains(&found[0]), "{found:?}");
        // Again after it came down.
        let twice = told(3.0, (0..2_000).map(|i| if (500..700).contains(&i) || i > 1_500 { 5.0 } else { 0.5 }));
        assert_eq!(twice.len(), 2, "{twice:?}");
        // Not again while the mean stays above half of the way.
        let hovers = |i: usize| match i {
            500..700 | 2_000.. => 5.0,
            700..2_000 => 1.2,
            _ => 0.5,
        };
        assert_eq!(told(3.0, (0..3_000).map(hovers)).len(), 1);
        // A loss that is negative by nature: from -20 to 25.
        let negative =
            told(3.0, (0..1_000).map(|i| if i < 500 { 5.0 - 25.0 * (i as f64 / 300.0).min(1.0) } else { 25.0 }));
        assert_eq!(negative.len(), 1);
    }

    #[test]
    fn one_batch_is_no_divergence() {
        let mut losses = vec![1.0; 400];
        losses[200] = 1e30;
        losses[300] = f64::MAX;
        assert!(told(3.0, losses).is_empty());
    }

    /// The verdict is that of the definition, computed anew at every step.
    #[test]
    fn the_verdict_is_that_of_the_definition() {
        let losses: Vec<f64> =
            (0..900).map(|i| 2.0 + noise(i) + if i > 300 { (i - 300) as f64 / 40.0 } else { 0.0 }).collect();
        let as_read: Vec<f64> = losses.iter().map(|loss| f64::from(*loss as f32)).collect();
        let first = as_read[..50].iter().sum::<f64>() / 50.0;
        let deviation = as_read[..50].iter().map(|l| (l - first).abs()).sum::<f64>() / 50.0;
        let (mut mean, mut least, mut expected) = (first, first, None);
        for (step, loss) in as_read.iter().enumerate().skip(50) {
            let rise = 2.0 * [f64::abs(least), first / 10.0, deviation].into_iter().fold(0.0, f64::max);
            mean = mean * 0.98 + 0.02 * loss.min(least + 4.0 * rise);
            least = mean.min(least);
            if expected.is_none() && mean > least + rise {
                expected = Some(step);
            }
        }
        assert!(expected.is_some());
        assert_eq!(told(3.0, losses).first().copied(), expected);
    }

    #[test]
    fn passes_of_a_step_are_one_mean() {
        let mut trend = LossTrend::new(3.0);
        trend.add([1.0, 3.0, f32::NAN].into_iter());
        trend.add([5.0].into_iter());
        assert_eq!(trend.open, (9.0, 3));
        assert!(trend.end_step().is_none() && trend.first == [3.0]);
        trend.add([7.0].into_iter());
        trend.forget_step();
        assert!(trend.end_step().is_none() && trend.first.len() == 1);
    }
}
