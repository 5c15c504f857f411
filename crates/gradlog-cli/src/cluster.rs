//! `--cluster`: workers of `gradlog-sql` make the parts of an answer, and the command merges them.
//!
//! The engine is another program, because it is 250 packages, and few ask for it. It makes the files that `--part I/N`
//! makes, so that what is printed is what the command prints by itself.

use crate::error::CliError;
use crate::output::Console;
use crate::places::is_address;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};
use std::env::{current_exe, var_os};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

/// The program that asks workers.
const PROGRAM: &str = "gradlog-sql";
/// Where it is, if it is neither beside this one nor in a folder of `PATH`.
const VARIABLE: &str = "GRADLOG_SQL";
/// Options that are for the merge, not for the parts.
const NOT_OF_PARTS: [&str; 3] = ["cluster", "format", "out"];

/// Which workers answer, if not this process.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// Let these workers answer, a part of the examples each. They are started by `gradlog-sql worker`, and open the
    /// run by the same path or address
    #[arg(long, value_name = "URL,URL,..", value_delimiter = ',', conflicts_with = "part")]
    pub(crate) cluster: Vec<String>,
}

/// A question for workers.
pub(crate) struct Handed<'a> {
    verb: &'a str,
    found: &'a ArgMatches,
    command: &'a Command,
}

impl<'a> Handed<'a> {
    /// The question of a command line that names workers.
    pub fn of(command: &'a Command, found: &'a ArgMatches) -> Option<Self> {
        let (verb, found) = found.subcommand()?;
        let is_named = found.try_contains_id("cluster").unwrap_or(false) && found.get_raw("cluster").is_some();
        is_named.then_some(Self { verb, found, command: command.find_subcommand(verb)? })
    }

    /// Lets the workers make all parts. Returns the command line that merges them; the folder must outlive it.
    pub fn ask(&self, folder: &Path, console: &mut Console<'_>) -> Result<Vec<OsString>, CliError> {
        let program = program();
        let mut child = process::Command::new(&program);
        child.arg("parts").arg("--verb").arg(self.verb).arg("--into").arg(folder);
        for worker in self.found.get_raw("cluster").into_iter().flatten() {
            child.arg("--cluster").arg(worker);
        }
        for run in self.runs() {
            child.arg("--run").arg(run);
        }
        child.arg("--").args(self.options());
        let mut child =
            child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| {
                CliError::Cluster {
                    code: 1,
                    words: format!(
                        "cannot run {}, which asks the workers: {error}; install it with `cargo install --path \
                     crates/gradlog-datafusion --features cluster`, or say where it is in the variable {VARIABLE}",
                        program.display()
                    ),
                }
            })?;
        let mut why = None;
        for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let line = line.map_err(CliError::Write)?;
            match line.strip_prefix("error: ") {
                Some(words) => why = Some(words.to_owned()),
                None => console.say(&line),
            }
        }
        let ended = child.wait().map_err(CliError::Write)?;
        if !ended.success() {
            let code = if ended.code() == Some(2) { 2 } else { 1 };
            let words = why.unwrap_or_else(|| format!("{} ended with {ended}", program.display()));
            return Err(CliError::Cluster { code, words });
        }
        let mut line: Vec<OsString> = vec!["gradlog".into(), "merge".into()];
        for option in ["top", "format", "out"] {
            if let Some(value) = self.typed(option).and_then(|mut values| values.next()) {
                line.extend([format!("--{option}").into(), value.to_owned()]);
            }
        }
        line.push("--".into());
        let mut parts: Vec<PathBuf> = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(|source| CliError::In { path: folder.into(), source })?;
        parts.sort();
        line.extend(parts.into_iter().map(OsString::from));
        Ok(line)
    }

    /// The runs, so that a worker in another folder finds them.
    fn runs(&self) -> Vec<PathBuf> {
        let names = self.command.get_positionals().filter_map(|run| self.found.get_raw(run.get_id().as_str()));
        let whole = |run: &OsStr| match is_address(Path::new(run)) {
            true => PathBuf::from(run),
            false => std::path::absolute(run).unwrap_or_else(|_| run.into()),
        };
        names.flatten().map(whole).collect()
    }

    /// What was typed of an option.
    fn typed(&self, id: &str) -> Option<clap::parser::RawValues<'_>> {
        if !self.found.try_contains_id(id).unwrap_or(false) {
            return None;
        }
        self.found.get_raw(id).filter(|_| self.found.value_source(id) == Some(ValueSource::CommandLine))
    }

    /// The options of the question, a word each.
    fn options(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        for argument in self.command.get_arguments().filter(|argument| !argument.is_positional()) {
            let id = argument.get_id().as_str();
            // All rows of scores are merged, so that the most suspicious of all come first.
            let is_left_out = NOT_OF_PARTS.contains(&id) || (self.verb == "scores" && id == "top");
            let (Some(name), false) = (argument.get_long(), is_left_out) else { continue };
            let takes_values = argument.get_action().takes_values();
            for value in self.typed(id).into_iter().flatten() {
                let mut word = OsString::from(format!("--{name}"));
                if takes_values {
                    word.push("=");
                    word.push(value);
                }
                if takes_values || value == "true" {
                    words.push(word);
                }
            }
        }
        words
    }
}

/// Where the other program is: where the variable says, beside this one, or in a folder of `PATH`.
fn program() -> PathBuf {
    if let Some(path) = var_os(VARIABLE) {
        return path.into();
    }
    let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let beside = current_exe().ok().map(|own| own.with_file_name(&name)).filter(|path| path.is_file());
    beside.unwrap_or_else(|| name.into())
}
