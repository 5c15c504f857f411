//! The native half of the Python package `gradlog`. `python/gradlog` has the other half and the docstrings that users
//! see; here is what needs a run.

mod arguments;
mod error;
mod run;
mod table;
mod vectors;
mod work;
mod writer;

/// Reads what gradlog recorded.
#[pyo3::pymodule]
mod _gradlog {
    #[pymodule_export]
    use super::error::{DamageWarning, GradlogError};
    #[pymodule_export]
    use super::run::PyRun;
    #[pymodule_export]
    use super::table::PyTable;
    #[pymodule_export]
    use super::vectors::{PyNumbers, PyVectors};
    #[pymodule_export]
    use super::writer::PyWriter;

    /// The version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
