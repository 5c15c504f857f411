//! A pass over probes.

use super::error::RecordError;
use super::loss_methods::loss_methods;
use super::outputs::Reduction;
use super::pass_core::PassCore;
use candle_core::Tensor;
use gradlog_format::log::PredictionScore;

/// A pass over probes, the examples to ask questions about. [`Recorder::probe`](crate::Recorder::probe) or a
/// [`Replay`](crate::Replay) makes it, [`ProbePass::commit`] ends it. A replay also makes it for swept examples.
///
/// It has the losses of a [`Pass`](crate::Pass) and takes no optimizer step. A probe pass that is dropped without
/// `commit` records nothing.
#[must_use = "a probe pass records nothing until it is committed"]
pub struct ProbePass<'r> {
    pub(super) core: PassCore<'r>,
}

loss_methods!(ProbePass, " let mut pass = recorder.probe(\"test\", &[7, 8])?;", " pass.commit()?;");

impl std::fmt::Debug for ProbePass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.core.fmt_counts("ProbePass", f)
    }
}

impl<'r> ProbePass<'r> {
    pub(super) fn new(core: PassCore<'r>) -> Self {
        Self { core }
    }

    /// Computes minus a score of the predictions, `L = −mean_i f(z_i, c_i)`, in place of a loss. Use it for probes
    /// without a label, or to ask what made the model predict a class. Positive influence then means that a step raised
    /// the score.
    ///
    /// Takes f32 or f64 logits `[batch, classes]` and `classes` `[batch]`, or `None` for the classes that this pass
    /// predicts. Influence sums over time and needs one class for that. If the prediction changes from one probe time
    /// to the next, records with another class than the last are left out and counted. To keep all, give the class that
    /// the finished model predicts. Give such probes their own set: in a set that also holds losses, only the first
    /// kind is used.
    ///
    /// # Errors
    /// [`RecordError::Pass`] in a sweep, which needs a loss; [`RecordError::Candle`] for shapes that do not fit and for
    /// class numbers out of range.
    pub fn prediction_score(
        &mut self,
        logits: &Tensor,
        score: PredictionScore,
        classes: Option<&Tensor>,
    ) -> Result<Tensor, RecordError> {
        self.core.prediction_score(logits, score, classes)
    }

    /// Hands the probes to the background thread. There is no learning rate, because a probe changes nothing.
    ///
    /// # Errors
    /// As [`Pass::commit`](crate::Pass::commit).
    pub fn commit(mut self) -> Result<(), RecordError> {
        self.core.hand_over(None).map(drop)
    }
}
