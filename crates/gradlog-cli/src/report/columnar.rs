//! Rows as a Parquet file or an Arrow file.
//!
//! What the answer rests on, and the keys that JSON has before its rows, are in the file's metadata: `gradlog.basis`
//! and `gradlog.head`.

use super::{json, Value};
use gradlog_arrow::{BatchBuilder, FileFormat, TableError, TableWriter};
use std::io::{self, Write};

/// Rows on their way into a file.
pub(super) struct Columnar<W: Write> {
    writer: TableWriter<W>,
    rows: BatchBuilder,
}

fn refused(error: TableError) -> io::Error {
    match error {
        TableError::Write(error) => error,
        other => io::Error::other(other),
    }
}

impl<W: Write> Columnar<W> {
    pub(super) fn begin(
        format: FileFormat,
        out: W,
        basis: Option<&str>,
        head: &[(&str, Value)],
        columns: &[&str],
    ) -> io::Result<Self> {
        let basis = basis.map(|basis| ("gradlog.basis".to_owned(), basis.to_owned()));
        let rows =
            BatchBuilder::new(columns, [("gradlog.head".to_owned(), json::object(head)?)].into_iter().chain(basis));
        let writer = TableWriter::begin(out, format, rows.schema()).map_err(refused)?;
        Ok(Self { writer, rows })
    }

    pub(super) fn row(&mut self, values: &[Value]) -> io::Result<()> {
        match self.rows.add(values).map_err(refused)? {
            Some(batch) => self.writer.write(&batch).map_err(refused),
            None => Ok(()),
        }
    }

    pub(super) fn end(mut self) -> io::Result<W> {
        if let Some(batch) = self.rows.take().map_err(refused)? {
            self.writer.write(&batch).map_err(refused)?;
        }
        self.writer.finish().map_err(refused)
    }
}
