//! From a score to its formula: adding a score is adding a file, its facts in `score.rs`, and a row here.

use super::score::Score;
use super::score_examples::score_examples;
use super::table::{ScoreRow, ScoreTable};
use super::{aum, confidence, correctness, el2n, forgetting, grand, loss, self_influence, variability};
use crate::rows::driver::Progress;
use crate::{AnalysisError, Window};
use gradlog_format::run::Run;

type Compute = fn(&Run, Score, &Window, Progress<'_>) -> Result<ScoreTable, AnalysisError>;

impl Score {
    fn formula(self) -> Compute {
        match self {
            Score::SelfInfluence => score_examples::<self_influence::SelfInfluence>,
            Score::Grand => score_examples::<grand::Grand>,
            Score::El2n => score_examples::<el2n::El2n>,
            Score::Forgetting => score_examples::<forgetting::Forgetting>,
            Score::Aum => score_examples::<aum::Aum>,
            Score::Confidence => score_examples::<confidence::Confidence>,
            Score::Variability => score_examples::<variability::Variability>,
            Score::Correctness => score_examples::<correctness::Correctness>,
            Score::Loss => score_examples::<loss::Loss>,
        }
    }

    /// What a row of one run adds to a sum over runs.
    pub(super) fn term_in_sum(self, row: &ScoreRow) -> f64 {
        match self {
            Score::Forgetting => forgetting::term_in_sum(row),
            _ => row.score,
        }
    }

    /// Computes the score of every example with a visit inside the window.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if no visit has what the score is made of, [`AnalysisError::SeveralPredictions`] for
    /// forgetting where it is not defined, [`AnalysisError::Read`] if the file system refuses. Damage is not an error:
    /// the result says where it lies and is made of what came before.
    ///
    /// # Cost
    /// Reads only the columns that the score is made of. Memory: about 150 bytes per example, and a few blocks of columns.
    pub fn compute(self, run: &Run, window: &Window) -> Result<ScoreTable, AnalysisError> {
        self.compute_with(run, window, &|_| {})
    }

    /// As [`Score::compute`], telling `progress` of each block that has been dealt with.
    ///
    /// # Errors
    /// As [`Score::compute`].
    pub fn compute_with(self, run: &Run, window: &Window, progress: Progress<'_>) -> Result<ScoreTable, AnalysisError> {
        (self.formula())(run, self, window, progress)
    }
}
