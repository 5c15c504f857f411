//! `gradlog verify`: is every byte of the run what was written?

use super::error::CliError;
use super::output::Console;
use super::Outcome;
use crate::report;
use crate::run::Run;
use clap::Args;
use std::path::PathBuf;

/// Read all of a run and check every checksum
///
/// Exits with 0 if the run is sound, 1 if it cannot be read at all, 3 if it can be read up to a damaged place, which is
/// named. A run that was never finished (its recorder was killed, or still writes) is sound as far as it goes, and it
/// says so.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let bar = console.bar(&run, 1, "checking");
    let report = run.verify_with(|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let report = report?;
    let state = match (&report.damage, report.finished) {
        (Some(_), _) => "damaged",
        (None, true) => "sound",
        (None, false) => "sound, not finished",
    };
    let pairs = [
        ("state", state.to_owned()),
        ("blocks", report.blocks.to_string()),
        ("bytes", report.bytes.to_string()),
        ("visits", report.visits.to_string()),
        ("probe visits", report.probes.to_string()),
        ("steps", report.steps.to_string()),
        ("dropped", report.dropped.to_string()),
    ];
    report::pairs(console.out, &pairs).map_err(CliError::Stdout)?;
    if report.dropped > 0 {
        let dropped = report.dropped;
        console.say(format_args!("note: the recorder dropped {dropped} visits and said so; they are not in the run"));
    }
    if let Some(damage) = &report.damage {
        console.say_damage(Some(damage));
        console.say("what comes after it is not read: every verb works on what is before and exits with 3");
        return Ok(Outcome::Loss);
    }
    if !report.finished {
        console.say(
            "note: the run was not finished: its recorder was killed or still writes; \
             all that was committed is here, visits that were still in memory are not",
        );
    }
    Ok(Outcome::Done)
}
