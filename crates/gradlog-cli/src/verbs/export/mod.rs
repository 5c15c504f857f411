//! `gradlog export`: the rows of a log, or gradients as a matrix, in a file for other tools.

mod records;
mod vectors;

pub(super) use vectors::vector_words;

use crate::arguments::{VectorArguments, WindowArguments, EXIT_CODES};
use crate::choice::{choice, Choice};
use crate::error::CliError;
use crate::frame::{Asked, Shown, Verb};
use crate::output::Destination;
use crate::report::printable;
use clap::{Args, ValueEnum};
use gradlog_analysis::{Combine, FlatVectors, Window};
use gradlog_arrow::{FileFormat, Record, RecordQuestion};
use std::path::PathBuf;
use std::slice;

/// Write the rows of a log, or gradients as flat vectors, into a file
///
/// Parquet and Arrow files take the rows of the log: `--table visits`, `steps`, `probes` and others. docs/arrow.md has
/// their columns. What a run did not record is null.
///
/// The table `vectors` has the gradients as a matrix, and goes into every kind of file. It has `vectors` (f32, [rows,
/// numbers]; in Parquet and Arrow the list `vector`), `example`, `step` and `visits` (u64, [rows]), `norm` (f32,
/// [rows]) and, where they were recorded, `label` (i64, [rows], -1 without one).
/// Python reads it with `safetensors.numpy.load_file(FILE)` or `numpy.load(FILE)`, and `["vectors"]` is the matrix.
/// The dot product of two rows is that of the two gradients. It is exact where the recorded gradient has at most N
/// numbers. A longer gradient is folded to N, and the product is then right on the mean.
/// `norm` is the length of the gradient. Take the cosine of two rows as their dot product divided by both norms: where
/// visits are stored as signs, a row itself is up to 1.25 times longer. There products of nearly parallel gradients are
/// up to π/2 times too large, which `gradlog similar` and `gradlog cluster` correct.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Write to this file, which appears when it is whole
    #[arg(long, visible_alias = "to", value_name = "FILE")]
    out: PathBuf,
    /// What to write; by default `visits` into Parquet and Arrow, and `vectors` into the other files
    #[arg(long, value_name = "TABLE", value_parser = choice::<Table>())]
    table: Option<Table>,
    /// How to write it; by default as the name of --out ends: .parquet, .arrow, .safetensors or .npy
    #[arg(long, value_name = "FORMAT")]
    format: Option<Kind>,
    /// Only these columns of the log, in this order
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    columns: Vec<String>,
    /// Add the gradients as the log stores them, with their scales and seeds
    #[arg(long)]
    stored_gradients: bool,
    /// What a row of vectors holds; by default the mean
    #[arg(long, value_name = "WHAT", value_parser = choice::<Combine>())]
    rows: Option<Combine>,
    /// Vectors in 16 bits instead of 32, in Parquet and Arrow
    #[arg(long)]
    half: bool,
    #[command(flatten)]
    vectors: VectorArguments,
    #[command(flatten)]
    window: WindowArguments,
}

/// The kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Named tensors; the header says what they are
    Safetensors,
    /// NumPy's own: one structured array
    Npy,
    /// Typed columns with zstd and statistics
    Parquet,
    /// An Arrow file (IPC)
    Arrow,
}

impl Kind {
    /// The format of a file of columns.
    fn columnar(self) -> Option<FileFormat> {
        match self {
            Self::Parquet => Some(FileFormat::Parquet),
            Self::Arrow => Some(FileFormat::Arrow),
            Self::Safetensors | Self::Npy => None,
        }
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Vectors,
    Log(Record),
}

impl Choice for Table {
    fn all() -> &'static [Self] {
        const ALL: [Table; 10] = [
            Table::Vectors,
            Table::Log(Record::Visits),
            Table::Log(Record::Sweeps),
            Table::Log(Record::Probes),
            Table::Log(Record::Steps),
            Table::Log(Record::Gaps),
            Table::Log(Record::Events),
            Table::Log(Record::Checkpoints),
            Table::Log(Record::Checks),
            Table::Log(Record::Cards),
        ];
        &ALL
    }

    fn word(&self) -> &'static str {
        match self {
            Table::Vectors => "vectors",
            Table::Log(record) => record.name(),
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Table::Vectors => "gradients as flat vectors",
            Table::Log(Record::Visits) => "examples that training passes visited",
            Table::Log(Record::Sweeps) => "examples that replays took through the model at checkpoints",
            Table::Log(Record::Probes) => "examples that probe passes visited, and rows of curvature",
            Table::Log(Record::Steps) => "optimizer steps",
            Table::Log(Record::Gaps) => "stretches of passes that are not in the log",
            Table::Log(Record::Events) => "what the guard noticed",
            Table::Log(Record::Checkpoints) => "weights that were saved beside the log",
            Table::Log(Record::Cards) => "what examples look like: pictures, texts and rows",
            Table::Log(_) => "checks of recorded gradients",
        }
    }
}

impl Choice for Combine {
    fn all() -> &'static [Self] {
        &[Combine::Mean, Combine::Visits, Combine::Applied]
    }

    fn word(&self) -> &'static str {
        match self {
            Combine::Mean => "mean",
            Combine::Visits => "visits",
            _ => "applied",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Combine::Mean => "an example: the mean of its gradients over its visits",
            Combine::Visits => "a visit: its gradient",
            _ => "an example: what its own steps took off the weights, as plain SGD",
        }
    }
}

/// What is to be written.
pub(crate) enum Answer {
    Vectors(Box<FlatVectors>),
    /// Rows of the log, which are read as they are written.
    Log(Record, RecordQuestion, FileFormat),
}

impl Arguments {
    /// The kind that the name of the file ends in.
    fn kind_by_name(&self) -> Option<Kind> {
        let extension = self.out.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match FileFormat::of_extension(extension) {
            Some(FileFormat::Arrow) => Some(Kind::Arrow),
            Some(_) => Some(Kind::Parquet),
            None if extension.eq_ignore_ascii_case("npy") => Some(Kind::Npy),
            None if extension.eq_ignore_ascii_case("safetensors") => Some(Kind::Safetensors),
            None => None,
        }
    }

    fn kind(&self) -> Kind {
        self.format.or_else(|| self.kind_by_name()).unwrap_or(Kind::Safetensors)
    }

    fn table(&self) -> Table {
        let by_kind = if self.kind().columnar().is_some() { Table::Log(Record::Visits) } else { Table::Vectors };
        self.table.unwrap_or(by_kind)
    }
}

impl Verb for Arguments {
    type Answer<'run> = Answer;

    fn runs(&self) -> &[PathBuf] {
        slice::from_ref(&self.run)
    }

    fn window(&self) -> Window {
        self.window.window()
    }

    fn destination(&self) -> Destination<'_> {
        Destination { out: Some(&self.out), ..Destination::stdout() }
    }

    fn check(&self) -> Result<(), CliError> {
        if self.format.is_none() && self.kind_by_name().is_none() {
            let name = printable(&self.out.display().to_string());
            let why = format!(
                "--out {name}: its name says no kind of file: let it end in .parquet, .arrow, .safetensors or .npy, or give \
                 --format"
            );
            return Err(CliError::Arguments(why));
        }
        let why = match (self.table(), self.kind().columnar()) {
            (Table::Log(record), None) => {
                format!("{record} go into a Parquet or an Arrow file: let the name of --out end in .parquet or .arrow")
            }
            (Table::Log(_), Some(_)) if self.window.is_on_sweeps() => {
                "--at chooses what scores count: ask for `--table sweeps`".into()
            }
            (Table::Log(_), Some(_)) if self.half || self.rows.is_some() => {
                "--half and --rows are for `--table vectors`".into()
            }
            (Table::Log(_), Some(_)) if self.vectors.are_given() => {
                "--numbers and --memory are for `--table vectors`; gradients of a table of the log are as they are stored"
                    .into()
            }
            (Table::Vectors, None) if self.half => "--half is for Parquet and Arrow files".into(),
            (Table::Vectors, _) if !self.columns.is_empty() || self.stored_gradients => {
                "--columns and --stored-gradients are for rows of the log, such as `--table visits`".into()
            }
            _ => return Ok(()),
        };
        Err(CliError::Arguments(why))
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Answer, CliError> {
        match (self.table(), self.kind().columnar()) {
            (Table::Log(record), Some(format)) => {
                let question = RecordQuestion::new(record).window(asked.window.clone());
                let question = if self.columns.is_empty() { question } else { question.columns(&self.columns) };
                let question = if self.stored_gradients { question.stored_gradients() } else { question };
                // Names that do not fit are refused before a file is begun.
                question.schema(asked.run())?;
                Ok(Answer::Log(record, question, format))
            }
            _ => {
                let question = self.vectors.question(&asked.window, self.rows.unwrap_or_default());
                let found = asked.read("reading", 1, |progress| question.share_progress(progress).compute(asked.run()));
                found.map(|found| Answer::Vectors(Box::new(found)))
            }
        }
    }

    fn show<'run>(&'run self, asked: &'run Asked<'run>, answer: Answer) -> Result<Shown<'run>, CliError> {
        match answer {
            Answer::Log(record, question, format) => Ok(records::show(asked, record, question, format)),
            Answer::Vectors(found) => Ok(vectors::show(*found, self.kind(), self.half)),
        }
    }
}
