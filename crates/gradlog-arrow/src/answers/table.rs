//! An answer as rows of plain values.

use super::batches::BatchBuilder;
use super::Value;
use crate::TableError;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

/// The rows of an answer under their columns. Whatever shows an answer shows these: the command's tables, CSV, JSON and
/// files, and Arrow.
pub struct AnswerTable<'a> {
    /// The names of the columns.
    pub columns: Vec<&'static str>,
    /// The rows, with one value for each column.
    pub rows: Box<dyn ExactSizeIterator<Item = Vec<Value>> + Send + 'a>,
}

impl std::fmt::Debug for AnswerTable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerTable").field("columns", &self.columns).field("rows", &self.rows.len()).finish()
    }
}

impl<'a> AnswerTable<'a> {
    /// A table of these rows.
    pub(super) fn new<I>(columns: Vec<&'static str>, rows: I) -> Self
    where
        I: IntoIterator<Item = Vec<Value>>,
        I::IntoIter: ExactSizeIterator + Send + 'a,
    {
        Self { columns, rows: Box::new(rows.into_iter()) }
    }

    /// The table as record batches, with `metadata` in their schema. There is one for each 65,536 rows.
    ///
    /// # Errors
    /// [`TableError::Arrow`] if a value is not of the type of its column.
    pub fn into_batches(
        self,
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(SchemaRef, Vec<RecordBatch>), TableError> {
        let mut builder = BatchBuilder::new(&self.columns, metadata);
        let mut batches = Vec::new();
        for row in self.rows {
            batches.extend(builder.add(&row)?);
        }
        batches.extend(builder.take()?);
        Ok((builder.schema(), batches))
    }
}
