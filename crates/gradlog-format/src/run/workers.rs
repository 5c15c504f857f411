//! How far each worker of a run has come.

use super::error::ReadError;
use super::handle::Run;
use crate::log::{AllReduce, BlockKind, WorkerRecord};

/// How far one worker has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerState {
    /// The worker's number, from 0.
    pub rank: u32,
    /// The last step in its part, or `None` if it holds no step.
    pub last_step: Option<u64>,
    /// Whether its recorder's `finish` returned.
    pub finished: bool,
    /// Whether its recorder still writes.
    pub recording: bool,
}

/// The workers of a run that several recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workers {
    /// How many workers record the run, missing ones included.
    pub count: u32,
    /// How their gradients are combined before the step.
    pub reduction: AllReduce,
    /// The workers that have a part, by rank.
    pub parts: Vec<WorkerState>,
}

/// More workers than this are not named one by one.
const NAMED_MAX: usize = 8;

impl Workers {
    /// The ranks that have no part, in ascending ranges.
    pub fn missing(&self) -> Vec<std::ops::RangeInclusive<u32>> {
        let mut missing = Vec::new();
        let mut next = 0;
        for rank in self.parts.iter().map(|part| part.rank).chain([self.count]) {
            if rank > next {
                missing.push(next..=rank - 1);
            }
            next = rank.saturating_add(1);
        }
        missing
    }

    /// Notes for results of this run: missing workers, and workers that ended early or still record. Empty if all
    /// workers are there and ended at the same step.
    pub fn notes(&self) -> Vec<String> {
        let count = self.count;
        let ranges = self.missing();
        let mut notes: Vec<String> = (ranges.iter().take(NAMED_MAX))
            .map(|ranks| match (ranks.start(), ranks.end()) {
                (first, last) if first == last => {
                    format!("worker {first} of {count} is missing: it has recorded nothing, or its folder is gone")
                }
                (first, last) => {
                    format!("workers {first} to {last} of {count} are missing: they have recorded nothing, or their folders are gone")
                }
            })
            .collect();
        if ranges.len() > NAMED_MAX {
            notes.push(format!("... and {} more ranges of workers are missing", ranges.len() - NAMED_MAX));
        }
        let last = self.parts.iter().filter_map(|part| part.last_step).max();
        let step = |step: Option<u64>| step.map_or("before its first step".into(), |step| format!("at step {step}"));
        let early = || self.parts.iter().filter(|part| part.last_step < last && !part.recording);
        for part in early().take(NAMED_MAX) {
            let how = if part.finished { "" } else { ", without finishing" };
            let (rank, own) = (part.rank, step(part.last_step));
            // All that are not named as early came to the last step, or still record.
            let others = if early().count() + 1 < self.parts.len() { "the others" } else { "the other" };
            notes.push(format!("worker {rank} of {count} ended {own}{how}, {others} {}", step(last)));
        }
        if early().count() > NAMED_MAX {
            notes.push(format!("... and {} more workers ended early", early().count() - NAMED_MAX));
        }
        let recording = self.parts.iter().filter(|part| part.recording).count();
        if recording > 0 {
            notes.push(format!(
                "{recording} of {count} workers still record; what is read ends with the last step that all of these have recorded"
            ));
        }
        notes
    }
}

impl Run {
    /// How far each worker has come, or `None` for a run of one recorder.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses.
    ///
    /// # Cost
    /// Reads the headers of all blocks.
    pub fn workers(&self) -> Result<Option<Workers>, ReadError> {
        let worker = self.parts().first().and_then(|part| part.manifest().worker);
        let Some(WorkerRecord { workers: count, reduction, .. }) = worker else { return Ok(None) };
        let parts = self.parts().iter().map(part_state).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Workers { count, reduction, parts }))
    }
}

/// How far the worker of this part has come.
fn part_state(part: &Run) -> Result<WorkerState, ReadError> {
    // Asks before it scans: if the recorder ends in between, all its blocks are committed.
    let recording = part.lock_is_held()?;
    let (mut last_step, mut finished) = (None, false);
    let mut scan = part.part_scan();
    for block in scan.by_ref() {
        match block.kind() {
            Some(BlockKind::Visits | BlockKind::Steps) => {
                // Of a block that is superseded in part, the step after which nothing counts is not in the header.
                last_step = last_step.max(block.last_step()?);
                finished = false;
            }
            Some(BlockKind::End) => finished = true,
            _ => finished = finished && !block.reopens_run(),
        }
    }
    scan.damage()?;
    let rank = part.manifest().worker.map_or(0, |worker| worker.rank);
    Ok(WorkerState { rank, last_step, finished, recording })
}
