//! `gradlog recover`: a sound run from a damaged one.

use super::error::CliError;
use super::output::Console;
use super::Outcome;
use crate::report;
use clap::Args;
use gradlog_format::run::Run;
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes:
  0  done, and nothing is lost
  1  failed; stderr says what, where and what next, and nothing is left at NEW
  2  bad arguments
  3  done, and the new run is sound, but something is lost; stderr says what

Data goes to stdout, words to stderr.";

/// How many damaged places are told one by one.
pub(super) const PLACES_MAX: usize = 20;

/// Write a sound run from a damaged one, and say what is lost
///
/// Copies every block that is intact, also those behind the damage, where all other verbs stop. Steps may be missing in the
/// middle then; where it is known how many visits are, the new run says so as it does of dropped ones. NEW appears when it
/// is whole and has been read back. RUN is not changed. Its manifest must be intact: without it nobody can tell what the
/// numbers mean.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the damaged run
    run: PathBuf,
    /// Folder of the new run; must not exist
    #[arg(long, value_name = "NEW")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run).map_err(CliError::Recover)?;
    let bar = console.bar(&run, 2, "recovering");
    let recovered = run.recover_with(&arguments.out, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let recovered = recovered?;
    let (survey, written) = (&recovered.survey, &recovered.written);
    let known = |count: Option<u64>| count.map_or("unknown".into(), |count| count.to_string());
    let lost_blocks = survey.lost.iter().try_fold(0u64, |sum, lost| Some(sum.saturating_add(lost.blocks?)));
    let state = if survey.is_whole() { "recovered, nothing lost" } else { "recovered with loss" };
    let mut pairs = vec![
        ("state", state.to_owned()),
        ("blocks", written.blocks.to_string()),
        ("bytes", written.bytes.to_string()),
        ("visits", written.visits.to_string()),
        ("probe visits", written.probes.to_string()),
        ("steps", written.steps.to_string()),
        ("dropped", written.dropped.to_string()),
        ("lost blocks", known(lost_blocks)),
        ("lost visits", known(survey.lost_visits())),
    ];
    if recovered.unnamed_probe_sets > 0 {
        pairs.push(("lost names", recovered.unnamed_probe_sets.to_string()));
    }
    report::pairs(console.out, &pairs).map_err(CliError::Stdout)?;
    for lost in survey.lost.iter().take(PLACES_MAX) {
        console.say(format_args!("damage: {lost}"));
    }
    if survey.lost.len() > PLACES_MAX {
        console.say(format_args!("... and in {} more places", survey.lost.len() - PLACES_MAX));
    }
    if recovered.unnamed_probe_sets > 0 {
        console.say("note: probe sets whose names are lost are called `lost-name-N`; `gradlog info` lists them");
    }
    if !written.finished {
        console.say("note: the run was not finished, or its end is lost");
    }
    console.say(format_args!("{} is sound: it was read back and checked", arguments.out.display()));
    Ok(if survey.is_whole() { Outcome::Done } else { Outcome::Loss })
}
