//! A pass over probes.

use super::error::RecordError;
use super::loss_methods::loss_methods;
use super::outputs::Reduction;
use super::pass_core::PassCore;
use candle_core::Tensor;
use gradlog_format::log::PredictionScore;

/// A pass over probes, the examples one asks questions about: made by [`Recorder::probe`](crate::Recorder::probe) or by a
/// [`Replay`](crate::Replay), which also makes it of swept examples; ended by [`ProbePass::commit`].
///
/// Its losses are those of a [`Pass`](crate::Pass). It takes no optimizer step. Dropped without `commit`, it records nothing.
#[must_use = "a probe records nothing until it is committed"]
pub struct ProbePass<'r> {
    pub(super) core: PassCore<'r>,
}

loss_methods!(ProbePass);

impl std::fmt::Debug for ProbePass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProbePass").field("ids", &self.core.ids).finish_non_exhaustive()
    }
}

impl<'r> ProbePass<'r> {
    pub(super) fn new(core: PassCore<'r>) -> Self {
        Self { core }
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
    /// [`RecordError::Pass`] in a sweep, which needs a loss; [`RecordError::Candle`] for shapes that do not
    /// fit and for class numbers out of range.
    pub fn prediction_score(
        &mut self,
        logits: &Tensor,
        score: PredictionScore,
        classes: Option<&Tensor>,
    ) -> Result<Tensor, RecordError> {
        self.core.prediction_score(logits, score, classes)
    }

    /// Hands the probes to the background thread. There is no learning rate: a probe changes nothing.
    ///
    /// # Errors
    /// As [`Pass::commit`](crate::Pass::commit).
    pub fn commit(mut self) -> Result<(), RecordError> {
        self.core.hand_over(None)
    }
}
