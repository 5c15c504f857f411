//! Arguments that several verbs share, and how they are read.

mod numbers;
mod part;
mod window;

pub(crate) use numbers::{
    parse_cosine, parse_count, parse_length, parse_not_negative, parse_percentile, parse_positive, parse_share,
};
pub(crate) use part::PartArguments;
pub(crate) use window::{read_window, WindowArguments};

use crate::choice::{choice, Choice};
use crate::output::Destination;
use crate::report::Format;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use gradlog_analysis::{Combine, OptimizerChoice, Score, VectorQuestion, Window};
use std::path::{Path, PathBuf};

/// What every verb says behind its help.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; stderr says what, where and what next
  2  bad arguments
  3  done, but the run is damaged: what is printed is computed from what came before the damage

Data goes to stdout, words to stderr.";

/// Rows of a table without `--top`.
const TABLE_ROWS: usize = 20;

/// How gradients are made flat.
#[derive(Debug, Args)]
pub(crate) struct VectorArguments {
    /// The most numbers of a vector; a longer gradient is folded; 1024 by default
    #[arg(long, value_name = "N", value_parser = parse_length)]
    numbers: Option<usize>,
    /// The most gigabytes of memory that the vectors may take; 4 by default
    #[arg(long, value_name = "GB", value_parser = clap::value_parser!(u32).range(1..))]
    memory: Option<u32>,
}

impl VectorArguments {
    /// Whether one of them was typed.
    pub(crate) fn are_given(&self) -> bool {
        self.numbers.is_some() || self.memory.is_some()
    }

    pub(crate) fn question(&self, window: &Window, combine: Combine) -> VectorQuestion {
        let bytes_max = u64::from(self.memory.unwrap_or(4)) * 1_000_000_000;
        VectorQuestion::new(self.numbers.unwrap_or(1024)).window(window.clone()).combine(combine).bytes_max(bytes_max)
    }
}

/// What steps are taken for.
#[derive(Debug, Args)]
pub(crate) struct OptimizerArguments {
    /// What the steps are taken for (self-influence)
    #[arg(long, value_name = "STEPS", default_value = "recorded", value_parser = choice::<OptimizerChoice>())]
    pub(crate) optimizer: OptimizerChoice,
}

/// Several runs, which part of them counts, and how many of the first rows go where.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Only the first N rows; by default 20 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    pub output: OutputArguments,
}

impl ListArguments {
    pub(crate) fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    pub(crate) fn window(&self) -> Window {
        self.window.window()
    }

    pub(crate) fn destination(&self) -> Destination<'_> {
        self.output.destination_of_first(self.top)
    }
}

/// Where the rows go, and how they look.
#[derive(Debug, Args)]
pub struct OutputArguments {
    /// How to write the rows; by default as the name of --out ends (.csv, .json, .parquet, .arrow), else a table
    #[arg(long)]
    format: Option<Format>,
    /// Write to this file, which appears when it is whole, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl OutputArguments {
    /// How the rows are written.
    pub fn format(&self) -> Format {
        let by_name = || {
            let extension = self.out.as_ref()?.extension()?.to_str()?.to_ascii_lowercase();
            Format::value_variants().iter().copied().find(|format| format_name(*format) == extension)
        };
        self.format.or_else(by_name).unwrap_or_default()
    }

    /// The file that they go to; `None` for stdout.
    pub fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Where all rows go.
    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination { out: self.out.as_deref(), format: self.format(), rows_max: None, is_cut_by_default: false }
    }

    /// Where the first rows go: those of `--top N`, without it 20 in a table on stdout, else all.
    pub(crate) fn destination_of_first(&self, top: Option<u64>) -> Destination<'_> {
        let whole = self.destination();
        let rows_max = match (top, whole.format) {
            (Some(top), _) => Some(usize::try_from(top).unwrap_or(usize::MAX)),
            // Nobody sees that a file is cut.
            (None, Format::Table) if whole.out.is_none() => Some(TABLE_ROWS),
            (None, _) => None,
        };
        Destination { rows_max, is_cut_by_default: top.is_none(), ..whole }
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Table => "table",
        Format::Csv => "csv",
        Format::Json => "json",
        Format::Parquet => "parquet",
        Format::Arrow => "arrow",
    }
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Format::Table, Format::Csv, Format::Json, Format::Parquet, Format::Arrow]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Format::Table => "aligned columns for the eye, five significant digits",
            Format::Csv => "comma-separated: a line `# ...` that says what the answer rests on, a header, numbers in full, NaN and inf in words",
            Format::Json => "one object with the rows under `rows`, numbers in full, NaN as null, infinities as \"inf\" and \"-inf\"",
            Format::Parquet => "a Parquet file with typed columns; what the answer rests on is in its metadata",
            Format::Arrow => "an Arrow file (IPC) with the same columns",
        };
        Some(PossibleValue::new(format_name(*self)).help(help))
    }
}

impl Choice for Score {
    fn all() -> &'static [Self] {
        &Score::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        self.description()
    }
}
