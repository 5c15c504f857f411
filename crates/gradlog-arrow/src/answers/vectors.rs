//! Flat gradient vectors as a table with a fixed-size list.

use crate::TableError;
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Float16Array, Float32Array, RecordBatch, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use gradlog_analysis::FlatVectors;
use half::f16;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of the vectors of a batch.
const BATCH_BYTES: usize = 16 << 20;

/// How the numbers of a vector are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VectorNumbers {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 16 bits. A number above 65,504 becomes infinite, and one below 6e-8 zero.
    F16,
}

/// Flat vectors as a table: `example`, `step`, `visits`, `label`, `norm`, and `vector`, a fixed-size list.
#[derive(Debug, Clone)]
pub struct VectorTable<'a> {
    vectors: &'a FlatVectors,
    numbers: VectorNumbers,
    schema: SchemaRef,
}

impl<'a> VectorTable<'a> {
    /// The table of these vectors.
    ///
    /// # Errors
    /// [`TableError::Arrow`] if a vector has more numbers than a list can have, which is 2^31.
    pub fn new(vectors: &'a FlatVectors, numbers: VectorNumbers) -> Result<Self, TableError> {
        let length = i32::try_from(vectors.length).map_err(|_| {
            arrow_schema::ArrowError::InvalidArgumentError(format!("{} numbers are too many", vectors.length))
        })?;
        let item = match numbers {
            VectorNumbers::F32 => DataType::Float32,
            VectorNumbers::F16 => DataType::Float16,
        };
        let describe = |field: Field, meaning: &str| {
            field.with_metadata(HashMap::from([("description".to_owned(), meaning.to_owned())]))
        };
        let list = DataType::FixedSizeList(Arc::new(Field::new("item", item, false)), length);
        let fields = vec![
            describe(Field::new("example", DataType::UInt64, false), "id of the example"),
            describe(Field::new("step", DataType::UInt64, false), "step of the visit, or of the example's last one"),
            describe(Field::new("visits", DataType::UInt64, false), "visits that the vector is made of"),
            describe(Field::new("label", DataType::UInt32, true), "label at the last visit"),
            describe(Field::new("norm", DataType::Float64, false), "length of the gradient"),
            describe(Field::new("vector", list, false), "the gradient as a vector"),
        ];
        let metadata = HashMap::from([
            ("gradlog.record".to_owned(), "vectors".to_owned()),
            ("gradlog.variant".to_owned(), vectors.variant()),
            ("gradlog.basis".to_owned(), vectors.basis.to_string()),
        ]);
        Ok(Self { vectors, numbers, schema: Arc::new(Schema::new_with_metadata(fields, metadata)) })
    }

    /// The columns and their types.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The table in batches of about 16 MiB.
    pub fn batches(&self) -> impl Iterator<Item = Result<RecordBatch, TableError>> + '_ {
        let rows = self.vectors.examples.len();
        let step = (BATCH_BYTES / (4 * self.vectors.length).max(1)).max(1);
        (0..rows).step_by(step).map(move |from| self.batch(from..rows.min(from + step)))
    }

    fn batch(&self, rows: Range<usize>) -> Result<RecordBatch, TableError> {
        let found = self.vectors;
        let values = &found.values[rows.start * found.length..rows.end * found.length];
        let DataType::FixedSizeList(item, length) = self.schema.field(5).data_type() else {
            return Err(arrow_schema::ArrowError::SchemaError("the vectors are no list".into()).into());
        };
        let values: ArrayRef = match self.numbers {
            VectorNumbers::F32 => Arc::new(Float32Array::from(values.to_vec())),
            VectorNumbers::F16 => Arc::new(Float16Array::from_iter_values(values.iter().map(|v| f16::from_f32(*v)))),
        };
        debug_assert_eq!(values.len(), rows.len() * found.length);
        let list = FixedSizeListArray::try_new(item.clone(), *length, values, None)?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(found.examples[rows.clone()].to_vec())),
            Arc::new(UInt64Array::from(found.steps[rows.clone()].to_vec())),
            Arc::new(UInt64Array::from(found.visits[rows.clone()].to_vec())),
            Arc::new(found.labels[rows.clone()].iter().copied().collect::<UInt32Array>()),
            Arc::new(arrow_array::Float64Array::from(found.norms[rows].to_vec())),
            Arc::new(list),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}
