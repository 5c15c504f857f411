//! Checkpoints of a run: weights that a recorder saved beside the log (FORMAT.md, "Checkpoints").
//!
//! The log lists them, with the length and the checksum of each file. The name of a file follows from its step, so no
//! text from disk is ever used as a path. Nothing here reads the tensors in a file.

use super::block::Block;
use super::error::ReadError;
use super::file::is_damage;
use super::handle::Run;
use super::place::{Held, ReadAt};
use crate::log::{checkpoint_path, BlockKind, Column};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Weights that were saved while the run was recorded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The optimizer step that followed it.
    pub step: u64,
    /// The epoch at that time.
    pub epoch: u32,
    /// Learning rate of the step before it. For a checkpoint before the first step, the rate of the first step. `None`
    /// if the run does not say. It is the `η` of this checkpoint in TracInCP.
    pub learning_rate: Option<f32>,
    /// Length of its file in bytes, according to the log.
    pub bytes: u64,
    /// CRC-32 of its file, according to the log.
    pub checksum: u32,
    /// The path of its file. The file may be lost.
    pub path: PathBuf,
    /// Where that file lies.
    pub(super) place: Held,
}

/// What is wrong with a checkpoint's file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// The file does not exist.
    Lost,
    /// The file is not what was written. The text says why.
    Damaged(String),
    /// The file system refused. The text is its error.
    Unreadable(String),
}

impl std::fmt::Display for CheckpointFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckpointFault::Lost => f.write_str("its file is not there"),
            CheckpointFault::Damaged(what) => write!(f, "its file is not what was written: {what}"),
            CheckpointFault::Unreadable(what) => write!(f, "its file cannot be read: {what}"),
        }
    }
}

/// How much of a file is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

impl Checkpoint {
    /// Checks that a file of the right length exists, without reading it.
    ///
    /// # Errors
    /// The fault, if there is one.
    pub fn look(&self) -> Result<(), CheckpointFault> {
        self.open().map(|_| ())
    }

    /// Reads the file and compares its length and checksum with the log.
    ///
    /// # Errors
    /// The fault, if there is one.
    pub fn check(&self) -> Result<(), CheckpointFault> {
        self.read_chunks(|_| Ok(()))
    }

    /// The bytes of the file, if they are what was written.
    ///
    /// # Errors
    /// The fault, if there is one.
    pub fn read(&self) -> Result<Vec<u8>, CheckpointFault> {
        let mut bytes = Vec::new();
        self.read_chunks(|chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Calls `take` with the bytes of the file, chunk by chunk. Whether they are what was written shows at the end.
    ///
    /// # Errors
    /// The fault, if there is one, or the error of `take`.
    pub(super) fn read_chunks<E: From<CheckpointFault>>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = self.open()?;
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0u8; CHUNK_BYTES.min(self.bytes as usize).max(1)];
        let mut read = 0u64;
        while read < self.bytes {
            let now = (self.bytes - read).min(chunk.len() as u64) as usize;
            let chunk = &mut chunk[..now];
            file.read_at(chunk, read).map_err(|error| match is_damage(&error) {
                true => CheckpointFault::Damaged("it became shorter while it was read".into()),
                false => CheckpointFault::Unreadable(error.to_string()),
            })?;
            hasher.update(chunk);
            take(chunk)?;
            read += now as u64;
        }
        if hasher.finalize() != self.checksum {
            return Err(CheckpointFault::Damaged("its checksum does not match".into()).into());
        }
        Ok(())
    }

    fn open(&self) -> Result<Arc<dyn ReadAt>, CheckpointFault> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => CheckpointFault::Lost,
            io::ErrorKind::InvalidData => CheckpointFault::Damaged("it is not a file".into()),
            _ => CheckpointFault::Unreadable(error.to_string()),
        };
        let file = self.place.0.open(&self.path).map_err(unreadable)?;
        self.right_length(file.bytes().map_err(unreadable)?)?;
        Ok(file)
    }

    fn right_length(&self, bytes: u64) -> Result<(), CheckpointFault> {
        if bytes == self.bytes {
            return Ok(());
        }
        Err(CheckpointFault::Damaged(format!("it has {bytes} bytes where the log says {}", self.bytes)))
    }
}

/// The checkpoint of one block, with the learning rate that the block holds. Its file is in the folder of the block's
/// run. In a run of several workers, that is the part of the worker that saved it.
pub(super) fn read(block: &Block) -> Result<Checkpoint, ReadError> {
    let number = |found: Option<u64>| found.ok_or_else(|| block.damaged("a checkpoint without a number".into()));
    if block.rows() != 1 {
        return Err(block.damaged(format!("{} checkpoints in one block", block.rows())));
    }
    let run = block.segment.path.parent().unwrap_or(Path::new(""));
    let step = number(block.u64s(Column::Step)?.first().copied())?;
    let rate = match block.has(Column::LearningRate) {
        true => block.f32s(Column::LearningRate)?.first().copied(),
        false => None,
    };
    Ok(Checkpoint {
        step,
        epoch: number(block.u32s(Column::Epoch)?.first().map(|epoch| u64::from(*epoch)))? as u32,
        learning_rate: rate.filter(|rate| rate.is_finite()),
        bytes: number(block.u64s(Column::Bytes)?.first().copied())?,
        checksum: number(block.u32s(Column::Checksum)?.first().map(|crc| u64::from(*crc)))? as u32,
        path: checkpoint_path(run, step),
        place: Held(block.segment.place().clone()),
    })
}

impl Run {
    /// The checkpoints that the log names, by step.
    ///
    /// Of several at one step the last counts: its file replaced the others. Of several workers the lowest rank counts:
    /// all have the same weights. Superseded checkpoints are left out. If the run is damaged, these are the checkpoints
    /// before the damage. The files are not read: [`Checkpoint::check`] reads one.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] or [`ReadError::Io`] if a block of checkpoints or of steps cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, ReadError> {
        let mut all: BTreeMap<(u64, Option<u32>), Checkpoint> = BTreeMap::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Checkpoints)) {
            let checkpoint = read(&block)?;
            all.insert((checkpoint.step, block.worker()), checkpoint);
        }
        scan.not_refused()?;
        let mut found: BTreeMap<u64, Checkpoint> = BTreeMap::new();
        for ((step, _), checkpoint) in all {
            found.entry(step).or_insert(checkpoint);
        }
        let unsaid = found.values().filter(|checkpoint| checkpoint.learning_rate.is_none());
        let unsaid: BTreeSet<u64> = unsaid.map(|checkpoint| checkpoint.step).collect();
        if !unsaid.is_empty() {
            let rates = self.learning_rates_before(&unsaid)?;
            for (step, rate) in rates {
                if let Some(checkpoint) = found.get_mut(&step) {
                    checkpoint.learning_rate = Some(rate);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// The recorded learning rates of the steps before `steps`. For step 0 it is the rate of the first step.
    fn learning_rates_before(&self, steps: &BTreeSet<u64>) -> Result<BTreeMap<u64, f32>, ReadError> {
        let mut found = BTreeMap::new();
        let mut scan = self.scan();
        for block in scan.by_ref().filter(|block| block.kind() == Some(BlockKind::Steps)) {
            let (first, last) = block.steps();
            // A block has the rates for checkpoints right behind its steps. The first block also has that for step 0.
            let wanted = steps.range(first..).next().is_some_and(|wanted| *wanted <= last.saturating_add(1));
            if !wanted || !block.has(Column::LearningRate) {
                continue;
            }
            let rates = block.f32s(Column::LearningRate)?;
            for (step, rate) in block.u64s(Column::Step)?.into_iter().zip(rates).filter(|(_, rate)| rate.is_finite()) {
                let behind = step.saturating_add(1);
                for wanted in [Some(behind), (step == 0).then_some(0)].into_iter().flatten() {
                    if steps.contains(&wanted) {
                        found.insert(wanted, rate);
                    }
                }
            }
        }
        scan.not_refused()?;
        Ok(found)
    }
}
