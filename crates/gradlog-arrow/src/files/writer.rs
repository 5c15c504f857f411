//! Writes record batches as Parquet, or as an Arrow file (IPC).

use super::row_groups::{RowGroups, GROUP_ROWS};
use crate::TableError;
use arrow_array::RecordBatch;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::CompressionType;
use arrow_schema::{DataType, SchemaRef};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use parquet::schema::types::ColumnPath;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of one data page: what a filter can skip.
const PAGE_ROWS: usize = 1 << 14;

/// The kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileFormat {
    /// Parquet, with zstd pages.
    Parquet,
    /// An Arrow file (IPC, random access), with zstd buffers.
    Arrow,
}

impl FileFormat {
    /// The format that the name of a file ends in.
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "feather" | "ipc" => Some(Self::Arrow),
            _ => None,
        }
    }
}

/// Writes batches of one schema. [`TableWriter::finish`] makes the file whole.
///
/// In Parquet a row group has whole batches: at least 131,072 rows, or 128 MiB. Its columns are encoded on all threads.
/// All columns have statistics by page, so that a filter on step or epoch skips. A column `example` has a Bloom filter,
/// so that a filter on one id skips.
pub struct TableWriter<W: Write> {
    out: W,
    /// What the writer has written and `out` has not got yet.
    buffer: Buffer,
    to: To,
}

enum To {
    Parquet(Box<RowGroups>),
    Arrow(Box<FileWriter<Buffer>>),
}

/// The writers of Parquet own what they write to, and want it to go to other threads. `out` need not.
#[derive(Clone, Default)]
pub(super) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> std::fmt::Debug for TableWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let format = match &self.to {
            To::Parquet(_) => FileFormat::Parquet,
            To::Arrow(_) => FileFormat::Arrow,
        };
        f.debug_struct("TableWriter").field("format", &format).finish_non_exhaustive()
    }
}

impl<W: Write> TableWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// [`TableError::Write`] with what `out` says; [`TableError::Parquet`] or [`TableError::Arrow`] for a table that
    /// the format cannot hold.
    pub fn begin(out: W, format: FileFormat, schema: SchemaRef) -> Result<Self, TableError> {
        let buffer = Buffer::default();
        let to = match format {
            FileFormat::Parquet => {
                let properties = properties(&schema)?;
                To::Parquet(Box::new(RowGroups::begin(buffer.clone(), schema, properties)?))
            }
            FileFormat::Arrow => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
                To::Arrow(Box::new(FileWriter::try_new_with_options(buffer.clone(), &schema, options)?))
            }
        };
        Ok(Self { out, buffer, to })
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// As [`TableWriter::begin`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        match &mut self.to {
            To::Parquet(writer) => writer.add(batch)?,
            To::Arrow(writer) => writer.write(batch)?,
        }
        self.drain()
    }

    /// Adds a word on the table to the file's metadata, such as what the table rests on.
    pub fn note(&mut self, name: &str, value: String) {
        match &mut self.to {
            To::Parquet(writer) => writer.note(name, value),
            To::Arrow(writer) => writer.write_metadata(name, value),
        }
    }

    /// Writes the end, without which no reader takes the file, and gives back what was written to, unflushed.
    ///
    /// # Errors
    /// As [`TableWriter::begin`].
    pub fn finish(mut self) -> Result<W, TableError> {
        match &mut self.to {
            To::Parquet(writer) => writer.finish()?,
            To::Arrow(writer) => writer.finish()?,
        }
        self.drain()?;
        Ok(self.out)
    }

    fn drain(&mut self) -> Result<(), TableError> {
        let bytes = mem::take(&mut *self.buffer.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.out.write_all(&bytes).map_err(TableError::Write)
    }
}

fn properties(schema: &SchemaRef) -> Result<WriterProperties, TableError> {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_created_by(concat!("gradlog ", env!("CARGO_PKG_VERSION")).to_owned());
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        // Numbers that hardly repeat make a dictionary in vain; those that rise are stored as differences.
        match field.data_type() {
            DataType::UInt64 if field.name() == "step" => {
                builder = builder
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            DataType::UInt64 if field.name() == "example" => {
                builder = builder
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_bloom_filter_enabled(path.clone(), true)
                    .set_column_bloom_filter_max_ndv(path, GROUP_ROWS as u64);
            }
            DataType::Float32 | DataType::Float64 | DataType::FixedSizeBinary(_) => {
                builder = builder.set_column_dictionary_enabled(path, false);
            }
            DataType::FixedSizeList(..) => {
                let item = ColumnPath::new(vec![field.name().clone(), "list".into(), "item".into()]);
                builder = builder
                    .set_column_dictionary_enabled(item.clone(), false)
                    .set_column_statistics_enabled(item, EnabledStatistics::None);
            }
            _ => {}
        }
    }
    Ok(builder.build())
}
