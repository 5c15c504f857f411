//! Adam's metric: what a probe's gradient is multiplied by, so that TracIn follows the steps that Adam took.
//!
//! A step of Adam moves the weights by `η · D m̂` with `D = 1/(√v̂ + ε)`, element by element. So an example's gradient
//! `g` lowers the loss of a probe `z'` by about `η ⟨g, D g'⟩`. Only the probe is multiplied by `D`: visits stay as they
//! are.
//!
//! The sum over positions of a folded layer is multiplied before it is folded. Where `v̂` is small it is multiplied by
//! much, and what a fold of `m` numbers adds in noise grows with it. So `ε` is raised to what the fold resolves, see
//! [`RESOLVED`]; where no two parameters share a number, it stays.
//!
//! In a factored layer the product of a gradient `δ aᵀ` with a matrix is no outer product. There `v̂` is replaced by
//! `r cᵀ / mean(v̂)`, of its row means `r` and its column means `c` (Shazeer and Stern 2018, arXiv 1804.04235), which
//! scales the two factors.

use super::error::RecordError;
use super::handle::Recorder;
use super::message::{Batch, Gradients, LayerGradients};
use super::pass_core::PassCore;
use super::state::State;
use crate::step::{AdamStep, SecondMoments, StepReport, StepRule};
use crate::taps::{fold_uses, move_to_host, FoldedGradients, LazyFold, PerExample, Registered, SharedFold};
use candle_core::{Device, Result, Tensor};
use gradlog_format::sketch::Form;
use std::sync::Arc;

/// In folded layers `ε` is raised by `√(RESOLVED · s · Σ v̂ / m)`: the sum is over all folded parameters, `s` is its
/// share of the sum over all parameters, and `m` is the length of the folded vector. So it is raised little where most
/// of the gradient is in factored layers. Without it, scores of a transformer with default sketches are worse than
/// those of plain SGD; from 0.02 to 2 they are better (`benches/results/2026-11-29-optimizers.md`).
const RESOLVED: f64 = 0.02;

/// What the optimizer shows of Adam, after its last step.
pub(super) struct Moments {
    second: SecondMoments,
    step: AdamStep,
    /// What was made of them, if a probe has asked.
    made: Option<Arc<Preconditioner>>,
}

/// `D` of all layers, at one step.
pub(super) struct Preconditioner {
    /// The folded vector of the passes that use it.
    pub shared: Arc<SharedFold>,
    /// Of each layer, the projection that also gives the sketch of `D g`.
    pub folds: Vec<Arc<LazyFold>>,
    /// Of each layer that may be factored, what its two factors are multiplied by.
    factors: Vec<Option<FactorScales>>,
}

/// `D ≈ delta inputᵀ`.
#[derive(Debug, Clone, PartialEq)]
struct FactorScales {
    input: Vec<f32>,
    delta: Vec<f32>,
}

/// Whether a batch is to be recorded preconditioned as well, or is already that record.
#[derive(Clone)]
pub(super) enum Preconditioning {
    None,
    Wanted(Arc<Preconditioner>),
    Done,
}

impl Recorder {
    /// Reads what the optimizer shows of Adam: call it after the optimizer's step, in a loop that calls `commit` and
    /// `step` itself. [`Pass::backward_step`](crate::Pass::backward_step) does it by itself. Later probes are then also
    /// recorded multiplied by `1/(√v̂ + ε)`, so that TracIn follows the steps that Adam took. The numbers are read when
    /// a probe is recorded.
    ///
    /// It does nothing for an optimizer without second moments ([`StepReport::second_moments`]).
    ///
    /// # Cost
    /// A handle to each moment. While probes are recorded, 5 bytes for each parameter of the layers that are recorded
    /// as sums over positions, and for a moment 8 for each of the largest layer.
    pub fn read_moments(&mut self, optimizer: &impl StepReport) {
        let Some(state) = self.state.as_mut().filter(|state| !state.layers.is_empty()) else { return };
        state.moments = Moments::of(optimizer);
    }

    /// Gives the layers their own projections back, after a pass with a preconditioner.
    pub(super) fn set_own_folds(&self) {
        let Some(state) = &self.state else { return };
        for (layer, fold) in state.layers.iter().zip(&state.folds) {
            layer.slot.set_fold(Some(fold.clone()));
        }
    }
}

impl Moments {
    fn of(optimizer: &impl StepReport) -> Option<Self> {
        // What is reported is the next step.
        let next = optimizer.step_info().rule.and_then(StepRule::adam)?;
        let steps_taken = next.steps_taken.checked_sub(1).filter(|taken| *taken > 0)?;
        let second = optimizer.second_moments()?;
        Some(Self { second, step: AdamStep { steps_taken, ..next }, made: None })
    }
}

impl PassCore<'_> {
    /// Records the pass preconditioned as well, if the moments of all layers are known.
    pub(super) fn precondition(&mut self) -> std::result::Result<(), RecordError> {
        if !self.is_recorded() {
            return Ok(());
        }
        let Some(state) = &mut self.recorder.state else { return Ok(()) };
        let Some(preconditioner) = Preconditioner::find(state)? else { return Ok(()) };
        for (layer, fold) in state.layers.iter().zip(&preconditioner.folds) {
            layer.slot.set_fold(Some(fold.clone()));
        }
        self.preconditioner = Some(preconditioner);
        Ok(())
    }
}

impl Preconditioner {
    /// The one of the last step, made once.
    fn find(state: &mut State) -> Result<Option<Arc<Self>>> {
        let Some(moments) = &state.moments else { return Ok(None) };
        if let Some(made) = &moments.made {
            return Ok(Some(made.clone()));
        }
        // Of a layer whose form is still open, it is not known whether the folded vector's length is decided.
        let decided =
            state.shared_fold.known_width().is_some() || state.forms.iter().all(|form| form == &Some(Form::Factored));
        if !decided || state.layers.is_empty() {
            return Ok(None);
        }
        let made = Self::new(state, &moments.second, &moments.step)?.map(Arc::new);
        if let (Some(moments), Some(made)) = (&mut state.moments, &made) {
            moments.made = Some(made.clone());
        }
        Ok(made)
    }

    /// `None` if a layer's variables are not known.
    fn new(state: &State, second: &SecondMoments, step: &AdamStep) -> Result<Option<Self>> {
        let shared = Arc::new(state.shared_fold.with_preconditioned());
        let (mut folds, mut factors) = (Vec::new(), Vec::new());
        let Some(raised) = raised_epsilon(state, second, step)? else { return Ok(None) };
        for (layer, fold) in state.layers.iter().zip(&state.folds) {
            let Some(moments) = read_layer(state, layer, second, step)? else { return Ok(None) };
            factors
                .push(layer.spec.factors.map(|(inputs, outputs)| FactorScales::new(&moments, inputs, outputs, step)));
            // A layer that is recorded by factors stays so, and needs no weights.
            if state.forms[folds.len()] == Some(Form::Factored) {
                folds.push(fold.clone());
                continue;
            }
            let weights = moments.iter().map(|v| inverse_root(*v, raised)).collect::<Vec<f32>>();
            folds.push(Arc::new(fold.with_preconditioned(weights.into(), shared.clone())));
        }
        Ok(Some(Self { shared, folds, factors }))
    }

    /// Takes the preconditioned record out of a batch: what is left in it is the plain one.
    fn split(&self, batch: &mut Batch) -> Result<Batch> {
        let (rows, buckets) = (batch.ids.len(), self.shared.buckets());
        let mut layers = Vec::with_capacity(batch.layers.len());
        for own in &mut batch.layers {
            let fold = || match self.folds[own.layer].get() {
                fold if fold.outputs() == 2 * buckets => Ok(fold),
                // Recorded by factors before, which a run keeps.
                _ => candle_core::bail!("a factored layer gave sums: please report this as a bug in gradlog"),
            };
            let taken = std::mem::replace(&mut own.gradients, Gradients::Zero);
            let (plain, scaled) = match taken {
                Gradients::Factored { input, delta } => {
                    let (input, delta) = (move_to_host(&input)?, move_to_host(&delta)?);
                    let scaled = match &self.factors[own.layer] {
                        Some(scales) => scales.apply(&input, &delta, rows)?,
                        None => Gradients::Zero,
                    };
                    (Gradients::Factored { input, delta }, scaled)
                }
                Gradients::Zero => (Gradients::Zero, Gradients::Zero),
                Gradients::Folded(folded) => fold().map(|_| split_sketches(folded, buckets))?,
                Gradients::Uses { layer, uses } => {
                    let uses =
                        uses.iter().map(|(x, d)| layer.per_example(x, d)).collect::<Result<Vec<PerExample>>>()?;
                    split_sketches(fold_uses(&uses, fold()?, rows)?, buckets)
                }
                Gradients::Given(given) => split_sketches(fold_uses(&given, fold()?, rows)?, buckets),
            };
            own.gradients = plain;
            layers.push(LayerGradients { layer: own.layer, weighted: own.weighted, gradients: scaled });
        }
        let (plain, folded) = match batch.folded.take() {
            Some(sums) => {
                let (plain, scaled) = split_rows(&sums, self.shared.buckets());
                (Some(plain), Some(scaled))
            }
            None => (None, None),
        };
        batch.folded = plain;
        Ok(Batch {
            kind: batch.kind,
            replayed: batch.replayed,
            ids: batch.ids.clone(),
            step: batch.step,
            epoch: batch.epoch,
            outputs: batch.outputs.clone(),
            coefficients: batch.coefficients.clone(),
            curvature: None,
            layers,
            no_gradient: batch.no_gradient,
            folded,
            preconditioning: Preconditioning::Done,
        })
    }
}

impl Batch {
    /// Whether its gradients are multiplied by a preconditioner.
    pub(super) fn is_preconditioned(&self) -> bool {
        matches!(self.preconditioning, Preconditioning::Done)
    }

    /// Takes the preconditioned record out, if one is wanted.
    pub(super) fn take_preconditioned(&mut self) -> Result<Option<Batch>> {
        match std::mem::replace(&mut self.preconditioning, Preconditioning::None) {
            Preconditioning::Wanted(preconditioner) => preconditioner.split(self).map(Some),
            other => {
                self.preconditioning = other;
                Ok(None)
            }
        }
    }
}

impl FactorScales {
    /// For a weight `[outputs, inputs]`, and the bias behind it if there are more moments. An input of 1 stands for the
    /// bias, and is not scaled: what it should be multiplied by is moved to the output gradient.
    fn new(moments: &[f64], inputs: usize, outputs: usize, step: &AdamStep) -> Self {
        let (weight, bias) = moments.split_at((inputs * outputs).min(moments.len()));
        let mut rows = vec![0f64; outputs];
        let mut columns = vec![0f64; inputs];
        for (row, sum) in weight.chunks_exact(inputs.max(1)).zip(&mut rows) {
            for (v, column) in row.iter().zip(&mut columns) {
                *sum += v;
                *column += v;
            }
        }
        let of_bias: f64 = bias.iter().sum();
        rows.iter_mut().zip(bias).for_each(|(sum, v)| *sum += v);
        let total: f64 = rows.iter().sum();
        // v̂ = r cᵀ / total, with sums in the place of means: their factors cancel.
        let root = |v: f64| inverse_root(v, step.epsilon);
        let (base, unit) = if bias.is_empty() || of_bias == 0.0 { (total, 1.0) } else { (of_bias, of_bias / total) };
        let input = columns.iter().map(|column| root(column / base)).collect();
        let delta = rows.iter().map(|row| root(row * unit)).collect();
        Self { input, delta }
    }

    fn apply(&self, input: &Tensor, delta: &Tensor, rows: usize) -> Result<Gradients> {
        let scale = |tensor: &Tensor, scales: &[f32]| {
            let scales = Tensor::from_slice(scales, (1, scales.len()), &Device::Cpu)?;
            tensor.reshape((rows, scales.elem_count()))?.broadcast_mul(&scales)
        };
        Ok(Gradients::Factored { input: scale(input, &self.input)?, delta: scale(delta, &self.delta)? })
    }
}

/// `1/(√v + ε)`, and 0 for an element that never had a gradient: no step has moved it.
fn inverse_root(v: f64, epsilon: f64) -> f32 {
    if v > 0.0 {
        (1.0 / (v.sqrt() + epsilon)) as f32
    } else {
        0.0
    }
}

/// The raised `ε` of the folded layers. `None` if one of their variables is not known.
fn raised_epsilon(state: &State, second: &SecondMoments, step: &AdamStep) -> Result<Option<f64>> {
    let (mut all, mut folded, mut parameters) = (0.0, 0.0, 0);
    for (layer, form) in state.layers.iter().zip(&state.forms) {
        let Some(moments) = read_layer(state, layer, second, step)? else { return Ok(None) };
        let sum = moments.iter().sum::<f64>();
        all += sum;
        if form != &Some(Form::Factored) {
            folded += sum;
            parameters += moments.len();
        }
    }
    let buckets = state.shared_fold.buckets();
    // Where no two parameters share a number, there is no noise.
    let is_hashed = parameters > buckets && all > 0.0;
    let noise = if is_hashed { RESOLVED * folded * (folded / all) / buckets as f64 } else { 0.0 };
    Ok(Some(step.epsilon + noise.sqrt()))
}

/// `v̂` of all parameters of a layer, in their order. `None` if a variable of the layer is not known.
fn read_layer(state: &State, layer: &Registered, second: &SecondMoments, step: &AdamStep) -> Result<Option<Vec<f64>>> {
    let mut all = Vec::new();
    for parameter in &layer.spec.parameters {
        let Some(variable) = state.taps.registry().variable_of(layer, parameter) else { return Ok(None) };
        let count = parameter.shape.elem_count();
        match second.read(variable)? {
            Some((moments, steps)) if moments.len() == count => {
                let steps = i32::try_from(steps.unwrap_or(step.steps_taken)).unwrap_or(i32::MAX);
                let correction = 1.0 - step.beta2.powi(steps.max(1));
                all.extend(moments.iter().map(|v| f64::from(*v) / correction));
            }
            Some(_) => return Ok(None),
            // The optimizer has not moved it.
            None => all.extend(std::iter::repeat_n(0.0, count)),
        }
    }
    Ok(Some(all))
}

/// The plain and the preconditioned halves of each row.
fn split_rows(rows: &[f32], buckets: usize) -> (Vec<f32>, Vec<f32>) {
    let halves = || rows.chunks_exact(2 * buckets);
    (
        halves().flat_map(|row| &row[..buckets]).copied().collect(),
        halves().flat_map(|row| &row[buckets..]).copied().collect(),
    )
}

/// Norms of preconditioned gradients are made of their sketches, when all of them are added.
fn split_sketches(folded: FoldedGradients, buckets: usize) -> (Gradients, Gradients) {
    let FoldedGradients { sketches, squared_norms } = folded;
    let (plain, scaled) = split_rows(&sketches, buckets);
    let unknown = vec![0.0; squared_norms.len()];
    (
        Gradients::Folded(FoldedGradients { sketches: plain, squared_norms }),
        Gradients::Folded(FoldedGradients { sketches: scaled, squared_norms: unknown }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_rank_one_is_scaled_exactly() {
        let (r, c, b) = ([1.0, 4.0, 0.25], [2.0, 0.0, 0.5, 8.0], 3.0);
        let step = AdamStep::new((0.9, 0.999), 0.0, 1);
        for with_bias in [true, false] {
            let mut moments: Vec<f64> = r.iter().flat_map(|r| c.iter().map(move |c| r * c)).collect();
            if with_bias {
                moments.extend(r.iter().map(|r| r * b));
            }
            let scales = FactorScales::new(&moments, 4, 3, &step);
            for (i, r) in r.iter().enumerate() {
                for (j, c) in c.iter().enumerate() {
                    let right = if *c == 0.0 { 0.0 } else { 1.0 / (r * c).sqrt() };
                    let made = f64::from(scales.delta[i]) * f64::from(scales.input[j]);
                    assert!((made - right).abs() < 1e-6, "{i} {j}: {made} {right}");
                }
                if with_bias {
                    let right = 1.0 / (r * b).sqrt();
                    assert!((f64::from(scales.delta[i]) - right).abs() < 1e-6, "{i}: {} {right}", scales.delta[i]);
                }
            }
        }
    }
}
