//! Row groups of a Parquet file, whose columns are encoded on all threads.

use super::writer::Buffer;
use crate::TableError;
use arrow_array::RecordBatch;
use arrow_schema::{FieldRef, SchemaRef};
use parquet::arrow::arrow_writer::{
    compute_leaves, ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriter,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;
use std::mem;

/// Rows after which a row group is closed at the end of a batch, so that row groups are whole batches.
pub(super) const GROUP_ROWS: usize = 1 << 17;
/// Bytes in memory after which a row group is closed, where rows are wide.
const GROUP_BYTES: usize = 128 << 20;

/// A Parquet file that is being written.
pub(super) struct RowGroups {
    file: SerializedFileWriter<Buffer>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// The batches of the next row group.
    waiting: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    groups: usize,
}

impl RowGroups {
    pub(super) fn begin(out: Buffer, schema: SchemaRef, properties: WriterProperties) -> Result<Self> {
        let (file, factory) = ArrowWriter::try_new(out, schema.clone(), Some(properties))?.into_serialized_writer()?;
        Ok(Self { file, factory, schema, waiting: Vec::new(), rows: 0, bytes: 0, groups: 0 })
    }

    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        self.bytes += batch.get_array_memory_size();
        self.waiting.push(batch.clone());
        if self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.close_group()?;
        }
        Ok(())
    }

    pub(super) fn note(&mut self, name: &str, value: String) {
        self.file.append_key_value_metadata(KeyValue::new(name.to_owned(), value));
    }

    pub(super) fn finish(&mut self) -> std::result::Result<(), TableError> {
        self.close_group()?;
        self.file.finish()?;
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        let batches = mem::take(&mut self.waiting);
        (self.rows, self.bytes) = (0, 0);
        if batches.is_empty() {
            return Ok(());
        }
        let mut writers = self.factory.create_column_writers(self.groups)?.into_iter();
        // A column of lists of lists would have several leaves, each with a writer of its own.
        let columns: Vec<(usize, &FieldRef, Vec<ArrowColumnWriter>)> = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(number, field)| {
                let leaves = compute_leaves(field, batches[0].column(number))?.len();
                Ok((number, field, writers.by_ref().take(leaves).collect()))
            })
            .collect::<Result<_>>()?;
        let encode = |(number, field, mut writers): (usize, &FieldRef, Vec<ArrowColumnWriter>)| {
            for batch in &batches {
                let leaves = compute_leaves(field, batch.column(number))?;
                if leaves.len() != writers.len() {
                    return Err(ParquetError::General(format!("`{}` has other leaves than before", field.name())));
                }
                for (writer, leaf) in writers.iter_mut().zip(&leaves) {
                    writer.write(leaf)?;
                }
            }
            writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<Vec<_>>>()
        };
        let chunks: Vec<Vec<ArrowColumnChunk>> = columns.into_par_iter().map(encode).collect::<Result<_>>()?;
        let mut group = self.file.next_row_group()?;
        for chunk in chunks.into_iter().flatten() {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        self.groups += 1;
        Ok(())
    }
}
