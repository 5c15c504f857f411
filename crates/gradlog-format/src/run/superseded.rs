//! What a resumed training made void: visits that were recorded after the checkpoint it started again from.
//!
//! They stay in the file. A segment whose header says that the run was resumed at step `s` supersedes, in the segments
//! before it, the rows of step `s` and later (of probes, sweeps and checkpoints: later than `s`, since a probe at step
//! `s` was taken before that step, at the weights that the training came back to). A scan leaves such rows out, so that
//! nothing behind it counts a visit twice.

use super::block::Block;
use super::error::{io_error, ReadError};
use super::file::{is_damage, SegmentFile};
use super::open::Run;
use crate::log::{BlockKind, Column, SegmentHeader, SEGMENT_HEADER_BYTES};
use std::io;

/// The resumptions of a run: from which segment on, and at which step, or at which earlier one a later resumption was.
///
/// Read once for a [`Run`]. Blocks may have been counted by then that a later resumption makes void, so all scans of
/// the run end before it: what they yield is the run as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Resumptions(Vec<(u32, u64)>);

impl Resumptions {
    /// Reads the headers of all segments. One that is damaged is for the scan to report.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses: a resumption that is not known would count visits twice.
    pub(super) fn read(run: &Run) -> Result<Self, ReadError> {
        let mut found = Vec::new();
        for index in 0.. {
            let path = run.segment_path(index);
            let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
            let read = run.segment_file(path.clone()).and_then(|segment: SegmentFile| segment.read_at(&mut bytes, 0));
            match read {
                Ok(()) => {}
                Err(error) if is_damage(&error) || error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(io_error(&path)(error)),
            }
            if let Ok(SegmentHeader { resumed_step: Some(step), .. }) = SegmentHeader::parse(&bytes) {
                found.push((index, step));
            }
        }
        let mut least = u64::MAX;
        for (_, step) in found.iter_mut().rev() {
            least = least.min(*step);
            *step = least;
        }
        Ok(Self(found))
    }

    /// Whether the resumption that segment `index` begins with is among them.
    pub(super) fn contains(&self, index: u32) -> bool {
        self.0.binary_search_by_key(&index, |(segment, _)| *segment).is_ok()
    }

    /// The first superseded step in segment `index`, if any is.
    pub(super) fn limit(&self, index: u32) -> Option<u64> {
        let later = self.0.partition_point(|(segment, _)| *segment <= index);
        self.0.get(later).map(|(_, step)| *step)
    }
}

/// What is left of a block.
pub(super) enum Remaining {
    All,
    /// Its first so many rows.
    First(usize),
    Nothing,
}

/// What is left of `block` where the rows from step `limit` on are superseded.
///
/// # Errors
/// [`ReadError::Damaged`] or [`ReadError::Io`] if a block that is cut through cannot be read.
pub(super) fn remaining_rows(block: &Block, limit: u64) -> Result<Remaining, ReadError> {
    let limit = match block.kind() {
        Some(BlockKind::Visits | BlockKind::Steps | BlockKind::Gaps) => limit,
        Some(BlockKind::Probes | BlockKind::Sweeps | BlockKind::Checkpoints) => limit.saturating_add(1),
        _ => return Ok(Remaining::All),
    };
    let (first, last) = block.steps();
    if last < limit {
        return Ok(Remaining::All);
    }
    if first >= limit {
        return Ok(Remaining::Nothing);
    }
    // Rows are in the order of their steps.
    let steps = block.u64s(Column::Step)?;
    Ok(Remaining::First(steps.iter().take_while(|step| **step < limit).count()))
}
