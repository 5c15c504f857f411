//! The writer: turns rows into blocks and puts blocks into segments. The recorder's background thread owns it.

use super::block::{BlockHeader, BlockKind, HEADER_BYTES};
use super::builder::BlockBuilder;
use super::codec::DecodeError;
use super::column::Column;
use super::compress::Compressor;
use super::lock::lock;
use super::manifest::Manifest;
use super::segment::{segment_path, SegmentHeader, SEGMENT_HEADER_BYTES};
use super::storage::{check_size_limit, make_folder, next_data, open_file, sync_folder, MmapStorage, Storage};
use super::MANIFEST_FILE;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What can go wrong while a log is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The folder holds a run already.
    #[error("{path} holds a run already: give another folder, or move this one away")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another recorder writes to the folder.
    #[error("{path} is being written by another recorder: one run has one recorder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Something is too large for the format's fields.
    #[error("cannot write the record: {0}")]
    Encode(#[from] DecodeError),
}

/// Settings of a [`LogWriter`].
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Length that is reserved for each segment. At least 64 KiB.
    pub segment_bytes: u64,
    /// zstd's level for columns that are not vectors. Above 1 it holds for vectors too.
    pub zstd_level: i32,
}

/// Room for the last blocks of a run on a full disk. It is a page: a segment that is cut by a page leaves room for
/// another file of a page.
const LAST_BYTES: u64 = 4096;

/// Writes a run. It holds the run's lock as long as it exists.
///
/// A block survives the death of the process when [`LogWriter::append`] returns, and a power cut after
/// [`LogWriter::sync`]. Call [`LogWriter::finish`] at the end. A writer that is dropped leaves a readable run.
pub struct LogWriter {
    dir: PathBuf,
    run_id: [u8; 16],
    storage: Box<dyn Storage>,
    compressor: Compressor,
    /// The body of a block. It is kept for the next: fresh memory costs a page fault every 4 KiB.
    body: Vec<u8>,
    segment_bytes: u64,
    /// Bytes of each segment that ordinary blocks leave free.
    spare_bytes: u64,
    next_segment: u32,
    /// Is written to the header of the next segment.
    resumed_step: Option<u64>,
    open: Option<OpenSegment>,
    sequence: u64,
    written_bytes: u64,
    /// Totals of the run, also of what was there before this writer.
    totals: Totals,
    dirty: bool,
    /// Held for as long as the writer lives. The operating system releases it when the process dies.
    lock: File,
}

/// Totals of a run. They include rows that a resumption superseded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Training visits.
    pub visits: u64,
    /// Visits that were not recorded, according to the gaps.
    pub dropped: u64,
}

/// The place at which a run resumes.
#[derive(Debug, Clone)]
pub struct ResumePlace {
    /// The run's id.
    pub run_id: [u8; 16],
    /// Number of the next segment.
    pub next_segment: u32,
    /// Number of the next block.
    pub sequence: u64,
    /// Rows of this step and later ones are superseded.
    pub step: u64,
    /// Totals of the run so far.
    pub totals: Totals,
}

#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    used: u64,
    size: u64,
}

/// Makes a [`LogError::Io`] of an error of the file system: "cannot {action} {path}".
pub fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter")
            .field("dir", &self.dir)
            .field("open", &self.open)
            .field("sequence", &self.sequence)
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

impl LogWriter {
    /// Creates a run: makes the folder `dir` and writes the manifest.
    ///
    /// # Errors
    /// [`LogError::Exists`] if the folder holds a run, [`LogError::Locked`] if another recorder writes to it,
    /// [`LogError::Io`] if the file system refuses.
    pub fn create(dir: &Path, manifest: &Manifest, options: WriterOptions) -> Result<Self, LogError> {
        let options = WriterOptions { segment_bytes: options.segment_bytes.max(1 << 16), ..options };
        Self::create_on(Box::new(MmapStorage::default()), dir, manifest, options)
    }

    /// As [`LogWriter::create`], on any storage and with segments of any size. Tests pass storage that fails.
    ///
    /// # Errors
    /// As [`LogWriter::create`].
    pub fn create_on(
        storage: Box<dyn Storage>,
        dir: &Path,
        manifest: &Manifest,
        options: WriterOptions,
    ) -> Result<Self, LogError> {
        make_folder(dir).map_err(io_error("create the folder", dir))?;
        let lock = lock(dir)?;
        let path = dir.join(MANIFEST_FILE);
        // A run that lost its manifest cannot be read, but it may still be wanted.
        if path.exists() || segment_path(dir, 0).exists() {
            return Err(LogError::Exists { path: dir.to_owned() });
        }
        let temporary = dir.join("manifest.new");
        let write = || -> io::Result<()> {
            let bytes = manifest.to_bytes().map_err(|e| io::Error::other(e.0))?;
            check_size_limit(bytes.len() as u64)?;
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            sync_folder(&path)
        };
        write().map_err(io_error("write the manifest", &path))?;
        let compressor = Compressor::new(options.zstd_level).map_err(io_error("start the compressor for", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            run_id: manifest.run_id,
            storage,
            compressor,
            body: Vec::new(),
            segment_bytes: options.segment_bytes,
            spare_bytes: 0,
            next_segment: 0,
            resumed_step: None,
            open: None,
            sequence: 0,
            written_bytes: 0,
            totals: Totals::default(),
            dirty: false,
            lock,
        })
    }

    /// Resumes a run at step `place.step`, in a new segment. Existing files are not changed.
    ///
    /// # Errors
    /// [`LogError::Locked`] if another recorder writes to the run, [`LogError::Exists`] if the segment is there
    /// already, [`LogError::Io`] if the file system refuses.
    pub fn resume(dir: &Path, place: ResumePlace, options: WriterOptions) -> Result<Self, LogError> {
        let step = place.step;
        let mut writer = Self::add_to(dir, place, options)?;
        writer.resumed_step = Some(step);
        Ok(writer)
    }

    /// Adds rows to a run in a new segment and supersedes nothing: for replays. `place.step` is ignored.
    ///
    /// # Errors
    /// As [`LogWriter::resume`].
    pub fn add_to(dir: &Path, place: ResumePlace, options: WriterOptions) -> Result<Self, LogError> {
        let lock = lock(dir)?;
        let compressor = Compressor::new(options.zstd_level).map_err(io_error("start the compressor for", dir))?;
        // A recorder that was killed before it wrote the segment's header left a file of zeros under this name.
        let path = segment_path(dir, place.next_segment);
        if path.exists() {
            let empty = open_file(&path).and_then(is_zero);
            if !empty.map_err(io_error("read", &path))? {
                return Err(LogError::Exists { path });
            }
            std::fs::remove_file(&path).map_err(io_error("replace the empty segment", &path))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            run_id: place.run_id,
            storage: Box::new(MmapStorage::default()),
            compressor,
            body: Vec::new(),
            segment_bytes: options.segment_bytes.max(1 << 16),
            spare_bytes: 0,
            next_segment: place.next_segment,
            resumed_step: None,
            open: None,
            sequence: place.sequence,
            written_bytes: 0,
            totals: place.totals,
            dirty: false,
            lock,
        })
    }

    /// Keeps a page of each segment free for the last blocks, in case the disk is full then.
    pub fn spare_room(&mut self) {
        self.spare_bytes = LAST_BYTES;
    }

    /// After a failure: writes the last blocks into the room that [`LogWriter::spare_room`] kept, or into a short
    /// segment.
    pub fn use_spare_room(&mut self) {
        self.spare_bytes = 0;
        self.segment_bytes = LAST_BYTES;
    }

    /// Bytes of blocks and headers that this writer has written.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Commits the rows of `builder` as one block and removes them from it. Does nothing if there are no rows.
    ///
    /// # Errors
    /// [`LogError::Encode`] if the block is too large for the format, [`LogError::Io`] if the file system refuses.
    pub fn append(&mut self, builder: &mut BlockBuilder) -> Result<(), LogError> {
        if builder.rows() == 0 {
            return Ok(());
        }
        let (kind, rows) = (builder.kind(), u64::from(builder.rows()));
        let mut body = std::mem::take(&mut self.body);
        let header = builder.seal(self.sequence, &mut self.compressor, &mut body)?;
        self.place(&header, body.len() as u64, |storage, offset| storage.write(offset, &body))?;
        self.body = body;
        if kind == BlockKind::Visits {
            self.totals.visits = self.totals.visits.saturating_add(rows);
        }
        Ok(())
    }

    /// Commits a gap: `visits` visits were not recorded, from this step and epoch on.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn append_gap(&mut self, step: u64, epoch: u32, visits: u64) -> Result<(), LogError> {
        let mut gap = BlockBuilder::new(BlockKind::Gaps);
        gap.u64s(Column::Step, [step]);
        gap.u32s(Column::Epoch, [epoch]);
        gap.u64s(Column::Dropped, [visits]);
        gap.advance(1, step, epoch);
        self.append(&mut gap)?;
        self.totals.dropped = self.totals.dropped.saturating_add(visits);
        Ok(())
    }

    /// Commits the End block with the totals of the run.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn append_end(&mut self) -> Result<(), LogError> {
        let mut end = BlockBuilder::new(BlockKind::End);
        end.u64s(Column::Visits, [self.totals.visits]);
        end.u64s(Column::Dropped, [self.totals.dropped]);
        end.advance(1, 0, 0);
        self.append(&mut end)
    }

    /// Adds a block from another run to the totals.
    pub(crate) fn count(&mut self, held: Totals) {
        self.totals.visits = self.totals.visits.saturating_add(held.visits);
        self.totals.dropped = self.totals.dropped.saturating_add(held.dropped);
    }

    /// Commits a block of another run, under the next sequence number. `read` reads from an offset within its body.
    /// The body is copied unseen, so kinds and columns of a newer version survive.
    pub(crate) fn append_sealed(
        &mut self,
        header: &BlockHeader,
        mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let header = BlockHeader { sequence: self.sequence, ..header.clone() };
        let body_bytes = header.bytes.saturating_sub(HEADER_BYTES as u64);
        self.place(&header.to_bytes()?, body_bytes, |storage, offset| {
            let mut chunk = vec![0u8; body_bytes.min(1 << 20) as usize];
            let mut done = 0;
            while done < body_bytes {
                let part = &mut chunk[..(body_bytes - done).min(1 << 20) as usize];
                read(done, part)?;
                storage.write(offset + done, part)?;
                done += part.len() as u64;
            }
            Ok(())
        })
    }

    /// Ends the current segment. The next block begins a segment whose header says that the run resumed at `step`.
    pub(crate) fn mark_resumed(&mut self, step: u64) -> Result<(), LogError> {
        // Several resumptions without a block between them have the effect of that with the earliest step.
        self.resumed_step = Some(self.resumed_step.map_or(step, |earlier| earlier.min(step)));
        self.close_segment()
    }

    /// Begins the segment that [`LogWriter::mark_resumed`] announced, if no block did.
    pub(crate) fn begin_resumed(&mut self) -> Result<(), LogError> {
        match self.resumed_step {
            Some(_) => self.open_segment(0),
            None => Ok(()),
        }
    }

    /// Makes room for a block, has `write_body` write its body at an offset, and commits it.
    fn place(
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
        self.sequence += 1;
        self.dirty = true;
        Ok(())
    }

    /// An error if the run or its manifest was deleted. A run cannot be read without its manifest.
    fn check_manifest(&self) -> Result<(), LogError> {
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
    ///
    /// # Errors
    /// [`LogError::Io`] if the file system refuses or the run was deleted.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_manifest()?;
        if let (true, Some(segment)) = (self.dirty, &self.open) {
            self.storage.sync().map_err(io_error("flush", &segment.path))?;
        }
        self.dirty = false;
        Ok(())
    }

    /// Cuts the last segment to its length and makes everything durable.
    ///
    /// # Errors
    /// [`LogError::Io`] if the file system refuses or the run was deleted.
    pub fn finish(&mut self) -> Result<(), LogError> {
        self.close_segment()?;
        self.check_manifest()
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
        // Not earlier: if there was no room, the segment of the last blocks has to say it.
        self.resumed_step = None;
        self.next_segment += 1;
        self.written_bytes += SEGMENT_HEADER_BYTES as u64;
        self.open = Some(OpenSegment { path, used: SEGMENT_HEADER_BYTES as u64, size });
        Ok(())
    }

    fn close_segment(&mut self) -> Result<(), LogError> {
        let Some(segment) = self.open.take() else {
            return Ok(());
        };
        self.dirty = false;
        self.storage.close(segment.used).map_err(io_error("close", &segment.path))
    }
}

impl Drop for LogWriter {
    /// A writer that is dropped without `finish` leaves a readable run. Errors are ignored.
    fn drop(&mut self) {
        let _ = self.close_segment();
        // A process that is just being spawned holds a copy of the file for an instant: closing it alone would not free the lock.
        let _ = self.lock.unlock();
    }
}

/// Whether a file holds only zeros. It may have any length.
fn is_zero(mut file: File) -> io::Result<bool> {
    let mut chunk = vec![0u8; 1 << 16];
    loop {
        let place = file.stream_position()?;
        let Some(place) = next_data(&file, place)? else { return Ok(true) };
        file.seek(SeekFrom::Start(place))?;
        match file.read(&mut chunk)? {
            0 => return Ok(true),
            read if chunk[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}
