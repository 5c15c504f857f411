//! `gradlog recover`: a sound run from a damaged one.

use crate::error::CliError;
use crate::frame::{Asked, Content, Shown, Verb};
use clap::Args;
use gradlog_format::run::{Lost, ReadError, RecoverReport};
use std::path::PathBuf;
use std::slice;

const EXIT_CODES: &str = "Exit codes:
  0  done, and nothing is lost
  1  failed; stderr says what, where and what next, and nothing is left at NEW
  2  bad arguments
  3  done, and the new run is sound, but something is lost; stderr says what

Data goes to stdout, words to stderr.";

/// How many damaged places are named one by one.
const PLACES_MAX: usize = 20;

/// Write a sound run from a damaged one, and say what is lost
///
/// Copies every block that is intact, also those behind the damage, where all other verbs stop. Steps may then be
/// missing in the middle. The new run counts their visits as dropped where their number is known. NEW appears when it
/// is whole and has been read back. RUN is not changed. Its manifest must be intact: it alone says what the numbers
/// mean.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the damaged run
    run: PathBuf,
    /// Folder of the new run; must not exist
    #[arg(long, value_name = "NEW")]
    out: PathBuf,
}

impl Verb for Arguments {
    type Answer<'run> = RecoverReport;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn names_workers(&self) -> bool {
        false
    }

    fn explain_unopened(&self, error: ReadError) -> CliError {
        CliError::Manifest(error)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<RecoverReport, CliError> {
        asked.read("recovering", 2, |progress| asked.run().recover_with(&self.out, &|bytes| progress.report(bytes)))
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, recovered: RecoverReport) -> Result<Shown<'run>, CliError> {
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
        let mut after = lost_places(&survey.lost);
        if recovered.unnamed_probe_sets > 0 {
            pairs.push(("lost names", recovered.unnamed_probe_sets.to_string()));
            after.push(
                "note: probe sets whose names are lost are called `lost-name-N`; `gradlog info` lists them".into(),
            );
        }
        if !written.finished {
            after.push("note: the run was not finished, or its end is lost".into());
        }
        after.push(format!("{} is sound: it was read back and checked", self.out.display()));
        Ok(Shown { content: Content::Pairs(pairs), after, loss: !survey.is_whole(), ..Shown::default() })
    }
}

/// A line for each damaged place, as far as they are few.
pub(super) fn lost_places(lost: &[Lost]) -> Vec<String> {
    let mut lines: Vec<String> = lost.iter().take(PLACES_MAX).map(|lost| format!("damage: {lost}")).collect();
    if lost.len() > PLACES_MAX {
        lines.push(format!("... and in {} more places", lost.len() - PLACES_MAX));
    }
    lines
}
