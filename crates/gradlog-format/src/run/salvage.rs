//! Iterates over all readable blocks of a run, also behind damage, where a [`Scan`](super::Scan) stops (FORMAT.md,
//! "Salvage").
//!
//! Every block was checked in full. Blocks come in the order in which they were written, and their sequence numbers
//! rise. A [`Lost`] stands for what is missing between two of them.

use super::block::Block;
use super::cards;
use super::checkpoint;
use super::checks;
use super::error::{io_error, Damage, Newer, ReadError};
use super::events;
use super::file::{clone_error, is_lost, SegmentFile};
use super::half_written::newer_segment;
use super::handle::Run;
use super::look::{find_block, look, Found};
use super::lost::{has_steps, Lost, Stretch};
use super::probe_sets::SetNumbers;
use super::scan::MISSING;
use super::structure;
use super::superseded::remaining_rows;
use super::verify::GapCounts;
use crate::log::{segment_path, BlockHeader, BlockKind, Column, SegmentHeader, HEADER_BYTES, SEGMENT_HEADER_BYTES};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One item of a [`Salvage`].
pub(super) enum Piece {
    /// A block, intact in all its columns.
    Block(Block),
    /// Something is missing or damaged here.
    Lost(Lost),
    /// The training resumed at this step. The segments from here on were written after that.
    Resumed(u64),
}

/// An iterator over what can be read of a run. An error is the last item. It is [`ReadError::Io`] or
/// [`ReadError::Newer`]: data that the system refuses to read is not lost, and neither is what a newer version wrote.
/// Only data that the device fails to deliver is.
pub(super) struct Salvage<'run> {
    run: &'run Run,
    run_id: [u8; 16],
    segments: std::vec::IntoIter<Segment>,
    /// Whether a segment's header is damaged or missing, so that the run may have been resumed there.
    headers_damaged: bool,
    current: Option<Arc<SegmentFile>>,
    offset: u64,
    /// Number of the current segment, or of the last one.
    index: Option<u32>,
    /// Number of the next block, if none is missing.
    sequence: u64,
    lost: Option<Stretch>,
    /// Blocks that were yielded.
    accepted: u64,
    sets: SetNumbers,
    /// Last step and epoch of the last block.
    last: Option<(u64, u32)>,
    /// Whether a header that could say that the run resumed here is damaged or missing. It is that of the current
    /// segment, or of one before it without a readable block. Then the steps of the next block decide.
    header_is_lost: bool,
    ready: VecDeque<Piece>,
}

/// A file that has the name of a segment.
struct Segment {
    index: u32,
    path: PathBuf,
    resumed_step: Option<u64>,
    /// Whether no segment follows.
    last: bool,
}

impl<'run> Salvage<'run> {
    pub(super) fn new(run: &'run Run) -> Result<Self, ReadError> {
        let (segments, headers_damaged) = list_segments(run)?;
        Ok(Self {
            run,
            run_id: run.manifest().run_id,
            segments: segments.into_iter(),
            headers_damaged,
            current: None,
            offset: 0,
            index: None,
            sequence: 0,
            lost: None,
            accepted: 0,
            sets: SetNumbers::default(),
            last: None,
            header_is_lost: false,
            ready: VecDeque::new(),
        })
    }

    /// The lost stretch at this place. Begins one if needed.
    fn lost_stretch(&mut self, path: &Path, what: impl Into<String>) -> &mut Stretch {
        let begins = || {
            let damage =
                Damage { path: path.to_owned(), offset: self.offset, block: Some(self.sequence), what: what.into() };
            Stretch::begin(damage, self.sequence, self.last)
        };
        self.lost.get_or_insert_with(begins)
    }

    fn open(&mut self, segment: Segment) -> Result<(), ReadError> {
        self.offset = 0;
        let expected = self.index.map_or(0, |index| index.saturating_add(1));
        self.index = Some(segment.index);
        if segment.index > expected {
            let missing = segment.path.with_file_name(segment_path(Path::new(""), expected));
            self.lost_stretch(&missing, MISSING);
            self.header_is_lost = true;
        }
        let path = segment.path;
        let file = match self.run.segment_file(path.clone()) {
            Ok(file) => Arc::new(file),
            Err(error) if is_lost(&error) => {
                self.lost_stretch(&path, format!("the segment cannot be opened: {error}")).mark_uncounted();
                self.header_is_lost = true;
                return Ok(());
            }
            Err(error) => return Err(io_error(&path)(error)),
        };
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        let read = match file.read_at(&mut bytes, 0) {
            Err(error) if !is_lost(&error) => return Err(io_error(&path)(error)),
            read => read,
        };
        let sealed = crc32fast::hash(&bytes[..60]).to_le_bytes() == bytes[60..];
        match SegmentHeader::parse(&bytes) {
            Ok(header) if header.run_id == self.run_id => {
                if let Some(step) = header.resumed_step {
                    self.header_is_lost = false;
                    self.ready.push_back(Piece::Resumed(step));
                }
            }
            Ok(_) => {
                self.lost_stretch(&path, "the segment belongs to another run").mark_uncounted();
                return Ok(());
            }
            // Its checksum matches, so it was written like this.
            Err(_) if newer_segment(&bytes).is_some() => {
                let what = newer_segment(&bytes).unwrap_or_default();
                return Err(ReadError::Newer(Newer { path, block: None, what }));
            }
            Err(error) if sealed => {
                self.lost_stretch(&path, error.0).mark_uncounted();
                return Ok(());
            }
            Err(error) if read.is_err() || bytes.iter().all(|b| *b == 0) => {
                // Nothing was written to it, or its first page is lost. Blocks behind the header tell which.
                let found = find_block(&file, SEGMENT_HEADER_BYTES as u64).map_err(io_error(&path))?;
                let Some(offset) = found else {
                    if !segment.last {
                        self.lost_stretch(&path, "the segment is empty, but later ones are there");
                        self.header_is_lost = true;
                    } else if (1..SEGMENT_HEADER_BYTES as u64).contains(&file.bytes().map_err(io_error(&path))?) {
                        // A recorder reserves a longer segment before it writes to it.
                        self.lost_stretch(&path, "the segment ends within its header").mark_uncounted();
                    }
                    return Ok(());
                };
                self.lost_stretch(&path, error.0);
                self.header_is_lost = true;
                self.offset = offset;
                self.current = Some(file);
                return Ok(());
            }
            Err(error) if belongs_to(&bytes, self.run_id) => {
                self.lost_stretch(&path, error.0);
                self.header_is_lost = true;
            }
            Err(error) => {
                self.lost_stretch(&path, format!("{error}; it does not even say that it is of this run"))
                    .mark_uncounted();
                return Ok(());
            }
        }
        self.offset = SEGMENT_HEADER_BYTES as u64;
        self.current = Some(file);
        Ok(())
    }

    /// Reads what lies at the current place, and moves to the next.
    fn advance(&mut self, segment: &Arc<SegmentFile>) -> Result<(), ReadError> {
        let path = &segment.path;
        let search = |from| find_block(segment, from).map_err(io_error(path));
        let (what, header) = match look(segment, self.offset) {
            Found::Block(block) => match self.check_block(&block) {
                Ok(()) if block.sequence() >= self.sequence => {
                    self.offset += block.bytes();
                    self.accept(block);
                    return Ok(());
                }
                Ok(()) => (format!("block {} stands here once more", block.sequence()), Some(block.header)),
                Err(ReadError::Damaged(damage)) => (damage.what, Some(block.header)),
                Err(ReadError::Io { path, error }) if !is_lost(&error) => return Err(ReadError::Io { path, error }),
                // What is not understood is not lost.
                Err(ReadError::Newer(newer)) => return Err(ReadError::Newer(newer)),
                Err(other) => (other.to_string(), Some(block.header)),
            },
            Found::End => {
                // A resumed run continues in a new segment. Its recorder never saw blocks behind the zeros here.
                let behind = if self.next_segment_continues()? { None } else { search(self.offset)? };
                match behind {
                    Some(offset) => {
                        self.lost_stretch(path, "zeros stand where a block belongs, and blocks behind them");
                        self.offset = offset;
                    }
                    None => self.current = None,
                }
                return Ok(());
            }
            Found::Damage { what, header, .. } => (what, header),
            Found::Refused { error, header } if is_lost(&error) => (error.to_string(), header),
            Found::Refused { error, .. } => return Err(io_error(path)(error)),
        };
        match header {
            Some(header) => {
                self.lost_stretch(path, what).add_header(&header);
                self.offset += header.bytes;
            }
            None => {
                let next = search(self.offset + 8)?;
                let lost = self.lost_stretch(path, what);
                match next {
                    Some(offset) => self.offset = offset,
                    None => {
                        lost.mark_uncounted();
                        self.current = None;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the next segment begins with the very block that would come next.
    fn next_segment_continues(&self) -> Result<bool, ReadError> {
        let Some(next) = self.segments.as_slice().first() else { return Ok(false) };
        let mut bytes = [0u8; HEADER_BYTES];
        let read = self.run.segment_file(next.path.clone());
        match read.and_then(|segment| segment.read_at(&mut bytes, SEGMENT_HEADER_BYTES as u64)) {
            Ok(()) => Ok(BlockHeader::parse(&bytes).is_ok_and(|header| header.sequence == self.sequence)),
            Err(error) if is_lost(&error) => Ok(false),
            Err(error) => Err(io_error(&next.path)(error)),
        }
    }

    /// Checks everything that a reader of the new run needs of the block.
    fn check_block(&self, block: &Block) -> Result<(), ReadError> {
        structure::check(block, self.run.manifest().layers.len()).map_err(|what| block.damaged(what))?;
        block.check()?;
        if block.kind() == Some(BlockKind::ProbeSet) {
            let (number, _) = block.probe_set()?;
            let mut sets = self.sets;
            if sets.make_up(number, self.lost_before(block)).is_none() || sets.next != number {
                return Err(block.damaged(format!("probe set {number} where {} belongs", self.sets.next)));
            }
        }
        if block.kind() == Some(BlockKind::Gaps) {
            GapCounts::read(block)?;
        }
        if block.kind() == Some(BlockKind::Checkpoints) {
            checkpoint::read(block)?;
        }
        if block.kind() == Some(BlockKind::Checks) {
            checks::read(block)?;
        }
        if block.kind() == Some(BlockKind::Events) {
            events::read(block)?;
        }
        if block.kind() == Some(BlockKind::Cards) {
            cards::read(block)?;
        }
        if block.kind() == Some(BlockKind::Steps) && self.run.manifest().worker.is_some() {
            block.u64s(Column::Step)?; // merges the steps of all workers
        }
        // A later segment may supersede some of its rows. Then a reader needs its steps.
        let limits = self.segments.as_slice().iter().filter_map(|segment| segment.resumed_step);
        if let Some(limit) = limits.min() {
            remaining_rows(block, limit)?;
        }
        if self.headers_damaged {
            remaining_rows(block, block.steps().0.saturating_add(1))?;
        }
        Ok(())
    }

    /// How many blocks before this one are lost.
    fn lost_before(&self, block: &Block) -> u64 {
        block.sequence().saturating_sub(self.accepted)
    }

    /// Yields a block that was checked, after what is lost before it.
    fn accept(&mut self, block: Block) {
        let lost_before = self.lost_before(&block);
        if let Some(below) = sets_needed(&block) {
            self.sets.make_up(below, lost_before);
            self.sets.next += u32::from(block.kind() == Some(BlockKind::ProbeSet));
        }
        self.accepted += 1;
        let header = &block.header;
        if header.sequence > self.sequence && self.lost.is_none() {
            let what = format!("block {} where block {} belongs", header.sequence, self.sequence);
            self.lost_stretch(&block.segment.path, what).damage.offset = block.offset;
        }
        if let Some(stretch) = self.lost.take() {
            self.ready.push_back(Piece::Lost(stretch.end(header)));
        }
        if block.is_replayed() {
            // A replay is no resumption, although its steps go back. Its segments hold nothing else.
            self.header_is_lost = false;
        } else if has_steps(header) && block.kind() != Some(BlockKind::LayerRates) {
            // Layer rates are said of earlier steps, once they are seen.
            // Otherwise steps go back only where a training resumed.
            if let (true, Some((last, _))) = (self.header_is_lost, self.last) {
                if header.first_step < last {
                    self.ready.push_back(Piece::Resumed(header.first_step));
                }
            }
            self.header_is_lost = false;
            self.last = Some((header.last_step, header.last_epoch));
        }
        self.sequence = header.sequence.saturating_add(1);
        self.ready.push_back(Piece::Block(block));
    }
}

impl Iterator for Salvage<'_> {
    type Item = Result<Piece, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            let moved = if let Some(segment) = self.current.clone() {
                self.advance(&segment)
            } else if let Some(segment) = self.segments.next() {
                self.open(segment)
            } else {
                return self.lost.take().map(|stretch| Ok(Piece::Lost(stretch.end_of_run())));
            };
            if let Err(error) = moved {
                (self.current, self.segments, self.lost) = (None, Vec::new().into_iter(), None);
                return Some(Err(error));
            }
        }
    }
}

/// The number below which all probe sets must have names before a block is written. `None` if it needs none.
pub(super) fn sets_needed(block: &Block) -> Option<u32> {
    let numbers = || block.u32s(Column::ProbeSet).ok();
    match block.kind() {
        Some(BlockKind::ProbeSet) => numbers()?.first().copied(),
        Some(BlockKind::Probes | BlockKind::Cards) => numbers()?.into_iter().max().map(|last| last.saturating_add(1)),
        _ => None,
    }
}

/// Whether a damaged segment header has the id `run_id`, or would check with this id in place of its own.
fn belongs_to(bytes: &[u8; SEGMENT_HEADER_BYTES], run_id: [u8; 16]) -> bool {
    let mut mended = *bytes;
    mended[16..32].copy_from_slice(&run_id);
    bytes[16..32] == run_id || crc32fast::hash(&mended[..60]).to_le_bytes() == bytes[60..]
}

/// The segments of a run, in the order of the index in their headers, or in their names where a header is damaged. Also
/// says whether a header is damaged or a segment missing.
fn list_segments(run: &Run) -> Result<(Vec<Segment>, bool), ReadError> {
    let (mut segments, mut damaged) = (Vec::new(), false);
    for name in run.place().list(run.dir()).map_err(io_error(run.dir()))? {
        let digits = name.strip_prefix("segment-").and_then(|name| name.strip_suffix(".glog"));
        let Some(index) = digits.and_then(|digits| digits.parse::<u32>().ok()) else { continue };
        let path = run.segment_path(index);
        if run.dir().join(&name) != path {
            continue;
        }
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        let read = run.segment_file(path.clone()).and_then(|segment| segment.read_at(&mut bytes, 0));
        if let Some(error) = read.as_ref().err().filter(|error| !is_lost(error)) {
            return Err(io_error(&path)(clone_error(error)));
        }
        let header = read.ok().and_then(|()| SegmentHeader::parse(&bytes).ok());
        damaged |= header.is_none();
        let header = header.filter(|header| header.run_id == run.manifest().run_id);
        let resumed_step = header.as_ref().and_then(|header| header.resumed_step);
        segments.push(Segment { index: header.map_or(index, |h| h.index), path, resumed_step, last: false });
    }
    segments.sort_by(|a, b| (a.index, &a.path).cmp(&(b.index, &b.path)));
    damaged |= segments.iter().zip(0..).any(|(segment, number)| segment.index != number);
    if let Some(segment) = segments.last_mut() {
        segment.last = true;
    }
    Ok((segments, damaged))
}
