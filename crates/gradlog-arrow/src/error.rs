//! What can go wrong between a run and a file.

use gradlog_analysis::AnalysisError;
use gradlog_format::run::ReadError;
use std::path::PathBuf;

/// Why a table could not be made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The run cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The question has no answer.
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    /// A table has no such column.
    #[error("{table} have no column `{column}`; there are {there}")]
    NoColumn {
        /// What the rows are.
        table: &'static str,
        /// What was asked for.
        column: String,
        /// The columns that there are.
        there: String,
    },
    /// A column was asked for twice.
    #[error("the column `{0}` is asked for twice")]
    Twice(String),
    /// The table has no gradients.
    #[error("{0} have no gradients: ask for those of visits, sweeps or probes")]
    NoGradients(&'static str),
    /// The rows are not those of examples.
    #[error("{0} are not chosen by example: ask for visits, sweeps or probes")]
    NoExamples(&'static str),
    /// The rows have no step and no epoch.
    #[error("{0} have no step and no epoch: ask for all of them")]
    NoWindow(&'static str),
    /// Arrow refuses.
    #[error("Arrow refuses the table")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// Parquet refuses.
    #[error("the Parquet file cannot be written")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// What is written to refuses.
    #[error("cannot write the table")]
    Write(#[source] std::io::Error),
    /// The system refuses.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The caller ended the reading.
    #[error("the reading was ended")]
    Ended,
}

impl From<TableError> for arrow_schema::ArrowError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Arrow(error) => error,
            other => arrow_schema::ArrowError::ExternalError(Box::new(other)),
        }
    }
}
