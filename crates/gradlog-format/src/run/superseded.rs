//! What a resumed training made void: visits that were recorded after the checkpoint it started again from.
//!
//! They stay in the file. A segment whose header says that the run was resumed at step `s` supersedes, in the segments
//! before it, the rows of step `s` and later (of probes, sweeps and checkpoints: later than `s`, since a probe at step
//! `s` was taken before that step, at the weights that the training came back to). A scan leaves such rows out, so that
//! nothing behind it counts a visit twice.

use super::block::Block;
use super::error::{io_error, ReadError};
use super::file::{is_damage, SegmentFile};
use super::handle::Run;
use super::resumptions::Resumptions;
use crate::log::{BlockKind, Column, SegmentHeader, SEGMENT_HEADER_BYTES};
use std::io;

impl Run {
    /// The resumptions of a run of one recorder, as they were at the first call.
    pub(super) fn resumptions(&self) -> Result<&Resumptions, ReadError> {
        if let Some(known) = self.resumptions.get() {
            return Ok(known);
        }
        let found = self.read_resumptions()?;
        Ok(self.resumptions.get_or_init(|| found))
    }

    /// Reads the headers of all segments. One that is damaged is for the scan to report.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses: a resumption that is not known would count visits twice.
    fn read_resumptions(&self) -> Result<Resumptions, ReadError> {
        let mut found = Vec::new();
        for index in 0.. {
            let path = self.segment_path(index);
            let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
            let read = self.segment_file(path.clone()).and_then(|segment: SegmentFile| segment.read_at(&mut bytes, 0));
            match read {
                Ok(()) => {}
                Err(error) if is_damage(&error) || error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(io_error(&path)(error)),
            }
            if let Ok(SegmentHeader { resumed_step: Some(step), .. }) = SegmentHeader::parse(&bytes) {
                found.push((index, step));
            }
        }
        Ok(Resumptions::new(found))
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
