//! A recorder's settings. Each field states its default and bounds.

use super::error::RecordError;
use super::outputs::Reduction;
use gradlog_format::log::{AllReduce, WorkerRecord, WriterOptions, WORKERS_MAX};
use gradlog_format::sketch::SketchConfig;
use std::time::Duration;

/// What happens to a pass that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The training waits, at most [`Config::wait_max`]. Nothing is lost.
    #[default]
    Block,
    /// The pass is dropped, counted, and the gap written into the log. The training never waits.
    DropNewest,
}

/// What the training's calls return once the background thread cannot record any more: the disk is full, the folder is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFailure {
    /// Every later call returns the failure, so that a loop with `?` stops at the next `commit`.
    #[default]
    Stop,
    /// The training goes on without recording. Passes and their commits succeed and only count; no checkpoint is saved. `flush` and
    /// `finish` return [`RecordError::Unrecorded`], which says from which step on nothing was recorded, and why.
    ///
    /// The log gets a gap, if the disk still takes a few hundred bytes. After one wait of [`Config::wait_max`] for a stuck disk the
    /// training waits no more until the disk takes something again. What is not recorded in between is a gap as well.
    GoOn,
}

/// One of several workers that train one model together. Each trains on its share of every batch; their gradients are combined
/// before the step. Each worker is a process with its own recorder, and all recorders get the same folder.
///
/// A plain struct that is built by literal or by [`Worker::new`]. It will not grow.
///
/// TracIn needs the factor of an example's gradient in the step, which no worker sees. With coefficient `c` in the worker's own loss
/// it is `c / workers` under a mean and `c` under a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// This worker's number, from 0.
    pub rank: u32,
    /// How many there are, at most 65,536.
    pub workers: u32,
    /// What the workers' gradients are made into before the step: [`Reduction::Mean`] over the workers, as PyTorch's
    /// `DistributedDataParallel` has it whatever the sizes of their batches, or [`Reduction::Sum`].
    pub reduction: Reduction,
}

impl Worker {
    /// Worker `rank` of `workers`, whose gradients are averaged: [`Reduction::Mean`].
    pub fn new(rank: u32, workers: u32) -> Self {
        Self { rank, workers, reduction: Reduction::Mean }
    }

    pub(super) fn from_record(WorkerRecord { rank, workers, reduction }: WorkerRecord) -> Self {
        let reduction = match reduction {
            AllReduce::Mean => Reduction::Mean,
            AllReduce::Sum => Reduction::Sum,
        };
        Self { rank, workers, reduction }
    }

    pub(super) fn record(self) -> WorkerRecord {
        let reduction = match self.reduction {
            Reduction::Mean => AllReduce::Mean,
            Reduction::Sum => AllReduce::Sum,
        };
        WorkerRecord { rank: self.rank, workers: self.workers, reduction }
    }

    /// What a coefficient in this worker's loss is divided by to give that in the step.
    pub(super) fn divisor(self) -> f32 {
        match self.reduction {
            Reduction::Mean => self.workers as f32,
            Reduction::Sum => 1.0,
        }
    }
}

/// A recorder's settings.
///
/// A plain struct. Build it with `..Config::default()`, so that a later version can add a field.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The seed of all projections. Runs whose sketches are to be compared need the same seed and the same taps. Default 0.
    pub seed: u64,
    /// Lengths and encodings of the sketches.
    pub sketch: SketchConfig,
    /// What happens when the queue is full. Default [`Overflow::Block`].
    pub overflow: Overflow,
    /// What happens when nothing more can be recorded. Default [`OnFailure::Stop`].
    pub on_failure: OnFailure,
    /// Passes that may wait for the background thread. Default 16, at least 1.
    pub queue_passes: usize,
    /// Bytes of gradients, ids and outputs that may wait for the background thread; a single pass larger than this may wait alone.
    /// Default 32 MiB.
    pub queue_bytes_max: usize,
    /// Bytes of the visits of one optimizer step, uncompressed. They wait in memory for the step's learning rate. A step that goes on
    /// beyond this, as where `commit` is never called, ends the recording with an error. A single pass may be larger. Default 256 MiB.
    pub step_bytes_max: usize,
    /// Longest time that `commit`, `flush` or `finish` waits for the background thread before it returns
    /// [`RecordError::Timeout`]. Default 60 s. More than a year counts as a year.
    pub wait_max: Duration,
    /// Longest time that a committed visit stays out of the log while the background thread is idle or busy with others.
    /// A process that is killed loses what is younger. Default 1 s; zero writes after every pass.
    pub flush_interval: Duration,
    /// Longest time between two flushes to the device: what a power cut can cost. Default 30 s; zero flushes after every pass.
    pub sync_interval: Duration,
    /// Rows after which a block is closed. Default 4,096.
    pub block_rows: u32,
    /// Bytes before compression after which a block is closed. Default 4 MiB.
    pub block_bytes: usize,
    /// Disk space that is reserved at a time. A run takes at least this while it is recorded; at the end it is cut to its length.
    /// Default 32 MiB, at least 64 KiB.
    pub segment_bytes: u64,
    /// zstd level, -7 to 22. Default 1. At 1 and below, vectors are entropy-coded without a search for matches: faster, and fewer bytes
    /// for gradients.
    pub zstd_level: i32,
    /// The caller's own words, kept in the manifest: model, data set, optimizer, commit.
    pub notes: Vec<(String, String)>,
    /// Which worker this is, where several train one model. Default `None`: there is one.
    pub worker: Option<Worker>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            sketch: SketchConfig::default(),
            overflow: Overflow::default(),
            on_failure: OnFailure::default(),
            queue_passes: 16,
            queue_bytes_max: 32 << 20,
            step_bytes_max: 256 << 20,
            wait_max: Duration::from_secs(60),
            flush_interval: Duration::from_secs(1),
            sync_interval: Duration::from_secs(30),
            block_rows: 4_096,
            block_bytes: 4 << 20,
            segment_bytes: 32 << 20,
            zstd_level: 1,
            notes: Vec::new(),
            worker: None,
        }
    }
}

impl Config {
    pub(super) fn writer_options(&self) -> WriterOptions {
        WriterOptions { segment_bytes: self.segment_bytes, zstd_level: self.zstd_level }
    }

    pub(super) fn check(&self) -> Result<(), RecordError> {
        let wrong = |what: &str| Err(RecordError::Config(what.into()));
        let sketch = &self.sketch;
        if [sketch.input_cap, sketch.delta_cap, sketch.projected, sketch.folded_max].contains(&0) {
            return wrong(
                "a sketch needs a length of at least 1: see `input_cap`, `delta_cap`, `projected` and `folded_max`",
            );
        }
        if sketch.folded_max > 1 << 20 || sketch.projected > 1 << 20 {
            return wrong("`folded_max` or `projected` is larger than 2^20: a sketch is meant to be short");
        }
        if sketch.folded_min > sketch.folded_max {
            return wrong("`folded_min` is larger than `folded_max`");
        }
        if self.queue_passes == 0 {
            return wrong("`queue_passes` is 0: at least one pass must be able to wait");
        }
        if self.block_rows == 0 || self.block_rows > 1 << 20 {
            return wrong("`block_rows` lies between 1 and 2^20");
        }
        if self.block_bytes > 64 << 20 {
            return wrong("`block_bytes` is at most 64 MiB");
        }
        if !(-7..=22).contains(&self.zstd_level) {
            return wrong("`zstd_level` lies between -7 and 22");
        }
        if let Some(Worker { rank, workers, .. }) = self.worker {
            if rank >= workers || workers > WORKERS_MAX {
                let what = format!(
                    "worker {rank} of {workers}: ranks are counted from 0, and there are at most {WORKERS_MAX}"
                );
                return Err(RecordError::Config(what));
            }
        }
        Ok(())
    }
}
