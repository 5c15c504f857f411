//! A step of SGD with momentum, backwards.

use super::settings::Setting;

/// What the optimizer told of the step at hand.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SgdStep {
    pub rate: f32,
    pub momentum: f32,
    pub decay: f32,
    pub is_nesterov: bool,
    /// Whether the velocity was empty before it, so that momentum has nothing to keep.
    pub begins: bool,
}

/// The derivative that goes along beside that by the weights: of each block, a matrix `[probes, width]`.
pub(super) struct SgdAdjoint {
    /// Derivative of the final loss by the momentum buffer after the step at hand. During a step, that by the step's
    /// gradient: it is the same, unless Nesterov's step also takes the gradient itself.
    pub gradient: Vec<Vec<f32>>,
    /// In a step with Nesterov momentum, what the gradient's derivative has beyond that of the buffer, negated.
    direct: Vec<Vec<f32>>,
    momentum: f32,
}

impl SgdAdjoint {
    pub(super) fn new(widths: &[usize], probes: usize) -> Self {
        let zeros = widths.iter().map(|width| vec![0f32; probes * width]).collect();
        Self { gradient: zeros, direct: Vec::new(), momentum: 0.0 }
    }

    /// Comes to a step. `a` is the derivative by the weights, first after the step and then before it, but for the
    /// curvature.
    pub(super) fn begin(&mut self, a: &mut [Vec<f32>], settings: &[Vec<Setting>], widths: &[usize], step: SgdStep) {
        self.direct.clear();
        for (block, (a, b)) in a.iter_mut().zip(&mut self.gradient).enumerate() {
            let width = widths[block].max(1);
            let mut of_direct = if step.is_nesterov { vec![0f32; a.len()] } else { Vec::new() };
            for Setting { places, rate: factor, decay: own, .. } in &settings[block] {
                let (rate, decay) = (step.rate * factor, own.unwrap_or(step.decay));
                // `w ← w − η(d + μv)` in the place of `w ← w − ηv`.
                let (of_buffer, direct) = if step.is_nesterov { (rate * step.momentum, rate) } else { (rate, 0.0) };
                for probe in 0..a.len() / width {
                    let at = probe * width + places.start..probe * width + places.end;
                    if step.is_nesterov {
                        of_direct[at.clone()].iter_mut().zip(&a[at.clone()]).for_each(|(d, a)| *d = rate * a);
                    }
                    for (a, b) in a[at.clone()].iter_mut().zip(&mut b[at]) {
                        *b -= (of_buffer + direct) * *a;
                        *a += decay * *b;
                    }
                }
            }
            if step.is_nesterov {
                self.direct.push(of_direct);
            }
        }
        self.momentum = if step.begins { 0.0 } else { step.momentum };
    }

    /// Leaves the step at hand.
    pub(super) fn end(&mut self) {
        // The buffer of the step before has a part in this one, the gradient has none.
        for (b, direct) in self.gradient.iter_mut().zip(&self.direct) {
            b.iter_mut().zip(direct).for_each(|(b, direct)| *b += direct);
        }
        self.direct.clear();
        let momentum = self.momentum;
        self.gradient.iter_mut().flatten().for_each(|b| *b *= momentum);
    }
}
