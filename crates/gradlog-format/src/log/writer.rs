//! The writer: turns rows into blocks and puts blocks into segments. The recorder's background thread owns it.

use super::block::{BlockHeader, BlockKind, HEADER_BYTES};
use super::builder::BlockBuilder;
use super::column::Column;
use super::compress::Compressor;
use super::error::{io_error, LogError};
use super::lock::lock;
use super::manifest::Manifest;
use super::names::{segment_path, MANIFEST_FILE};
use super::segment_writer::SegmentWriter;
use super::storage::{check_size_limit, make_folder, next_data, open_file, sync_folder, MmapStorage, Storage};
use gradlog_kernels::stage::{self, Stage};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Segments are at least this long.
const SEGMENT_BYTES_MIN: u64 = 1 << 16;

/// Settings of a [`LogWriter`].
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Length that is reserved for each segment. At least 64 KiB.
    pub segment_bytes: u64,
    /// zstd's level for columns that are not vectors. Above 1 it holds for vectors too.
    pub zstd_level: i32,
}

/// Writes a run. It holds the run's lock as long as it exists.
///
/// A block survives the death of the process when [`LogWriter::append`] returns, and a power cut after
/// [`LogWriter::sync`]. Call [`LogWriter::finish`] at the end. A writer that is dropped leaves a readable run.
pub struct LogWriter {
    segments: SegmentWriter,
    compressor: Compressor,
    /// The body of a block. It is kept for the next: fresh memory costs a page fault every 4 KiB.
    body: Vec<u8>,
    sequence: u64,
    /// Totals of the run, including what was there before this writer.
    totals: Totals,
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

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter")
            .field("segments", &self.segments)
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
        let options = WriterOptions { segment_bytes: options.segment_bytes.max(SEGMENT_BYTES_MIN), ..options };
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
        let segments = SegmentWriter::new(dir.to_owned(), manifest.run_id, storage, options.segment_bytes, 0);
        Ok(Self { segments, compressor, body: Vec::new(), sequence: 0, totals: Totals::default(), lock })
    }

    /// Resumes a run at step `place.step`, in a new segment. Existing files are not changed.
    ///
    /// # Errors
    /// [`LogError::Locked`] if another recorder writes to the run, [`LogError::Exists`] if the segment is there
    /// already, [`LogError::Io`] if the file system refuses.
    pub fn resume(dir: &Path, place: ResumePlace, options: WriterOptions) -> Result<Self, LogError> {
        let step = place.step;
        let mut writer = Self::add_to(dir, place, options)?;
        writer.segments.set_resumed(step);
        Ok(writer)
    }

    /// Adds rows to a run in a new segment and supersedes nothing: for replays. `place.step` is ignored.
    ///
    /// # Errors
    /// As [`LogWriter::resume`].
    pub fn add_to(dir: &Path, place: ResumePlace, options: WriterOptions) -> Result<Self, LogError> {
        if crate::run::Run::open_one(dir).is_ok_and(|run| run.buckets().is_some()) {
            return Err(LogError::Compacted { path: dir.to_owned() });
        }
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
        let segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let storage = Box::new(MmapStorage::default());
        let segments = SegmentWriter::new(dir.to_owned(), place.run_id, storage, segment_bytes, place.next_segment);
        let ResumePlace { sequence, totals, .. } = place;
        Ok(Self { segments, compressor, body: Vec::new(), sequence, totals, lock })
    }

    /// Keeps a page of each segment free for the last blocks, in case the disk is full then.
    pub fn spare_room(&mut self) {
        self.segments.spare_room();
    }

    /// After a failure: writes the last blocks into the room that [`LogWriter::spare_room`] kept, or into a short
    /// segment.
    pub fn use_spare_room(&mut self) {
        self.segments.use_spare_room();
    }

    /// Bytes of blocks and headers that this writer has written.
    pub fn written_bytes(&self) -> u64 {
        self.segments.written_bytes()
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
        stage::enter(Stage::Write);
        self.segments.place(&header, body.len() as u64, |storage, offset| storage.write(offset, &body))?;
        stage::enter(Stage::Other);
        self.sequence += 1;
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

    /// Commits the number of visits whose step was never taken: the loop abandoned it, or it was not finite. Nothing of
    /// them is missing in a sum over the training.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn append_abandoned(&mut self, step: u64, epoch: u32, visits: u64) -> Result<(), LogError> {
        self.append_stretch(step, epoch, Column::Abandoned, visits)
    }

    /// Commits the number of steps, from `step` on, of which this log knows nothing.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn append_unknown_steps(&mut self, step: u64, epoch: u32, steps: u64) -> Result<(), LogError> {
        self.append_stretch(step, epoch, Column::UnknownSteps, steps)
    }

    /// Commits a gap that drops no visits and has `count` in `column`.
    fn append_stretch(&mut self, step: u64, epoch: u32, column: Column, count: u64) -> Result<(), LogError> {
        let mut gap = BlockBuilder::new(BlockKind::Gaps);
        gap.u64s(Column::Step, [step]);
        gap.u32s(Column::Epoch, [epoch]);
        gap.u64s(Column::Dropped, [0]);
        gap.u64s(column, [count]);
        gap.advance(1, step, epoch);
        self.append(&mut gap)
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
        self.segments.place(&header.to_bytes()?, body_bytes, |storage, offset| {
            let mut chunk = vec![0u8; body_bytes.min(1 << 20) as usize];
            let mut done = 0;
            while done < body_bytes {
                let part = &mut chunk[..(body_bytes - done).min(1 << 20) as usize];
                read(done, part)?;
                storage.write(offset + done, part)?;
                done += part.len() as u64;
            }
            Ok(())
        })?;
        self.sequence += 1;
        Ok(())
    }

    /// Ends the current segment. The next block begins a segment whose header says that the run resumed at `step`.
    pub(crate) fn mark_resumed(&mut self, step: u64) -> Result<(), LogError> {
        self.segments.set_resumed(step);
        self.segments.close_segment()
    }

    /// Begins the segment that [`LogWriter::mark_resumed`] announced, if no block did.
    pub(crate) fn begin_resumed(&mut self) -> Result<(), LogError> {
        self.segments.begin_resumed()
    }

    /// Returns when every block is on the device.
    ///
    /// # Errors
    /// [`LogError::Io`] if the file system refuses or the run was deleted.
    pub fn sync(&mut self) -> Result<(), LogError> {
        stage::enter(Stage::Write);
        let synced = self.segments.sync();
        stage::enter(Stage::Other);
        synced
    }

    /// Cuts the last segment to its length and makes everything durable.
    ///
    /// # Errors
    /// [`LogError::Io`] if the file system refuses or the run was deleted.
    pub fn finish(&mut self) -> Result<(), LogError> {
        self.segments.close_segment()?;
        self.segments.check_manifest()
    }
}

impl Drop for LogWriter {
    /// A writer that is dropped without `finish` leaves a readable run. Errors are ignored.
    fn drop(&mut self) {
        let _ = self.segments.close_segment();
        // A process that is just being spawned holds a copy of the file for an instant. Closing ours alone would not
        // free the lock.
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
