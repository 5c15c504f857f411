//! A table that every data frame library takes: it has `__arrow_c_stream__`.

use crate::error::{table_error, DamageWarning};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, SchemaRef};
use gradlog_arrow::{RecordQuestion, RecordStream};
use gradlog_format::run::{Damage, Run};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};
use std::sync::Arc;

/// Rows that are shown.
const SHOWN: usize = 10;

/// Rows of a run or of an answer. Pass it to `polars.DataFrame`, `pyarrow.table`, `pandas.DataFrame.from_arrow`, or
/// name it in a query of DuckDB.
#[pyclass(frozen, name = "Table", module = "gradlog")]
#[derive(Debug)]
pub(crate) struct PyTable {
    schema: SchemaRef,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    /// An answer, which is there.
    Held(Vec<RecordBatch>),
    /// Rows of the log, which are read anew each time.
    Read { question: RecordQuestion, run: Arc<Run>, allow_damage: bool },
}

/// A stream of the log that ends with an error where the run is damaged.
struct Strict(RecordStream);

impl Iterator for Strict {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(item) = self.0.next() {
            return Some(item);
        }
        let damage = self.0.read()?.damage.as_ref()?;
        let what = format!("{damage}; allow_damage=True takes what lies before it");
        Some(Err(ArrowError::ExternalError(what.into())))
    }
}

impl RecordBatchReader for Strict {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }
}

impl PyTable {
    /// An answer. Warns if its run is damaged.
    pub(crate) fn held(
        py: Python<'_>,
        (schema, batches): (SchemaRef, Vec<RecordBatch>),
        damage: Option<&Damage>,
    ) -> PyResult<Self> {
        warn(py, damage)?;
        Ok(Self { schema, rows: Rows::Held(batches) })
    }

    /// Rows of the log.
    pub(crate) fn read(question: RecordQuestion, run: Arc<Run>, allow_damage: bool) -> PyResult<Self> {
        let schema = question.schema(&run).map_err(table_error)?;
        Ok(Self { schema, rows: Rows::Read { question, run, allow_damage } })
    }

    fn reader(&self) -> PyResult<Box<dyn RecordBatchReader + Send>> {
        Ok(match &self.rows {
            Rows::Held(batches) => {
                Box::new(RecordBatchIterator::new(batches.clone().into_iter().map(Ok), self.schema.clone()))
            }
            Rows::Read { question, run, allow_damage } => {
                let stream = question.clone().stream(run.clone()).map_err(table_error)?;
                if *allow_damage {
                    Box::new(stream)
                } else {
                    Box::new(Strict(stream))
                }
            }
        })
    }

    /// The first rows as words, under their columns.
    fn first(&self, py: Python<'_>) -> PyResult<Vec<Vec<String>>> {
        let mut reader = self.reader()?;
        let batch = py.detach(|| reader.next());
        let batch = match batch {
            None => return Ok(Vec::new()),
            Some(Ok(batch)) => batch,
            Some(Err(error)) => return Err(table_error(error.into())),
        };
        let options = FormatOptions::default().with_null("null");
        let columns: Result<Vec<ArrayFormatter<'_>>, ArrowError> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
        let columns = columns.map_err(|error| table_error(error.into()))?;
        let cell = |column: &ArrayFormatter<'_>, row: usize| column.value(row).to_string();
        Ok((0..batch.num_rows().min(SHOWN))
            .map(|row| columns.iter().map(|column| cell(column, row)).collect())
            .collect())
    }

    fn summary(&self) -> String {
        let columns = self.schema.fields().len();
        match &self.rows {
            Rows::Held(batches) => {
                format!("{} rows, {columns} columns", batches.iter().map(RecordBatch::num_rows).sum::<usize>())
            }
            Rows::Read { .. } => format!("{columns} columns, read when they are asked for"),
        }
    }
}

/// Warns of a damaged run.
pub(crate) fn warn(py: Python<'_>, damage: Option<&Damage>) -> PyResult<()> {
    let Some(damage) = damage else { return Ok(()) };
    let words = std::ffi::CString::new(damage.to_string().replace('\0', " "))?;
    PyErr::warn(py, &py.get_type::<DamageWarning>(), &words, 2)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[pymethods]
impl PyTable {
    /// The table as an Arrow C stream (the Arrow PyCapsule interface). Another schema is not cast to.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let stream = FFI_ArrowArrayStream::new(self.reader()?);
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }

    /// The names of the columns.
    #[getter]
    fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// What the table rests on, in one line; None for rows of the log.
    #[getter]
    fn basis(&self) -> Option<String> {
        self.schema.metadata().get("gradlog.basis").cloned()
    }

    /// The metadata of the schema.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let about = PyDict::new(py);
        for (name, value) in self.schema.metadata() {
            about.set_item(name, value)?;
        }
        Ok(about)
    }

    /// The number of rows of an answer. Rows of the log have to be read to be counted.
    fn __len__(&self) -> PyResult<usize> {
        match &self.rows {
            Rows::Held(batches) => Ok(batches.iter().map(RecordBatch::num_rows).sum()),
            Rows::Read { .. } => Err(pyo3::exceptions::PyTypeError::new_err(
                "rows of the log have no length before they are read: len(polars.DataFrame(table))",
            )),
        }
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let rows = self.first(py)?;
        let names = self.columns();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([names[column].chars().count()]).max().unwrap_or(0).min(40)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        let line = |cells: &[String]| -> String {
            let cells = cells.iter().zip(&widths).map(|(cell, width)| {
                let shown: String = cell.chars().take(*width).collect();
                format!("{shown:>width$}")
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        let mut text = format!("gradlog.Table: {}\n{}", self.summary(), line(&names));
        for row in &rows {
            text.push('\n');
            text.push_str(&line(row));
        }
        Ok(text)
    }

    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        let cells = |tag: &str, row: &[String]| -> String {
            row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
        };
        let rows: String = self.first(py)?.iter().map(|row| format!("<tr>{}</tr>", cells("td", row))).collect();
        let head = cells("th", &self.columns());
        let about = escaped(&[Some(self.summary()), self.basis()].into_iter().flatten().collect::<Vec<_>>().join("; "));
        Ok(format!("<div><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{about}</p></div>"))
    }
}
