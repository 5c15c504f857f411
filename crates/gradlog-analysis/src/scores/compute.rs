//! From a score to its formula: adding a score is adding a file, its facts in `score.rs`, and a row here.

use super::order::{suspicious_first, Order};
use super::score::Score;
use super::score_examples::{score_examples, Rows};
use super::table::{ScoreRow, ScoreTable};
use super::{aum, confidence, correctness, el2n, forgetting, grand, loss, self_influence, variability};
use crate::rows::adam_norms::AdamNorms;
use crate::{AnalysisError, OptimizerChoice, Progress, Window};
use gradlog_format::run::Run;

type Compute = fn(&Run, Score, &Rows<'_>, &Progress) -> Result<ScoreTable, AnalysisError>;

impl Score {
    fn formula(self, adam: bool) -> Compute {
        match self {
            Score::SelfInfluence if adam => score_examples::<self_influence::AdamSelfInfluence>,
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

    /// Among equal scores, the higher of these comes first.
    fn tie_break(self, row: &ScoreRow) -> f64 {
        match self {
            Score::Forgetting => forgetting::tie_break(row),
            _ => 0.0,
        }
    }

    /// The most suspicious first; ties by what the score says of them, then by example.
    pub(crate) fn sort(self, rows: &mut [ScoreRow]) {
        let order = self.order();
        rows.sort_by(|a, b| {
            suspicious_first(order, a.score, b.score)
                .then_with(|| suspicious_first(Order::HighestFirst, self.tie_break(a), self.tie_break(b)))
                .then_with(|| a.example.cmp(&b.example))
        });
    }

    /// Computes the score of every example with a visit inside the window. [`ScoreQuestion`](crate::ScoreQuestion) has
    /// the errors and the cost.
    pub(crate) fn compute_table(
        self,
        run: &Run,
        (window, optimizer): (&Window, OptimizerChoice),
        progress: &Progress,
    ) -> Result<ScoreTable, AnalysisError> {
        let adam = self.find_adam(run, window, optimizer)?;
        let rows = Rows { window, adam: adam.as_ref() };
        (self.formula(adam.is_some()))(run, self, &rows, progress)
    }

    /// The metric of Adam, if the score goes by steps and the run has it.
    fn find_adam(
        self,
        run: &Run,
        window: &Window,
        optimizer: OptimizerChoice,
    ) -> Result<Option<AdamNorms>, AnalysisError> {
        match (self, optimizer) {
            (Score::SelfInfluence, OptimizerChoice::Recorded) => AdamNorms::find(run, window),
            _ => Ok(None),
        }
    }

    /// What the steps of several runs are taken for: a score in the metric of Adam in one and of plain SGD in another
    /// would have no mean.
    pub(crate) fn common_choice(
        self,
        runs: &[&Run],
        window: &Window,
        optimizer: OptimizerChoice,
    ) -> Result<OptimizerChoice, AnalysisError> {
        if runs.len() > 1 {
            for run in runs {
                if self.find_adam(run, window, optimizer)?.is_none() {
                    return Ok(OptimizerChoice::PlainSgd);
                }
            }
        }
        Ok(optimizer)
    }
}
