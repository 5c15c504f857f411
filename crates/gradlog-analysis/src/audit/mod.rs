//! The audit: does the model change as the scores say, when it is trained again?
//!
//! A score that names teachers or wrong labels can be believed as far as retraining agrees with it. Every measure here
//! trains the user's own model again under some [`Change`] of its data, by a closure that the user writes, and compares
//! what came of it with what was computed from the log of one recorded run:
//!
//! - [`LeaveOneOut`]: the same run once more, same seed and same batches, with one example's weight set to zero. Its
//!   truth is by how much each probe's loss rises. [`LeaveGroupOut`]: the same for groups.
//! - [`Smoothness`]: could anything predict this? Half of the weight against all of it, or a second training of a
//!   subset against the first. It comes first in a table.
//! - [`Subsets`]: the linear datamodeling score over random subsets (Park et al. 2023, arXiv 2303.14186, §2).
//! - [`Brittleness`]: how few of its strongest proponents must go until a prediction changes.
//! - [`Detection`]: how well a ranking finds labels that were made wrong on purpose; ROC-AUC, recall by share
//!   inspected, and the false negative rate at the noise rate.
//! - [`Accuracy`]: what is left of the accuracy after pruning or cleaning, against another way to choose.
//! - [`ExactInfluence`]: influence functions themselves, for models small enough, as an oracle; and what moving a
//!   training input would do.
//!
//! Each answer is a [`Measured`]: a value with a [`Bootstrap`] interval, reproducible from its seed. A [`Finding`] is
//! its row in a table. Nothing here knows candle: what a training is, the closure says. `examples/audit` does all of it
//! with candle, on digits.
//!
//! ```
//! use gradlog_analysis::audit::{correlate, Bootstrap, Change, Correlation, LeaveOneOut, Prediction, Trained};
//!
//! // A model whose only weight is the mean of its examples, asked about the squared distance to 3.
//! let data = [1.0, 2.0, 4.0, 9.0];
//! let mut retrain = |_seed: u64, change: &Change<'_>| {
//!     let weights: Vec<f64> = (0..4).map(|id| change.weight(id)).collect();
//!     let mean = weights.iter().zip(&data).map(|(w, x)| w * x).sum::<f64>() / weights.iter().sum::<f64>();
//!     Ok(Trained { losses: vec![(mean - 3.0).powi(2)], right: vec![true] })
//! };
//! let truth = LeaveOneOut::measure(0, &[0, 1, 2, 3], &mut retrain)?;
//! // Predicted to first order: the mean is 4, so what lies below it pulled it towards 3.
//! let predicted = Prediction::new(&[0, 1, 2, 3], 1, data.iter().map(|x| 4.0 - x).collect())?;
//! let found = correlate(&[truth.pair_with(&predicted)?], Correlation::Spearman, Bootstrap::new(100));
//! assert!(found.value > 0.9);
//! // Half of a weight changes the same in the same order: the mean is smooth in the weights.
//! assert!(correlate(&[truth.ceiling()], Correlation::Spearman, Bootstrap::new(100)).value > 0.999);
//! # Ok::<(), gradlog_analysis::audit::AuditError>(())
//! ```

mod accuracy;
mod brittleness;
mod conjugate_gradient;
mod detection;
mod exact;
mod finding;
mod leave_group_out;
mod leave_one_out;
mod prediction;
mod removal;
mod retrain;
mod smoothness;
mod statistics;
mod subsets;
#[cfg(test)]
mod tests;

pub use accuracy::Accuracy;
pub use brittleness::{Brittleness, BrittlenessPlan};
pub use conjugate_gradient::conjugate_gradient;
pub use detection::Detection;
pub use exact::{Differentiable, ExactInfluence, Solver};
pub use finding::{write_json, Finding};
pub use leave_group_out::LeaveGroupOut;
pub use leave_one_out::LeaveOneOut;
pub use prediction::{correlate, Correlation, Paired, Prediction};
pub use retrain::{AuditError, Change, Retrain, Trained, TrainingError};
pub use smoothness::Smoothness;
pub use statistics::{roc_auc, Bootstrap, Measured};
pub use subsets::{Subsets, SubsetsPlan};
