//! Rows of plain values as record batches with typed columns.

use super::Value;
use crate::TableError;
use arrow_array::builder::{BooleanBuilder, Float64Builder, StringBuilder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
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
    "size",
    "step",
    "to_step",
    "visits",
    "checkpoints",
    "judged",
    "below",
    "not_finite",
];
/// Words.
const WORDS: &[&str] = &["group", "layer", "reasons", "role"];
/// Yes or no.
const FLAGS: &[&str] = &["ambiguous", "easy", "flagged", "hard", "norm_estimated"];

/// The type of a column of an answer. Its name decides it, so that it is the same in every run. What no list has is a
/// number with a fraction: a score, a distance, a cosine.
fn data_type(name: &str) -> DataType {
    let is_in = |names: &[&str]| names.contains(&name);
    match name {
        _ if is_in(WHOLE) => DataType::UInt64,
        _ if is_in(WORDS) => DataType::Utf8,
        _ if is_in(FLAGS) => DataType::Boolean,
        _ => DataType::Float64,
    }
}

/// The fields of columns with these names. All may be null.
fn fields(columns: &[impl AsRef<str>]) -> Vec<Field> {
    columns.iter().map(|name| Field::new(name.as_ref(), data_type(name.as_ref()), true)).collect()
}

/// Makes batches of rows that come one after another.
#[derive(Debug)]
pub struct BatchBuilder {
    schema: SchemaRef,
    filling: Vec<Filling>,
    waiting: usize,
}

impl BatchBuilder {
    /// For rows under these columns. `metadata` goes into the schema.
    pub fn new(columns: &[impl AsRef<str>], metadata: impl IntoIterator<Item = (String, String)>) -> Self {
        let fields = fields(columns);
        let filling = fields.iter().map(|field| Filling::new(field.data_type())).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into_iter().collect()));
        Self { schema, filling, waiting: 0 }
    }

    /// The columns and their types.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Adds a row, with one value for each column. Gives a batch when there are 65,536 rows.
    ///
    /// # Errors
    /// [`TableError::Arrow`] for a row of another length, or a value that its column cannot hold.
    pub fn add(&mut self, row: &[Value]) -> Result<Option<RecordBatch>, TableError> {
        if row.len() != self.filling.len() {
            let what = format!("{} values for {} columns", row.len(), self.filling.len());
            return Err(ArrowError::InvalidArgumentError(what).into());
        }
        for ((filling, value), field) in self.filling.iter_mut().zip(row).zip(self.schema.fields()) {
            if !filling.add(value) {
                let what = format!("the column `{}` of type {} cannot hold {value:?}", field.name(), field.data_type());
                return Err(ArrowError::InvalidArgumentError(what).into());
            }
        }
        self.waiting += 1;
        Ok(if self.waiting == BATCH_ROWS { self.take()? } else { None })
    }

    /// The rows that are in no batch yet; `None` without any.
    ///
    /// # Errors
    /// [`TableError::Arrow`].
    pub fn take(&mut self) -> Result<Option<RecordBatch>, TableError> {
        if std::mem::take(&mut self.waiting) == 0 {
            return Ok(None);
        }
        let arrays = self.filling.iter_mut().map(Filling::take).collect();
        Ok(Some(RecordBatch::try_new(self.schema.clone(), arrays)?))
    }
}

/// A column that is being filled.
#[derive(Debug)]
enum Filling {
    Whole(UInt64Builder),
    Number(Float64Builder),
    Words(StringBuilder),
    Flag(BooleanBuilder),
}

impl Filling {
    fn new(data_type: &DataType) -> Self {
        match data_type {
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
