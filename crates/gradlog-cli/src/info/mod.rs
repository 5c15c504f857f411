//! `gradlog info`: what is in a run?

mod json;
mod table;

use super::error::CliError;
use super::output::{say_workers, Console};
use super::Outcome;
use clap::{Args, ValueEnum};
use gradlog_analysis::{AnalysisError, Summary};
use gradlog_format::log::{Manifest, Mode};
use gradlog_format::run::{Checkpoint, ReadError, Run, WorkerState, Workers};
use std::path::PathBuf;

/// Say what a run holds: layers, coverage, visits, probes, epochs, bytes, what was dropped
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
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

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let bar = console.bar(&run, 1, "reading");
    let summary = Summary::of_with(&run, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let summary = summary?;
    // Where the log is damaged, the summary says so; what is asked for here is beside it.
    let checkpoints = match run.checkpoints() {
        Err(ReadError::Damaged(_)) if summary.damage.is_some() => Vec::new(),
        other => other.map_err(AnalysisError::from)?,
    };
    let workers = run.workers()?;
    let contents =
        Contents { manifest: run.manifest(), summary: &summary, workers: workers.as_ref(), saved: &checkpoints };
    match arguments.format {
        Kind::Table => contents.table(console.out),
        Kind::Json => contents.json(console.out),
    }
    .map_err(CliError::Stdout)?;
    say_workers(console, &run)?;
    console.say_damage(summary.damage.as_ref());
    Ok(if summary.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

/// What is said of a run, in either form.
struct Contents<'a> {
    manifest: &'a Manifest,
    summary: &'a Summary,
    workers: Option<&'a Workers>,
    /// The checkpoints that were saved.
    saved: &'a [Checkpoint],
}

/// What of the file can be seen without reading it.
fn file(checkpoint: &Checkpoint) -> String {
    checkpoint.look().map_or_else(|fault| fault.to_string(), |()| "there".into())
}

fn modes(modes: &[Mode]) -> Vec<String> {
    modes.iter().map(Mode::to_string).collect()
}

fn worker_state(worker: &WorkerState) -> &'static str {
    match (worker.recording, worker.finished) {
        (true, _) => "recording",
        (false, true) => "finished",
        (false, false) => "not finished",
    }
}
