//! From a score to its formula: adding a score is adding a file, its facts in `score.rs`, and a row here.

use super::score::Score;
use super::score_examples::score_examples;
use super::table::{ScoreRow, ScoreTable};
use super::{aum, confidence, correctness, el2n, forgetting, grand, loss, self_influence, variability};
use crate::Progress;
use crate::{AnalysisError, Window};
use gradlog_format::run::Run;

type Compute = fn(&Run, Score, &Window, &Progress) -> Result<ScoreTable, AnalysisError>;

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

    /// Computes the score of every example with a visit inside the window. [`ScoreQuestion`](crate::ScoreQuestion) has
    /// the errors and the cost.
    pub(crate) fn compute_table(
        self,
        run: &Run,
        window: &Window,
        progress: &Progress,
    ) -> Result<ScoreTable, AnalysisError> {
        (self.formula())(run, self, window, progress)
    }
}
