//! What can go wrong between SQL and a run.

use datafusion::error::DataFusionError;
use gradlog_analysis::AnalysisError;
use gradlog_arrow::TableError;
use gradlog_format::run::{Damage, ReadError};
use std::error::Error;
use std::path::PathBuf;

/// Why a table or a function of a run has no rows to give. It comes inside a [`DataFusionError`], where
/// [`SqlError::find`] finds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The run cannot be read.
    #[error(transparent)]
    Read(ReadError),
    /// The question has no answer.
    #[error(transparent)]
    Analysis(AnalysisError),
    /// A table cannot be made.
    #[error(transparent)]
    Table(TableError),
    /// The run is damaged. [`RunTables::before`](crate::RunTables::before) gives the tables of what was written
    /// before.
    #[error("{0}")]
    Damaged(Damage),
    /// The run is not what it was when it was opened.
    #[error("{} changed while it was read: ask again, or when the recording has ended", path.display())]
    Changed {
        /// Its folder.
        path: PathBuf,
    },
    /// A function was called with what it does not take.
    #[error("{function}: {what}")]
    Argument {
        /// The function, as it is called.
        function: &'static str,
        /// What is wrong, and what it takes.
        what: String,
    },
    /// Something on the way to a worker or in it.
    #[error("{what}")]
    Cluster {
        /// What, where, and what next.
        what: String,
    },
    /// The rows that an aggregate function was given have no order.
    #[error(
        "forgetting: an example has several visits at step {step}, some right and some wrong, and the rows do not say \
         which came first; scores('forgetting') reads them in the order of the run"
    )]
    NoOrder {
        /// The step.
        step: u64,
    },
}

impl SqlError {
    /// The error of a run inside one of DataFusion, if there is one.
    pub fn find(error: &DataFusionError) -> Option<&Self> {
        let mut inner: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = inner {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            inner = error.source();
        }
        None
    }

    pub(crate) fn argument(function: &'static str, what: impl Into<String>) -> Self {
        Self::Argument { function, what: what.into() }
    }
}

impl From<ReadError> for SqlError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => Self::Damaged(damage),
            other => Self::Read(other),
        }
    }
}

impl From<AnalysisError> for SqlError {
    fn from(error: AnalysisError) -> Self {
        match error {
            AnalysisError::Read(error) => error.into(),
            other => Self::Analysis(other),
        }
    }
}

impl From<TableError> for SqlError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Read(error) => error.into(),
            TableError::Analysis(error) => error.into(),
            other => Self::Table(other),
        }
    }
}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}
