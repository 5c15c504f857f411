//! Walking the blocks of a run in the order in which they were written.
//!
//! The recovery rule (FORMAT.md, "Recovery"): a scan yields blocks until a segment's tail is zero or ends, goes on in the
//! next segment, and stops for good at the first thing that is neither a block nor an end. What it yields is therefore
//! always a prefix of what was written.

use super::block::{Block, SegmentFile};
use super::error::Damage;
use super::open::Run;
use super::superseded::{left, Left, Resumptions};
use crate::log::{BlockHeader, BlockKind, ColumnEntry, SegmentHeader, ENTRY_BYTES, HEADER_BYTES, SEGMENT_HEADER_BYTES};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// An iterator over the blocks of a run. After its end, [`Scan::damage`] says whether it was the run's end.
#[derive(Debug)]
pub struct Scan<'run> {
    run: &'run Run,
    segment: Option<Arc<SegmentFile>>,
    next_segment: u32,
    offset: u64,
    next_sequence: u64,
    damage: Option<Damage>,
    ended: bool,
    zero_tail_bytes: u64,
    resumptions: Resumptions,
    superseded_visits: u64,
}

/// What lies at a place of a segment.
enum Found {
    Block(Block),
    End,
    Damage(String),
}

impl<'run> Scan<'run> {
    pub(super) fn new(run: &'run Run) -> Self {
        Self {
            run,
            segment: None,
            next_segment: 0,
            offset: 0,
            next_sequence: 0,
            damage: None,
            ended: false,
            zero_tail_bytes: 0,
            resumptions: Resumptions::of(run),
            superseded_visits: 0,
        }
    }

    /// Where the scan had to stop before the run's end, if it had to.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Preallocated bytes behind the last block: not 0 while a run is being written, or if its recorder was killed.
    pub fn zero_tail_bytes(&self) -> u64 {
        self.zero_tail_bytes
    }

    /// Where the next block would go: the number of the next segment, and of the next block.
    #[cfg_attr(not(feature = "candle"), allow(dead_code))]
    pub(crate) fn place(&self) -> (u32, u64) {
        (self.next_segment, self.next_sequence)
    }

    /// Training visits that were left out because the training was taken up again at an earlier step.
    pub fn superseded_visits(&self) -> u64 {
        self.superseded_visits
    }

    fn stop(&mut self, what: String) {
        let path = match &self.segment {
            Some(segment) => segment.path.clone(),
            None => self.run.segment_path(self.next_segment),
        };
        self.damage = Some(Damage { path, offset: self.offset, block: Some(self.next_sequence), what });
        self.ended = true;
    }

    /// Whether one of the next sixteen segments after the one at hand is there.
    fn later_segments(&self) -> bool {
        (1..=16).any(|ahead| self.run.segment_path(self.next_segment.saturating_add(ahead)).exists())
    }

    /// Opens the next segment; `false` if there is none or it cannot be read.
    fn open_next(&mut self) -> bool {
        self.segment = None;
        self.offset = 0;
        let path = self.run.segment_path(self.next_segment);
        let opened = File::open(&path).and_then(|file| {
            let bytes = file.metadata()?.len();
            Ok(SegmentFile { path, file, bytes })
        });
        let segment = match opened {
            Ok(segment) => segment,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A gap in the numbers means a lost file; no file with a higher number means the end.
                if self.later_segments() {
                    self.stop("the segment is missing, but later ones are there".into());
                }
                self.ended = true;
                return false;
            }
            Err(error) => {
                self.stop(format!("the segment cannot be opened: {error}"));
                return false;
            }
        };
        let mut bytes = [0u8; SEGMENT_HEADER_BYTES];
        let read = segment.read_at(&mut bytes, 0);
        if segment.bytes == 0 || read.is_ok() && bytes.iter().all(|b| *b == 0) {
            // Killed between making the file and writing its header: nothing was ever committed to it, nor after it.
            if self.later_segments() {
                self.stop("the segment is empty, but later ones are there".into());
            }
            self.ended = true;
            return false;
        }
        let parsed = read.map_err(|e| e.to_string()).and_then(|()| SegmentHeader::parse(&bytes).map_err(|e| e.0));
        match parsed {
            Ok(header) if header.run_id != self.run.manifest().run_id => {
                self.stop("the segment belongs to another run".into());
                return false;
            }
            Ok(header) if header.index != self.next_segment => {
                self.stop(format!("this is segment {} under another name", header.index));
                return false;
            }
            Ok(_) => {}
            Err(what) => {
                self.stop(what);
                return false;
            }
        }
        self.segment = Some(Arc::new(segment));
        self.next_segment += 1;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        true
    }

    fn look(&self, segment: &Arc<SegmentFile>) -> Found {
        let left = segment.bytes.saturating_sub(self.offset);
        if left == 0 {
            return Found::End;
        }
        let mut bytes = [0u8; HEADER_BYTES];
        let have = left.min(HEADER_BYTES as u64) as usize;
        if let Err(error) = segment.read_at(&mut bytes[..have], self.offset) {
            return Found::Damage(error.to_string());
        }
        if bytes[..have.min(4)].iter().all(|b| *b == 0) {
            return Found::End;
        }
        if have < HEADER_BYTES {
            return Found::Damage("the file ends within a block header".into());
        }
        let header = match BlockHeader::parse(&bytes) {
            Ok(header) => header,
            Err(error) => return Found::Damage(error.0),
        };
        if header.sequence != self.next_sequence {
            return Found::Damage(format!("block {} where block {} belongs", header.sequence, self.next_sequence));
        }
        let directory_bytes = header.directory_bytes();
        let smallest = (HEADER_BYTES + directory_bytes) as u64;
        if header.bytes < smallest || header.bytes % 8 != 0 {
            return Found::Damage(format!("a block cannot be {} bytes long", header.bytes));
        }
        if header.bytes > left {
            return Found::Damage(format!("the file ends {left} bytes into a block of {}", header.bytes));
        }
        let mut directory = vec![0u8; directory_bytes];
        if let Err(error) = segment.read_at(&mut directory, self.offset + HEADER_BYTES as u64) {
            return Found::Damage(error.to_string());
        }
        if crc32fast::hash(&directory) != header.directory_crc {
            return Found::Damage("the column directory's checksum does not match".into());
        }
        let entries: Result<Vec<_>, _> = directory.chunks_exact(ENTRY_BYTES).map(ColumnEntry::parse).collect();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return Found::Damage(error.0),
        };
        let frames: u64 = entries.iter().map(|e| u64::from(e.stored_bytes)).sum();
        if smallest + frames > header.bytes {
            return Found::Damage("the columns are longer than their block".into());
        }
        Found::Block(Block {
            segment: segment.clone(),
            offset: self.offset,
            header,
            entries: Arc::new(entries),
            kept: None,
        })
    }
}

impl Iterator for Scan<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        while !self.ended {
            let Some(segment) = self.segment.clone() else {
                self.open_next();
                continue;
            };
            match self.look(&segment) {
                Found::Block(mut block) => {
                    let bytes = block.header.bytes;
                    if let Some(limit) = self.resumptions.limit(self.next_segment.saturating_sub(1)) {
                        let rows = block.rows();
                        match left(&block, limit) {
                            Ok(Left::All) => {}
                            Ok(Left::First(kept)) => block.kept = Some(kept),
                            Ok(Left::Nothing) => block.kept = Some(0),
                            Err(error) => {
                                self.stop(error.to_string());
                                continue;
                            }
                        }
                        if block.kind() == Some(BlockKind::Visits) {
                            self.superseded_visits += (rows - block.rows()) as u64;
                        }
                    }
                    self.offset += bytes;
                    self.next_sequence += 1;
                    if block.kept != Some(0) {
                        return Some(block);
                    }
                }
                Found::End => {
                    self.zero_tail_bytes = segment.bytes.saturating_sub(self.offset);
                    self.segment = None;
                }
                Found::Damage(what) => self.stop(what),
            }
        }
        None
    }
}
