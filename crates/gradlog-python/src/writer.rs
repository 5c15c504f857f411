//! Writes a run from Python: the same log that a recorder writes.
//!
//! A gradient vector is one factored layer with one output, whose delta is 1. So it is stored number for number, in f32
//! or rounded to f16, and every score of gradients takes it.

use crate::error::GradlogError;
use gradlog_format::log::{
    BlockBuilder, BlockKind, Cells, Column, ColumnKey, LayerRecord, LogError, LogWriter, Manifest, UpdateRule,
    WriterOptions,
};
use gradlog_format::sketch::{Encoding, SketchConfig};
use pyo3::exceptions::{PyFileExistsError, PyOSError};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of rows that wait before they become a block.
const BLOCK_BYTES: usize = 4 << 20;
/// Length that is reserved for a segment.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How long visits wait before they become a block, if others follow.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// The layer of gradient vectors.
const LAYER: u16 = 0;

/// A run that is being written.
#[pyclass(frozen, name = "Writer", module = "gradlog")]
pub(crate) struct PyWriter {
    open: Mutex<Option<Open>>,
    dim: usize,
    encoding: Encoding,
}

struct Open {
    log: LogWriter,
    visits: BlockBuilder,
    steps: BlockBuilder,
    sets: Vec<String>,
    /// The columns of the visits that wait. All rows of a block have the same.
    form: Vec<String>,
    /// When rows last became a block.
    flushed: Instant,
}

/// The columns of some rows, as bytes of little-endian numbers.
struct Rows {
    count: usize,
    columns: HashMap<String, Vec<u8>>,
}

fn log_error(error: LogError) -> PyErr {
    let text = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    match error {
        LogError::Exists { .. } => PyFileExistsError::new_err(text),
        LogError::Io { .. } | LogError::Locked { .. } => PyOSError::new_err(text),
        _ => GradlogError::new_err(text),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

fn run_id() -> [u8; 16] {
    let mut id = [0u8; 16];
    for half in id.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    id
}

impl Rows {
    fn u64s(&self, name: &str) -> PyResult<Vec<u64>> {
        self.words(name, u64::from_le_bytes)
    }

    fn f32s(&self, name: &str) -> PyResult<Vec<f32>> {
        self.words(name, f32::from_le_bytes)
    }

    fn u32s(&self, name: &str) -> PyResult<Vec<u32>> {
        self.words(name, u32::from_le_bytes)
    }

    fn words<T, const N: usize>(&self, name: &str, word: impl Fn([u8; N]) -> T) -> PyResult<Vec<T>> {
        let bytes = self.columns.get(name).map_or(&[][..], Vec::as_slice);
        let words: Vec<T> = bytes.as_chunks::<N>().0.iter().map(|bytes| word(*bytes)).collect();
        if words.len() != self.count || bytes.len() != N * self.count {
            return Err(GradlogError::new_err(format!("{} numbers of {name} for {} rows", words.len(), self.count)));
        }
        Ok(words)
    }

    fn has(&self, name: &str) -> bool {
        self.columns.contains_key(name)
    }
}

#[pymethods]
impl PyWriter {
    /// Begins a run in a new folder, whose gradients have `dim` numbers (0 for none).
    #[new]
    fn new(
        path: PathBuf,
        dim: u32,
        half: bool,
        notes: Vec<(String, String)>,
        model_parameters: Option<u64>,
    ) -> PyResult<Self> {
        let encoding = if half { Encoding::F16 } else { Encoding::F32 };
        let layer = LayerRecord {
            name: "gradient".into(),
            kind: "given".into(),
            inputs: dim,
            outputs: 1,
            bias: false,
            parameters: u64::from(dim),
            shapes: vec![("weight".into(), vec![1, u64::from(dim)])],
            seed_input: 0,
            seed_delta: 0,
            seed_folded: 0,
        };
        let manifest = Manifest {
            run_id: run_id(),
            created_ms: now_ms(),
            version: format!("{} (Python)", env!("CARGO_PKG_VERSION")),
            seed: 0,
            sketch: SketchConfig { encoding, ..SketchConfig::exact() },
            layers: if dim > 0 { vec![layer] } else { Vec::new() },
            untapped: Vec::new(),
            model_parameters,
            notes,
            worker: None,
            extensions: Vec::new(),
        };
        let options = WriterOptions { segment_bytes: SEGMENT_BYTES, zstd_level: 1 };
        let log = LogWriter::create(&path, &manifest, options).map_err(log_error)?;
        let (visits, steps) = (BlockBuilder::new(BlockKind::Visits), BlockBuilder::new(BlockKind::Steps));
        let open = Open { log, visits, steps, sets: Vec::new(), form: Vec::new(), flushed: Instant::now() };
        Ok(Self { open: Mutex::new(Some(open)), dim: dim as usize, encoding })
    }

    /// Adds the visits of one step and the step.
    #[allow(clippy::too_many_arguments, reason = "the arguments of a Python function, all with names there")]
    #[pyo3(signature = (count, columns, step, epoch, learning_rate, momentum, weight_decay))]
    fn visits(
        &self,
        py: Python<'_>,
        count: usize,
        columns: HashMap<String, Vec<u8>>,
        step: u64,
        epoch: u32,
        learning_rate: Option<f32>,
        momentum: Option<f32>,
        weight_decay: Option<f32>,
    ) -> PyResult<()> {
        let rows = Rows { count, columns };
        py.detach(|| {
            self.with(|open| {
                let mut form: Vec<String> = rows.columns.keys().cloned().collect();
                form.extend(learning_rate.map(|_| "learning_rate".to_owned()));
                form.sort_unstable();
                if form != open.form {
                    open.flush()?;
                    // A builder keeps its columns, and the next rows may lack one of them.
                    open.visits = BlockBuilder::new(BlockKind::Visits);
                    open.steps = BlockBuilder::new(BlockKind::Steps);
                    open.form = form;
                }
                if let Some(rate) = learning_rate {
                    open.visits.f32s(Column::LearningRate, std::iter::repeat_n(rate, count));
                    open.steps.f32s(Column::LearningRate, [rate]);
                }
                fill(&mut open.visits, &rows, (step, epoch), self.dim, self.encoding)?;
                open.steps.u64s(Column::Step, [step]);
                open.steps.u32s(Column::Epoch, [epoch]);
                open.steps.u32s(Column::BatchSize, [u32::try_from(count).unwrap_or(u32::MAX)]);
                open.steps.u64s(Column::WallClock, [now_ms()]);
                open.steps.optional_f32(Column::Momentum, momentum);
                open.steps.optional_f32(Column::WeightDecay, weight_decay);
                let rule = momentum.is_some() && weight_decay.is_some();
                open.steps.told_u8(Column::UpdateRule, rule.then_some(UpdateRule::Sgd.code()));
                open.steps.advance(1, step, epoch);
                if open.visits.raw_bytes() > BLOCK_BYTES || open.flushed.elapsed() > FLUSH_INTERVAL {
                    open.flush()?;
                }
                Ok(())
            })
        })
    }

    /// Adds probes that were taken before a step.
    fn probes(
        &self,
        py: Python<'_>,
        set: String,
        count: usize,
        columns: HashMap<String, Vec<u8>>,
        step: u64,
        epoch: u32,
    ) -> PyResult<()> {
        let rows = Rows { count, columns };
        py.detach(|| {
            self.with(|open| {
                // A probe comes before the visits of its step, and behind those of the step before.
                open.flush()?;
                let number = match open.sets.iter().position(|known| *known == set) {
                    Some(number) => number as u32,
                    None => {
                        let number = open.sets.len() as u32;
                        let mut named = BlockBuilder::new(BlockKind::ProbeSet);
                        named.u32s(Column::ProbeSet, [number]);
                        let length = u32::try_from(set.len())
                            .ok()
                            .filter(|length| (1..=255).contains(length))
                            .ok_or_else(|| GradlogError::new_err("the name of a probe set has 1 to 255 bytes"))?;
                        named.column(Column::Name, Cells::U8, length).extend(set.as_bytes());
                        named.advance(1, step, epoch);
                        open.log.append(&mut named).map_err(log_error)?;
                        open.sets.push(set);
                        number
                    }
                };
                let mut probes = BlockBuilder::new(BlockKind::Probes);
                probes.u32s(Column::ProbeSet, std::iter::repeat_n(number, count));
                fill(&mut probes, &rows, (step, epoch), self.dim, self.encoding)?;
                open.log.append(&mut probes).map_err(log_error)
            })
        })
    }

    /// Ends the run. A run that is not ended can be read, and counts as cut off.
    fn close(&self, py: Python<'_>, finished: bool) -> PyResult<()> {
        py.detach(|| {
            let taken = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(mut open) = taken else { return Ok(()) };
            open.flush()?;
            if finished {
                open.log.append_end().map_err(log_error)?;
            }
            open.log.finish().map_err(log_error)
        })
    }
}

impl PyWriter {
    fn with(&self, write: impl FnOnce(&mut Open) -> PyResult<()>) -> PyResult<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.as_mut() {
            Some(open) => write(open),
            None => Err(GradlogError::new_err("the run is closed")),
        }
    }
}

impl Open {
    /// Makes blocks of what waits.
    fn flush(&mut self) -> PyResult<()> {
        self.flushed = Instant::now();
        self.log.append(&mut self.visits).map_err(log_error)?;
        self.log.append(&mut self.steps).map_err(log_error)
    }
}

/// Adds the columns that visits and probes have in common.
fn fill(to: &mut BlockBuilder, rows: &Rows, (step, epoch): (u64, u32), dim: usize, encoding: Encoding) -> PyResult<()> {
    let count = rows.count;
    let (examples, losses) = (rows.u64s("example")?, rows.f32s("loss")?);
    let coefficients = rows.f32s("coefficient")?;
    let mut flags: Vec<u8> = losses
        .iter()
        .zip(&coefficients)
        .map(|(loss, c)| {
            let finite = if loss.is_finite() { 0 } else { Column::FLAG_NOT_FINITE };
            finite | if *c == 0.0 { Column::FLAG_NO_WEIGHT } else { 0 }
        })
        .collect();
    to.u64s(Column::Example, examples);
    to.u64s(Column::Step, std::iter::repeat_n(step, count));
    to.u32s(Column::Epoch, std::iter::repeat_n(epoch, count));
    to.f32s(Column::Coefficient, coefficients);
    to.f32s(Column::Loss, losses);
    for (name, column) in [
        ("el2n", Column::El2n),
        ("margin", Column::Margin),
        ("confidence", Column::Confidence),
        ("correct", Column::Correct),
        ("target", Column::Target),
        ("output", Column::Output),
    ] {
        if rows.has(name) {
            to.f32s(column, rows.f32s(name)?);
        }
    }
    for (name, column) in [("label", Column::Label), ("prediction", Column::Prediction)] {
        if rows.has(name) {
            to.u32s(column, rows.u32s(name)?);
        }
    }
    if dim > 0 {
        let bytes = rows.columns.get("gradient").map_or(&[][..], Vec::as_slice);
        let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if numbers.len() != count * dim {
            let what = format!("{} numbers of gradients for {count} rows of {dim}", numbers.len());
            return Err(GradlogError::new_err(what));
        }
        let key = |column| ColumnKey { column, layer: LAYER };
        let mut norms = Vec::with_capacity(count);
        for (gradient, flags) in numbers.chunks_exact(dim).zip(&mut flags) {
            let squared: f64 = gradient.iter().map(|number| f64::from(*number).powi(2)).sum();
            norms.push(Column::encode_squared_norm(squared));
            let codes = to.column(key(Column::Input), Cells::Vector(encoding), dim as u32);
            let quantized = encoding.encode(gradient, codes);
            if !quantized.finite {
                *flags |= Column::FLAG_NOT_FINITE;
            }
            to.column(key(Column::InputScale), Cells::Bf16, 1).extend(quantized.scale.to_le_bytes());
            let codes = to.column(key(Column::Delta), Cells::Vector(encoding), 1);
            let quantized = encoding.encode(&[1.0], codes);
            to.column(key(Column::DeltaScale), Cells::Bf16, 1).extend(quantized.scale.to_le_bytes());
        }
        to.f32s(Column::SquaredNorm, norms);
    } else {
        flags.iter_mut().for_each(|flags| *flags |= Column::FLAG_NO_GRADIENT);
    }
    to.column(Column::Flags, Cells::U8, 1).extend(flags);
    to.advance(count as u32, step, epoch);
    Ok(())
}
