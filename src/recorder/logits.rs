//! Logits beside a loss that does not know them: `pass.losses` with `pass.logits`.

use super::error::RecordError;
use super::later::Later;
use super::loss;
use super::pass_core::PassCore;
use candle_core::Tensor;

/// The refusal of logits beside a loss that has its own.
const TWICE: &str =
    "the loss records what its own logits say, so `pass.logits` has no effect: leave it out, or compute the loss \
                     yourself and give it to `pass.losses`";

impl PassCore<'_> {
    pub(super) fn logits(&mut self, logits: &Tensor, targets: &Tensor) -> Result<(), RecordError> {
        if !self.is_recorded() {
            return Ok(());
        }
        if self.described.is_some() {
            return Err(self.error("`pass.logits` was called twice: give the logits of the whole batch at once"));
        }
        self.check_prediction(self.outputs.is_some() && self.predicts)?;
        let on_device = self.is_on_device(logits);
        let described = loss::describe_logits(logits, targets, self.ignored, self.mask.as_ref(), on_device)?;
        let rows = logits.dims().first().copied().unwrap_or(0);
        if rows != self.ids.len() {
            let what =
                format!("logits of {rows} examples for {} ids: give them in the order of the ids", self.ids.len());
            return Err(self.error(what));
        }
        self.described = Some(if self.judges_numbers() { Later::Here(described.read()?) } else { described });
        self.positions_used = true;
        Ok(())
    }

    /// Refuses logits beside a loss whose outputs have the prediction already.
    pub(super) fn check_prediction(&self, loss_has_it: bool) -> Result<(), RecordError> {
        if loss_has_it {
            return Err(self.error(TWICE));
        }
        Ok(())
    }

    /// Refuses a mask or an ignored target that nothing has used.
    pub(super) fn check_positions_used(&self) -> Result<(), RecordError> {
        if (self.mask.is_some() || self.ignored.is_some()) && !self.positions_used {
            return Err(self.error(
                "`mask` and `ignore_index` are for `pass.cross_entropy` and `pass.logits`, and have no effect on this loss: leave \
                 them out, and weigh the losses yourself with `pass.losses`",
            ));
        }
        Ok(())
    }
}
