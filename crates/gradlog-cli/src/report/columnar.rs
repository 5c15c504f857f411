//! Rows as a Parquet file or an Arrow file.
//!
//! A column has the same type in every run: its name decides it. What the answer rests on, and the keys that JSON has
//! before its rows, are in the file's metadata: `gradlog.basis` and `gradlog.head`.

use super::{json, Value};
use arrow_array::builder::{BooleanBuilder, Float64Builder, StringBuilder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use gradlog_arrow::{FileFormat, TableError, TableWriter};
use std::io::{self, Write};
use std::sync::Arc;

/// Rows of a batch.
const BATCH_ROWS: usize = 1 << 16;

/// Whole numbers: ids, counts, classes, steps.
const WHOLE: &[&str] = &[
    "cluster",
    "epoch",
    "example",
    "examples",
    "first",
    "from_step",
    "label",
    "prediction",
    "probe",
    "proposed",
    "rank",
    "runs",
    "second",
    "step",
    "to_step",
    "visits",
    "checkpoints",
    "judged",
    "below",
    "not_finite",
];
/// Words.
const WORDS: &[&str] = &["group", "layer", "reasons", "role", "verdict"];
/// Yes or no.
const FLAGS: &[&str] = &["ambiguous", "easy", "flagged", "hard", "norm_estimated"];

/// The type of a column.
fn data_type(name: &str) -> DataType {
    let is_in = |names: &[&str]| names.contains(&name);
    match name {
        _ if is_in(WHOLE) => DataType::UInt64,
        _ if is_in(WORDS) => DataType::Utf8,
        _ if is_in(FLAGS) => DataType::Boolean,
        // Scores, distances, cosines.
        _ => DataType::Float64,
    }
}

/// A column that is being filled.
enum Filling {
    Whole(UInt64Builder),
    Number(Float64Builder),
    Words(StringBuilder),
    Flag(BooleanBuilder),
}

impl Filling {
    fn new(name: &str) -> Self {
        match data_type(name) {
            DataType::UInt64 => Self::Whole(UInt64Builder::new()),
            DataType::Utf8 => Self::Words(StringBuilder::new()),
            DataType::Boolean => Self::Flag(BooleanBuilder::new()),
            _ => Self::Number(Float64Builder::new()),
        }
    }

    /// Adds a value. Says whether it fits.
    fn add(&mut self, value: &Value) -> bool {
        match (self, value) {
            (Self::Whole(to), Value::Integer(value)) => to.append_value(*value),
            (Self::Whole(to), Value::Nothing) => to.append_null(),
            (Self::Number(to), Value::Number(value)) => to.append_value(*value),
            (Self::Number(to), Value::Integer(value)) => to.append_value(*value as f64),
            // True of one run; over several runs it is the number of those of which it is true.
            (Self::Number(to), Value::Flag(value)) => to.append_value(f64::from(*value)),
            (Self::Number(to), Value::Nothing) => to.append_null(),
            (Self::Words(to), Value::Text(value)) => to.append_value(value),
            (Self::Words(to), Value::Nothing) => to.append_null(),
            (Self::Flag(to), Value::Flag(value)) => to.append_value(*value),
            (Self::Flag(to), Value::Nothing) => to.append_null(),
            _ => return false,
        }
        true
    }

    fn take(&mut self) -> ArrayRef {
        match self {
            Self::Whole(from) => Arc::new(from.finish()),
            Self::Number(from) => Arc::new(from.finish()),
            Self::Words(from) => Arc::new(from.finish()),
            Self::Flag(from) => Arc::new(from.finish()),
        }
    }
}

/// Rows on their way into a file.
pub(super) struct Columnar<W: Write> {
    writer: TableWriter<W>,
    schema: Arc<Schema>,
    filling: Vec<Filling>,
    waiting: usize,
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
        let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, data_type(name), true)).collect();
        let mut metadata = vec![("gradlog.head".to_owned(), json::object(head)?)];
        metadata.extend(basis.map(|basis| ("gradlog.basis".to_owned(), basis.to_owned())));
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into_iter().collect()));
        let writer = TableWriter::begin(out, format, schema.clone()).map_err(refused)?;
        Ok(Self { writer, schema, filling: columns.iter().map(|name| Filling::new(name)).collect(), waiting: 0 })
    }

    pub(super) fn row(&mut self, values: &[Value]) -> io::Result<()> {
        for ((filling, value), field) in self.filling.iter_mut().zip(values).zip(self.schema.fields()) {
            if !filling.add(value) {
                let what = format!("the column `{}` of type {} cannot hold {value:?}", field.name(), field.data_type());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        self.waiting += 1;
        if self.waiting == BATCH_ROWS {
            self.write_waiting()?;
        }
        Ok(())
    }

    pub(super) fn end(mut self) -> io::Result<W> {
        if self.waiting > 0 {
            self.write_waiting()?;
        }
        self.writer.finish().map_err(refused)
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        let arrays = self.filling.iter_mut().map(Filling::take).collect();
        self.waiting = 0;
        let batch = RecordBatch::try_new(self.schema.clone(), arrays).map_err(io::Error::other)?;
        self.writer.write(&batch).map_err(refused)
    }
}
