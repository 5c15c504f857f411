//! A step of Adam or AdamW, backwards.
//!
//! With `U_w`, `U_m` and `U_v` the derivatives of the final loss by weights, first and second moment after the step,
//! `D = 1/(√v̂ + ε)` and `S = m̂/(2√v̂(√v̂ + ε)²)`, which is 0 where `v̂ = 0`:
//!
//! ```text
//! U_m ← U_m − η D U_w/(1 − β₁ᵗ)        U_v ← U_v + η S U_w/(1 − β₂ᵗ)
//! q = (1 − β₁) U_m + 2(1 − β₂) G U_v   the derivative by the step's gradient G
//! U_w ← (1 − ηλ) U_w + H q             with the curvature H of the step
//! U_m ← β₁ U_m                         U_v ← β₂ U_v
//! ```
//!
//! A number that stands for `n` parameters holds a sum of their gradients with random signs, and `v̂` in it a sum of
//! theirs. Their mean `v̂/n` is then taken for each of them.

use super::moments::{power, StepMoments};
use super::settings::Setting;
use crate::rows::adam_steps::AdamStep;

/// The derivatives that go along: of each block, matrices `[probes, width]`.
pub(super) struct AdamAdjoint {
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    /// The derivative by the gradient of the step at hand.
    pub gradient: Vec<Vec<f32>>,
    /// What the two become when the step is left.
    kept: (f32, f32),
}

/// `ηD/(1 − β₁ᵗ)` and `ηS/(1 − β₂ᵗ)` of some numbers.
fn coefficients(step: &AdamStep, (m, v): (&[f32], &[f32]), rate: f64, pool: f32) -> (Vec<f32>, Vec<f32>) {
    let (of_first, of_second) = (1.0 - power(step.beta1, step.taken), 1.0 - power(step.beta2, step.taken));
    let pool = f64::from(pool);
    let of_number = |(m, v): (&f32, &f32)| {
        let (m, v) = (f64::from(*m) / of_first, f64::from(*v) / of_second);
        if v <= 0.0 {
            return (0.0, 0.0);
        }
        let root = (v / pool).sqrt();
        let metric = root + step.epsilon;
        let (d, s) = (1.0 / metric, m / (2.0 * root * pool * metric * metric));
        ((rate * d / of_first) as f32, (rate * s / of_second) as f32)
    };
    m.iter().zip(v).map(of_number).unzip()
}

impl AdamAdjoint {
    pub(super) fn new(widths: &[usize], probes: usize) -> Self {
        let zeros = || widths.iter().map(|width| vec![0f32; probes * width]).collect::<Vec<_>>();
        Self { first: zeros(), second: zeros(), gradient: zeros(), kept: (0.0, 0.0) }
    }

    /// Comes to a step. `a` is the derivative by the weights, first after the step and then before it, but for the
    /// curvature. `passed` is how many steps lie between it and the row of the step before.
    pub(super) fn begin(
        &mut self,
        a: &mut [Vec<f32>],
        settings: &[Vec<Setting>],
        (step, rate, decay, passed): (&AdamStep, f32, f32, u64),
        moments: &StepMoments,
    ) {
        let (of_gradient, of_square) = ((1.0 - step.beta1) as f32, 2.0 * (1.0 - step.beta2) as f32);
        for (block, settings) in settings.iter().enumerate() {
            let (m, v, g) = (&moments.first[block], &moments.second[block], &moments.gradient[block]);
            let width = g.len().max(1);
            for Setting { places, rate: factor, decay: own, pool } in settings {
                let rate = rate * factor;
                let (d, s) = coefficients(step, (&m[places.clone()], &v[places.clone()]), f64::from(rate), *pool);
                let kept = 1.0 - rate * own.unwrap_or(decay);
                let g = &g[places.clone()];
                for probe in 0..a[block].len() / width {
                    let at = probe * width + places.start..probe * width + places.end;
                    let a = &mut a[block][at.clone()];
                    let first = &mut self.first[block][at.clone()];
                    let second = &mut self.second[block][at.clone()];
                    let gradient = &mut self.gradient[block][at];
                    for k in 0..g.len() {
                        first[k] -= d[k] * a[k];
                        second[k] += s[k] * a[k];
                        gradient[k] = of_gradient * first[k] + of_square * g[k] * second[k];
                        a[k] *= kept;
                    }
                }
            }
        }
        // The optimizer's first step begins with moments of 0, whatever came before.
        self.kept = match step.taken {
            1 => (0.0, 0.0),
            _ => (power(step.beta1, passed) as f32, power(step.beta2, passed) as f32),
        };
    }

    /// Leaves the step at hand.
    pub(super) fn end(&mut self) {
        let (of_first, of_second) = self.kept;
        self.first.iter_mut().flatten().for_each(|first| *first *= of_first);
        self.second.iter_mut().flatten().for_each(|second| *second *= of_second);
    }
}
