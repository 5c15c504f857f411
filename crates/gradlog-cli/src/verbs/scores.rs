//! `gradlog scores`: which examples stand out?

use super::partial::show_part;
use super::score_table::{OverRunsArguments, Standing};
use crate::arguments::{OptimizerArguments, OutputArguments, PartArguments, WindowArguments, EXIT_CODES};
use crate::choice::choice;
use crate::cluster::ClusterArguments;
use crate::error::CliError;
use crate::frame::{missing_workers, prefixes, Asked, Content, Shown, Verb};
use crate::output::Destination;
use crate::report::histogram;
use clap::Args;
use gradlog_analysis::{ExampleShare, PartialAnswer, RunsTable, Score, ScoreQuestion, ScoreTable, Window};
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
    #[arg(long, value_name = "N", conflicts_with = "part", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    over_runs: OverRunsArguments,
    #[command(flatten)]
    optimizer: OptimizerArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    part: PartArguments,
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// The table of one run or of several.
pub(crate) enum Table {
    One(Box<ScoreTable>),
    Several(RunsTable),
    Part(Box<PartialAnswer>),
}

impl Verb for Arguments {
    type Answer<'run> = Table;

    fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn share(&self) -> Option<ExampleShare> {
        self.part.part
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination_of_first(self.top)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Table, CliError> {
        let question = ScoreQuestion::new(self.score).window(asked.window.clone()).over_runs(self.over_runs.over_runs);
        let question = question.optimizer(self.optimizer.optimizer);
        asked.read("reading", 1, |progress| match (asked.runs.as_slice(), self.part.part) {
            (runs, Some(share)) => {
                let over = (runs.len() > 1).then_some(self.over_runs.over_runs);
                let question = question.share(share).share_progress(progress);
                PartialAnswer::of_scores(&question, runs, over).map(|part| Table::Part(Box::new(part)))
            }
            ([run], None) => question.share_progress(progress).compute(run).map(|table| Table::One(Box::new(table))),
            (runs, None) => question.share_progress(progress).compute_over(runs).map(Table::Several),
        })
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, table: Table) -> Result<Shown<'run>, CliError> {
        let of = OfRuns {
            names: asked.names(),
            workers: match asked.runs.as_slice() {
                [run] => missing_workers(run)?,
                _ => None,
            },
        };
        Ok(show_table(table, of, asked.draws(&self.destination())))
    }
}

/// What is said of the runs beside their scores.
pub(super) struct OfRuns {
    /// Their folders.
    pub names: Vec<String>,
    /// Of one run, which workers are missing.
    pub workers: Option<String>,
}

/// What a table comes to, with a histogram behind it where one belongs.
pub(super) fn show_table<'a>(table: Table, OfRuns { names, workers }: OfRuns, draws: bool) -> Shown<'a> {
    let (mut standing, rows, workers) = match table {
        Table::One(table) => {
            let standing = Standing::from(table.as_ref());
            let rows: Vec<ScoredExample> = table.rows.into_iter().map(ScoredExample::from).collect();
            (standing, rows, workers)
        }
        Table::Several(table) => {
            let standing = Standing::from(&table);
            (standing, table.rows.into_iter().map(ScoredExample::from).collect(), None)
        }
        Table::Part(part) => return show_part(*part),
    };
    let after = match draws {
        true => histogram(&rows.iter().map(|row| row.score).collect::<Vec<f64>>()),
        false => Vec::new(),
    };
    let names = prefixes(&names);
    Shown {
        after,
        words: standing.words(&names),
        basis: Some(standing.basis.clone()),
        left_out: standing.take_left_out(&names),
        content: Content::Sheet(standing.sheet(rows, workers)),
        damage: standing.damage(),
        ..Shown::default()
    }
}
