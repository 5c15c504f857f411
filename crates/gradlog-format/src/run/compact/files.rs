//! The folder of the new run while it is made, and its files: a segment for each bucket, one before and one behind.

use super::error::CompactError;
use crate::log::{
    check_size_limit, io_error, segment_path, sync_folder, BlockBuilder, BlockHeader, BlockKind, Column, Compressor,
    LogError, LogWriterLock, SegmentHeader, HEADER_BYTES, LOCK_FILE, SEGMENT_HEADER_BYTES,
};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The folder under its temporary name, which is locked while it is written.
pub(super) struct Folder {
    pub path: PathBuf,
    lock: Option<LogWriterLock>,
}

fn folder_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CompactError {
    let path = path.to_owned();
    move |error| CompactError::Folder { action, path, error }
}

impl Folder {
    /// Makes the folder. What an interrupted compaction left under its name is deleted first.
    pub fn begin(to: &Path) -> Result<Self, CompactError> {
        let name = to.file_name().ok_or_else(|| io::Error::other("this is not the name of a folder"));
        let name = name.map_err(folder_error("make", to))?;
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(".compacting");
        let path = to.with_file_name(partial);
        std::fs::create_dir_all(&path).map_err(folder_error("make", &path))?;
        // Two compactions into one folder would spoil each other's files.
        let lock = LogWriterLock::take(&path)?;
        clear(&path)?;
        Ok(Self { path, lock: Some(lock) })
    }

    /// Appends a block to a segment. Its number is written at the end.
    pub fn append(
        &self,
        segment: u32,
        builder: &mut BlockBuilder,
        (compressor, body): (&mut Compressor, &mut Vec<u8>),
    ) -> Result<(), CompactError> {
        let path = segment_path(&self.path, segment);
        let header = builder.seal(0, compressor, body).map_err(|error| CompactError::Write(error.into()))?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            let length = file.metadata()?.len();
            // Beyond the limit of the process a write is a signal that ends it.
            check_size_limit(length + (SEGMENT_HEADER_BYTES + header.len() + body.len()) as u64)?;
            if length == 0 {
                file.write_all(&[0; SEGMENT_HEADER_BYTES])?;
            }
            file.write_all(&header)?;
            file.write_all(body)
        };
        write().map_err(folder_error("write", &path))
    }

    /// Numbers the blocks of a segment from `sequence` on and writes its header. Returns the number of the next block.
    pub fn seal_segment(
        &self,
        segment: u32,
        run_id: [u8; 16],
        mut sequence: u64,
        bytes: &mut u64,
    ) -> Result<u64, CompactError> {
        let path = segment_path(&self.path, segment);
        let mut seal = || -> io::Result<u64> {
            let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let length = file.metadata()?.len().max(SEGMENT_HEADER_BYTES as u64);
            let mut at = SEGMENT_HEADER_BYTES as u64;
            while at < length {
                let mut header = [0; HEADER_BYTES];
                file.seek(SeekFrom::Start(at))?;
                file.read_exact(&mut header)?;
                let parsed = BlockHeader::parse(&header).map_err(|error| io::Error::other(error.to_string()))?;
                let numbered = BlockHeader { sequence, ..parsed };
                at += numbered.bytes;
                file.seek(SeekFrom::Current(-(HEADER_BYTES as i64)))?;
                file.write_all(&numbered.to_bytes().map_err(|error| io::Error::other(error.to_string()))?)?;
                sequence += 1;
            }
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&SegmentHeader { run_id, index: segment, resumed_step: None }.to_bytes())?;
            file.sync_all()?;
            Ok(length)
        };
        *bytes += seal().map_err(folder_error("write", &path))?;
        Ok(sequence)
    }

    /// Writes the segment with the End block.
    pub fn write_end(&self, segment: u32, (visits, dropped): (u64, u64)) -> Result<(), CompactError> {
        let mut end = BlockBuilder::new(BlockKind::End);
        end.u64s(Column::Visits, [visits]);
        end.u64s(Column::Dropped, [dropped]);
        end.advance(1, 0, 0);
        let mut compressor = compressor(&self.path)?;
        self.append(segment, &mut end, (&mut compressor, &mut Vec::new()))
    }

    /// Gives the folder its final name.
    pub fn rename(mut self, to: &Path) -> Result<(), CompactError> {
        if to.symlink_metadata().is_ok() {
            return Err(CompactError::Exists { path: to.to_owned() });
        }
        // The file stays: a run has one. Who holds it holds the lock of the run.
        self.lock = None;
        let named = std::fs::rename(&self.path, to).and_then(|()| sync_folder(to));
        named.map_err(folder_error("make", to))
    }
}

impl Drop for Folder {
    /// After an error nothing stays that nobody can use: the disk may be full. Errors are ignored, because the next
    /// call clears the folder, too.
    fn drop(&mut self) {
        // A folder that got its final name has no lock any more.
        if let Some(lock) = self.lock.take() {
            if clear(&self.path).is_ok() {
                drop(lock);
                let _ = std::fs::remove_file(self.path.join(LOCK_FILE));
                let _ = std::fs::remove_dir(&self.path);
            }
        }
    }
}

/// Deletes what compactions write, but the lock. Another file is an error.
fn clear(path: &Path) -> Result<(), CompactError> {
    for entry in std::fs::read_dir(path).map_err(folder_error("read", path))? {
        let entry = entry.map_err(folder_error("read", path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let file = entry.path();
        match name.as_ref() {
            LOCK_FILE => {}
            "manifest" => std::fs::remove_file(&file).map_err(folder_error("delete", &file))?,
            "checkpoints" => std::fs::remove_dir_all(&file).map_err(folder_error("delete", &file))?,
            name if name.starts_with("segment-") => {
                std::fs::remove_file(&file).map_err(folder_error("delete", &file))?;
            }
            _ => {
                let error = io::Error::other("it holds a file that no compaction made");
                return Err(CompactError::Folder { action: "start over in", path: file, error });
            }
        }
    }
    Ok(())
}

/// A compressor of columns.
pub(super) fn compressor(path: &Path) -> Result<Compressor, LogError> {
    Compressor::new(1).map_err(io_error("start the compressor for", path))
}
