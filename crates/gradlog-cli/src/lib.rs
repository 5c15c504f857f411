//! The command line: words in, words out. One file per verb.
//!
//! Data goes to stdout and words to stderr, so that a pipe sees data alone. Knows nothing of how anything is computed:
//! it calls [`gradlog_analysis`] and hands the rows to [`crate::report`].

mod arguments;
mod choice;
mod cluster;
mod error;
mod export;
#[cfg(test)]
mod hostile;
mod ids;
mod influence;
mod info;
mod map;
mod method;
mod output;
mod over_runs;
mod prune;
mod recover;
mod report;
mod scores;
mod similar;
mod suspects;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_vectors;
mod threshold;
mod velocity;
mod verify;

use clap::{Parser, Subcommand};
use error::CliError;
use output::Console;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; stderr says what, where and what next
  2  bad arguments
  3  done, but the run is damaged: what is printed stands on what came before the damage

Data goes to stdout, words to stderr.";

/// Reads what gradlog recorded while a model trained: which examples look mislabelled, are forgotten or never learned,
/// and which taught the model its answer to a probe. Needs neither the model nor the data.
#[derive(Debug, Parser)]
#[command(name = "gradlog", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Info(info::Arguments),
    Verify(verify::Arguments),
    Recover(recover::Arguments),
    Scores(scores::Arguments),
    Suspects(suspects::Arguments),
    Threshold(threshold::Arguments),
    Map(map::Arguments),
    Prune(prune::Arguments),
    Velocity(velocity::Arguments),
    Influence(Box<influence::Arguments>),
    Similar(similar::Arguments),
    Cluster(cluster::Arguments),
    Export(export::Arguments),
}

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The run is damaged; the output stands on what can be read.
    Loss,
}

/// Runs the command line of this process and returns its exit code.
pub fn run() -> ExitCode {
    let (mut out, mut words) = (io::stdout(), io::stderr());
    let progress = words.is_terminal();
    let mut console = Console { out: &mut out, words: &mut words, progress };
    ExitCode::from(execute(std::env::args_os(), &mut console))
}

/// Runs one command line, the program's name included, and returns the exit code.
fn execute(arguments: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data; whatever else clap says is words. If nobody listens, the code still tells.
            let to: &mut dyn Write = if error.use_stderr() { console.words } else { console.out };
            let _ = write!(to, "{}", error.render());
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let result = match &cli.verb {
        Verb::Info(arguments) => info::run(arguments, console),
        Verb::Verify(arguments) => verify::run(arguments, console),
        Verb::Recover(arguments) => recover::run(arguments, console),
        Verb::Scores(arguments) => scores::run(arguments, console),
        Verb::Suspects(arguments) => suspects::run(arguments, console),
        Verb::Threshold(arguments) => threshold::run(arguments, console),
        Verb::Map(arguments) => map::run(arguments, console),
        Verb::Prune(arguments) => prune::run(arguments, console),
        Verb::Velocity(arguments) => velocity::run(arguments, console),
        Verb::Influence(arguments) => influence::run(arguments, console),
        Verb::Similar(arguments) => similar::run(arguments, console),
        Verb::Cluster(arguments) => cluster::run(arguments, console),
        Verb::Export(arguments) => export::run(arguments, console),
    };
    let result = result.and_then(|outcome| match console.out.flush() {
        Ok(()) => Ok(outcome),
        Err(error) => Err(CliError::Stdout(error)),
    });
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Loss) => 3,
        // Whoever read our output has seen enough, as `head` does.
        Err(CliError::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            console.say(format_args!("error: {error}"));
            1
        }
    }
}
