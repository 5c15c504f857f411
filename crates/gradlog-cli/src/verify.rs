//! `gradlog verify`: is every byte of the run what was written?

use super::error::CliError;
use super::output::{say_workers, Console};
use super::recover::PLACES_MAX;
use super::Outcome;
use crate::report;
use clap::Args;
use gradlog_format::run::{CheckpointFault, Run, VerifyReport};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes:
  0  the run is sound
  1  it cannot be read; stderr says why and what next
  2  bad arguments
  3  it is damaged: it can be read up to the place that stderr names, and `gradlog recover` may save what is behind;
     or the file of a checkpoint is damaged, which costs nothing else

Data goes to stdout, words to stderr.";

/// Read all of a run and check every checksum
///
/// Exits with 0 if the run is sound, 1 if it cannot be read at all, 3 if it can be read up to a damaged place, which is
/// named, with what is readable, what stands behind the damage, and the command that saves it. A run that was never finished
/// (its recorder was killed or still writes, or its end was lost before `recover`) is sound as far as it goes, and it says so.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
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
    // Where the scan stopped, the rest is looked at too: what could still be saved is worth knowing.
    let survey = if report.damage.is_some() && !run.is_being_written() { Some(run.survey()?) } else { None };
    let mut pairs = vec![
        ("state", state.to_owned()),
        ("blocks", report.blocks.to_string()),
        ("bytes", report.bytes.to_string()),
        ("visits", report.visits.to_string()),
        ("probe visits", report.probes.to_string()),
        ("steps", report.steps.to_string()),
        ("dropped", report.dropped.to_string()),
    ];
    if report.curvature > 0 {
        pairs.push(("rows of curvature", report.curvature.to_string()));
    }
    if report.sweeps > 0 {
        pairs.push(("swept", report.sweeps.to_string()));
    }
    if report.checkpoints > 0 {
        pairs.push(("checkpoints", checkpoints(&report)));
    }
    if report.superseded > 0 {
        pairs.push(("superseded", report.superseded.to_string()));
    }
    if let Some(survey) = &survey {
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
    report::pairs(console.out, &pairs).map_err(CliError::Stdout)?;
    say_workers(console, &run)?;
    if report.dropped > 0 {
        let dropped = report.dropped;
        console.say(format_args!(
            "note: {dropped} visits are missing and the run says so: its recorder dropped them or could not write them, or a recovery could not save them"
        ));
    }
    if let Some(damage) = &report.damage {
        console.say_damage(Some(damage));
        let extent = |steps: Option<(u64, u64)>, epochs: Option<(u32, u32)>| match (steps, epochs) {
            (Some(steps), Some(epochs)) => format!(" of steps {} and epochs {}", span(steps), span(epochs)),
            _ => String::new(),
        };
        let readable = extent(report.visit_steps, report.visit_epochs);
        console.say(format_args!(
            "readable: {} visits{readable}; every verb works on these and exits with 3",
            report.visits
        ));
        let Some(survey) = survey else {
            console.say("a recorder writes to this run: verify it again when that has ended");
            return Ok(Outcome::Loss);
        };
        let behind = &survey.behind;
        if !run.parts().is_empty() {
            console
                .say("the parts of the workers end there together; each can be read alone, by the name of its folder");
        } else if behind.blocks > 0 {
            let extent = extent(behind.visit_steps, behind.visit_epochs);
            console.say(format_args!(
                "behind the damage: {} intact blocks with {} visits{extent}, which no verb but `recover` reads",
                behind.blocks, behind.visits
            ));
        } else {
            console.say("behind the damage: nothing that can be read");
        }
        for lost in survey.lost.iter().take(PLACES_MAX) {
            console.say(format_args!("damage: {lost}"));
        }
        if survey.lost.len() > PLACES_MAX {
            console.say(format_args!("... and in {} more places", survey.lost.len() - PLACES_MAX));
        }
        let what = match behind.blocks {
            0 if run.parts().is_empty() => "a run without the damage",
            _ => "a sound run of all that is intact",
        };
        let path = arguments.run.display().to_string();
        let path = match path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path if path.starts_with('-') => format!("./{path}"),
            path => path.to_owned(),
        };
        console.say(format_args!(
            "to write {what}: gradlog recover {} --out {}",
            quoted(&path),
            quoted(&format!("{path}-recovered"))
        ));
        return Ok(Outcome::Loss);
    }
    if !report.finished {
        console.say(match run.is_being_written() {
            true => "note: a recorder writes to this run; this is what had been committed",
            false => {
                "note: the run was not finished: its recorder was killed, and visits that were still in memory are not here; \
                 or it was recovered from a run whose end was lost"
            }
        });
    }
    // A file that is gone may have been taken away to make room. One that is there and wrong is damage.
    let mut outcome = Outcome::Done;
    for (step, fault) in &report.checkpoint_faults {
        let what = fault.to_string();
        match fault {
            CheckpointFault::Lost => {
                console.say(format_args!("note: checkpoint of step {step}: {what}; it cannot be replayed"));
            }
            _ => {
                console.say(format_args!(
                    "warning: checkpoint of step {step}: {what}; the log itself is not touched by it"
                ));
                outcome = Outcome::Loss;
            }
        }
    }
    Ok(outcome)
}

fn checkpoints(report: &VerifyReport) -> String {
    match report.checkpoint_faults.len() {
        0 => report.checkpoints.to_string(),
        faults => format!("{}, {faults} of them lost or damaged", report.checkpoints),
    }
}

fn span<T: std::fmt::Display + PartialEq>((first, last): (T, T)) -> String {
    if first == last {
        format!("{first}")
    } else {
        format!("{first} to {last}")
    }
}

/// A path as a shell takes it for one word. Control characters are spelt out as bash, zsh and ksh read them: a terminal must
/// not see them.
fn quoted(path: &str) -> String {
    if path.chars().any(char::is_control) {
        let spelt = |byte: u8| match byte {
            b'\'' | b'\\' => format!("\\{}", char::from(byte)),
            0x20..=0x7E => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        };
        return format!("$'{}'", path.bytes().map(spelt).collect::<String>());
    }
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    match !path.is_empty() && path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}
