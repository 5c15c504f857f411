//! Walking the blocks of a run in the order in which they were written.
//!
//! The recovery rule (FORMAT.md, "Recovery"): a scan yields blocks until a segment's tail is zero or ends, goes on in
//! the next segment, and stops for good at the first thing that is neither a block nor an end. What it yields is
//! therefore always a prefix of what was written.

use super::block::Block;
use super::error::{io_error, Damage, ReadError, Stopped};
use super::file::{is_damage, SegmentFile};
use super::look::{find_block, look, Found};
use super::open::Run;
use super::superseded::{remaining_rows, Remaining, Resumptions};
use crate::log::{BlockKind, SegmentHeader, SEGMENT_HEADER_BYTES};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
    /// The first step that is left out because not all workers have come so far.
    until: Option<u64>,
}

/// Why a scan stops where a file is gone.
pub(super) const MISSING: &str = "the segment is missing, but later ones are there";

/// How long to wait before looking again at what may be half written, each time. Copying a header takes far less.
const LOOK_AGAIN_MS: [u64; 4] = [0, 1, 5, 20];

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
            until: None,
        };
        if let Some(error) = failed {
            scan.fail(error);
        }
        scan
    }

    /// As the scan is, up to step `until`.
    pub(super) fn ending_before(self, until: Option<u64>) -> Self {
        Self { until, ..self }
    }

    /// The damage at which the scan ended, or `None` if it ended at the end of the run.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the scan ended because the file system refused. The rest of the run may then be intact.
    pub fn damage(&self) -> Result<Option<&Damage>, ReadError> {
        Stopped::report(self.stopped.as_ref())
    }

    /// What ended the scan before the run did, if something has.
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

    /// Training visits that were left out because the training was taken up again at an earlier step.
    pub(super) fn superseded_visits(&self) -> u64 {
        self.superseded_visits
    }

    /// The first step of the segment at hand that is superseded, if any is.
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

    /// Leaves out the rows of a block that are superseded, or lie behind the step at which the scan is to end.
    fn cut(&mut self, block: &mut Block) -> Result<(), ReadError> {
        let rows = block.rows();
        if let Some(limit) = self.superseded_from() {
            cut_at(block, limit)?;
            if block.kind() == Some(BlockKind::Visits) {
                self.superseded_visits += (rows - block.rows()) as u64;
            }
        }
        self.until.map_or(Ok(()), |limit| cut_at(block, limit))
    }

    fn stop(&mut self, what: String) {
        let path = match &self.segment {
            Some(segment) => segment.path.clone(),
            None => self.run.segment_path(self.next_segment),
        };
        let damage = Damage { path, offset: self.offset, block: Some(self.next_sequence), what };
        self.stopped = Some(Stopped::Damage(damage));
        self.ended = true;
    }

    /// Ends the scan where the system refuses.
    fn refuse(&mut self, path: &Path, error: io::Error) {
        self.stopped = Some(Stopped::Refused { path: path.to_owned(), source: error });
        self.ended = true;
    }

    /// Ends the scan with an error: as damage, if it is that.
    fn fail(&mut self, error: ReadError) {
        match error {
            ReadError::Io { path, source } => self.refuse(&path, source),
            other => self.stop(other.to_string()),
        }
    }

    /// Whether one of the next sixteen segments after the one at hand is there.
    fn later_segments(&self) -> bool {
        (1..=16).any(|ahead| self.segment_exists(ahead))
    }

    /// Opens the next segment; `false` if there is none or it cannot be read.
    fn open_next(&mut self) -> bool {
        self.segment = None;
        self.offset = 0;
        let path = self.run.segment_path(self.next_segment);
        let segment = match self.run.segment_file(path.clone()) {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A gap in the numbers means a lost file; no file with a higher number means the end.
                if self.later_segments() {
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
        let header = match self.segment_header(&segment) {
            // Killed between making the file and writing its header: nothing was ever committed to it, nor after it.
            Ok(None) => {
                // Asked once more, for a recorder may have begun both this one and a later one since.
                if self.later_segments() {
                    match read_header(&segment) {
                        Ok(None) => self.stop("the segment is empty, but later ones are there".into()),
                        Err(Trouble::Refused(error)) => self.fail(error),
                        _ => {}
                    }
                }
                self.ended = true;
                self.offset = SEGMENT_HEADER_BYTES as u64;
                self.segment = Some(Arc::new(segment));
                return false;
            }
            Ok(Some(header)) => header,
            Err(Trouble::Damage(what)) => {
                self.stop(what);
                return false;
            }
            Err(Trouble::Refused(error)) => {
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
            // The training was taken up again after the run was first read, and this may make void what was yielded
            // before.
            self.ended = true;
            return false;
        }
        self.segment = Some(Arc::new(segment));
        self.next_segment += 1;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        true
    }

    /// Reads a segment's header, again if a recorder may be writing it; `None` if nothing was ever written there.
    fn segment_header(&self, segment: &SegmentFile) -> Result<Option<SegmentHeader>, Trouble> {
        let mut found = read_header(segment);
        for wait_ms in LOOK_AGAIN_MS {
            if !matches!(found, Err(Trouble::Damage(_))) || !self.run.lock_is_held()? {
                break;
            }
            std::thread::sleep(Duration::from_millis(wait_ms));
            found = read_header(segment);
        }
        match found {
            Err(Trouble::Damage(_)) if self.run.lock_is_held()? && !self.later_segments() => Ok(None),
            other => other,
        }
    }

    /// What lies here, looked at again where a recorder may be writing it.
    fn look(&self, segment: &Arc<SegmentFile>) -> Result<Found, ReadError> {
        let mut found = look(segment, self.offset);
        let mut live = true;
        for wait_ms in LOOK_AGAIN_MS {
            if !live || !matches!(found, Found::Damage { transient: true, .. }) {
                break;
            }
            // Asked before looking: a recorder that ends in between has by then committed all that it ever will.
            live = self.run.lock_is_held()?;
            std::thread::sleep(Duration::from_millis(if live { wait_ms } else { 0 }));
            #[cfg(test)]
            super::tests::between_looks();
            found = look(segment, self.offset);
        }
        Ok(match found {
            // The recorder was stopped within the header, and it lives: nothing is committed here yet. Blocks are
            // committed in order, so if one stands behind this place, this one was committed and has been
            // damaged since.
            Found::Damage { transient: true, .. }
                if live
                    && !self.segment_exists(0)
                    && find_block(segment, self.offset + 8).map_err(io_error(&segment.path))?.is_none() =>
            {
                Found::End
            }
            Found::Block(block) if block.header.sequence != self.next_sequence => {
                let what = format!("block {} where block {} belongs", block.header.sequence, self.next_sequence);
                Found::Damage { what, header: Some(block.header), transient: false }
            }
            Found::Refused { error, .. } => return Err(io_error(&segment.path)(error)),
            other => other,
        })
    }

    /// Whether the segment that is so many places behind the next one is there.
    fn segment_exists(&self, ahead: u32) -> bool {
        self.run.segment_path(self.next_segment.saturating_add(ahead)).exists()
    }

    /// Leaves the segment, at whose end we were a moment ago, if it is its end for good.
    pub(super) fn leave(&mut self) {
        let Some(segment) = self.segment.clone() else { return };
        if self.segment_exists(0) {
            // A recorder may have gone on here and then begun the next segment since we looked; it never comes back.
            match look(&segment, self.offset) {
                Found::End => self.segment = None,
                Found::Refused { error, .. } => self.refuse(&segment.path, error),
                _ => {}
            }
            return;
        }
        if self.later_segments() {
            // A gap in the numbers means a lost file, if it is not that a recorder was quick.
            if !self.segment_exists(0) {
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

fn cut_at(block: &mut Block, limit: u64) -> Result<(), ReadError> {
    match remaining_rows(block, limit)? {
        Remaining::All => {}
        Remaining::First(kept) => block.kept = Some(kept.min(block.rows())),
        Remaining::Nothing => block.kept = Some(0),
    }
    Ok(())
}

/// Why a segment's header cannot be had.
enum Trouble {
    Damage(String),
    Refused(ReadError),
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Trouble::Refused(error)
    }
}

/// Reads the header of a segment; `None` if the file is empty or zeros stand there.
fn read_header(segment: &SegmentFile) -> Result<Option<SegmentHeader>, Trouble> {
    let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
    let read = segment.bytes().and_then(|length| match length {
        0 => Ok(()),
        _ => segment.read_at(&mut bytes, 0),
    });
    match read {
        Ok(()) if bytes.iter().all(|b| *b == 0) => Ok(None),
        Ok(()) => SegmentHeader::parse(&bytes).map(Some).map_err(|e| Trouble::Damage(e.0)),
        Err(error) if is_damage(&error) => Err(Trouble::Damage(error.to_string())),
        Err(error) => Err(Trouble::Refused(io_error(&segment.path)(error))),
    }
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
                    if let Err(error) = self.cut(&mut block) {
                        self.fail(error);
                        continue;
                    }
                    self.offset += bytes;
                    self.next_sequence += 1;
                    if self.void_blocks || block.kept != Some(0) {
                        return Some(block);
                    }
                }
                Ok(Found::End) => self.leave(),
                Ok(Found::Damage { what, .. }) => self.stop(what),
                Ok(Found::Refused { error, .. }) => self.refuse(&segment.path, error),
                Err(error) => self.fail(error),
            }
        }
        None
    }
}
