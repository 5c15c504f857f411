//! Puts blocks into segments: begins a segment where there is no room, commits blocks, syncs and closes.

use super::block::HEADER_BYTES;
use super::error::{io_error, LogError};
use super::names::{segment_path, MANIFEST_FILE};
use super::segment::{SegmentHeader, SEGMENT_HEADER_BYTES};
use super::storage::Storage;
use std::io;
use std::path::PathBuf;

/// Room for the last blocks of a run on a full disk. It is a page: a segment that is cut by a page leaves room for
/// another file of a page.
const LAST_BYTES: u64 = 4096;

/// The segments of one run, of which one at a time is open.
pub(super) struct SegmentWriter {
    dir: PathBuf,
    run_id: [u8; 16],
    storage: Box<dyn Storage>,
    segment_bytes: u64,
    /// Bytes of each segment that ordinary blocks leave free.
    spare_bytes: u64,
    next_segment: u32,
    /// The header of the next segment gets this step.
    resumed_step: Option<u64>,
    open: Option<OpenSegment>,
    written_bytes: u64,
    dirty: bool,
}

#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    used: u64,
    size: u64,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("dir", &self.dir)
            .field("open", &self.open)
            .field("next_segment", &self.next_segment)
            .finish_non_exhaustive()
    }
}

impl SegmentWriter {
    /// No segment is open yet. The first block begins segment `next_segment`, of `segment_bytes` bytes.
    pub(super) fn new(
        dir: PathBuf,
        run_id: [u8; 16],
        storage: Box<dyn Storage>,
        segment_bytes: u64,
        next_segment: u32,
    ) -> Self {
        Self {
            dir,
            run_id,
            storage,
            segment_bytes,
            spare_bytes: 0,
            next_segment,
            resumed_step: None,
            open: None,
            written_bytes: 0,
            dirty: false,
        }
    }

    /// Keeps a page of each segment free for the last blocks.
    pub(super) fn spare_room(&mut self) {
        self.spare_bytes = LAST_BYTES;
    }

    /// From now on blocks fill the spare page too, and new segments have one page.
    pub(super) fn use_spare_room(&mut self) {
        self.spare_bytes = 0;
        self.segment_bytes = LAST_BYTES;
    }

    /// Bytes of blocks and headers that were written.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Has the next segment's header say that the run resumed at `step`. It does not end the open segment.
    pub(super) fn set_resumed(&mut self, step: u64) {
        // Several resumptions without a block between them have the effect of that with the earliest step.
        self.resumed_step = Some(self.resumed_step.map_or(step, |earlier| earlier.min(step)));
    }

    /// Begins the segment that [`SegmentWriter::set_resumed`] announced, if no block did.
    pub(super) fn begin_resumed(&mut self) -> Result<(), LogError> {
        match self.resumed_step {
            Some(_) => self.open_segment(0),
            None => Ok(()),
        }
    }

    /// Makes room for a block, has `write_body` write its body at an offset, and commits it.
    pub(super) fn place(
        &mut self,
        header: &[u8; HEADER_BYTES],
        body_bytes: u64,
        write_body: impl FnOnce(&mut dyn Storage, u64) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let bytes = HEADER_BYTES as u64 + body_bytes;
        if self.open.as_ref().is_some_and(|segment| segment.size - segment.used < bytes + self.spare_bytes) {
            self.close_segment()?;
        }
        if self.open.is_none() {
            self.open_segment(bytes)?;
        }
        let Some(segment) = &mut self.open else {
            return Ok(());
        };
        let path = segment.path.clone();
        write_body(self.storage.as_mut(), segment.used + HEADER_BYTES as u64)
            .and_then(|()| self.storage.commit(segment.used, header))
            .map_err(io_error("write to", &path))?;
        segment.used += bytes;
        self.written_bytes += bytes;
        self.dirty = true;
        Ok(())
    }

    /// An error if the run or its manifest was deleted. A run cannot be read without its manifest.
    pub(super) fn check_manifest(&self) -> Result<(), LogError> {
        let path = self.dir.join(MANIFEST_FILE);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone = io::Error::new(error.kind(), "it was deleted while the run was being recorded");
                Err(io_error("find", &path)(gone))
            }
            // Other errors do not say that it was deleted.
            _ => Ok(()),
        }
    }

    /// Returns when every block is on the device.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        self.check_manifest()?;
        if let (true, Some(segment)) = (self.dirty, &self.open) {
            self.storage.sync().map_err(io_error("flush", &segment.path))?;
        }
        self.dirty = false;
        Ok(())
    }

    fn open_segment(&mut self, first_block_bytes: u64) -> Result<(), LogError> {
        self.check_manifest()?;
        let path = segment_path(&self.dir, self.next_segment);
        let size = self.segment_bytes.max(SEGMENT_HEADER_BYTES as u64 + first_block_bytes + self.spare_bytes);
        let header = SegmentHeader { run_id: self.run_id, index: self.next_segment, resumed_step: self.resumed_step };
        self.storage
            .open(&path, size)
            .and_then(|()| self.storage.commit(0, &header.to_bytes()))
            .map_err(io_error("reserve space for", &path))?;
        // Not before the segment exists: if there was no room, the segment of the last blocks has to say it.
        self.resumed_step = None;
        self.next_segment += 1;
        self.written_bytes += SEGMENT_HEADER_BYTES as u64;
        self.open = Some(OpenSegment { path, used: SEGMENT_HEADER_BYTES as u64, size });
        Ok(())
    }

    /// Syncs the open segment and cuts it to its length.
    pub(super) fn close_segment(&mut self) -> Result<(), LogError> {
        let Some(segment) = self.open.take() else {
            return Ok(());
        };
        self.dirty = false;
        self.storage.close(segment.used).map_err(io_error("close", &segment.path))
    }
}
