//! `gradlog verify`: is every byte of the run what was written?

use super::recover::lost_places;
use crate::error::CliError;
use crate::frame::{Asked, Content, Shown, Verb};
use clap::Args;
use gradlog_format::run::{CheckpointFault, Run, Survey, VerifyReport};
use std::path::PathBuf;
use std::slice;

const EXIT_CODES: &str = "Exit codes:
  0  the run is sound
  1  it cannot be read; stderr says why and what next
  2  bad arguments
  3  it is damaged: it can be read up to the place that stderr names, and `gradlog recover` may save what is behind;
     or the file of a checkpoint is damaged, which costs nothing else

Data goes to stdout, words to stderr.";

/// Read all of a run and check every checksum
///
/// Exits with 0 if the run is sound, 1 if it cannot be read at all, 3 if it can be read up to a damaged place. It
/// names that place, what is readable, what lies behind the damage, and the command that saves it. A run may be sound
/// and not finished: its recorder was killed, was dropped without `finish` or still writes, or its end was lost before
/// `recover`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
}

impl Verb for Arguments {
    /// The report and, of a damaged run, what can still be saved.
    type Answer<'run> = (VerifyReport, Option<Survey>);

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Self::Answer<'run>, CliError> {
        let run = asked.run();
        let report = asked.read("checking", 1, |progress| run.verify_with(&|bytes| progress.report(bytes)))?;
        // Where the scan stopped, the rest is surveyed too: a reader wants to know what can still be saved.
        let survey = if report.damage.is_some() && !run.is_being_written() { Some(run.survey()?) } else { None };
        Ok((report, survey))
    }

    fn show<'run>(
        &'run self,
        asked: &'run Asked<'run>,
        (report, survey): Self::Answer<'run>,
    ) -> Result<Shown<'run>, CliError> {
        let run = asked.run();
        let content = Content::Pairs(pairs(run, &report, survey.as_ref()));
        let mut before = Vec::new();
        if report.dropped > 0 {
            let dropped = report.dropped;
            before.push(format!(
                "note: {dropped} visits are missing and the run says so: its recorder dropped them or could not write \
                 them, or a recovery could not save them"
            ));
        }
        if report.newer_columns > 0 {
            before.push(format!(
                "note: {} columns were written by a newer gradlog: their checksums match, and this one cannot read their \
                 numbers; install a newer gradlog for the verbs that need them",
                report.newer_columns
            ));
        }
        if report.unknown_steps > 0 {
            let steps = report.unknown_steps;
            before.push(format!(
                "note: the run knows nothing of {steps} steps: the training was resumed behind the end of the log"
            ));
        }
        if report.damage.is_some() {
            let after = self.damage_words(run, &report, survey.as_ref());
            let damage = report.damage.into_iter().collect();
            return Ok(Shown { after: before, content, damage, last: after, ..Shown::default() });
        }
        if !report.finished {
            let why = match run.is_being_written() {
                true => "note: a recorder writes to this run; this is what had been committed",
                false => {
                    "note: the run was not finished: its recorder was killed, and visits that were still in memory are \
                     not here; or its recorder was dropped without `finish`; or the run was recovered and its end was lost"
                }
            };
            before.push(why.into());
        }
        // A file that is gone may have been taken away to make room. One that is there and wrong is damage.
        let mut loss = false;
        for (step, fault) in &report.checkpoint_faults {
            before.push(match fault {
                CheckpointFault::Lost => format!("note: checkpoint of step {step}: {fault}; it cannot be replayed"),
                _ => {
                    loss = true;
                    format!("warning: checkpoint of step {step}: {fault}; the log itself is not touched by it")
                }
            });
        }
        Ok(Shown { content, after: before, loss, ..Shown::default() })
    }
}

impl Arguments {
    /// What of a damaged run can be read, what lies behind the damage, and the command that saves it.
    fn damage_words(&self, run: &Run, report: &VerifyReport, survey: Option<&Survey>) -> Vec<String> {
        let extent = |steps: Option<(u64, u64)>, epochs: Option<(u32, u32)>| match (steps, epochs) {
            (Some(steps), Some(epochs)) => {
                format!(" of steps {} and epochs {}", range_words(steps), range_words(epochs))
            }
            _ => String::new(),
        };
        let readable = extent(report.visit_steps, report.visit_epochs);
        let visits = report.visits;
        let mut lines = vec![format!(
            "readable: {visits} visits{readable}; verbs that need what is damaged work on these and exit with 3"
        )];
        let Some(survey) = survey else {
            lines.push("a recorder writes to this run: verify it again when that has ended".into());
            return lines;
        };
        let behind = &survey.behind;
        let has_parts = !run.parts().is_empty();
        lines.push(if has_parts {
            "the parts of the workers end there together; each can be read alone, by the name of its folder".into()
        } else if behind.blocks > 0 {
            let extent = extent(behind.visit_steps, behind.visit_epochs);
            format!(
                "behind the damage: {} intact blocks with {} visits{extent}, which no verb but `recover` reads",
                behind.blocks, behind.visits
            )
        } else {
            "behind the damage: nothing that can be read".into()
        });
        lines.extend(lost_places(&survey.lost));
        let what = match behind.blocks {
            0 if !has_parts => "a run without the damage",
            _ => "a sound run of all that is intact",
        };
        let path = self.run.display().to_string();
        let path = match path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path if path.starts_with('-') => format!("./{path}"),
            path => path.to_owned(),
        };
        let (from, to) = (quote_path(&path), quote_path(&format!("{path}-recovered")));
        lines.push(format!("to write {what}: gradlog recover {from} --out {to}"));
        lines
    }
}

fn pairs(run: &Run, report: &VerifyReport, survey: Option<&Survey>) -> Vec<(&'static str, String)> {
    let state = match (&report.damage, report.finished) {
        (Some(_), _) => "damaged",
        (None, true) => "sound",
        (None, false) => "sound, not finished",
    };
    let mut pairs = vec![
        ("state", state.to_owned()),
        ("blocks", report.blocks.to_string()),
        ("bytes", report.bytes.to_string()),
        ("visits", report.visits.to_string()),
        ("probe visits", report.probes.to_string()),
        ("steps", report.steps.to_string()),
        ("dropped", report.dropped.to_string()),
    ];
    if report.abandoned > 0 {
        pairs.push(("abandoned", report.abandoned.to_string()));
    }
    if report.unknown_steps > 0 {
        pairs.push(("unknown steps", report.unknown_steps.to_string()));
    }
    if report.curvature > 0 {
        pairs.push(("rows of curvature", report.curvature.to_string()));
    }
    if report.sweeps > 0 {
        pairs.push(("swept", report.sweeps.to_string()));
    }
    if report.checkpoints > 0 {
        pairs.push(("checkpoints", checkpoint_words(report)));
    }
    if report.cards > 0 {
        pairs.push(("cards", report.cards.to_string()));
    }
    if report.superseded > 0 {
        pairs.push(("superseded", report.superseded.to_string()));
    }
    if let Some(survey) = survey {
        // Of several workers, what is intact in one part and behind the damage of another is behind it too.
        let intact = survey.before.visits.saturating_add(survey.behind.visits);
        let behind = match run.parts().is_empty() {
            true => survey.behind.visits,
            false => intact.saturating_sub(report.visits).saturating_sub(report.superseded),
        };
        pairs.push(("behind it", format!("{behind} visits")));
        let lost = survey.lost_visits().map_or("an unknown number of visits".into(), |n| format!("{n} visits"));
        pairs.push(("lost", lost));
    }
    pairs
}

fn checkpoint_words(report: &VerifyReport) -> String {
    match report.checkpoint_faults.len() {
        0 => report.checkpoints.to_string(),
        faults => format!("{}, {faults} of them lost or damaged", report.checkpoints),
    }
}

fn range_words<T: std::fmt::Display + PartialEq>((first, last): (T, T)) -> String {
    if first == last {
        format!("{first}")
    } else {
        format!("{first} to {last}")
    }
}

/// A path as a shell takes it for one word. Control characters are written as escapes that bash, zsh and ksh read: a
/// terminal must not see them.
fn quote_path(path: &str) -> String {
    if path.chars().any(char::is_control) {
        let escape = |byte: u8| match byte {
            b'\'' | b'\\' => format!("\\{}", char::from(byte)),
            0x20..=0x7E => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        return format!("$'{}'", path.bytes().map(escape).collect::<String>());
    }
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    match !path.is_empty() && path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}
