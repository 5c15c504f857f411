//! Adam's metric: what a probe's gradient is multiplied by, so that TracIn follows the steps that Adam took.
//!
//! A step of Adam moves the weights by `η · D m̂` with `D = 1/(√v̂ + ε)`, element by element. So an example's gradient
//! `g` lowers the loss of a probe `z'` by about `η ⟨g, D g'⟩`. Only the probe is multiplied by `D`: visits stay as they
//! are, but for their norm (`metric.rs`).
//!
//! The sum over positions of a folded layer is multiplied before it is folded. Where `v̂` is small it is multiplied by
//! much, and what a fold of `m` numbers adds in noise grows with it. So `ε` is raised to what the fold resolves, see
//! [`RESOLVED`]; where no two parameters share a number, it stays.
//!
//! In a factored layer `D` is an outer product (`moments.rs`), which scales the two factors.

use super::error::RecordError;
use super::fence::Fence;
use super::message::{Batch, Gradients, LayerGradients};
use super::moments::{inverse_roots, read_layer, sum_f64, FactorScales};
use super::pass_core::PassCore;
use super::state::State;
use crate::step::{AdamStep, SecondMoments};
use crate::taps::{
    fold_uses, move_to_host, FoldedGradients, LazyFold, PerExample, Placed, SharedFold, SideScales, SquaredNorms,
};
use candle_core::Result;
use gradlog_format::sketch::Form;
use std::sync::Arc;

/// In folded layers `ε` is raised by `√(RESOLVED · s · Σ v̂ / m)`: the sum is over all folded parameters, `s` is its
/// share of the sum over all parameters, and `m` is the length of the folded vector. So it is raised little where most
/// of the gradient is in factored layers. Without it, scores of a transformer with default sketches are worse than
/// those of plain SGD; from 0.02 to 2 they are better (`benches/results/2026-11-29-optimizers.md`).
const RESOLVED: f64 = 0.02;

/// `D` of all layers, at one step.
pub(super) struct Preconditioner {
    /// The folded vector of the passes that use it.
    pub shared: Arc<SharedFold>,
    /// Of each layer, the projection that also gives the sketch of `D g`.
    pub folds: Vec<Arc<LazyFold>>,
    /// Of each layer that may be factored, what its two factors are multiplied by.
    factors: Vec<Option<FactorScales>>,
}

/// Whether a batch is to be recorded preconditioned as well, or is already that record.
#[derive(Clone)]
pub(super) enum Preconditioning {
    None,
    Wanted(Arc<Preconditioner>),
    Done,
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
            factors.push(
                layer.spec.factors.map(|(inputs, outputs)| FactorScales::new(&moments, (inputs, outputs), step, 1.0)),
            );
            // A layer that is recorded by factors stays so, and needs no weights.
            if state.forms[folds.len()] == Some(Form::Factored) {
                folds.push(fold.clone());
                continue;
            }
            if let Some(sides) = fold.sides() {
                let scales = scale_sides(&moments, sides.shape(), step, raised);
                folds.push(Arc::new(fold.with_scales(scales, shared.clone())));
                continue;
            }
            let weights = inverse_roots(&moments, raised, 1.0);
            folds.push(Arc::new(fold.with_preconditioned(Placed::here(weights), shared.clone())));
        }
        Ok(Some(Self { shared, folds, factors }))
    }

    /// Takes the preconditioned record out of a batch: what is left in it is the plain one.
    fn split(&self, batch: &mut Batch) -> Result<Batch> {
        let (rows, buckets) = (batch.ids.len(), self.shared.buckets());
        let mut layers = Vec::with_capacity(batch.layers.len());
        for own in &mut batch.layers {
            let fold = || match &self.folds[own.layer] {
                fold if fold.outputs() == 2 * buckets => Ok(&**fold),
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
                Gradients::OnDevice(sketch) => fold().and_then(|_| Ok(split_sketches(sketch.read()?, buckets)))?,
                Gradients::Uses { layer, uses } => {
                    let uses =
                        uses.iter().map(|(x, d)| layer.per_example(x, d)).collect::<Result<Vec<PerExample>>>()?;
                    split_sketches(fold_uses(&uses, fold()?, None, rows)?, buckets)
                }
                Gradients::Given(given) => split_sketches(fold_uses(&given, fold()?, None, rows)?, buckets),
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
            fence: Fence::default(),
            kind: batch.kind,
            replayed: batch.replayed,
            ids: batch.ids.clone(),
            step: batch.step,
            epoch: batch.epoch,
            outputs: batch.outputs.clone(),
            coefficients: batch.coefficients.clone(),
            unread: None,
            curvature: None,
            layers,
            bundle: None,
            no_gradient: batch.no_gradient,
            judged: false,
            folded,
            preconditioning: Preconditioning::Done,
            metric: None,
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

/// What a layer that is projected from both sides is multiplied by: its weight by an outer product, as a factored layer
/// is, its other parameters one by one.
fn scale_sides(moments: &[f32], (rows, columns): (usize, usize), step: &AdamStep, raised: f64) -> SideScales {
    let (weight, rest) = moments.split_at((rows * columns).min(moments.len()));
    let (of_columns, of_rows) = FactorScales::new(weight, (columns, rows), step, 1.0).into_sides();
    SideScales::new(of_rows, of_columns, Placed::here(inverse_roots(rest, raised, 1.0)))
}

/// The raised `ε` of the folded layers. `None` if one of their variables is not known.
fn raised_epsilon(state: &State, second: &SecondMoments, step: &AdamStep) -> Result<Option<f64>> {
    let (mut all, mut folded, mut parameters) = (0.0, 0.0, 0);
    for ((layer, form), fold) in state.layers.iter().zip(&state.forms).zip(&state.folds) {
        let Some(moments) = read_layer(state, layer, second, step)? else { return Ok(None) };
        let sum = sum_f64(&moments);
        all += sum;
        // A layer that is projected from both sides is scaled by outer products, which do not amplify single numbers.
        if form != &Some(Form::Factored) && fold.sides().is_none() {
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
    let FoldedGradients { sketches, squared_norms, estimated } = folded;
    let (plain, scaled) = split_rows(&sketches, buckets);
    let unknown = vec![SquaredNorms::default(); squared_norms.len()];
    (
        Gradients::Folded(FoldedGradients { sketches: plain, squared_norms, estimated }),
        Gradients::Folded(FoldedGradients { sketches: scaled, squared_norms: unknown, estimated }),
    )
}
