//! What an optimizer shows of Adam, and what its step multiplies a gradient by: `D = 1/(√v̂ + ε)`.
//!
//! In a factored layer the product of a gradient `δ aᵀ` with a matrix is no outer product. There `v̂` is replaced by
//! `r cᵀ / mean(v̂)`, of its row means `r` and its column means `c` (Shazeer and Stern 2018, arXiv 1804.04235), which
//! scales the two factors.

use super::handle::Recorder;
use super::layer_rates::rate_factors;
use super::message::Gradients;
use super::preconditioner::Preconditioner;
use super::state::State;
use crate::step::{AdamStep, SecondMoments, StepReport, StepRule};
use crate::taps::{wide_weighted_norm, Placed, Registered};
use candle_core::{Device, Result, Tensor};
use gradlog_kernels::simd::vectorized;
use std::sync::Arc;

/// What the optimizer shows of Adam, after its last step.
pub(super) struct Moments {
    pub second: SecondMoments,
    pub step: AdamStep,
    /// The step before which they were read.
    pub read_at: u64,
    /// What was made of them, if a probe has asked.
    pub made: Option<Arc<Preconditioner>>,
    /// Layers whose next learning rate differs from that of the step: number, and ratio of the two.
    pub rate_factors: Vec<(u32, f32)>,
}

/// `D ≈ delta inputᵀ`.
#[derive(Debug, Clone)]
pub(super) struct FactorScales {
    input: Placed<f32>,
    delta: Placed<f32>,
}

impl Recorder {
    /// Reads what the optimizer shows of Adam: call it after the optimizer's step, in a loop that calls `commit` and
    /// `step` itself. [`Pass::backward_step`](crate::Pass::backward_step) does it by itself. From then on:
    ///
    /// - Visits also get the squared norm of their gradient in Adam's metric, `Σ g²/(√v̂ + ε)`, so that self-influence
    ///   follows the steps that Adam took. The numbers are read again after an eighth of the optimizer's steps so far,
    ///   and after 64 at most. If nobody calls this for 64 steps, visits get no such norm.
    /// - Probes are also recorded multiplied by `1/(√v̂ + ε)`, so that TracIn does. The numbers are read when a probe
    ///   is recorded.
    ///
    /// In a resumed training call it once before the first pass, with the optimizer's loaded state. Without it the
    /// visits of the first step have no such norm.
    ///
    /// It does nothing for an optimizer without second moments ([`StepReport::second_moments`]).
    ///
    /// # Cost
    /// A handle to each moment. Reading takes as long as one to four steps of the optimizer, in the training's thread.
    /// On another device it is a few of candle's ops there, and nothing waits; for probes the moments are copied to
    /// main memory, and the training waits for that copy. Of each parameter of the layers that are recorded as sums
    /// over positions 2 bytes are held where the gradients are sketched, and 5 more in main memory while probes are
    /// recorded; for a moment 8 for each of the largest layer. Each visit takes 4 bytes more.
    pub fn read_moments(&mut self, optimizer: &impl StepReport) {
        let Some(state) = self.state.as_mut().filter(|state| !state.layers.is_empty()) else { return };
        state.moments = Moments::of(optimizer, state);
    }
}

impl Moments {
    fn of(optimizer: &impl StepReport, state: &State) -> Option<Self> {
        // What is reported is the next step.
        let info = optimizer.step_info();
        let next = info.rule.and_then(StepRule::adam)?;
        let steps_taken = next.steps_taken.checked_sub(1).filter(|taken| *taken > 0)?;
        let second = optimizer.second_moments()?;
        let rate_factors = rate_factors(&state.layers, &info).unwrap_or_default();
        let step = AdamStep { steps_taken, ..next };
        Some(Self { second, step, read_at: state.step, made: None, rate_factors })
    }
}

/// `v̂` of all parameters of a layer, in their order. `None` if a variable of the layer is not known.
pub(super) fn read_layer(
    state: &State,
    layer: &Registered,
    second: &SecondMoments,
    step: &AdamStep,
) -> Result<Option<Vec<f32>>> {
    let mut all = Vec::new();
    for parameter in &layer.spec.parameters {
        let Some(variable) = state.taps.registry().variable_of(layer, parameter) else { return Ok(None) };
        let count = parameter.shape.elem_count();
        match second.read(variable)? {
            Some((moments, steps)) if moments.len() == count => {
                let correction = step.second_correction(steps);
                // A correction that leaves f32 would make an element that never moved of one that did.
                let corrected = |v: &f32| (v * correction).min(f32::MAX);
                let from = all.len();
                all.resize(from + count, 0.0);
                vectorized(
                    #[inline(always)]
                    || all[from..].iter_mut().zip(&moments).for_each(|(to, v)| *to = corrected(v)),
                );
            }
            Some(_) => return Ok(None),
            // The optimizer has not moved it.
            None => all.extend(std::iter::repeat_n(0.0, count)),
        }
    }
    Ok(Some(all))
}

impl FactorScales {
    /// For a weight `[outputs, inputs]`, and the bias behind it if there are more moments. An input of 1 stands for the
    /// bias, and is not scaled: what it should be multiplied by is moved to the output gradient. All is times `factor`.
    pub(super) fn new(moments: &[f32], (inputs, outputs): (usize, usize), step: &AdamStep, factor: f32) -> Self {
        let (weight, bias) = moments.split_at((inputs * outputs).min(moments.len()));
        let mut rows = vec![0f64; outputs];
        let mut columns = vec![0f64; inputs];
        vectorized(
            #[inline(always)]
            || {
                for (row, sum) in weight.chunks_exact(inputs.max(1)).zip(&mut rows) {
                    row.iter().zip(&mut columns).for_each(|(v, column)| *column += f64::from(*v));
                    *sum = sum_f64(row);
                }
            },
        );
        let of_bias = sum_f64(bias);
        rows.iter_mut().zip(bias).for_each(|(sum, v)| *sum += f64::from(*v));
        let total: f64 = rows.iter().sum();
        // v̂ = r cᵀ / total, with sums in the place of means: their factors cancel.
        let root = |v: f64| inverse_root(v, step.epsilon);
        let (base, unit) = if bias.is_empty() || of_bias == 0.0 { (total, 1.0) } else { (of_bias, of_bias / total) };
        let input: Vec<f32> = columns.iter().map(|column| root(column / base)).collect();
        let delta: Vec<f32> = rows.iter().map(|row| factor * root(row * unit)).collect();
        Self { input: Placed::here(input), delta: Placed::here(delta) }
    }

    /// Those that were made on a device.
    pub(super) fn there(input: Tensor, delta: Tensor) -> Self {
        Self { input: Placed::there(input), delta: Placed::there(delta) }
    }

    /// Brings them to main memory. This waits for the device that they were made on.
    pub(super) fn read(&self) -> Result<()> {
        self.input.read()?;
        self.delta.read().map(|_| ())
    }

    /// What columns and rows of the weight are multiplied by.
    pub(super) fn into_sides(self) -> (Placed<f32>, Placed<f32>) {
        (self.input, self.delta)
    }

    /// `‖D^{1/2} δ aᵀ‖²`, and with `bias` that of the bias. They must have been read.
    pub(super) fn squared_norm(&self, input: &[f32], delta: &[f32], bias: bool) -> f64 {
        let bias = f64::from(u8::from(bias));
        wide_weighted_norm(delta, self.delta.get()) * (wide_weighted_norm(input, self.input.get()) + bias)
    }

    pub(super) fn apply(&self, input: &Tensor, delta: &Tensor, rows: usize) -> Result<Gradients> {
        let scale = |tensor: &Tensor, scales: &[f32]| {
            let scales = Tensor::from_slice(scales, (1, scales.len()), &Device::Cpu)?;
            tensor.reshape((rows, scales.elem_count()))?.broadcast_mul(&scales)
        };
        Ok(Gradients::Factored { input: scale(input, self.input.read()?)?, delta: scale(delta, self.delta.read()?)? })
    }
}

/// Their sum in f64, in lanes.
#[inline(always)]
pub(super) fn sum_f64(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 16];
    let chunks = values.chunks_exact(16);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v)).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane += f64::from(*v));
    }
    lanes.iter().sum::<f64>() + rest
}

/// `factor/(√v + ε)` of many numbers, as [`inverse_root`] has it.
pub(super) fn inverse_roots(v: &[f32], epsilon: f64, factor: f32) -> Vec<f32> {
    let (epsilon, mut out) = (epsilon as f32, vec![0f32; v.len()]);
    vectorized(
        #[inline(always)]
        || {
            for (out, v) in out.iter_mut().zip(v) {
                let root = factor / (v.sqrt() + epsilon);
                *out = if *v > 0.0 { root } else { 0.0 };
            }
        },
    );
    out
}

/// `1/(√v + ε)`, and 0 for an element that never had a gradient: no step has moved it.
pub(super) fn inverse_root(v: f64, epsilon: f64) -> f32 {
    if v > 0.0 {
        (1.0 / (v.sqrt() + epsilon)) as f32
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_rank_one_is_scaled_exactly() {
        let (r, c, b) = ([1.0f64, 4.0, 0.25], [2.0f64, 0.0, 0.5, 8.0], 3.0f64);
        let step = AdamStep::new((0.9, 0.999), 0.0, 1);
        for with_bias in [true, false] {
            let mut moments: Vec<f32> = r.iter().flat_map(|r| c.iter().map(move |c| (r * c) as f32)).collect();
            if with_bias {
                moments.extend(r.iter().map(|r| (r * b) as f32));
            }
            let scales = FactorScales::new(&moments, (4, 3), &step, 1.0);
            let (input, delta) = (scales.input.get(), scales.delta.get());
            for (i, r) in r.iter().enumerate() {
                for (j, c) in c.iter().enumerate() {
                    let right = if *c == 0.0 { 0.0 } else { 1.0 / (r * c).sqrt() };
                    let made = f64::from(delta[i]) * f64::from(input[j]);
                    assert!((made - right).abs() < 1e-6, "{i} {j}: {made} {right}");
                }
                if with_bias {
                    let right = 1.0 / (r * b).sqrt();
                    assert!((f64::from(delta[i]) - right).abs() < 1e-6, "{i}: {} {right}", delta[i]);
                }
            }
        }
    }
}
