//! A training pass: one forward and one backward over some examples.

use super::error::RecordError;
use super::guard::Committed;
use super::loss_methods::loss_methods;
use super::outputs::Reduction;
use super::pass_core::PassCore;
use crate::step::{StepInfo, StepReport};
use candle_core::Tensor;
use candle_nn::Optimizer;

/// One training pass. [`Recorder::pass`](crate::Recorder::pass) makes it, [`Pass::commit`] ends it. The taps are armed
/// while it lives.
///
/// A pass that is dropped without `commit` records nothing, as after [`Pass::abandon`]. The step stays open: passes
/// that were accumulated before belong to it. [`Recorder::abandon_step`](crate::Recorder::abandon_step) ends it.
#[must_use = "a pass records nothing until it is committed"]
pub struct Pass<'r> {
    pub(super) core: PassCore<'r>,
}

loss_methods!(Pass, " let mut pass = recorder.pass(&[7, 8])?;", " pass.commit(0.1)?;");

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.core.fmt_counts("Pass", f)
    }
}

impl<'r> Pass<'r> {
    pub(super) fn new(core: PassCore<'r>) -> Self {
        Self { core }
    }

    /// Hands the pass to the background thread and ends the optimizer step. Returns what the
    /// [`Guard`](crate::Guard) noticed since the last commit. `step` is the learning rate or a
    /// [`StepInfo`]. Call it after `backward` and before the optimizer's step, so that the learning rate is the one in
    /// use.
    ///
    /// # Errors
    /// [`RecordError::Pass`] if the pass has no loss, if no backward pass was seen, or if the forward pass did not
    /// reach a tapped layer; also for a learning rate or a clip factor that is NaN, infinite or negative, and for a
    /// momentum or a weight decay that is not finite. [`RecordError::Severed`] if a layer got no gradient.
    /// [`RecordError::NotFinite`] as [`Config::on_nonfinite`](crate::Config::on_nonfinite) says.
    /// [`RecordError::Timeout`] if the queue stays full. Otherwise the failure of the background thread, if it has
    /// failed. After an error the log holds nothing of the pass; the training is not affected. Without a learning rate
    /// it holds nothing of the step, and counts its visits as dropped.
    ///
    /// [`RecordError::Guarded`] if [`Guard::on_event`](crate::Guard::on_event) leaves out the step.
    ///
    /// It sees the tapped layers alone. A variable of no tapped layer that gets no gradient escapes it;
    /// [`Pass::backward_step`] sees that too.
    ///
    /// # Cost
    /// Captured tensors are moved, not copied, and the background thread sketches them. A [`Tap`](crate::Tap) that
    /// reads its parameters computes its gradients here. If the queue is full, `commit` waits at most
    /// [`Config::wait_max`](crate::Config::wait_max).
    pub fn commit(mut self, step: impl Into<StepInfo>) -> Result<Committed, RecordError> {
        self.core.hand_over(Some(step.into()))
    }

    /// Hands the pass to the background thread without ending the optimizer step. This is for gradient accumulation:
    /// call it on all passes of a step but the last, and [`Pass::commit`] on the last one.
    ///
    /// candle's optimizers keep no gradients between calls. So add the gradients of the passes yourself, and step with
    /// the sum:
    ///
    /// ```
    /// # use candle_core::{backprop::GradStore, DType, Device, Module, Result, Tensor};
    /// # use candle_nn::{linear, Optimizer, VarBuilder, VarMap, SGD};
    /// # use gradlog::{Config, Recorder, StepReport, Taps};
    /// # let dir = std::env::temp_dir().join(format!("gradlog-doc-accumulate-{}", std::process::id()));
    /// # let variables = VarMap::new();
    /// # let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    /// # let taps = Taps::new();
    /// # let model = taps.tap("fc", linear(4, 3, vb.pp("fc"))?);
    /// # let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
    /// # let mut optimizer = SGD::new(variables.all_vars(), 0.1)?;
    /// # let part = |ids: [u64; 2]| -> Result<_> {
    /// #     Ok((ids, Tensor::randn(0f32, 1., (2, 4), &Device::Cpu)?, Tensor::new(&[0u32, 2], &Device::Cpu)?))
    /// # };
    /// # let parts = [part([1, 2])?, part([3, 4])?];
    /// let mut sum: Option<GradStore> = None;
    /// for (number, (ids, x, y)) in parts.iter().enumerate() {
    ///     let mut pass = recorder.pass(ids)?;
    ///     let loss = (pass.cross_entropy(&model.forward(x)?, y)? / parts.len() as f64)?;
    ///     let mut grads = loss.backward()?;
    ///     for (variable, earlier) in variables.all_vars().iter().filter_map(|v| Some((v, sum.as_ref()?.get(v)?))) {
    ///         let total = grads.get(variable).map_or_else(|| Ok(earlier.clone()), |own| own + earlier)?;
    ///         grads.insert(variable, total);
    ///     }
    ///     sum = Some(grads);
    ///     if number + 1 < parts.len() {
    ///         pass.accumulate()?;
    ///     } else {
    ///         pass.commit(optimizer.step_info())?;
    ///     }
    /// }
    /// if let Some(sum) = sum {
    ///     optimizer.step(&sum)?;
    /// }
    /// # recorder.finish()?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`Pass::backward_step`] steps with the gradients of its own pass. After `accumulate` it is refused, unless
    /// [`StepReport::accumulates`] says that the optimizer adds up the gradients itself.
    ///
    /// # Errors
    /// As [`Pass::commit`].
    pub fn accumulate(mut self) -> Result<Committed, RecordError> {
        self.core.hand_over(None)
    }

    /// Ends the pass without recording it, as if it had never been. Its gradients must not enter a step.
    pub fn abandon(self) {
        drop(self);
    }

    /// Runs backward, `commit` with what the optimizer reports, and the optimizer's step. It replaces candle's
    /// `optimizer.backward_step(&loss)`. The step is taken whether or not recording succeeds, with two exceptions.
    ///
    /// - A step that is not finite is left out if [`Config::on_nonfinite`](crate::Config::on_nonfinite) says so, and a
    ///   step with a large gradient if [`Guard::on_event`](crate::Guard::on_event) does. Under
    ///   [`OnNonFinite::Skip`](crate::OnNonFinite::Skip) and [`OnEvent::Skip`](crate::OnEvent::Skip) this returns `Ok`;
    ///   [`Recorder::abandoned_steps`](crate::Recorder::abandoned_steps) counts it.
    /// - After [`Pass::accumulate`] in the same step this is an error before backward and before the optimizer steps,
    ///   unless [`StepReport::accumulates`]. The optimizer would step without the gradients of the passes before. The
    ///   step counts as abandoned.
    ///
    /// Backward gives the same gradients as candle's. It moves less memory where tapped linear layers, convolutions,
    /// `LayerNorm` and `RmsNorm` run in f32 on the CPU: candle adds each gradient to zeros.
    ///
    /// It sees the gradients of all variables. So it also reports a declared variable that gets none
    /// ([`Taps::declare_model`](crate::Taps::declare_model)), and a layer that ran without its tap.
    ///
    /// [`StepReport`] is implemented for the optimizers of [`optim`](crate::optim) and for candle's `SGD` and `AdamW`.
    /// To clip gradients, call `backward`, `commit` and the optimizer yourself: [`StepInfo::clip`] has an example.
    ///
    /// # Errors
    /// [`RecordError::Candle`] if backward or the step fails; [`RecordError::Pass`] after `accumulate`; otherwise as
    /// [`Pass::commit`].
    pub fn backward_step<O: Optimizer + StepReport>(
        mut self,
        optimizer: &mut O,
        loss: &Tensor,
    ) -> Result<Committed, RecordError> {
        self.core.check_one_pass(optimizer.accumulates())?;
        if self.core.is_recorded() {
            self.core.recorder.read_first_moments(optimizer);
        }
        let grads = crate::taps::backward(loss)?;
        self.core.check_gradients(&grads)?;
        self.core.look_at_optimizer(|| optimizer.variables());
        self.core.look_at_reach(&grads);
        self.core.compare_head_gradient(&grads);
        match self.core.hand_over(Some(optimizer.step_info())) {
            Err(error) if error.is_skipped_step() => Ok(self.core.recorder.take_news()),
            Err(error @ (RecordError::NotFinite { .. } | RecordError::Guarded { .. })) => Err(error),
            recorded => {
                optimizer.step(&grads)?;
                self.core.recorder.read_moments(optimizer);
                recorded
            }
        }
    }
}
