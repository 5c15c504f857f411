//! `gradlog merge`: the whole answer, of the parts that jobs of a batch queue made.

use super::influence::show_merged;
use super::scores::{show_table, OfRuns, Table};
use crate::arguments::{OutputArguments, EXIT_CODES};
use crate::error::CliError;
use crate::frame::{Asked, Shown, Verb};
use crate::notes::Notes;
use crate::output::Destination;
use clap::Args;
use gradlog_analysis::{AskedRun, MergedAnswer, PartialAnswer, WholeAnswer};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Make the whole answer of the parts that `gradlog scores --part` or `gradlog influence --part` made
///
/// Takes the files of all parts, from 1/N to N/N, in any order, and prints what the question without --part would have
/// printed. It needs no run. A part that is missing or there twice is an error, and so are parts of different runs or
/// of different questions.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Files of all parts
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// Only the N most suspicious, or of influence the N strongest of both ends; by default as without parts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    output: OutputArguments,
}

impl Verb for Arguments {
    type Answer<'run> = MergedAnswer;

    fn runs(&self) -> &[PathBuf] {
        &[]
    }

    fn destination(&self) -> Destination<'_> {
        self.output.destination_of_first(self.top)
    }

    fn ask<'run>(&self, _: &Asked<'run>) -> Result<MergedAnswer, CliError> {
        let named = |path: &PathBuf| Ok((path.display().to_string(), read(path)?));
        let parts: Vec<(String, PartialAnswer)> = self.parts.iter().map(named).collect::<Result<_, CliError>>()?;
        Ok(PartialAnswer::merge(parts)?)
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, merged: MergedAnswer) -> Result<Shown<'run>, CliError> {
        let terminal = asked.terminal(&self.destination());
        let runs = merged.runs.clone();
        let mut shown = match merged.answer {
            WholeAnswer::Scores(table) => show_table(Table::One(table), of_runs(&runs), terminal.is_some()),
            WholeAnswer::ScoresOverRuns(table) => show_table(Table::Several(table), of_runs(&runs), terminal.is_some()),
            _ => {
                let top = self.top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
                show_merged(merged, (self.output.format(), top), terminal)?
            }
        };
        let names = crate::frame::prefixes(&runs.iter().map(|run| run.name.clone()).collect::<Vec<_>>());
        for (name, run) in names.into_iter().zip(runs) {
            shown.left_out.push((name, Notes::of_words(run.worker_notes)));
        }
        Ok(shown)
    }
}

fn read(path: &Path) -> Result<PartialAnswer, CliError> {
    let file = File::open(path).map_err(|source| CliError::In { path: path.into(), source })?;
    PartialAnswer::read(BufReader::new(file)).map_err(|source| CliError::Part { path: path.into(), source })
}

fn of_runs(runs: &[AskedRun]) -> OfRuns {
    let workers = match runs {
        [run] => run.missing_workers.clone(),
        _ => None,
    };
    OfRuns { names: runs.iter().map(|run| run.name.clone()).collect(), workers }
}
