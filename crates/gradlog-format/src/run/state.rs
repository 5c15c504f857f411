//! What a run holds at a moment, in a few bytes: whether two readers saw the same run.

use super::error::ReadError;
use super::handle::Run;

/// Which run it is and which blocks it has. Two states are equal if a reader finds the same rows in both.
///
/// A run that is being recorded has another state after each block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunState {
    /// The run's id. Of several workers, that of the lowest rank.
    pub run_id: [u8; 16],
    /// Blocks that can be read.
    pub blocks: u64,
    /// CRC-32 over the headers of these blocks. They hold the checksums of everything else.
    pub checksum: u32,
}

impl Run {
    /// The state of the run, as far as it can be read.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses, [`ReadError::Newer`] if only a newer version can read on.
    ///
    /// # Cost
    /// Reads the headers of all blocks.
    pub fn state(&self) -> Result<RunState, ReadError> {
        let (mut blocks, mut hash) = (0, crc32fast::Hasher::new());
        if let Some(buckets) = self.buckets() {
            // It never changes, and its parts read different buckets.
            hash.update(&self.manifest().run_id);
            let blocks = buckets.first_blocks.last().copied().unwrap_or(0);
            return Ok(RunState { run_id: self.manifest().run_id, blocks, checksum: hash.finalize() });
        }
        let mut scan = self.scan();
        for block in scan.by_ref() {
            blocks += 1;
            // The checksum of a header covers that of the directory, and this the checksums of the columns.
            hash.update(&block.header.header_crc.to_le_bytes());
            hash.update(&block.header.directory_crc.to_le_bytes());
            hash.update(&block.header.bytes.to_le_bytes());
            // Rows that a resumption superseded are not in the header.
            hash.update(&(block.rows() as u64).to_le_bytes());
            hash.update(&block.worker().unwrap_or(u32::MAX).to_le_bytes());
        }
        scan.damage()?;
        Ok(RunState { run_id: self.manifest().run_id, blocks, checksum: hash.finalize() })
    }

    /// What a reader should know of the workers that recorded the run, if several did: which are missing, and whether
    /// this is the part of one alone.
    ///
    /// # Errors
    /// As [`Run::workers`].
    pub fn worker_notes(&self) -> Result<Vec<String>, ReadError> {
        let mut notes = Vec::new();
        if let Some(worker) = self.manifest().worker {
            let (rank, workers) = (worker.rank, worker.workers);
            notes
                .push(format!("this is the part of worker {rank} of {workers} alone; the run is the folder around it"));
        }
        notes.extend(self.workers()?.iter().flat_map(super::workers::Workers::notes));
        Ok(notes)
    }
}
