//! `gradlog info`: what is in a run?

mod json;
mod table;

use crate::arguments::EXIT_CODES;
use crate::error::CliError;
use crate::frame::{Asked, Content, Ending, Shown, Verb};
use clap::{Args, ValueEnum};
use gradlog_analysis::{AnalysisError, Progress, RunSummary, SummaryQuestion};
use gradlog_format::log::{Coupling, Manifest, Mode};
use gradlog_format::run::{CheckRecord, Checkpoint, ReadError, Run, WorkerState, Workers};
use std::path::PathBuf;
use std::slice;

/// Say what a run holds: layers, coverage, visits, probes, epochs, bytes, what was dropped
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Kind::Table)]
    format: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For the eye
    Table,
    /// One object
    Json,
}

impl Verb for Arguments {
    type Answer<'run> = Contents<'run>;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Contents<'run>, CliError> {
        asked.read("reading", 1, |progress| Contents::read(asked.run(), progress))
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, contents: Contents<'run>) -> Result<Shown<'run>, CliError> {
        let damage = contents.summary.damage.iter().cloned().collect();
        let content = Content::Written(Box::new(move |out| {
            match self.format {
                Kind::Table => contents.write_tables(out)?,
                Kind::Json => contents.write_json(out)?,
            }
            Ok(Ending::default())
        }));
        Ok(Shown { content, damage, ..Shown::default() })
    }
}

/// What is said of a run, in either form.
pub(crate) struct Contents<'a> {
    manifest: &'a Manifest,
    summary: RunSummary,
    workers: Option<Workers>,
    /// The checkpoints that were saved.
    checkpoints: Vec<Checkpoint>,
    /// The checks of recorded gradients.
    checks: Vec<CheckRecord>,
    /// What couples the examples of a batch.
    couplings: Vec<Coupling>,
}

/// A list from the log. Where the log is damaged, the summary says so, and the list may be empty.
fn before_damage<T>(summary: &RunSummary, list: Result<Vec<T>, ReadError>) -> Result<Vec<T>, CliError> {
    match list {
        Err(ReadError::Damaged(_)) if summary.damage.is_some() => Ok(Vec::new()),
        other => Ok(other.map_err(AnalysisError::from)?),
    }
}

impl<'a> Contents<'a> {
    /// Reads what is said of a run.
    pub(crate) fn read(run: &'a Run, progress: &Progress) -> Result<Self, CliError> {
        let summary = SummaryQuestion::new().share_progress(progress).compute(run)?;
        let checkpoints = before_damage(&summary, run.checkpoints())?;
        let checks = before_damage(&summary, run.checks())?;
        let couplings = before_damage(&summary, run.couplings())?;
        Ok(Self { manifest: run.manifest(), summary, workers: run.workers()?, checkpoints, checks, couplings })
    }

    /// What is counted.
    pub(crate) fn summary(&self) -> &RunSummary {
        &self.summary
    }
}

impl Contents<'_> {
    /// What the recorded gradients are: each example's own, or shares.
    fn gradient_words(&self) -> String {
        if self.manifest.layers.is_empty() {
            return "none".into();
        }
        match (self.checks.last(), self.couplings.is_empty()) {
            (_, false) => "shares of the batch gradient, because examples are coupled".into(),
            (None, true) => "each example's own, if its loss depends on no other example; never checked".into(),
            (Some(check), true) if check.agrees() => {
                format!("each example's own: a check at step {} agrees", check.step)
            }
            (Some(check), true) => format!("not each example's own: a check at step {} disagrees", check.step),
        }
    }
}

/// What can be seen of the file without reading it.
fn file_state(checkpoint: &Checkpoint) -> String {
    checkpoint.look().map_or_else(|fault| fault.to_string(), |()| "there".into())
}

fn mode_names(modes: &[Mode]) -> Vec<String> {
    modes.iter().map(Mode::to_string).collect()
}

fn worker_state(worker: &WorkerState) -> &'static str {
    match (worker.recording, worker.finished) {
        (true, _) => "recording",
        (false, true) => "finished",
        (false, false) => "not finished",
    }
}
