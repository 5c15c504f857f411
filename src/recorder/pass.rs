//! A training pass: one forward and one backward over some examples.

use super::error::RecordError;
use super::loss_methods::loss_methods;
use super::outputs::Reduction;
use super::pass_core::PassCore;
use crate::step::{StepInfo, StepReport};
use candle_core::Tensor;
use candle_nn::Optimizer;

/// One training pass: made by [`Recorder::pass`](crate::Recorder::pass), ended by [`Pass::commit`]. While it lives the taps are
/// armed.
///
/// Dropped without `commit`, it records nothing.
#[must_use = "a pass records nothing until it is committed"]
pub struct Pass<'r> {
    core: PassCore<'r>,
}

loss_methods!(Pass);

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("ids", &self.core.ids).finish_non_exhaustive()
    }
}

impl<'r> Pass<'r> {
    pub(super) fn new(core: PassCore<'r>) -> Self {
        Self { core }
    }

    /// Hands everything to the background thread and ends the optimizer step: `step` is the learning rate, or a [`StepInfo`].
    /// Call it after `backward` and before the optimizer's step, so that the learning rate is the one in use.
    ///
    /// # Errors
    /// [`RecordError::Pass`] if the pass has no loss, no backward pass came by, or a tapped layer was not reached;
    /// [`RecordError::Severed`] if a layer got no gradient; the background thread's failure, if it has failed. Nothing of the pass
    /// is recorded then; the training is untouched.
    pub fn commit(mut self, step: impl Into<StepInfo>) -> Result<(), RecordError> {
        self.core.hand_over(Some(step.into()))
    }

    /// Hands everything to the background thread without ending the optimizer step: for gradient accumulation, on all passes of a
    /// step but the last.
    ///
    /// # Errors
    /// As [`Pass::commit`].
    pub fn accumulate(mut self) -> Result<(), RecordError> {
        self.core.hand_over(None)
    }

    /// Backward, `commit` with what the optimizer reports, and the optimizer's step: for loops written with candle's
    /// `optimizer.backward_step(&loss)`. The step is taken whether or not recording succeeds.
    ///
    /// [`StepReport`] is implemented for [`Sgd`](crate::optim::Sgd) and for candle's `SGD` and `AdamW`.
    ///
    /// # Errors
    /// [`RecordError::Candle`] if backward or the step fails; else as [`Pass::commit`].
    pub fn backward_step<O: Optimizer + StepReport>(self, optimizer: &mut O, loss: &Tensor) -> Result<(), RecordError> {
        let grads = loss.backward()?;
        let recorded = self.commit(optimizer.step_info());
        optimizer.step(&grads)?;
        recorded
    }
}
