//! Rows that a resumed training superseded: they were recorded after the checkpoint at which it resumed.
//!
//! They stay in the file, and a scan leaves them out, so that no visit counts twice. FORMAT.md, "Segment", says which
//! rows they are.

use super::block::Block;
use super::error::{io_error, ReadError};
use super::file::is_damage;
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
        // A compacted run has none, and may have thousands of segments.
        let found = if self.buckets().is_some() { Resumptions::default() } else { self.read_resumptions()? };
        Ok(self.resumptions.get_or_init(|| found))
    }

    /// Reads the headers of all segments. Passes over a damaged one: the scan reports it.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses. Without a resumption, visits would count twice.
    fn read_resumptions(&self) -> Result<Resumptions, ReadError> {
        let mut found = Vec::new();
        for index in 0u32.. {
            self.announce_segment(index.saturating_add(HEADERS_AHEAD));
            let path = self.segment_path(index);
            let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
            let read = self.segment_file(path.clone()).and_then(|segment| segment.read_at(&mut bytes, 0));
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

    /// Says that the header of a segment will be read soon, if the segment is there. An error shows when it is read.
    fn announce_segment(&self, index: u32) {
        if self.place().reads_ahead() {
            if let Ok(file) = self.place().open(&self.segment_path(index)) {
                file.announce(std::slice::from_ref(&(0..SEGMENT_HEADER_BYTES as u64)));
            }
        }
    }
}

/// How many headers of segments are asked for ahead, where that is of use.
const HEADERS_AHEAD: u32 = 8;

/// Which rows of a block remain.
pub(super) enum Remaining {
    /// All rows.
    All,
    /// The first rows: this is their number.
    First(usize),
    /// No row.
    Nothing,
}

/// Which rows of `block` remain if the rows of step `limit` and later ones are superseded.
///
/// # Errors
/// [`ReadError::Damaged`] or [`ReadError::Io`] if the steps of a block are needed and cannot be read.
pub(super) fn remaining_rows(block: &Block, limit: u64) -> Result<Remaining, ReadError> {
    let limit = match block.kind() {
        Some(BlockKind::Visits | BlockKind::Steps | BlockKind::Gaps | BlockKind::LayerRates | BlockKind::Events) => {
            limit
        }
        Some(BlockKind::Probes | BlockKind::Sweeps | BlockKind::Checkpoints | BlockKind::Checks) => {
            limit.saturating_add(1)
        }
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
