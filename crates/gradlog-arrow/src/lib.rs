//! What gradlog recorded, and what its analyzer answers, as Arrow record batches, Parquet files and Arrow files.
//!
//! [`RecordQuestion`] reads a table of a log: visits, steps, probes and others.
//! [`write_table`] writes a table to a file, which appears when it is whole.
//! `docs/arrow.md` describes the columns.

mod error;
mod files;
mod records;

pub use error::TableError;
pub use files::{FileFormat, TableWriter};
pub use records::{Record, RecordQuestion, RecordStream, RecordsRead};
