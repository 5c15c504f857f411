//! Errors as Python exceptions, with the library's text.

use gradlog_analysis::AnalysisError;
use gradlog_arrow::TableError;
use gradlog_format::run::ReadError;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyUserWarning, PyValueError};
use pyo3::PyErr;
use std::error::Error;

pyo3::create_exception!(_gradlog, GradlogError, PyValueError, "What gradlog says when a question has no answer.");
pyo3::create_exception!(_gradlog, DamageWarning, PyUserWarning, "A run is damaged: answers end before the damage.");

/// The text of an error and of what it comes from.
fn words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    words
}

pub(crate) fn read_error(error: ReadError) -> PyErr {
    let text = words(&error);
    match error {
        ReadError::Io { .. } => PyOSError::new_err(text),
        _ => GradlogError::new_err(text),
    }
}

pub(crate) fn analysis_error(error: AnalysisError) -> PyErr {
    match error {
        AnalysisError::Stopped => PyKeyboardInterrupt::new_err(()),
        AnalysisError::Read(error) => read_error(error),
        other => GradlogError::new_err(words(&other)),
    }
}

pub(crate) fn table_error(error: TableError) -> PyErr {
    match error {
        TableError::Read(error) => read_error(error),
        TableError::Analysis(error) => analysis_error(error),
        TableError::Ended => PyKeyboardInterrupt::new_err(()),
        other => GradlogError::new_err(words(&other)),
    }
}
