//! Iterates over the blocks of a run in the order in which they were written.
//!
//! The rule (FORMAT.md, "Recovery"): a scan yields the blocks of a segment up to zeros or its end, and continues in the
//! next segment. It stops at the first bytes that are neither a block nor an end. So it always yields a prefix of what
//! was written.

use super::block::Block;
use super::error::{io_error, Damage, ReadError, Stopped};
use super::file::{is_damage, SegmentFile};
use super::half_written::{
    later_segments, look_patiently, read_header, read_header_patiently, segment_exists, HeaderFault,
};
use super::handle::Run;
use super::look::{find_block, look, Found};
use super::resumptions::Resumptions;
use super::structure;
use super::superseded::{remaining_rows, Remaining};
use crate::log::{BlockKind, SEGMENT_HEADER_BYTES};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An iterator over the blocks of a run of one recorder, or of one worker's part. It ends at the end of the run, at the
/// first damage, or where the file system refuses. Call [`PartScan::damage`] after it to learn which it was.
#[derive(Debug)]
pub struct PartScan<'run> {
    run: &'run Run,
    segment: Option<Arc<SegmentFile>>,
    next_segment: u32,
    offset: u64,
    next_sequence: u64,
    stopped: Option<Stopped>,
    ended: bool,
    zero_tail_bytes: u64,
    resumptions: Resumptions,
    superseded_visits: u64,
    void_blocks: bool,
    /// Whether the scan ended before a resumption that began after the run was first read.
    is_outdated: bool,
    /// The first step that is left out because not all workers have come so far.
    until: Option<u64>,
}

/// Why a scan stops at a missing file.
pub(super) const MISSING: &str = "the segment is missing, but later ones are there";

impl Run {
    /// As [`Run::scan`], for a run of one recorder or for a worker's part.
    pub fn part_scan(&self) -> PartScan<'_> {
        PartScan::new(self)
    }
}

impl<'run> PartScan<'run> {
    pub(super) fn new(run: &'run Run) -> Self {
        let (resumptions, failed) = match run.resumptions() {
            Ok(resumptions) => (resumptions.clone(), None),
            Err(error) => (Resumptions::default(), Some(error)),
        };
        let mut scan = Self {
            run,
            segment: None,
            next_segment: 0,
            offset: 0,
            next_sequence: 0,
            stopped: None,
            ended: false,
            zero_tail_bytes: 0,
            resumptions,
            superseded_visits: 0,
            void_blocks: false,
            is_outdated: false,
            until: None,
        };
        if let Some(error) = failed {
            scan.fail(error);
        }
        scan
    }

    /// The scan, without the rows of step `until` and later ones.
    pub(super) fn with_limit(self, until: Option<u64>) -> Self {
        Self { until, ..self }
    }

    /// The damage at which the scan ended, or `None` if it ended at the end of the run.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the scan ended because the file system refused, and [`ReadError::Newer`] if only a newer
    /// version can read on. The rest of the run may then be intact.
    pub fn damage(&self) -> Result<Option<&Damage>, ReadError> {
        Stopped::report(self.stopped.as_ref())
    }

    /// Why the scan ended before the run did. `None` if it did not.
    pub(super) fn stopped(&self) -> Option<&Stopped> {
        self.stopped.as_ref()
    }

    /// Preallocated bytes behind the last block.
    pub(super) fn zero_tail_bytes(&self) -> u64 {
        self.zero_tail_bytes
    }

    /// The scan, with blocks of which every row is superseded. These have no rows.
    pub fn with_void_blocks(self) -> Self {
        Self { void_blocks: true, ..self }
    }

    /// Makes a scan that has ended look for blocks that were written since, from where it ended. It reads nothing
    /// again.
    ///
    /// Returns `false`, and changes nothing, if it cannot go on: at damage, at what only a newer version can read, and
    /// if the training has resumed at an earlier step since the run was opened. Then [`PartScan::is_outdated`] says so.
    pub fn look_again(&mut self) -> bool {
        if self.is_outdated || !matches!(self.stopped, None | Some(Stopped::Refused { .. })) {
            return false;
        }
        if self.ended {
            (self.ended, self.stopped) = (false, None);
            // A segment without a header was not entered: its header may be there by now.
            let next = self.run.segment_path(self.next_segment);
            self.segment = self.segment.take().filter(|segment| segment.path != next);
        }
        true
    }

    /// Whether the scan ended because the training resumed at an earlier step after the run was opened. Rows that it
    /// yielded may be superseded: open the run again and scan it from the start.
    pub fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    /// Damage if intact blocks follow the zeros at which the scan ended. Reads all bytes there.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses.
    pub fn blocks_behind_the_end(&self) -> Result<Option<Damage>, ReadError> {
        let Some(segment) = self.segment.as_ref() else { return Ok(None) };
        let Some(offset) = find_block(segment, self.offset).map_err(io_error(&segment.path))? else { return Ok(None) };
        let what = format!("zeros stand where a block belongs, and an intact one behind them, at byte {offset}");
        Ok(Some(Damage { path: segment.path.clone(), offset: self.offset, block: Some(self.next_sequence), what }))
    }

    /// Where the next block would be written: the numbers of the next segment and of the next block.
    pub fn place(&self) -> (u32, u64) {
        (self.next_segment, self.next_sequence)
    }

    /// Training visits that were left out because the training resumed at an earlier step.
    pub(super) fn superseded_visits(&self) -> u64 {
        self.superseded_visits
    }

    /// The first superseded step of the current segment.
    fn superseded_from(&self) -> Option<u64> {
        self.resumptions.limit(self.next_segment.saturating_sub(1))
    }

    /// How many steps are in the log with all their visits.
    ///
    /// A recorder writes the rows of steps before their visits. So steps are complete if a block of visits or the end
    /// of the run follows them.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses. More steps may then be complete.
    pub fn complete_steps(mut self) -> Result<u64, ReadError> {
        let (mut begun, mut complete) = (0, 0);
        while let Some(block) = self.next() {
            match block.kind() {
                Some(BlockKind::Steps) => {
                    let end = block.steps().1.saturating_add(1);
                    begun = self.superseded_from().map_or(end, |limit| end.min(limit));
                }
                Some(BlockKind::Visits | BlockKind::End) => complete = begun,
                _ => {}
            }
        }
        self.damage()?;
        Ok(complete)
    }

    /// Leaves out the rows of a block that are superseded or behind the scan's limit.
    fn cut_rows(&mut self, block: &mut Block) -> Result<(), ReadError> {
        let rows = block.rows();
        if let Some(limit) = self.superseded_from() {
            keep_rows_before(block, limit)?;
            if block.kind() == Some(BlockKind::Visits) {
                self.superseded_visits += (rows - block.rows()) as u64;
            }
        }
        self.until.map_or(Ok(()), |limit| keep_rows_before(block, limit))
    }

    /// Ends the scan with damage at the current place.
    fn stop(&mut self, what: String) {
        let path = match &self.segment {
            Some(segment) => segment.path.clone(),
            None => self.run.segment_path(self.next_segment),
        };
        let damage = Damage { path, offset: self.offset, block: Some(self.next_sequence), what };
        self.stopped = Some(Stopped::Damage(damage));
        self.ended = true;
    }

    /// Ends the scan because the file system refused.
    fn refuse(&mut self, path: &Path, error: io::Error) {
        self.stopped = Some(Stopped::Refused { path: path.to_owned(), error });
        self.ended = true;
    }

    /// Ends the scan with an error. Errors are damage, unless the file system refused or a newer version wrote this.
    fn fail(&mut self, error: ReadError) {
        match error {
            ReadError::Io { path, error } => self.refuse(&path, error),
            ReadError::Newer(newer) => {
                self.stopped = Some(Stopped::Newer(newer));
                self.ended = true;
            }
            ReadError::Damaged(damage) => self.stop(damage.what),
            other => self.stop(other.to_string()),
        }
    }

    /// Whether one of the sixteen segments after the next one is there. `None`, and the scan has ended, if the system
    /// refuses to look.
    fn later_segments(&mut self) -> Option<bool> {
        later_segments(self.run, self.next_segment).map_err(|error| self.fail(error)).ok()
    }

    /// Opens the next segment. Returns `false` if it is missing or cannot be read.
    fn open_next(&mut self) -> bool {
        self.segment = None;
        self.offset = 0;
        match self.run.view.next(self.run.buckets(), self.next_segment, self.next_sequence) {
            Some((segment, sequence)) => (self.next_segment, self.next_sequence) = (segment, sequence),
            None => {
                self.ended = true;
                return false;
            }
        }
        let path = self.run.segment_path(self.next_segment);
        let segment = match self.run.segment_file(path.clone()) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A gap in the numbers means a lost file. If no file has a higher number, this is the end.
                if self.later_segments() == Some(true) {
                    self.stop(MISSING.into());
                }
                self.ended = true;
                return false;
            }
            Err(error) if is_damage(&error) => {
                self.stop(error.to_string());
                return false;
            }
            Err(error) => {
                self.refuse(&path, error);
                return false;
            }
        };
        let header = match read_header_patiently(self.run, &segment, self.next_segment) {
            // The recorder was killed between making the file and writing its header. Nothing was committed here or
            // after.
            Ok(None) => {
                // Reads it once more: a recorder may have begun this segment and a later one since.
                if self.later_segments() == Some(true) {
                    match read_header(&segment) {
                        Ok(None) => self.stop("the segment is empty, but later ones are there".into()),
                        Err(HeaderFault::Refused(error)) => self.fail(error),
                        _ => {}
                    }
                }
                self.ended = true;
                self.offset = SEGMENT_HEADER_BYTES as u64;
                self.segment = Some(Arc::new(segment));
                return false;
            }
            Ok(Some(header)) => header,
            Err(HeaderFault::Damage(what)) => {
                self.stop(what);
                return false;
            }
            Err(HeaderFault::Refused(error)) => {
                self.fail(error);
                return false;
            }
        };
        if header.run_id != self.run.manifest().run_id {
            self.stop("the segment belongs to another run".into());
            return false;
        }
        if header.index != self.next_segment {
            self.stop(format!("this is segment {} under another name", header.index));
            return false;
        }
        if header.resumed_step.is_some() && !self.resumptions.contains(header.index) {
            // The training resumed after the run was first read. Rows that were yielded before may be superseded now.
            self.is_outdated = true;
            self.ended = true;
            return false;
        }
        self.segment = Some(Arc::new(segment));
        self.next_segment += 1;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        true
    }

    /// Whether the next segment is there. `None`, and the scan has ended, if the system refuses to look.
    fn next_exists(&mut self) -> Option<bool> {
        segment_exists(self.run, self.next_segment, 0).map_err(|error| self.fail(error)).ok()
    }

    /// Looks at the current place. A block with another number than the next is damage, and so is one that its kind
    /// cannot be.
    fn look(&self, segment: &Arc<SegmentFile>) -> Result<Found, ReadError> {
        Ok(match look_patiently(self.run, segment, self.offset, self.next_segment)? {
            Found::Block(block) if block.header.sequence != self.next_sequence => {
                let what = format!("block {} where block {} belongs", block.header.sequence, self.next_sequence);
                Found::Damage { what, header: Some(block.header), transient: false }
            }
            Found::Block(block) => match structure::check(&block, self.run.manifest().layers.len()) {
                Ok(()) => Found::Block(block),
                Err(what) => Found::Damage { what, header: Some(block.header), transient: false },
            },
            other => other,
        })
    }

    /// Leaves the segment, whose end was reached a moment ago, if nothing can be written to it any more.
    pub(super) fn leave_segment(&mut self) {
        let Some(segment) = self.segment.clone() else { return };
        let Some(next_exists) = self.next_exists() else { return };
        if next_exists {
            // A recorder may have written here and then begun the next segment since the last look. It never returns.
            match look(&segment, self.offset) {
                Found::End => self.segment = None,
                Found::Refused { error, .. } => self.refuse(&segment.path, error),
                _ => {}
            }
            return;
        }
        let Some(later) = self.later_segments() else { return };
        if later {
            // A gap in the numbers means a lost file, unless a recorder has just made that file.
            if self.next_exists() == Some(false) {
                self.segment = None;
                self.offset = 0;
                self.stop(MISSING.into());
            }
            return;
        }
        match segment.bytes() {
            Ok(bytes) => self.zero_tail_bytes = bytes.saturating_sub(self.offset),
            Err(error) => self.refuse(&segment.path, error),
        }
        self.ended = true;
    }
}

fn keep_rows_before(block: &mut Block, limit: u64) -> Result<(), ReadError> {
    match remaining_rows(block, limit)? {
        Remaining::All => {}
        Remaining::First(kept) => block.kept = Some(kept.min(block.rows())),
        Remaining::Nothing => block.kept = Some(0),
    }
    Ok(())
}

impl Iterator for PartScan<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        while !self.ended {
            let Some(segment) = self.segment.clone() else {
                self.open_next();
                continue;
            };
            match self.look(&segment) {
                Ok(Found::Block(mut block)) => {
                    let bytes = block.header.bytes;
                    if let Err(error) = self.cut_rows(&mut block) {
                        self.fail(error);
                        continue;
                    }
                    self.offset += bytes;
                    self.next_sequence += 1;
                    if let Some(file) = segment.to_announce() {
                        file.announce_header(self.offset);
                    }
                    if self.void_blocks || block.kept != Some(0) {
                        return Some(block);
                    }
                }
                Ok(Found::End) => self.leave_segment(),
                Ok(Found::Damage { what, .. }) => self.stop(what),
                Ok(Found::Refused { error, .. }) => self.refuse(&segment.path, error),
                Err(error) => self.fail(error),
            }
        }
        None
    }
}
