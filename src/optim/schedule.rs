//! Learning rates over time, as factors of the highest one.
//!
//! ```
//! use candle_nn::Optimizer;
//! use gradlog::optim::{schedule, AdamW, AdamConfig};
//!
//! let mut optimizer = AdamW::new(vec![], AdamConfig::new(0.0))?;
//! let (highest, steps, warmup) = (3e-4, 1000, 100);
//! for step in 0..steps {
//!     optimizer.set_learning_rate(highest * schedule::warmup(step, warmup) * schedule::cosine(step, steps));
//!     // forward, backward, step
//! }
//! # Ok::<(), candle_core::Error>(())
//! ```

/// A linear rise: `(step + 1) / steps` in the first `steps` steps, then 1. The first step is 0.
pub fn warmup(step: usize, steps: usize) -> f64 {
    if step >= steps {
        return 1.0;
    }
    (step + 1) as f64 / steps as f64
}

/// A linear fall from 1 at step 0 to 0 at step `steps` and later.
pub fn linear(step: usize, steps: usize) -> f64 {
    1.0 - passed(step, steps)
}

/// A fall along half a cosine, from 1 at step 0 to 0 at step `steps` and later (Loshchilov and Hutter 2017, without
/// restarts).
pub fn cosine(step: usize, steps: usize) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * passed(step, steps)).cos())
}

/// A division by 1/`factor` every `every` steps: `factor^⌊step / every⌋`. With `every` 0 it is 1.
pub fn decay(step: usize, every: usize, factor: f64) -> f64 {
    match step.checked_div(every) {
        Some(times) => factor.powf(times as f64),
        None => 1.0,
    }
}

/// The share of the training that has passed.
fn passed(step: usize, steps: usize) -> f64 {
    if step >= steps {
        return 1.0;
    }
    step as f64 / steps as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_have_their_ends_and_middle() {
        assert_eq!([0, 1, 3, 4, 9].map(|step| warmup(step, 4)), [0.25, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!([0, 2, 4, 9].map(|step| linear(step, 4)), [1.0, 0.5, 0.0, 0.0]);
        assert_eq!([0, 1, 2, 5].map(|step| decay(step, 2, 0.5)), [1.0, 1.0, 0.5, 0.25]);
        let [start, third, middle, end, after] = [0, 2, 3, 6, 9].map(|step| cosine(step, 6));
        assert_eq!([start, end, after], [1.0, 0.0, 0.0]);
        assert!((third - 0.75).abs() < 1e-12 && (middle - 0.5).abs() < 1e-12);
        assert_eq!([warmup(0, 0), linear(0, 0), cosine(0, 0), decay(7, 0, 0.1)], [1.0, 0.0, 0.0, 1.0]);
    }
}
