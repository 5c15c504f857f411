//! Gradients of logits, for the neural tangent kernel `⟨∇f_k(x_i), ∇f_l(x_j)⟩` of fixed examples.
//!
//! Each class has a probe set of its own, `NAME/0`, `NAME/1`, ..., whose records are prediction scores of this class's
//! logit. So the file format needs nothing new, and influence on one logit can be asked as for any probe.

use super::error::RecordError;
use super::handle::Recorder;
use super::outputs::Reduction;
use super::probe_pass::ProbePass;
use super::replay::Replay;
use crate::ids::IntoIds;
use candle_core::Tensor;
use gradlog_format::log::PredictionScore;

/// Records gradients of logits. [`Recorder::tangents`](crate::Recorder::tangents) and
/// [`Replay::tangents`](crate::Replay::tangents) make it; [`TangentPass::logits`] runs it.
#[must_use = "a tangent pass records nothing until `logits` is called"]
pub struct TangentPass<'r> {
    recorder: &'r mut Recorder,
    set: String,
    ids: Vec<u64>,
    classes: Option<Vec<u32>>,
}

impl std::fmt::Debug for TangentPass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("TangentPass");
        out.field("set", &self.set).field("examples", &self.ids.len()).field("classes", &self.classes);
        out.finish_non_exhaustive()
    }
}

/// What a tangent pass recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TangentRows {
    /// Examples in the pass.
    pub examples: u64,
    /// Logits of each.
    pub classes: u64,
}

impl<'r> TangentPass<'r> {
    pub(super) fn new(recorder: &'r mut Recorder, set: &str, ids: Vec<u64>) -> Self {
        Self { recorder, set: set.into(), ids, classes: None }
    }

    /// Records the logits of these classes alone. Default: all.
    pub fn classes(mut self, classes: impl IntoIterator<Item = u32>) -> Self {
        let mut classes: Vec<u32> = classes.into_iter().collect();
        classes.sort_unstable();
        classes.dedup();
        self.classes = Some(classes);
        self
    }

    /// Runs the examples through the model. Records for each class `k` the gradient of the logit `f_k` of each example.
    ///
    /// `forward` gets the ids and returns their logits, `[ids, classes]`. It also gets the pass, for
    /// [`ProbePass::features`] in a model with a declared last layer. It computes no loss.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for logits of another shape, and for no classes; [`RecordError::Candle`] for a class that
    /// the logits do not have; otherwise as [`Pass::commit`](crate::Pass::commit), and the error of `forward`. Rows
    /// from before the error stay.
    ///
    /// # Cost
    /// One forward and backward pass for each class, and one more forward pass if the classes were not chosen.
    pub fn logits<F>(self, mut forward: F) -> Result<TangentRows, RecordError>
    where
        F: FnMut(&mut ProbePass<'_>, &[u64]) -> candle_core::Result<Tensor>,
    {
        if !self.recorder.is_enabled() {
            return Ok(TangentRows::default());
        }
        let examples = self.ids.len();
        let classes = match self.classes {
            Some(classes) => classes,
            None => {
                let mut first = self.recorder.plain_probe(&first_set(&self.set), &self.ids)?;
                let logits = forward(&mut first, &self.ids)?;
                let &[rows, classes] = logits.dims() else {
                    return Err(first.core.error(other_shape(&logits, examples)));
                };
                if rows != examples {
                    return Err(first.core.error(other_shape(&logits, examples)));
                }
                (0..u32::try_from(classes).unwrap_or(u32::MAX)).collect()
            }
        };
        if classes.is_empty() {
            let what = "the tangent pass has no classes: choose at least one".into();
            return Err(RecordError::Pass { step: self.recorder.step(), what });
        }
        for class in &classes {
            let mut pass = self.recorder.plain_probe(&format!("{}/{class}", self.set), &self.ids)?;
            pass.reduction(Reduction::Sum);
            let logits = forward(&mut pass, &self.ids)?;
            if logits.rank() != 2 || logits.dims()[0] != examples {
                return Err(pass.core.error(other_shape(&logits, examples)));
            }
            let chosen = Tensor::from_vec(vec![*class; examples], examples, logits.device())?;
            pass.prediction_score(&logits, PredictionScore::Logit, Some(&chosen))?.backward()?;
            pass.commit()?;
        }
        Ok(TangentRows { examples: examples as u64, classes: classes.len() as u64 })
    }
}

impl Replay {
    /// Begins to record gradients of the logits of the examples `ids` at the checkpoint, as [`Recorder::tangents`]
    /// does.
    ///
    /// # Errors
    /// [`RecordError::Replay`] if no checkpoint was loaded; otherwise as [`Recorder::tangents`].
    pub fn tangents(&mut self, set: &str, ids: impl IntoIds) -> Result<TangentPass<'_>, RecordError> {
        self.check_loaded()?;
        self.recorder.tangents(set, ids)
    }
}

/// The set of the first class, which is there in any case.
fn first_set(set: &str) -> String {
    format!("{set}/0")
}

fn other_shape(logits: &Tensor, examples: usize) -> String {
    format!("the tangent kernel needs logits [{examples}, classes], one row for each id, not {:?}", logits.shape())
}
