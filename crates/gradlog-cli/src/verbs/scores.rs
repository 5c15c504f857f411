//! `gradlog scores`: which examples stand out?

use super::score_table::{OverRunsArguments, Standing};
use crate::arguments::{OptimizerArguments, OutputArguments, WindowArguments, EXIT_CODES};
use crate::choice::choice;
use crate::error::CliError;
use crate::frame::{missing_workers, Asked, Content, Shown, Verb};
use crate::output::Destination;
use crate::report::histogram;
use clap::Args;
use gradlog_analysis::{RunsTable, Score, ScoreQuestion, ScoreTable, Window};
use gradlog_arrow::ScoredExample;
use std::path::PathBuf;

/// Score every training example by its own visits, the most suspicious first
///
/// Rows are `example,visits,score` (with `--at sweep`: `example,checkpoints,score`), then what else the score counts,
/// then `not_finite` (visits left out because of a NaN or an infinity) and, where they were recorded, `label` and
/// `prediction` of the last visit. An example without a usable visit has score NaN and comes last.
///
/// With several runs, the score is a mean (or sum) over them: rows are `example,runs,visits,score,spread` and the same
/// rest. `runs` counts the runs that have a score of the example, and `spread` is the sample standard deviation over
/// them. The other columns are means over runs too, or the number of runs of which they are true.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Which score
    #[arg(long, value_name = "NAME", value_parser = choice::<Score>())]
    score: Score,
    /// Only the N most suspicious; by default 20 in a table on stdout, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    over_runs: OverRunsArguments,
    #[command(flatten)]
    optimizer: OptimizerArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// The table of one run or of several.
pub(crate) enum Table {
    One(Box<ScoreTable>),
    Several(RunsTable),
}

impl Verb for Arguments {
    type Answer<'run> = Table;

    fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination_of_first(self.top)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Table, CliError> {
        let question = ScoreQuestion::new(self.score).window(asked.window.clone()).over_runs(self.over_runs.over_runs);
        let question = question.optimizer(self.optimizer.optimizer);
        asked.read("reading", 1, |progress| match asked.runs.as_slice() {
            [run] => question.share_progress(progress).compute(run).map(|table| Table::One(Box::new(table))),
            runs => question.share_progress(progress).compute_over(runs).map(Table::Several),
        })
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, table: Table) -> Result<Shown<'run>, CliError> {
        let (mut standing, rows, workers) = match table {
            Table::One(table) => {
                let standing = Standing::from(table.as_ref());
                let rows: Vec<ScoredExample> = table.rows.into_iter().map(ScoredExample::from).collect();
                (standing, rows, missing_workers(asked.run())?)
            }
            Table::Several(table) => {
                let standing = Standing::from(&table);
                (standing, table.rows.into_iter().map(ScoredExample::from).collect(), None)
            }
        };
        let after = match asked.draws(&self.destination()) {
            true => histogram(&rows.iter().map(|row| row.score).collect::<Vec<f64>>()),
            false => Vec::new(),
        };
        Ok(Shown {
            after,
            words: standing.words(asked),
            basis: Some(standing.basis.clone()),
            left_out: standing.take_left_out(asked),
            content: Content::Sheet(standing.sheet(rows, workers)),
            damage: standing.damage(),
            ..Shown::default()
        })
    }
}
