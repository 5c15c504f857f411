//! Rendering: rows of plain values as an aligned table, as CSV or as JSON.
//!
//! Owns words and digits. Knows nothing of runs or scores: it is handed names and values. Rows stream, but for the
//! aligned table, whose widths depend on all of them.

mod columnar;
mod count;
mod csv;
mod json;
mod npy;
mod plot;
mod table;
mod tensors;

pub(crate) use count::count;
pub use gradlog_arrow::Value;
pub use npy::write_npy;
pub use plot::{histogram, scatter, score_bar};
pub use table::{printable, write_pairs};
pub use tensors::{write_tensors, Numbers, Tensor};

pub use json::pretty;

use columnar::Columnar;
use gradlog_arrow::FileFormat;
use std::io::{self, Write};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Aligned columns for the eye; numbers to five significant digits. The first line says what the answer rests on.
    #[default]
    Table,
    /// Comma-separated values (RFC 4180, but lines end in a line feed) with a header; numbers read back to the same
    /// f64. Before the header is a comment: `# ` and what the answer rests on.
    Csv,
    /// One JSON object with the rows under `rows` and what the answer rests on under `basis`; numbers read back to the
    /// same f64; NaN is null, infinities are the texts `inf` and `-inf`.
    Json,
    /// A Parquet file with typed columns. A NaN stays one.
    Parquet,
    /// An Arrow file (IPC) with the same columns.
    Arrow,
}

impl Format {
    /// Whether it is made of bytes that nobody reads on a terminal.
    pub fn is_binary(self) -> bool {
        matches!(self, Format::Parquet | Format::Arrow)
    }
}

/// Where rows go.
enum Sink<W: Write> {
    Text(W),
    Columnar(Box<Columnar<W>>),
}

/// Writes rows in one of the formats.
pub struct Rows<W: Write> {
    format: Format,
    out: Sink<W>,
    columns: Vec<String>,
    /// Rows that wait for their widths, in a table.
    waiting: Vec<Vec<String>>,
    /// The width that a table has.
    room: usize,
    written: u64,
}

impl<W: Write> std::fmt::Debug for Rows<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (format, columns, written) = (&self.format, &self.columns, &self.written);
        let mut shown = f.debug_struct("Rows");
        shown.field("format", format).field("columns", columns).field("written", written).finish_non_exhaustive()
    }
}

impl<W: Write> Rows<W> {
    /// Starts the output with what the answer rests on, if it is an answer: a line behind `# `, in JSON the key
    /// `basis`. `head` holds the other keys of a JSON object before its rows; the other formats leave it out.
    ///
    /// # Errors
    /// What `out` says; so it is for all of these.
    pub fn begin(
        format: Format,
        mut out: W,
        basis: Option<&str>,
        head: &[(&str, Value)],
        columns: &[&str],
    ) -> io::Result<Self> {
        // Names of layers may be in it.
        let basis = basis.map(printable);
        if let (Format::Table | Format::Csv, Some(basis)) = (format, &basis) {
            writeln!(out, "# {basis}")?;
        }
        let columnar = |out, to| {
            Ok::<_, io::Error>(Sink::Columnar(Box::new(Columnar::begin(to, out, basis.as_deref(), head, columns)?)))
        };
        let out = match format {
            Format::Table => Sink::Text(out),
            Format::Csv => {
                csv::header(&mut out, columns)?;
                Sink::Text(out)
            }
            Format::Json => {
                json::begin(&mut out, basis.as_deref(), head)?;
                Sink::Text(out)
            }
            Format::Parquet => columnar(out, FileFormat::Parquet)?,
            Format::Arrow => columnar(out, FileFormat::Arrow)?,
        };
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { format, out, columns, waiting: Vec::new(), room: usize::MAX, written: 0 })
    }

    /// Lets a table fit a terminal of so many columns. It then stands in blocks of columns below each other if need be,
    /// and long words below their row. Other formats stay as they are.
    #[must_use]
    pub fn fit(mut self, terminal: Option<usize>) -> Self {
        self.room = terminal.unwrap_or(usize::MAX);
        self
    }

    /// Adds a row, with one value for each column.
    ///
    /// # Errors
    /// As [`Rows::begin`].
    pub fn row(&mut self, values: &[Value]) -> io::Result<()> {
        debug_assert_eq!(values.len(), self.columns.len());
        match (&mut self.out, self.format) {
            (Sink::Columnar(out), _) => out.row(values)?,
            (Sink::Text(out), Format::Csv) => csv::row(out, values)?,
            (Sink::Text(out), Format::Json) => json::row(out, self.written == 0, &self.columns, values)?,
            (Sink::Text(_), _) => self.waiting.push(values.iter().map(table::cell).collect()),
        }
        self.written += 1;
        Ok(())
    }

    /// How many rows there are so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the output and gives the writer back, unflushed.
    ///
    /// # Errors
    /// As [`Rows::begin`].
    pub fn end(self) -> io::Result<W> {
        let mut out = match self.out {
            Sink::Text(out) => out,
            Sink::Columnar(out) => return out.end(),
        };
        match self.format {
            Format::Table => {
                // Names of layers may be among them.
                let columns: Vec<String> = self.columns.iter().map(|name| printable(name)).collect();
                table::write(&mut out, &columns, &self.waiting, self.room)?;
            }
            Format::Json => json::end(&mut out)?,
            _ => {}
        }
        Ok(out)
    }
}
