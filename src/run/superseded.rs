//! What a resumed training made void: visits that were recorded after the checkpoint it started again from.
//!
//! They stay in the file. A segment whose header says that the run was resumed at step `s` supersedes, in the segments before it,
//! the rows of step `s` and later (of probes, sweeps and checkpoints: later than `s`, since a probe at step `s` was taken before that
//! step, at the weights that the training came back to). A scan leaves such rows out, so that nothing behind it counts a visit twice.

use super::block::{Block, SegmentFile};
use super::error::ReadError;
use super::open::Run;
use crate::log::{BlockKind, Column, SegmentHeader, SEGMENT_HEADER_BYTES};
use std::fs::File;

/// The resumptions of a run: from which segment on, and at which step.
#[derive(Debug, Clone, Default)]
pub(super) struct Resumptions(Vec<(u32, u64)>);

impl Resumptions {
    /// Reads the headers of all segments. One that cannot be read is for the scan to report.
    pub(super) fn of(run: &Run) -> Self {
        let mut found = Vec::new();
        for index in 0.. {
            let path = run.segment_path(index);
            let Ok(file) = File::open(&path) else {
                break;
            };
            let segment = SegmentFile { path, file, bytes: 0 };
            let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
            if segment.read_at(&mut bytes, 0).is_err() {
                break;
            }
            if let Ok(SegmentHeader { resumed_step: Some(step), .. }) = SegmentHeader::parse(&bytes) {
                found.push((index, step));
            }
        }
        Self(found)
    }

    /// The first superseded step in segment `index`, if any is.
    pub(super) fn limit(&self, index: u32) -> Option<u64> {
        self.0.iter().filter(|(segment, _)| *segment > index).map(|(_, step)| *step).min()
    }
}

/// What is left of a block.
pub(super) enum Left {
    All,
    /// Its first so many rows.
    First(usize),
    Nothing,
}

/// What is left of `block` where the rows from step `limit` on are superseded.
///
/// # Errors
/// [`ReadError::Damaged`] or [`ReadError::Io`] if a block that is cut through cannot be read.
pub(super) fn left(block: &Block, limit: u64) -> Result<Left, ReadError> {
    let limit = match block.kind() {
        Some(BlockKind::Visits | BlockKind::Steps | BlockKind::Gaps) => limit,
        Some(BlockKind::Probes | BlockKind::Sweeps | BlockKind::Checkpoints) => limit.saturating_add(1),
        _ => return Ok(Left::All),
    };
    let (first, last) = block.steps();
    if last < limit {
        return Ok(Left::All);
    }
    if first >= limit {
        return Ok(Left::Nothing);
    }
    // Rows are in the order of their steps.
    let steps = block.u64s(Column::Step)?;
    Ok(Left::First(steps.iter().take_while(|step| **step < limit).count()))
}
