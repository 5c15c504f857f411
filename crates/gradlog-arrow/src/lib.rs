//! What gradlog recorded, and what its analyzer answers, as Arrow record batches, Parquet files and Arrow files.
//!
//! [`RecordQuestion`] reads a table of a log: visits, steps, probes and others.
//! [`AnswerTable`] is an answer of the analyzer as rows of plain values, and as record batches.
//! [`VectorTable`] is the table of flat gradient vectors. [`TableWriter`] writes a table to a file.
//! `docs/arrow.md` describes the columns.

mod answers;
mod error;
mod files;
mod records;

pub use answers::{AnswerTable, BatchBuilder, ScoredExample, Value, VectorNumbers, VectorTable};
pub use error::TableError;
pub use files::{FileFormat, TableWriter};
pub use records::{Record, RecordQuestion, RecordStream, RecordsRead};
