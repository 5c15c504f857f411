//! A pass: one forward and one backward over some examples, and what it hands to the background thread.

use super::loss::{self, Kind, Recorded};
use super::message::{Gradients, LayerGradients, PassKind, StepInfo};
use super::outputs::{Outputs, Reduction, Weighing};
use super::{RecordError, Recorder};
use crate::optim::Sgd;
use crate::taps::{host, FoldedGradients, Upstream};
use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use gradlog_format::log::PredictionScore;
use gradlog_kernels::simd::squared_norm;
use std::ops::{Deref, DerefMut};

/// One training pass: made by [`Recorder::pass`], ended by [`Pass::commit`]. While it lives the taps are armed.
///
/// Dropped without `commit`, it records nothing.
#[must_use = "a pass records nothing until it is committed"]
pub struct Pass<'r> {
    pub(super) recorder: &'r mut Recorder,
    pub(super) number: u64,
    pub(super) ids: Vec<u64>,
    pub(super) kind: PassKind,
    pub(super) weighing: Weighing,
    pub(super) ignored: Option<i64>,
    pub(super) mask: Option<Tensor>,
    pub(super) features: Option<Tensor>,
    pub(super) output_delta: Option<Tensor>,
    /// A setting that was made after the loss.
    pub(super) late: Option<&'static str>,
    pub(super) outputs: Option<(Outputs, Vec<f32>)>,
    pub(super) upstream: Upstream,
    pub(super) per_example: Vec<LayerGradients>,
    /// For rows of curvature, the weight of each.
    pub(super) curvature: Option<Vec<f32>>,
}

/// A pass over probes, the examples one asks questions about: made by [`Recorder::probe`] or by a
/// [`Replay`](super::Replay), which also makes it of swept examples; ended by [`Probe::commit`].
/// Everything that a [`Pass`] has for losses it has too.
#[must_use = "a probe records nothing until it is committed"]
pub struct Probe<'r>(Pass<'r>);

impl<'r> Deref for Probe<'r> {
    type Target = Pass<'r>;

    fn deref(&self) -> &Pass<'r> {
        &self.0
    }
}

impl DerefMut for Probe<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'r> Probe<'r> {
    pub(super) fn new(pass: Pass<'r>) -> Self {
        Self(pass)
    }

    /// Hands the probes to the background thread. There is no learning rate: a probe changes nothing.
    ///
    /// # Errors
    /// As [`Pass::commit`].
    pub fn commit(mut self) -> Result<(), RecordError> {
        self.0.hand_over(None)
    }
}

impl<'r> Pass<'r> {
    /// Whether the taps are armed for it: not for a disabled recorder, nor for one that has failed and lets the training go on.
    fn is_recorded(&self) -> bool {
        self.number != 0
    }

    pub(super) fn new(recorder: &'r mut Recorder, number: u64, ids: &[u64], kind: PassKind) -> Self {
        Self {
            ids: if recorder.is_enabled() { ids.to_vec() } else { Vec::new() },
            recorder,
            number,
            kind,
            weighing: Weighing::default(),
            ignored: None,
            mask: None,
            features: None,
            output_delta: None,
            late: None,
            outputs: None,
            upstream: Upstream::default(),
            per_example: Vec::new(),
            curvature: None,
        }
    }

    /// How the examples' losses become one; to be said before the loss. Default [`Reduction::Mean`].
    pub fn reduction(&mut self, reduction: Reduction) -> &mut Self {
        self.before_the_loss("reduction");
        self.weighing.reduction = reduction;
        self
    }

    /// A weight for each example's loss, `L = (1/N) Σ w_i ℓ_i` under a mean; to be said before the loss.
    /// The mean still divides by the number of predictions, not by the sum of the weights.
    pub fn weights(&mut self, weights: &[f32]) -> &mut Self {
        self.before_the_loss("weights");
        self.weighing.weights = Some(weights.to_vec());
        self
    }

    /// The target that marks a position at which nothing is to be predicted, for [`Pass::cross_entropy`]; to be said before the loss.
    pub fn ignore_index(&mut self, target: i64) -> &mut Self {
        self.before_the_loss("ignore_index");
        self.ignored = Some(target);
        self
    }

    /// Which positions count, of the targets' shape, 0 for those that do not, for [`Pass::cross_entropy`]; to be said before the loss.
    pub fn mask(&mut self, mask: &Tensor) -> &mut Self {
        self.before_the_loss("mask");
        self.mask = Some(mask.clone());
        self
    }

    /// The features that enter the last layer, `[batch, width]` or `[batch, positions, width]`, for a model whose last layer was
    /// declared by [`crate::taps::Taps::last_layer`].
    pub fn features(&mut self, features: &Tensor) -> &mut Self {
        self.features = Some(features.detach());
        self
    }

    /// candle_nn's cross entropy, `L = mean_i −log softmax(z_i)_{y_i}`, and what it says of each example.
    ///
    /// Logits `[batch, classes]` with integer targets `[batch]`; or `[batch, positions, classes]` with `[batch, positions]`, where
    /// an example's loss is the mean over its counted positions and `L` the mean over all counted positions of the batch.
    /// Records loss, EL2N, margin, confidence, correctness, and for one position label and prediction.
    ///
    /// This is the loss that is to be differentiated, perhaps multiplied by a constant. What is recorded is the gradient of what is
    /// differentiated: a term added to the loss afterwards (a penalty, an auxiliary loss) would be in the gradients and not in the
    /// loss column. Make such a term part of each example's loss and use [`Pass::losses`].
    ///
    /// # Errors
    /// [`RecordError::Candle`] for shapes that do not fit and labels that are no class.
    pub fn cross_entropy(&mut self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
        let kind = Kind::CrossEntropy { ignored: self.ignored, mask: self.mask.clone() };
        self.closed_form(&kind, logits, targets)
    }

    /// candle_nn's mean squared error, `L = mean_i mean_d (o_id − t_id)²`, for outputs and targets of one shape `[batch, ...]`.
    /// Records loss, error norm `‖o − t‖₂` (in the EL2N column), and for one output target and output.
    ///
    /// # Errors
    /// As [`Pass::cross_entropy`].
    pub fn mse(&mut self, outputs: &Tensor, targets: &Tensor) -> Result<Tensor, RecordError> {
        self.no_positions("mse")?;
        self.closed_form(&Kind::MeanSquaredError, outputs, targets)
    }

    /// Binary cross entropy of logits, `L = mean_i mean_d softplus(z_id) − t_id z_id`, targets in 0..=1 of the logits' shape
    /// `[batch, ...]`. Unlike candle_nn's, which takes the logarithm of a rounded sigmoid, it stays finite for large logits.
    /// Records loss, EL2N `‖σ(z) − t‖₂`, margin `±z`, confidence, correctness, and for one output label and prediction.
    ///
    /// # Errors
    /// As [`Pass::cross_entropy`].
    pub fn binary_cross_entropy_with_logits(
        &mut self,
        logits: &Tensor,
        targets: &Tensor,
    ) -> Result<Tensor, RecordError> {
        self.no_positions("binary_cross_entropy_with_logits")?;
        self.closed_form(&Kind::BinaryCrossEntropy, logits, targets)
    }

    /// Minus a score of the predictions, `L = −mean_i f(z_i, c_i)`, in place of a loss: for probes that have no label, or that are asked
    /// what made the model hold for a class. Positive influence then means that a step raised the score.
    ///
    /// Logits `[batch, classes]`; `classes` is `[batch]`, or `None` for the class that this pass predicts. Influence sums over time
    /// and needs one class for that: where the prediction changes from one probe time to the next, the records of another class than
    /// the last are left out and counted. To keep them all, give the class that the finished model predicts. Give such probes a
    /// set of their own: of a set that holds losses too, only what came first is used.
    ///
    /// # Errors
    /// [`RecordError::Pass`] in a training pass, which needs a loss, and in a sweep; [`RecordError::Candle`] for shapes that do not
    /// fit and classes that are none.
    pub fn prediction_score(
        &mut self,
        logits: &Tensor,
        score: PredictionScore,
        classes: Option<&Tensor>,
    ) -> Result<Tensor, RecordError> {
        self.no_positions("prediction_score")?;
        if self.recorder.is_enabled() && !matches!(self.kind, PassKind::Probe { .. }) {
            return Err(
                self.wrong("a score of a prediction is a question to ask of probes: training and sweeps have losses")
            );
        }
        let predicted = Tensor::zeros(0, candle_core::DType::U32, &candle_core::Device::Cpu)?;
        self.closed_form(&Kind::PredictionScore(score), logits, classes.unwrap_or(&predicted))
    }

    /// A loss of the caller's own: `losses` is `[batch]`, one for each example; the result is their mean or sum.
    ///
    /// # Errors
    /// [`RecordError::Candle`] for another shape.
    pub fn losses(&mut self, losses: &Tensor) -> Result<Tensor, RecordError> {
        self.once()?;
        self.no_positions("losses")?;
        let recorded = loss::from_losses(losses, &self.weighing, &self.upstream)?;
        self.keep(recorded)
    }

    fn closed_form(&mut self, kind: &Kind, output: &Tensor, target: &Tensor) -> Result<Tensor, RecordError> {
        self.once()?;
        let keep_delta = self.is_recorded() && (self.features.is_some() || self.recorder.has_last_layer());
        let recorded = loss::closed_form(kind, output, target, &self.weighing, &self.upstream, keep_delta)?;
        self.keep(recorded)
    }

    /// Notes a setting that comes too late to have an effect; `commit` refuses it.
    fn before_the_loss(&mut self, setting: &'static str) {
        if self.outputs.is_some() {
            self.late.get_or_insert(setting);
        }
    }

    fn no_positions(&self, loss: &str) -> Result<(), RecordError> {
        if self.mask.is_some() || self.ignored.is_some() {
            return Err(self.wrong(format!(
                "`mask` and `ignore_index` are for cross entropy and have no effect on `{loss}`: leave them out, and weigh the losses \
                 yourself with `pass.losses`"
            )));
        }
        Ok(())
    }

    fn once(&self) -> Result<(), RecordError> {
        if let Some(weights) =
            self.weighing.weights.as_ref().filter(|w| self.recorder.is_enabled() && w.len() != self.ids.len())
        {
            return Err(self.wrong(format!("{} weights for {} ids", weights.len(), self.ids.len())));
        }
        match self.outputs {
            Some(_) => Err(self.wrong(
                "the pass has its loss already: add several terms up per example and hand the sum to `pass.losses`",
            )),
            None => Ok(()),
        }
    }

    fn keep(&mut self, recorded: Recorded) -> Result<Tensor, RecordError> {
        let Recorded { loss, outputs, coefficients, delta } = recorded;
        if self.is_recorded() {
            outputs.check(self.ids.len(), self.recorder.step())?;
            self.output_delta = delta;
            self.outputs = Some((outputs, coefficients));
        }
        Ok(loss)
    }

    /// Each example's gradient by a backward pass of its own, for a model that cannot be tapped but whose variables were declared
    /// by [`crate::taps::Taps::variables`]. `loss(i)` builds the loss of example `i` alone. Returns the losses, `[batch]`, detached.
    ///
    /// # Errors
    /// [`RecordError::Candle`] if `loss` or its backward fails; [`RecordError::Pass`] if no variables were declared.
    ///
    /// # Cost
    /// As many backward passes as there are examples.
    pub fn per_example(
        &mut self,
        mut loss: impl FnMut(usize) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, RecordError> {
        if !self.recorder.is_enabled() {
            return Err(
                self.wrong("`per_example` needs a recorder that records: skip it where the recorder is disabled")
            );
        }
        if self.outputs.is_none() {
            self.once()?;
        }
        let batch = self.ids.len();
        let layers = if self.is_recorded() { self.recorder.variable_layers() } else { Vec::new() };
        if layers.is_empty() && self.is_recorded() {
            return Err(self.wrong("`per_example` needs the model's variables: call `taps.variables(&varmap)` first"));
        }
        let parameters = || layers.iter().map(|(_, variable, _)| variable.elem_count() as u64).sum();
        self.recorder.shared_fold(|shared| shared.decide(parameters));
        let mut folded: Vec<FoldedGradients> = layers
            .iter()
            .map(|(_, _, fold)| FoldedGradients {
                sketches: vec![0.0; batch * fold.get().outputs()],
                squared_norms: vec![0.0; batch],
            })
            .collect();
        let mut losses = Vec::with_capacity(batch);
        for i in 0..batch {
            let own = loss(i)?;
            losses.push(
                own.detach().to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().sum::<f32>(),
            );
            if layers.is_empty() {
                continue;
            }
            let grads = own.backward()?;
            for ((_, variable, fold), folded) in layers.iter().zip(&mut folded) {
                let variable: &Var = variable;
                let Some(grad) = grads.get(variable.as_tensor()) else {
                    continue;
                };
                let (grad, fold) = (host(grad)?, fold.get());
                let m = fold.outputs();
                folded.squared_norms[i] = squared_norm(&grad);
                fold.add(0, &grad, &mut folded.sketches[i * m..(i + 1) * m]);
            }
        }
        self.per_example = layers
            .iter()
            .zip(folded)
            .map(|((layer, _, _), folded)| LayerGradients {
                layer: *layer,
                weighted: false,
                gradients: Gradients::Folded(folded),
            })
            .collect();
        let tensor = Tensor::from_slice(&losses, batch, &candle_core::Device::Cpu)?;
        if self.outputs.is_none() {
            let coefficients = self.weighing.coefficients(&vec![1; batch]);
            self.outputs = Some((Outputs::losses(losses), coefficients));
        }
        Ok(tensor)
    }

    /// Hands everything to the background thread and ends the optimizer step: `step` is the learning rate, or a [`StepInfo`].
    /// Call it after `backward` and before the optimizer's step, so that the learning rate is the one in use.
    ///
    /// # Errors
    /// [`RecordError::Pass`] if the pass has no loss, no backward pass came by, or a tapped layer was not reached;
    /// [`RecordError::Severed`] if a layer got no gradient; the background thread's failure, if it has failed. Nothing of the pass
    /// is recorded then; the training is untouched.
    pub fn commit(mut self, step: impl Into<StepInfo>) -> Result<(), RecordError> {
        self.hand_over(Some(step.into()))
    }

    /// Hands everything to the background thread without ending the optimizer step: for gradient accumulation, on all passes of a
    /// step but the last.
    ///
    /// # Errors
    /// As [`Pass::commit`].
    pub fn accumulate(mut self) -> Result<(), RecordError> {
        self.hand_over(None)
    }

    /// For loops written with candle's `optimizer.backward_step(&loss)`: backward, `commit` at the optimizer's learning rate, and the
    /// optimizer's step. The step is taken whether or not recording succeeds. Of [`Sgd`](crate::optim::Sgd) momentum and weight
    /// decay are recorded, too; of another optimizer they are not known.
    ///
    /// # Errors
    /// [`RecordError::Candle`] if backward or the step fails; else as [`Pass::commit`].
    pub fn backward_step<O: Optimizer + 'static>(self, optimizer: &mut O, loss: &Tensor) -> Result<(), RecordError> {
        let grads = loss.backward()?;
        let ours = (optimizer as &dyn std::any::Any).downcast_ref::<Sgd>();
        let recorded = self.commit(ours.map_or_else(|| optimizer.learning_rate().into(), Sgd::step_info));
        optimizer.step(&grads)?;
        recorded
    }

    pub(super) fn wrong(&self, what: impl Into<String>) -> RecordError {
        RecordError::Pass { step: self.recorder.step(), what: what.into() }
    }

    fn hand_over(&mut self, step: Option<StepInfo>) -> Result<(), RecordError> {
        let visits = self.ids.len() as u32;
        if !self.is_recorded() {
            self.recorder.skip(self.kind, visits, step);
            return Ok(());
        }
        self.recorder.disarm();
        match self.collect() {
            Ok(batch) => self.recorder.send(batch, step),
            Err(error) => {
                // A pass that cannot be recorded still happened: its step counts, and its visits are missing.
                self.recorder.lose(self.kind, visits, step);
                Err(error)
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.is_recorded() {
            return;
        }
        self.recorder.disarm();
        // What an abandoned pass has caught is let go.
        for layer in self.recorder.layers().iter() {
            layer.slot.take(self.number);
        }
    }
}
