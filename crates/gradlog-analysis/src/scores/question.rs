//! The question for a score of all examples.

use crate::{AnalysisError, ExampleShare, OptimizerChoice, OverRuns, Progress, RunsTable, Score, ScoreTable, Window};
use gradlog_format::run::Run;

/// Asks for one score of every example, in one run or over several.
///
/// ```no_run
/// use gradlog_analysis::{Run, Score, ScoreQuestion};
///
/// let table = ScoreQuestion::new(Score::Aum).epochs(2..).compute(&Run::open("runs/mnist")?)?;
/// for row in table.rows.iter().take(10) {
///     println!("{} {}", row.example, row.score);
/// }
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ScoreQuestion {
    pub(crate) score: Score,
    pub(crate) over_runs: OverRuns,
    pub(crate) window: Window,
    pub(crate) optimizer: OptimizerChoice,
    pub(crate) share: Option<ExampleShare>,
    pub(crate) progress: Progress,
}

window_options!(ScoreQuestion);
source_options!(ScoreQuestion);
share_options!(ScoreQuestion);
progress_options!(ScoreQuestion);

impl ScoreQuestion {
    /// The score of every example, over all of its visits. [`Score`] has the formulas.
    pub fn new(score: Score) -> Self {
        Self {
            score,
            over_runs: OverRuns::default(),
            window: Window::default(),
            optimizer: OptimizerChoice::default(),
            share: None,
            progress: Progress::default(),
        }
    }

    /// How the scores of several runs become one; by default their mean.
    #[must_use]
    pub fn over_runs(mut self, over_runs: OverRuns) -> Self {
        self.over_runs = over_runs;
        self
    }

    /// What the steps are taken for. It matters to [`Score::SelfInfluence`] alone, in a run of Adam or AdamW: in Adam's
    /// metric if all visits inside the window, of all runs, have a norm in it, and else as steps of plain SGD. The
    /// [basis](ScoreTable::basis) says which.
    #[must_use]
    pub fn optimizer(mut self, optimizer: OptimizerChoice) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// The score of every example with a visit inside the window.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if no visit has what the score is made of, [`AnalysisError::SeveralPredictions`] and
    /// [`AnalysisError::NotOnSweeps`] for forgetting where it is not defined, [`AnalysisError::OutsideRun`] for a
    /// window without visits, [`AnalysisError::NoSuchSweep`] for one without sweeps, [`AnalysisError::Read`] if the
    /// file system refuses. Damage is not an error: the result says where it lies and is made of what came before.
    ///
    /// # Cost
    /// Reads only the columns that the score is made of. Memory: about 150 bytes per example, and a few blocks of
    /// columns.
    pub fn compute(&self, run: &Run) -> Result<ScoreTable, AnalysisError> {
        let window = self.window.with_share(self.share);
        window.refuse_outside(&[run])?;
        self.score.compute_table(run, (&window, self.optimizer), &self.progress)
    }

    /// The score of every example over several runs. One run is allowed: its rows are then made of one.
    ///
    /// Runs need not have the same examples; each row says how many runs it is made of, and [`RunsTable::runs`] what
    /// each lacks. Labels that differ are counted, not refused: threshold samples differ on purpose.
    ///
    /// # Errors
    /// As [`ScoreQuestion::compute`], with the name of the run; [`AnalysisError::SameRun`] if a run is handed in twice;
    /// [`AnalysisError::NothingInCommon`] if a run has examples and shares none of them with any other;
    /// [`AnalysisError::OutsideRun`] if no run has visits inside the window.
    ///
    /// # Cost
    /// One pass over each run, one after another. Memory: about 300 bytes per example, and one [`ScoreTable`].
    pub fn compute_over(&self, runs: &[&Run]) -> Result<RunsTable, AnalysisError> {
        let window = self.window.with_share(self.share);
        window.refuse_outside(runs)?;
        self.score.compute_over_runs(runs, (&window, self.optimizer), self.over_runs, &self.progress)
    }

    /// The tables of several runs that [`ScoreQuestion::compute_over`] joins.
    pub(crate) fn tables(&self, runs: &[&Run]) -> Result<Vec<ScoreTable>, AnalysisError> {
        let window = self.window.with_share(self.share);
        window.refuse_outside(runs)?;
        let mut tables = Vec::with_capacity(runs.len());
        let of = (&window, self.optimizer);
        self.score.each_table(runs, of, &self.progress, |_, table| tables.push(table))?;
        Ok(tables)
    }
}
