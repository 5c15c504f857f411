//! Load: more visits than the disk keeps up with. Nothing is lost under `Block`; under `DropNewest` what is missing is
//! what was counted; and memory stays inside its bound either way.
//!
//! The disk is slow in earnest: every pass is followed by a sync of the device, at a costly level of compression, so
//! that the background thread is slower than the training, which has nothing to compute.

use crate::memory;
use crate::training::{mix, noise};
use anyhow::{ensure, Context, Result};
use candle_core::{DType, Device, Tensor};
use gradlog::{Config, Overflow, Recorder, RecordingSummary, Taps};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;
use std::time::Instant;

/// Classes of the model that is not there.
const CLASSES: usize = 10;
/// Batches of outputs that are used in turn.
const POOL: u64 = 31;
/// Passes between two flushes under `DropNewest`: each gives the thread time to catch up, so that gaps are many.
const FLUSH_PASSES: u64 = 40;
/// Bytes of a segment, one of which is mapped at a time.
const SEGMENT_BYTES: u64 = 4 << 20;
/// What zstd may take at this level, and what the C library's allocator keeps.
const COMPRESSOR_BYTES: u64 = 16 << 20;
/// What is allocated besides rows: tables, names, messages, candle's own scratch.
const ALLOWANCE_BYTES: u64 = 1 << 20;

/// What a soak came to.
#[derive(Debug, Default)]
pub struct Figures {
    pub offered: u64,
    pub written: u64,
    pub dropped: u64,
    pub gaps: u64,
    pub seconds: f64,
    pub blocked_seconds: f64,
    pub run_bytes: u64,
    pub heap_bytes: u64,
    pub bound_bytes: u64,
    pub resident_bytes: Option<u64>,
}

impl Figures {
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "visits_offered": self.offered,
            "visits_written": self.written,
            "visits_dropped": self.dropped,
            "gaps": self.gaps,
            "seconds": self.seconds,
            "training_waited_seconds": self.blocked_seconds,
            "run_bytes": self.run_bytes,
            "heap_peak_bytes": self.heap_bytes,
            "heap_bound_bytes": self.bound_bytes,
            "resident_peak_growth_bytes": self.resident_bytes,
        })
    }
}

struct Pool {
    logits: Vec<Tensor>,
    labels: Tensor,
    /// The loss of each example, by batch.
    losses: Vec<Vec<f32>>,
}

impl Pool {
    fn new(batch: u64) -> Result<Self> {
        let size = batch as usize;
        let label = |i: u64| (mix(i) % CLASSES as u64) as u32;
        let labels: Vec<u32> = (0..batch).map(label).collect();
        let (mut logits, mut losses) = (Vec::new(), Vec::new());
        for number in 0..POOL {
            let values: Vec<f32> = (0..batch * CLASSES as u64).map(|i| 4.0 * noise(number, i)).collect();
            losses.push(values.chunks(CLASSES).zip(&labels).map(|(z, y)| loss(z, *y as usize)).collect());
            logits.push(Tensor::from_vec(values, (size, CLASSES), &Device::Cpu)?.to_dtype(DType::F32)?);
        }
        Ok(Self { logits, labels: Tensor::from_vec(labels, size, &Device::Cpu)?, losses })
    }
}

/// Cross entropy as its definition has it, in f64.
fn loss(logits: &[f32], label: usize) -> f32 {
    let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
    (sum.ln() - f64::from(logits[label])) as f32
}

/// How large the passes are and how much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    overflow: Overflow,
    batch: u64,
    passes: u64,
    queue_passes: usize,
    queue_bytes_max: usize,
}

impl Shape {
    /// Small passes, of which a few may wait.
    pub fn many(visits: u64, overflow: Overflow) -> Self {
        let batch = (visits / 100).clamp(10, 1_000);
        Self { overflow, batch, passes: visits / batch, queue_passes: 4, queue_bytes_max: 32 << 20 }
    }

    /// Large passes, of which as many may wait as fit into a mebibyte: one.
    pub fn large(visits: u64) -> Self {
        let batch = 1 << 14;
        let passes = (visits / batch).max(80);
        Self { overflow: Overflow::Block, batch, passes, queue_passes: 64, queue_bytes_max: 1 << 20 }
    }

    /// The most that a recorder may hold: the passes that wait, one that is being handed over and one at work; the
    /// block that fills up, its columns with room to grow; and the block as it is written. A pass makes a block
    /// here.
    fn bound_bytes(&self) -> u64 {
        // Id, coefficient, loss, four more numbers, label and prediction.
        let pass = self.batch * (8 + 4 + 5 * 4 + 2 * 4);
        let waiting = (self.queue_passes as u64 * pass).min(pass.max(self.queue_bytes_max as u64));
        // Logits, softmax and a few words for each example, while the loss is taken; the training's own, in truth.
        let loss = self.batch * (2 * 4 * CLASSES as u64 + 128);
        // The same in rows, with step, epoch, learning rate, clip and flags.
        let block = pass + self.batch * (8 + 4 + 4 + 4 + 1);
        waiting + 2 * pass + loss + 4 * block + ALLOWANCE_BYTES
    }
}

/// Hands visits to a recorder that cannot keep up, and compares what it wrote with what it was given.
pub fn run(shape: Shape) -> Result<Figures> {
    let pool = Pool::new(shape.batch)?;
    let dir = tempfile::tempdir()?;
    let config = Config {
        overflow: shape.overflow,
        queue_passes: shape.queue_passes,
        queue_bytes_max: shape.queue_bytes_max,
        segment_bytes: SEGMENT_BYTES,
        // A block for each pass, and a sync after each: what is clean is not synced.
        block_rows: shape.batch as u32,
        sync_interval: std::time::Duration::ZERO,
        zstd_level: 9,
        ..Config::default()
    };
    let start = Instant::now();
    let heap = memory::reset_peak();
    let resident = peak_resident(true);
    let summary = record(dir.path(), shape, &pool, config)?;
    let figures = Figures {
        offered: shape.passes * shape.batch,
        written: summary.visits,
        dropped: summary.dropped,
        seconds: start.elapsed().as_secs_f64(),
        blocked_seconds: summary.blocked.as_secs_f64(),
        run_bytes: summary.bytes,
        heap_bytes: memory::peak() - heap,
        bound_bytes: shape.bound_bytes(),
        resident_bytes: resident.zip(peak_resident(false)).map(|(before, after)| after.saturating_sub(before)),
        gaps: 0,
    };
    check(dir.path(), shape, &pool, figures)
}

fn record(dir: &Path, shape: Shape, pool: &Pool, config: Config) -> Result<RecordingSummary> {
    let Shape { batch, passes, overflow, .. } = shape;
    let mut recorder = Recorder::create(dir, &Taps::new(), config)?;
    let mut ids: Vec<u64> = Vec::new();
    for step in 0..passes {
        ids.clear();
        ids.extend(step * batch..(step + 1) * batch);
        let mut pass = recorder.pass(&ids)?;
        pass.cross_entropy(&pool.logits[(step % POOL) as usize], &pool.labels)?;
        pass.commit(0.1)?;
        if overflow == Overflow::DropNewest && step % FLUSH_PASSES == 0 {
            recorder.flush()?;
        }
    }
    Ok(recorder.finish()?)
}

/// Every visit that was handed over is there, with its numbers, or lies in a gap; none is there twice, none in both.
fn check(dir: &Path, shape: Shape, pool: &Pool, mut figures: Figures) -> Result<Figures> {
    let batch = shape.batch;
    let run = Run::open(dir)?;
    let report = run.verify()?;
    ensure!(report.finished && report.damage.is_none(), "{report:?}");
    ensure!((report.visits, report.dropped) == (figures.written, figures.dropped), "{report:?} against {figures:?}");
    ensure!(
        figures.written + figures.dropped == figures.offered,
        "visits are missing and nobody counted them: {figures:?}"
    );
    let mut present = vec![0u8; figures.offered as usize];
    let mut last = None;
    let mut scan = run.scan();
    for block in scan.by_ref() {
        match block.kind() {
            Some(BlockKind::Visits) => {
                let ids = block.u64s(Column::Example)?;
                let (steps, losses) = (block.u64s(Column::Step)?, block.f32s(Column::Loss)?);
                for ((id, step), loss) in ids.into_iter().zip(steps).zip(losses) {
                    ensure!(last < Some(id) && id / batch == step, "visit {id} of step {step} after {last:?}");
                    last = Some(id);
                    let expected = pool.losses[(step % POOL) as usize][(id % batch) as usize];
                    ensure!((loss - expected).abs() < 1e-4, "visit {id} has loss {loss}, it had {expected}");
                    *present.get_mut(id as usize).context("a visit that was never made")? += 1;
                }
            }
            Some(BlockKind::Gaps) => {
                for (step, dropped) in block.u64s(Column::Step)?.into_iter().zip(block.u64s(Column::Dropped)?) {
                    figures.gaps += 1;
                    let missing = present.get_mut((step * batch) as usize..(step * batch + dropped) as usize);
                    missing.context("a gap beyond the end")?.iter_mut().for_each(|there| *there += 1);
                }
            }
            _ => {}
        }
    }
    ensure!(scan.damage()?.is_none(), "{:?}", scan.damage());
    let wrong = present.iter().filter(|there| **there != 1).count();
    ensure!(wrong == 0, "{wrong} visits are missing without a gap, or are there and in a gap");
    match shape.overflow {
        Overflow::Block => ensure!(figures.dropped == 0 && figures.blocked_seconds > 0.0, "{figures:?}"),
        _ => {
            ensure!(figures.dropped > 0 && figures.written > 0, "the disk was not slow, or nothing passed: {figures:?}")
        }
    }
    ensure!(figures.heap_bytes <= figures.bound_bytes, "more memory than the bound: {figures:?}");
    // The segment that is mapped counts as resident too, and so does what the compressor, which is C, holds.
    let resident = figures.bound_bytes + SEGMENT_BYTES + COMPRESSOR_BYTES;
    ensure!(figures.resident_bytes.is_none_or(|bytes| bytes <= resident), "more than {resident} bytes: {figures:?}");
    Ok(figures)
}

/// Most memory that this process has had resident; `reset` lets it begin anew, where the system can.
fn peak_resident(reset: bool) -> Option<u64> {
    if reset {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
