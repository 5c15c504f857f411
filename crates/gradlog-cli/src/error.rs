//! Why a verb failed, and what to do about it.

use gradlog_analysis::{AnalysisError, MergeError, PartFileError};
use gradlog_arrow::TableError;
use gradlog_format::log::MANIFEST_FILE;
use gradlog_format::run::{ReadError, RecoverError};
use gradlog_format::verdicts::VerdictsError;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why a verb failed. An error that has a source does not print it: [`explain`] does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The manifest of a run that is to be recovered cannot be read.
    #[error("without an intact manifest nothing can be recovered")]
    Manifest(#[source] ReadError),
    #[error(transparent)]
    Recovery(#[from] RecoverError),
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    /// A store cannot be used.
    #[cfg(feature = "remote")]
    #[error(transparent)]
    Store(#[from] gradlog_store::StoreError),
    #[error(transparent)]
    Verdicts(#[from] VerdictsError),
    #[error("{}", path.display())]
    Part { path: PathBuf, source: PartFileError },
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// Arguments that do not fit together.
    #[error("{0}")]
    Arguments(String),
    /// An answer without rows, and why.
    #[error("the answer has no rows: {}", if .0.is_empty() { "nothing in the run counts for it" } else { .0.trim_end_matches('.') })]
    NoRows(String),
    #[error("{0}, so there is nothing to keep, and no list was written")]
    NothingToKeep(String),
    /// Verdicts of which none fits the runs, and why.
    #[error("no verdict of the file fits the runs, and no list was written: {0}")]
    OtherVerdicts(String),
    /// The output cannot be written; the frame knows where to.
    #[error("cannot write")]
    Write(#[from] io::Error),
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    #[error("cannot write {}", path.display())]
    Out { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    In { path: PathBuf, source: io::Error },
    #[error("cannot listen at {place}")]
    Listen { place: String, source: io::Error },
    /// Data of the examples is not what it was said to be.
    #[error("{}: {what}", path.display())]
    Data { path: PathBuf, what: String, next: &'static str },
    /// What workers or the program that asks them said, with its exit code.
    #[error("{words}")]
    Cluster { code: u8, words: String },
    /// The run cannot be read on at the moment; the words say which file and why.
    #[error("{0}")]
    Watch(String),
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    #[error("cannot make the pictures of the page")]
    Pictures(#[from] image::ImageError),
    #[error("{}, line {line}: `{text}` is not the id of an example", path.display())]
    NotAnId { path: PathBuf, line: u64, text: String },
}

impl From<TableError> for CliError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Read(error) => CliError::Read(error),
            TableError::Analysis(error) => CliError::Analysis(error),
            TableError::Write(error) => CliError::Write(error),
            TableError::NoColumn { .. }
            | TableError::Twice(_)
            | TableError::NoGradients(_)
            | TableError::NoExamples(_)
            | TableError::NoWindow(_) => CliError::Arguments(error.to_string()),
            other => CliError::Write(io::Error::other(other)),
        }
    }
}

impl CliError {
    /// Whether the arguments alone are wrong, whatever the run holds.
    pub(crate) fn is_about_arguments(&self) -> bool {
        fn analysis(error: &AnalysisError) -> bool {
            match error {
                AnalysisError::NotOnSweeps { .. } | AnalysisError::OnlyVisits { .. } | AnalysisError::Rule { .. } => {
                    true
                }
                AnalysisError::InRun { source, .. } => analysis(source),
                _ => false,
            }
        }
        match self {
            CliError::Arguments(_) | CliError::Cluster { code: 2, .. } => true,
            #[cfg(feature = "remote")]
            CliError::Store(gradlog_store::StoreError::Address { .. }) => true,
            CliError::Analysis(error) => analysis(error),
            _ => false,
        }
    }

    /// An error of a question that was checked before any run was opened, which is about the arguments.
    pub(crate) fn of_check(error: AnalysisError) -> Self {
        match error {
            AnalysisError::OutOfRange { .. } => CliError::Arguments(error.to_string()),
            other => CliError::Analysis(other),
        }
    }

    /// What to do about it, in words of the command line.
    fn advice(&self) -> Option<String> {
        if let CliError::Read(ReadError::NotARun { path, .. }) = self {
            return find_runs_inside(path);
        }
        self.fixed_advice().map(Into::into)
    }

    fn fixed_advice(&self) -> Option<&'static str> {
        match self {
            CliError::Manifest(_) => Some(
                "the manifest alone says what layers, seeds and encodings the numbers belong to: put back `manifest` \
                 from a copy of the run",
            ),
            CliError::Analysis(error) => analysis_advice(error),
            CliError::NoRows(_) => Some("`gradlog info` says what the run holds"),
            CliError::Out { .. } => Some("nothing was left there: give another --out, or make room"),
            CliError::Data { next, .. } => Some(next),
            CliError::Terminal(_) => Some("print the state without one: `gradlog watch RUN --once`"),
            CliError::Listen { .. } => Some("give a free port and an address of this machine: --listen ADDR:PORT"),
            CliError::NotAnId { .. } => Some("a line is `id`, or `id,` and what belongs to it"),
            _ => None,
        }
    }
}

/// The most folders that are looked into for a run.
const FOLDERS_MAX: usize = 1000;

/// Names the runs in a folder that is not a run: a program may write its run beside other files.
fn find_runs_inside(folder: &Path) -> Option<String> {
    let inside = std::fs::read_dir(folder).ok()?.take(FOLDERS_MAX).filter_map(|entry| Some(entry.ok()?.path()));
    let mut runs: Vec<PathBuf> = inside.filter(|path| path.join(MANIFEST_FILE).is_file()).collect();
    runs.sort();
    let names: Vec<String> = runs.iter().take(3).map(|path| path.display().to_string()).collect();
    let more = if runs.len() > names.len() { ", .." } else { "" };
    (!names.is_empty()).then(|| format!("there is a run in {}{more}", names.join(", ")))
}

/// What the command can do about an error of the library, which knows no flags.
fn analysis_advice(error: &AnalysisError) -> Option<&'static str> {
    match error {
        AnalysisError::NotOnSweeps { .. } => Some("leave out --at"),
        AnalysisError::OnlyVisits { .. } => Some("leave out --at and --checkpoints"),
        AnalysisError::NoSuchExample { .. } => Some("`gradlog export` lists the examples that have one"),
        AnalysisError::InRun { source, .. } | AnalysisError::Cut { source, .. } => analysis_advice(source),
        _ => None,
    }
}

/// The error, what caused it, and what to do, each said once.
pub(crate) fn explain(error: &CliError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // An error of another crate may print its source itself.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if let Some(advice) = error.advice() {
        text.push_str("; ");
        text.push_str(&advice);
    }
    text
}
