//! The command `gradlog`: its library, so that the binary holds nothing but a call.
//!
//! Data goes to stdout and words to stderr, so that a pipe sees data alone. Nothing is computed here: the verbs ask
//! [`gradlog_analysis`] and hand rows to `report`. Imports go one way: `verbs` → `frame` → `arguments`, `output`,
//! `error` → `report`. A new verb is a file in `verbs` and a line in its list.

mod arguments;
mod choice;
mod cluster;
mod error;
mod frame;
mod notes;
mod output;
mod page;
mod places;
mod report;
mod serve;
pub mod shared;
#[cfg(test)]
mod tests;
mod tips;
mod verbs;

use arguments::EXIT_CODES;
use clap::{Command, CommandFactory, FromArgMatches, Parser};
use cluster::Handed;
use error::{explain, CliError};
use output::{Console, Watch};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use verbs::{Outcome, Verbs};

/// Reads what gradlog recorded while a model trained. It says which examples look mislabeled, are forgotten or are
/// never learned, and which taught the model its answer to a probe. It needs neither the model nor the data.
#[derive(Debug, Parser)]
#[command(name = "gradlog", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verbs,
}

/// Runs the command line of this process and returns its exit code.
pub fn run() -> ExitCode {
    let (mut out, mut words) = (io::stdout(), io::stderr());
    let watch = Watch::new(words.is_terminal());
    let terminal = out.is_terminal().then(terminal_width);
    let mut console = Console { out: &mut out, words: &mut words, watch, terminal };
    ExitCode::from(execute(std::env::args_os(), &mut console))
}

/// The width of the terminal in columns. A terminal that says 0 does not know it.
fn terminal_width() -> usize {
    match ratatui::crossterm::terminal::size() {
        Ok((columns @ 1.., _)) => columns.into(),
        _ => usize::MAX,
    }
}

/// How a command line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub code: u8,
    /// What went to stdout.
    pub data: Vec<u8>,
    /// What went to stderr.
    pub words: String,
}

/// Runs a command line, without the program's name, in this process and on no terminal.
pub fn run_line(arguments: impl IntoIterator<Item = OsString>) -> Ended {
    run_line_with(arguments, Watch::new(false))
}

/// As [`run_line`]. The reading of a run ends with an error within a few blocks after `stop` says so.
pub fn run_line_until(
    arguments: impl IntoIterator<Item = OsString>,
    stop: impl Fn() -> bool + Send + Sync + 'static,
) -> Ended {
    run_line_with(arguments, Watch::stopping(Arc::new(stop)))
}

fn run_line_with(arguments: impl IntoIterator<Item = OsString>, watch: Watch) -> Ended {
    let (mut data, mut words) = (Vec::new(), Vec::new());
    let mut console = Console { out: &mut data, words: &mut words, watch, terminal: None };
    let code = execute(std::iter::once("gradlog".into()).chain(arguments), &mut console);
    Ended { code, data, words: String::from_utf8_lossy(&words).into_owned() }
}

/// The command line as clap reads it. A value such as `-1` reaches its option, which says what is wrong with it.
fn command() -> Command {
    Cli::command().mut_subcommands(|verb| {
        verb.mut_args(|argument| match argument.get_id().as_str() {
            "epochs" | "steps" => argument.allow_hyphen_values(true),
            _ if argument.get_action().takes_values() => argument.allow_negative_numbers(true),
            _ => argument,
        })
    })
}

/// Runs one command line, the program's name included, and returns the exit code.
fn execute(arguments: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = command();
    let parsed = command.try_get_matches_from_mut(&arguments);
    let parsed = parsed.and_then(|found| Cli::from_arg_matches(&found).map(|cli| (cli, found)));
    let (cli, found) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are data; whatever else clap says is words. If nobody listens, the code still tells.
            let to: &mut dyn Write = if error.use_stderr() { console.words } else { console.out };
            let _ = write!(to, "{}", error.render());
            if let Some(tip) = tips::tip(&error, &arguments) {
                let _ = write!(to, "\n  tip: {tip}\n");
            }
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let ran = match Handed::of(&command, &found) {
        Some(question) => merge_parts(&question, console),
        None => cli.verb.run(console),
    };
    let result = ran.and_then(|outcome| match console.out.flush() {
        Ok(()) => Ok(outcome),
        Err(error) => Err(CliError::Stdout(error)),
    });
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Loss) => 3,
        // The reader of our output closed it, as `head` does.
        Err(CliError::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            console.say(format_args!("error: {}", explain(&error)));
            exit_code(&error)
        }
    }
}

/// Lets workers make the parts of an answer, and merges them as `gradlog merge` does.
fn merge_parts(question: &Handed<'_>, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let folder = tempfile::tempdir().map_err(CliError::Write)?;
    let line = question.ask(folder.path(), console)?;
    let merge = Cli::try_parse_from(line).map_err(|error| CliError::Arguments(error.to_string()))?;
    merge.verb.run(console)
}

/// The exit code of a verb that failed.
fn exit_code(error: &CliError) -> u8 {
    if error.is_about_arguments() {
        2
    } else {
        1
    }
}
