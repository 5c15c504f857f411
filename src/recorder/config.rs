//! A recorder's settings. Each field states its default and its bounds.

use super::cards::CardLimits;
use super::error::RecordError;
use super::folding::Folding;
use super::guard::Guard;
use super::outputs::Reduction;
use candle_core::Device;
use gradlog_format::log::{AllReduce, WorkerRecord, WriterOptions, WORKERS_MAX};
use gradlog_format::sketch::SketchConfig;
use std::time::Duration;

/// The most passes that may wait. A pass that waits holds its batch, so a longer queue has no use.
const QUEUE_PASSES_MAX: usize = 1 << 16;

/// What happens to a pass that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The training waits, at most [`Config::wait_max`]. Nothing is lost.
    #[default]
    Block,
    /// The pass is dropped and counted, and the log gets a gap. The training never waits for the queue.
    DropNewest,
}

/// What calls return once the background thread can no longer record, for example because the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFailure {
    /// Every later call returns the failure. A loop with `?` stops at the next `commit`.
    #[default]
    Stop,
    /// The training goes on without recording. Passes and commits succeed and are only counted; no checkpoint is
    /// saved. `flush` and `finish` return [`RecordError::Unrecorded`], with the first step that is missing and the
    /// reason.
    ///
    /// The log gets a gap, if the disk still takes a few hundred bytes. On a stuck disk the training waits
    /// [`Config::wait_max`] once, and then no more until the disk takes data again. The visits in between are a gap as
    /// well.
    GoOn,
}

/// What happens to a step with a loss or a gradient that is NaN or infinite.
///
/// Looked at are the losses of examples with a weight, and the gradients that the taps caught.
/// [`Pass::backward_step`](crate::Pass::backward_step) looks at all gradients of the backward pass. Gradients of
/// untapped layers are seen by it alone. Once recording has failed under [`OnFailure::GoOn`], `commit` sees losses
/// alone.
///
/// Under [`OnNonFinite::Skip`] and [`OnNonFinite::Stop`] the step is abandoned, as by
/// [`Recorder::abandon_step`](crate::Recorder::abandon_step). This includes the passes that were accumulated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnNonFinite {
    /// The step is recorded, and taken. Each visit with a number that is not finite is flagged: scores leave it out
    /// and count it. Costs nothing in the training thread.
    #[default]
    Record,
    /// The step is neither recorded nor taken, and the training goes on. `backward_step` leaves out the optimizer's
    /// step and returns `Ok`. `commit` and `accumulate` return [`RecordError::NotFinite`], so that the loop leaves
    /// it out. It is refused for one of several workers, because all must skip together.
    ///
    /// ```
    /// # use gradlog::{Pass, RecordError};
    /// # fn step(pass: Pass<'_>, take: impl FnOnce()) -> Result<(), RecordError> {
    /// match pass.commit(0.1) {
    ///     Err(error) if error.is_skipped_step() => {} // the optimizer takes no step
    ///     recorded => {
    ///         recorded?;
    ///         take();
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    Skip,
    /// As [`OnNonFinite::Skip`], but `backward_step` returns the error as well, so that a loop with `?` ends.
    Stop,
}

/// Where gradients are sketched and losses are computed.
///
/// The log is the same, and so are its numbers, up to the rounding of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Sketching {
    /// Tensors in main memory are sketched there: f32 by fused layers and the background thread. On another device
    /// everything is done as under [`Sketching::OnDevice`].
    #[default]
    Auto,
    /// By candle's ops on the device of the tensors. What leaves the device is one short vector for each example, the
    /// factors of layers with one position per example, and a few numbers. On the CPU this is slower than
    /// [`Sketching::Auto`]; it serves tests and comparisons.
    OnDevice,
    /// In main memory. Inputs and output gradients of all layers are copied from the device, and the training waits
    /// for the outputs of each pass.
    InMainMemory,
}

impl Sketching {
    /// Whether tensors of `device` are sketched by candle's ops.
    pub(crate) fn is_on_device(self, device: &Device) -> bool {
        match self {
            Self::Auto => !device.is_cpu(),
            Self::OnDevice => true,
            Self::InMainMemory => false,
        }
    }
}

/// What happens if the declared model has a `BatchNorm` that may run in training mode.
///
/// In training mode a `BatchNorm` couples the examples of a batch, so no example has a gradient of its own. The
/// recorder sees it by the statistics among the variables of [`Taps::declare_model`](crate::Taps::declare_model). A
/// [`FrozenBatchNorm`](crate::taps::FrozenBatchNorm) that is tapped couples nothing, and none of this concerns it. Nor
/// does it concern a run without layers: such a run records losses and predictions as they are in the batch, and its
/// results say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnBatchNorm {
    /// [`Recorder::create`](crate::Recorder::create) returns an error that names the layers.
    #[default]
    Refuse,
    /// Each row holds the example's share of the batch gradient: the part that flows through its own activations,
    /// divided by its coefficient. Times their coefficients the shares add up to the batch gradient. They depend on
    /// the other examples of the batch. Every result of the run says so.
    RecordShare,
    /// The model runs every `BatchNorm` in evaluation mode, with frozen statistics, so examples are not coupled. If a
    /// pass changes the statistics, `commit` returns an error. This is looked at in the passes 1, 2, 4, 8 and so on.
    Frozen,
}

/// One of several workers that train one model together. Each worker is a process with its own recorder and trains on
/// its share of every batch. The gradients are combined before the step. All recorders get the same folder.
///
/// A plain struct: build it as a literal or with [`Worker::new`]. Its fields are final.
///
/// TracIn needs the factor of an example's gradient in the joint step. For a coefficient `c` in the worker's own loss
/// this factor is `c / workers` under a mean and `c` under a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// This worker's number, from 0 to `workers` − 1.
    pub rank: u32,
    /// Number of workers, 1 to 65,536.
    pub workers: u32,
    /// How the workers' gradients are combined before the step. [`Reduction::Mean`] is the mean over the workers, as
    /// in PyTorch's `DistributedDataParallel`, whatever the sizes of their batches. [`Reduction::Sum`] is the sum.
    pub reduction: Reduction,
}

impl Worker {
    /// Worker `rank` of `workers`, with [`Reduction::Mean`].
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

    pub(super) fn to_record(self) -> WorkerRecord {
        let reduction = match self.reduction {
            Reduction::Mean => AllReduce::Mean,
            Reduction::Sum => AllReduce::Sum,
        };
        WorkerRecord { rank: self.rank, workers: self.workers, reduction }
    }

    /// The divisor from a coefficient in this worker's loss to the coefficient in the joint step.
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
/// [`Recorder::create`](crate::Recorder::create) checks all bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The seed of all projections. Runs can only be compared if they have the same seed and the same taps. Default 0.
    pub seed: u64,
    /// Lengths and encodings of the sketches. Default [`SketchConfig::default`].
    pub sketch: SketchConfig,
    /// Where gradients are sketched. Default [`Sketching::Auto`].
    pub sketching: Sketching,
    /// How gradients that are sums over positions are made short. Default [`Folding::Auto`].
    pub folding: Folding,
    /// What happens when the queue is full. Default [`Overflow::Block`].
    pub overflow: Overflow,
    /// What happens when nothing more can be recorded. Default [`OnFailure::Stop`].
    pub on_failure: OnFailure,
    /// What happens to a step that is not finite. Default [`OnNonFinite::Record`]: it is recorded and flagged.
    pub on_nonfinite: OnNonFinite,
    /// What is watched during the training: large gradients, a loss that diverges. Default [`Guard::default`], which
    /// leaves out nothing.
    pub guard: Guard,
    /// How many cards the run takes, and how large they may be: what examples look like. Default
    /// [`CardLimits::default`].
    pub cards: CardLimits,
    /// What happens if the declared model has a `BatchNorm` in training mode. Default [`OnBatchNorm::Refuse`].
    pub on_batch_norm: OnBatchNorm,
    /// Passes that may wait for the background thread, 1 to 65,536. Default 16.
    pub queue_passes: usize,
    /// Bytes of gradients, ids and outputs that may wait for the background thread. A single larger pass may wait
    /// alone. Default 32 MiB.
    pub queue_bytes_max: usize,
    /// Limit for the visits of one optimizer step, in uncompressed bytes. They wait in memory for the step's learning
    /// rate. A step beyond the limit ends the recording with an error, for example if `commit` is never called. A
    /// single pass may be larger. Default 256 MiB.
    pub step_bytes_max: usize,
    /// Longest time that `commit`, `flush` or `finish` waits for the background thread before it returns
    /// [`RecordError::Timeout`]. Default 60 s. More than a year counts as a year.
    pub wait_max: Duration,
    /// Longest time that a committed visit stays out of the log while the background thread keeps up, from when the
    /// thread takes it: it looks after 10 to 80 ms. A process that is killed loses younger visits. Default 1 s; zero
    /// writes after every pass.
    pub flush_interval: Duration,
    /// Longest time between two flushes to the device. A power cut loses at most this much. Default 30 s; zero flushes
    /// after every pass.
    pub sync_interval: Duration,
    /// Rows after which a block is closed, 1 to 2^20. Default 4,096.
    pub block_rows: u32,
    /// Bytes before compression after which a block is closed, at most 64 MiB. Default 4 MiB.
    pub block_bytes: usize,
    /// Disk space that is reserved at a time, at least 64 KiB. A run takes at least this much while it is recorded;
    /// the end cuts it to its length. Default 32 MiB.
    pub segment_bytes: u64,
    /// zstd level, -7 to 22. At 1 and below, vectors are entropy-coded without a search for matches, which is faster
    /// and takes fewer bytes for gradients. Default 1.
    pub zstd_level: i32,
    /// The caller's notes, kept in the manifest: model, data set, optimizer, commit. Default none.
    pub notes: Vec<(String, String)>,
    /// This worker, if several train one model. Default `None`: there is one.
    pub worker: Option<Worker>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            sketch: SketchConfig::default(),
            sketching: Sketching::default(),
            folding: Folding::default(),
            overflow: Overflow::default(),
            on_failure: OnFailure::default(),
            on_nonfinite: OnNonFinite::default(),
            guard: Guard::default(),
            cards: CardLimits::default(),
            on_batch_norm: OnBatchNorm::default(),
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
                "a sketch length is 0: set `input_cap`, `delta_cap`, `projected` and `folded_max` to at least 1",
            );
        }
        if sketch.folded_max > 1 << 20 || sketch.projected > 1 << 20 {
            return wrong("`folded_max` or `projected` is larger than 2^20: give a smaller length");
        }
        if sketch.folded_min > sketch.folded_max {
            return wrong("`folded_min` is larger than `folded_max`: lower one or raise the other");
        }
        // The queue is allocated at once, whatever its length.
        if self.queue_passes == 0 || self.queue_passes > QUEUE_PASSES_MAX {
            return wrong(&format!("`queue_passes` is {}: give 1 to 65,536", self.queue_passes));
        }
        if self.block_rows == 0 || self.block_rows > 1 << 20 {
            return wrong(&format!("`block_rows` is {}: give 1 to 2^20", self.block_rows));
        }
        if self.block_bytes > 64 << 20 {
            return wrong(&format!("`block_bytes` is {}: give at most 67,108,864 (64 MiB)", self.block_bytes));
        }
        if !(-7..=22).contains(&self.zstd_level) {
            return wrong(&format!("`zstd_level` is {}: give -7 to 22", self.zstd_level));
        }
        if let Some(fault) = self.folding.find_fault() {
            return wrong(&fault);
        }
        self.guard.check(self.worker.is_some())?;
        self.cards.check()?;
        if let Some(Worker { rank, workers, .. }) = self.worker {
            if rank >= workers || workers > WORKERS_MAX {
                let what = format!(
                    "worker {rank} of {workers}: give a rank below the number of workers, and at most {WORKERS_MAX} workers"
                );
                return Err(RecordError::Config(what));
            }
            if self.on_nonfinite == OnNonFinite::Skip {
                return wrong(
                    "a worker that skips a step alone would give other numbers to its later steps than the others: use \
                     `OnNonFinite::Record` or `Stop`, and call `abandon_step` on all workers to skip a step",
                );
            }
        }
        Ok(())
    }
}
