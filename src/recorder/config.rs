//! A recorder's settings. Each default and bound is stated where it stands.

use super::RecordError;
use crate::sketch::SketchConfig;

/// What happens to a pass that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The training waits, at most [`Config::wait_ms_max`]. Nothing is lost.
    #[default]
    Block,
    /// The pass is dropped, counted, and the gap written into the log. The training never waits.
    DropNewest,
}

/// A recorder's settings: a plain struct to be filled in with `..Config::default()`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The seed of all projections. Runs whose sketches are to be compared need the same seed and the same taps. Default 0.
    pub seed: u64,
    /// Lengths and encodings of the sketches.
    pub sketch: SketchConfig,
    /// What happens when the queue is full. Default [`Overflow::Block`].
    pub overflow: Overflow,
    /// Passes that may wait for the background thread. Default 16, at least 1.
    pub queue_passes: usize,
    /// Bytes of gradients, ids and outputs that may wait for the background thread; a single pass larger than this may wait alone.
    /// Default 32 MiB.
    pub queue_bytes_max: usize,
    /// Longest time that `commit`, `flush` or `finish` waits for the background thread before it returns
    /// [`RecordError::Timeout`]. Default 60,000 ms.
    pub wait_ms_max: u64,
    /// Longest time that a committed visit stays out of the log while the background thread is idle or busy with others.
    /// A process that is killed loses what is younger. Default 1,000 ms.
    pub flush_ms: u64,
    /// Longest time between two flushes to the device: what a power cut can cost. Default 30,000 ms.
    pub sync_ms: u64,
    /// Rows after which a block is closed. Default 4,096.
    pub block_rows: u32,
    /// Bytes before compression after which a block is closed. Default 4 MiB.
    pub block_bytes: usize,
    /// Disk space that is reserved at a time; a run takes at least this while it is recorded, and is cut to its length at the
    /// end. Default 32 MiB, at least 64 KiB.
    pub segment_bytes: u64,
    /// zstd level, -7 to 22. Default 1. At 1 and below, vectors are entropy-coded without a search for matches, which for gradients is
    /// faster and leaves fewer bytes.
    pub zstd_level: i32,
    /// The caller's own words, kept in the manifest: model, data set, optimizer, commit.
    pub notes: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            sketch: SketchConfig::default(),
            overflow: Overflow::default(),
            queue_passes: 16,
            queue_bytes_max: 32 << 20,
            wait_ms_max: 60_000,
            flush_ms: 1_000,
            sync_ms: 30_000,
            block_rows: 4_096,
            block_bytes: 4 << 20,
            segment_bytes: 32 << 20,
            zstd_level: 1,
            notes: Vec::new(),
        }
    }
}

impl Config {
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
        Ok(())
    }
}
