//! Gradient vectors that NumPy takes without a copy: they have `__array_interface__`.

use crate::table::warn;
use gradlog_analysis::FlatVectors;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::Arc;

/// Gradients as vectors. `numpy.asarray(found.vectors)` is the matrix, one row for each of `found.example`.
#[pyclass(frozen, name = "Vectors", module = "gradlog")]
#[derive(Debug)]
pub(crate) struct PyVectors {
    found: Arc<FlatVectors>,
}

/// Which numbers of the vectors.
#[derive(Debug, Clone, Copy)]
enum Which {
    Vectors,
    Examples,
    Steps,
    Visits,
    Norms,
}

/// Numbers that `numpy.asarray` takes.
#[pyclass(frozen, name = "Numbers", module = "gradlog")]
#[derive(Debug)]
pub(crate) struct PyNumbers {
    found: Arc<FlatVectors>,
    which: Which,
}

impl PyVectors {
    pub(crate) fn new(py: Python<'_>, found: FlatVectors) -> PyResult<Self> {
        warn(py, found.damage.as_ref())?;
        Ok(Self { found: Arc::new(found) })
    }

    fn numbers(&self, which: Which) -> PyNumbers {
        PyNumbers { found: self.found.clone(), which }
    }
}

#[pymethods]
impl PyVectors {
    /// The matrix, float32, `[rows, dim]`.
    #[getter]
    fn vectors(&self) -> PyNumbers {
        self.numbers(Which::Vectors)
    }

    /// The id of each row's example, uint64.
    #[getter]
    fn example(&self) -> PyNumbers {
        self.numbers(Which::Examples)
    }

    /// The step of each row's visit, or of its example's last one, uint64.
    #[getter]
    fn step(&self) -> PyNumbers {
        self.numbers(Which::Steps)
    }

    /// The visits that each row is made of, uint64.
    #[getter]
    fn visits(&self) -> PyNumbers {
        self.numbers(Which::Visits)
    }

    /// The length of each row's gradient, float64. Divide dot products by two of them for cosines.
    #[getter]
    fn norm(&self) -> PyNumbers {
        self.numbers(Which::Norms)
    }

    /// The label at each row's last visit, or None.
    #[getter]
    fn label(&self) -> Vec<Option<u32>> {
        self.found.labels.clone()
    }

    /// What the vectors are.
    #[getter]
    fn variant(&self) -> String {
        self.found.variant()
    }

    /// What they rest on, in one line.
    #[getter]
    fn basis(&self) -> String {
        self.found.basis.to_string()
    }

    fn __len__(&self) -> usize {
        self.found.examples.len()
    }

    fn __repr__(&self) -> String {
        format!("gradlog.Vectors: {} rows; {}", self.found.examples.len(), self.found.variant())
    }
}

#[pymethods]
impl PyNumbers {
    /// What NumPy reads: address, shape and type. The numbers live as long as this object, which an array keeps.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = &self.found;
        let rows = found.examples.len();
        let (address, kind, shape) = match self.which {
            Which::Vectors => (found.values.as_ptr() as usize, "<f4", vec![rows, found.length]),
            Which::Examples => (found.examples.as_ptr() as usize, "<u8", vec![rows]),
            Which::Steps => (found.steps.as_ptr() as usize, "<u8", vec![rows]),
            Which::Visits => (found.visits.as_ptr() as usize, "<u8", vec![rows]),
            Which::Norms => (found.norms.as_ptr() as usize, "<f8", vec![rows]),
        };
        let about = PyDict::new(py);
        about.set_item("version", 3)?;
        about.set_item("typestr", kind)?;
        about.set_item("shape", PyTuple::new(py, shape)?)?;
        about.set_item("data", (address, true))?;
        Ok(about)
    }
}
