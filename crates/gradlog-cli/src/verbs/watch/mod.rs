//! `gradlog watch`: how does a training go that is being recorded?
//!
//! `reading` reads what was appended and adds it to `figures`. `outside` asks what the log does not say: the lock, the
//! memory of the process. `words` says both in lines, for `--once` and for the terminal alike. `view` lays them out,
//! `follow` refreshes them, `screen` is the real terminal.

mod curve;
mod examples;
mod figures;
mod follow;
mod outside;
mod pace;
mod reading;
mod screen;
mod session;
#[cfg(test)]
mod tests;
mod view;
mod words;

use crate::arguments::EXIT_CODES;
use crate::error::CliError;
use crate::frame::{Asked, Content, Shown, Verb};
use crate::output::Destination;
use clap::Args;
use gradlog_format::run::Damage;
use session::Session;
use std::path::PathBuf;
use std::slice;
use std::time::Duration;

/// Follow a run in the terminal while it is recorded: speed, loss, what is missing, suspects so far
///
/// Shows steps a second, mean loss and accuracy, probes, the recorded share, dropped visits, bytes, the memory of the
/// training process, how often examples were forgotten, and the examples with the lowest mean margin so far. It says
/// when the run ends, falls silent or is damaged. `q` or Ctrl-C ends it, and the last state stays in the terminal.
///
/// It reads the log of another process and never disturbs it. A refresh reads what was appended since the last one, for
/// at most 150 ms and one block; a long run is caught up with over several refreshes. Single examples are followed up
/// to the first million, about 100 bytes each.
///
/// If standard output is not a terminal, it prints the state once and ends, as with --once.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Print the state once as plain text, and end
    #[arg(long)]
    once: bool,
    /// Seconds between two refreshes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = parse_seconds, conflicts_with = "once")]
    every: f64,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0.2 to 3600".into()),
    }
}

/// The state at the end.
#[derive(Debug, Default)]
pub(crate) struct Last {
    pairs: Vec<(&'static str, String)>,
    damage: Vec<Damage>,
}

impl Verb for Arguments {
    type Answer<'run> = Last;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn names_workers(&self) -> bool {
        false
    }

    fn needs_folders(&self) -> Option<&'static str> {
        Some("`watch` follows a recorder on this machine, so it needs the run's folder; `info` reads an address")
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Last, CliError> {
        asked.run().refuse_compacted("following a training")?;
        if asked.draws(&Destination::stdout()) && !self.once && screen::can_draw() {
            return screen::follow(&self.run, Duration::from_secs_f64(self.every));
        }
        asked.read("reading", 1, |progress| {
            let mut session = Session::new(asked.run());
            session.read_all(progress)?;
            Ok::<_, CliError>(session.last())
        })
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, last: Last) -> Result<Shown<'run>, CliError> {
        Ok(Shown { content: Content::Pairs(last.pairs), damage: last.damage, ..Shown::default() })
    }
}
