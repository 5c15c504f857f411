//! A run, and what can be asked of it.

use crate::arguments::{named, window, Span};
use crate::error::{analysis_error, read_error, table_error, GradlogError};
use crate::table::{warn, PyTable};
use crate::vectors::PyVectors;
use crate::work::ask;
use gradlog_analysis::{
    Basis, Curvature, Damping, EstimateQuestion, ExampleQuestion, InfluenceQuestion, MapQuestion, Method, Score,
    ScoreQuestion, SuspectQuestion, UnitVectors, VectorQuestion,
};
use gradlog_arrow::{AnswerTable, Record, RecordQuestion, ScoredExample};
use gradlog_format::run::Run;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// A recorded run. `gradlog.open` opens it.
#[pyclass(frozen, name = "Run", module = "gradlog")]
#[derive(Debug)]
pub(crate) struct PyRun {
    run: Arc<Run>,
}

/// What a table rests on, in its metadata.
fn metadata(basis: String) -> [(String, String); 1] {
    [("gradlog.basis".to_owned(), basis)]
}

impl PyRun {
    /// Asks, and makes the answer a table.
    fn table(
        &self,
        py: Python<'_>,
        passes: u64,
        question: impl FnOnce(&Run, &gradlog_analysis::Progress) -> PyResult<Answered> + Send + 'static,
    ) -> PyResult<PyTable> {
        let run = self.run.clone();
        let made = ask(py, std::slice::from_ref(&self.run), passes, move |progress| {
            let Answered { table, basis, damage } = question(&run, progress)?;
            Ok((table.into_batches(metadata(basis)).map_err(table_error)?, damage))
        });
        let (batches, damage) = made?;
        PyTable::held(py, batches, damage.as_ref())
    }
}

/// Runs a verb of the command on a run: what it writes to stdout.
fn lines(dir: PathBuf, words: &[&str], more: impl IntoIterator<Item = OsString>) -> PyResult<Vec<u8>> {
    let (first, rest) = words.split_first().map_or(("", words), |(first, rest)| (*first, rest));
    let line = [OsString::from(first), dir.into()].into_iter();
    let ended = gradlog_cli::run_line(line.chain(rest.iter().map(OsString::from)).chain(more));
    match ended.code {
        0 | 3 => Ok(ended.data),
        _ => Err(GradlogError::new_err(ended.words.trim_end().trim_start_matches("error: ").to_owned())),
    }
}

/// An answer's rows, what they rest on, and where the run is damaged.
struct Answered {
    table: AnswerTable<'static>,
    basis: String,
    damage: Option<gradlog_format::run::Damage>,
}

#[pymethods]
impl PyRun {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let opened = py.detach(|| -> Result<_, gradlog_format::run::ReadError> {
            let run = Run::open(&path)?;
            let mut scan = run.scan();
            scan.by_ref().for_each(drop);
            let damage = scan.damage()?.cloned();
            drop(scan);
            Ok((run, damage))
        });
        let (run, damage) = opened.map_err(read_error)?;
        warn(py, damage.as_ref())?;
        Ok(Self { run: Arc::new(run) })
    }

    /// The folder.
    #[getter]
    fn path(&self) -> PathBuf {
        self.run.dir().to_owned()
    }

    fn _info(&self, py: Python<'_>) -> PyResult<String> {
        let dir = self.run.dir().to_owned();
        let data = ask(py, std::slice::from_ref(&self.run), 1, move |_| lines(dir, &["info", "--format", "json"], []));
        Ok(String::from_utf8_lossy(&data?).into_owned())
    }

    fn _report(&self, py: Python<'_>, path: PathBuf, data: Vec<String>) -> PyResult<()> {
        let more = data.into_iter().flat_map(|spec| ["--data".into(), OsString::from(spec)]);
        let more: Vec<OsString> = ["--out".into(), path.into_os_string()].into_iter().chain(more).collect();
        let dir = self.run.dir().to_owned();
        // After Ctrl-C the page may still appear: the command's verbs do not stop.
        ask(py, std::slice::from_ref(&self.run), 1, move |_| lines(dir, &["report"], more)).map(drop)
    }

    #[pyo3(signature = (table, columns, epochs, steps, stored_gradients, allow_damage))]
    fn _records(
        &self,
        table: &str,
        columns: Option<Vec<String>>,
        epochs: Option<Span>,
        steps: Option<Span>,
        stored_gradients: bool,
        allow_damage: bool,
    ) -> PyResult<PyTable> {
        let record = Record::ALL.into_iter().find(|record| record.name() == table).ok_or_else(|| {
            let names = Record::ALL.map(Record::name).join(", ");
            GradlogError::new_err(format!("there is no table `{table}`; there are {names}"))
        })?;
        let mut question = RecordQuestion::new(record).window(window(epochs, steps, "visits")?);
        if let Some(columns) = columns {
            question = question.columns(columns);
        }
        if stored_gradients {
            question = question.stored_gradients();
        }
        PyTable::read(question, self.run.clone(), allow_damage)
    }

    fn _scores(
        &self,
        py: Python<'_>,
        score: &str,
        epochs: Option<Span>,
        steps: Option<Span>,
        at: &str,
        optimizer: &str,
    ) -> PyResult<PyTable> {
        let score: Score = named(score)?;
        let question = ScoreQuestion::new(score).window(window(epochs, steps, at)?).optimizer(named(optimizer)?);
        self.table(py, 1, move |run, progress| {
            let found = question.share_progress(progress).compute(run).map_err(analysis_error)?;
            let basis = found.basis.to_string();
            let rows = found.rows.into_iter().map(ScoredExample::from).collect();
            let table = AnswerTable::of_scores(score, rows, false, found.basis.is_sweeps());
            Ok(Answered { table, basis, damage: found.damage })
        })
    }

    fn _suspects(
        &self,
        py: Python<'_>,
        epochs: Option<Span>,
        steps: Option<Span>,
        optimizer: &str,
    ) -> PyResult<PyTable> {
        let question = SuspectQuestion::new().window(window(epochs, steps, "visits")?).optimizer(named(optimizer)?);
        self.table(py, 6, move |run, progress| {
            let found = question.share_progress(progress).compute(run).map_err(analysis_error)?;
            let basis = Basis::describe_all(&found.bases);
            Ok(Answered {
                table: AnswerTable::of_suspects(found.rows, Some(&found.signals)),
                basis,
                damage: found.damage,
            })
        })
    }

    fn _data_map(&self, py: Python<'_>, epochs: Option<Span>, steps: Option<Span>, at: &str) -> PyResult<PyTable> {
        let question = MapQuestion::new().window(window(epochs, steps, at)?);
        self.table(py, 2, move |run, progress| {
            let found = question.share_progress(progress).compute(run).map_err(analysis_error)?;
            let basis = Basis::describe_all(&found.bases);
            Ok(Answered { table: AnswerTable::of_data_map(found.rows), basis, damage: found.damage })
        })
    }

    fn _example(
        &self,
        py: Python<'_>,
        id: u64,
        epochs: Option<Span>,
        steps: Option<Span>,
        at: &str,
    ) -> PyResult<PyTable> {
        let question = ExampleQuestion::new(id).window(window(epochs, steps, at)?);
        self.table(py, 1, move |run, progress| {
            let found = question.share_progress(progress).compute(run).map_err(analysis_error)?;
            let basis = found.basis.to_string();
            Ok(Answered { table: AnswerTable::of_example(found.visits), basis, damage: found.damage })
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the arguments of a Python function, all with names there")]
    fn _influence(
        &self,
        py: Python<'_>,
        probe_set: String,
        ids: Option<Vec<u64>>,
        label: Option<u32>,
        mean: bool,
        method: &str,
        top: Option<usize>,
        damping: Option<f64>,
        curvature: Option<String>,
        length: Option<usize>,
        layers: Vec<String>,
        normalize: &str,
        optimizer: &str,
        epochs: Option<Span>,
        steps: Option<Span>,
        at: &str,
    ) -> PyResult<PyTable> {
        let mut question = InfluenceQuestion::new(probe_set)
            .window(window(epochs, steps, at)?)
            .layers(layers)
            .normalization(named(normalize)?)
            .optimizer(named(optimizer)?);
        if let Some(ids) = ids {
            question = question.ids(ids);
        }
        if let Some(label) = label {
            question = question.label(label);
        }
        if mean {
            question = question.mean();
        }
        if method == "tracin" {
            if damping.is_some() || curvature.is_some() || length.is_some() {
                return Err(GradlogError::new_err(
                    "damping, curvature and length are settings of another method than \"tracin\": leave them out",
                ));
            }
            let question = question.sketch_errors();
            return self.table(py, 1, move |run, progress| {
                let found = question.share_progress(progress).compute(run).map_err(analysis_error)?;
                let basis = found.basis.to_string();
                Ok(Answered { table: AnswerTable::of_influence(&found, top), basis, damage: found.damage })
            });
        }
        let method: Method = named(method)?;
        let mut asked = EstimateQuestion::new(question, method).length(length.unwrap_or(method.default_length()));
        if let Some(damping) = damping {
            asked = asked.damping(Damping::Relative(damping));
        }
        asked = match curvature.as_deref() {
            None => asked,
            Some("visits") => asked.curvature(Curvature::Visits),
            Some("none") => asked.curvature(Curvature::Nothing),
            Some(set) => asked.curvature(Curvature::Set(set.strip_prefix("set:").unwrap_or(set).to_owned())),
        };
        self.table(py, 2, move |run, progress| {
            let answers = asked.share_progress(progress).compute(run).map_err(analysis_error)?;
            let found = answers.into_iter().next().ok_or_else(|| GradlogError::new_err("there is no answer"))?;
            let basis = found.basis.to_string();
            Ok(Answered { table: AnswerTable::of_influence(&found, top), basis, damage: found.damage })
        })
    }

    fn _similar(
        &self,
        py: Python<'_>,
        id: u64,
        top: usize,
        length: usize,
        epochs: Option<Span>,
        steps: Option<Span>,
    ) -> PyResult<PyTable> {
        let question = VectorQuestion::new(length).window(window(epochs, steps, "visits")?);
        self.table(py, 1, move |run, progress| {
            let found = question.share_progress(progress).compute(run).map_err(analysis_error)?;
            let (basis, damage) = (found.basis.to_string(), found.damage.clone());
            let unit = UnitVectors::new(found);
            let missing = gradlog_analysis::AnalysisError::NoSuchExample { id };
            let position = unit.position(id).ok_or_else(|| analysis_error(missing))?;
            let neighbors = unit.neighbors(position, top);
            Ok(Answered { table: AnswerTable::of_neighbors(&unit, neighbors), basis, damage })
        })
    }

    fn _vectors(
        &self,
        py: Python<'_>,
        length: usize,
        rows: &str,
        epochs: Option<Span>,
        steps: Option<Span>,
        bytes_max: u64,
    ) -> PyResult<PyVectors> {
        use gradlog_analysis::Combine;
        let combine = match rows {
            "mean" => Combine::Mean,
            "visits" => Combine::Visits,
            "applied" => Combine::Applied,
            _ => return Err(GradlogError::new_err(format!("rows={rows:?}: it is mean, visits or applied"))),
        };
        let question =
            VectorQuestion::new(length).combine(combine).bytes_max(bytes_max).window(window(epochs, steps, "visits")?);
        let run = self.run.clone();
        let found = ask(py, std::slice::from_ref(&self.run), 1, move |progress| {
            question.share_progress(progress).compute(&run).map_err(analysis_error)
        });
        PyVectors::new(py, found?)
    }
}
