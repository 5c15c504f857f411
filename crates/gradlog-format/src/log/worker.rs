//! What a manifest says of the worker that recorded a part of a run (FORMAT.md, "Several workers").

use serde::{Deserialize, Serialize};

/// The most workers that a run may have.
pub const WORKERS_MAX: u32 = 1 << 16;

/// The worker that recorded a part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The worker's number, from 0.
    pub rank: u32,
    /// How many workers record the run (the world size).
    pub workers: u32,
    /// How the workers' gradients are combined before the step.
    pub reduction: AllReduce,
}

/// How an all-reduce combines the workers' gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllReduce {
    /// Their mean over all workers, as in PyTorch's `DistributedDataParallel`.
    Mean,
    /// Their sum.
    Sum,
}

impl std::fmt::Display for AllReduce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AllReduce::Mean => "mean",
            AllReduce::Sum => "sum",
        })
    }
}
