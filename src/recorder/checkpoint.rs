//! Checkpoints: the model's weights, saved to files while it trains (FORMAT.md, "Checkpoints").
//!
//! Runs on the training thread, which has the weights: one tensor at a time is copied and written. The row that names the file
//! goes through the queue like everything else.

use super::error::RecordError;
use super::handle::Recorder;
use super::message::{CheckpointRow, Message};
use super::queue::Sent;
use crate::taps::named_variables;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use gradlog_format::log::{
    check_size_limit, checkpoint_path, io_error, make_folder, sync_folder, LogError, MANIFEST_FILE,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// How much of the file is read back at a time, for its checksum.
const CHUNK_BYTES: usize = 1 << 20;

impl Recorder {
    /// Saves the model's weights as they are now, in safetensors, as the checkpoint of the step that comes next: to
    /// `checkpoints/step-NNNNNNNN.safetensors` in the run's folder. Call it between the optimizer's step and the next pass, or
    /// before the first.
    ///
    /// The file is written under another name, synced, and renamed, so that it is there in full or not at all; its length and
    /// checksum go into the log. A second checkpoint at the same step takes the place of the first.
    ///
    /// # Errors
    /// [`RecordError::Checkpoint`] if the file cannot be written: a full disk, a file-size limit. The recording goes on, and so may
    /// the training. Else the background thread's failure, if it has failed; under [`OnFailure::GoOn`](crate::OnFailure::GoOn)
    /// no checkpoint is saved then and none is named, as nothing is recorded any more.
    ///
    /// # Cost
    /// The training waits while the file is written, synced and read back once; memory: a copy of the largest tensor, and of
    /// all that is not in main memory. Nothing else
    /// bounds the wait but the disk, so take checkpoints at chosen steps, not at each.
    pub fn checkpoint(&mut self, variables: &VarMap) -> Result<(), RecordError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let named = named_variables(variables);
        self.checkpoint_tensors(named.into_iter().map(|(name, variable)| (name, variable.as_detached_tensor())))
    }

    /// As [`Recorder::checkpoint`], of any tensors with names: weights that are in no `VarMap`, or more than the weights.
    ///
    /// # Errors
    /// As [`Recorder::checkpoint`]; also for types that candle cannot save, and names that occur twice.
    pub fn checkpoint_tensors(
        &mut self,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<(), RecordError> {
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        if state.has_gone_on() {
            return Ok(());
        }
        state.check_health()?;
        let (step, epoch) = (state.step, state.epoch);
        let failed = |cause: LogError| RecordError::Checkpoint { step, cause: Arc::new(cause) };
        let path = checkpoint_path(&state.dir, step);
        let tensors = host_tensors(tensors).map_err(|error| failed(io_error("write", &path)(error)))?;
        let (bytes, checksum) = save_tensors(&state.dir, &path, &tensors).map_err(failed)?;
        // NaN: a resumed recorder does not know the step before; the rows of the steps do.
        let learning_rate = state.learning_rate.map_or(f32::NAN, |rate| rate as f32);
        let row = CheckpointRow { step, epoch, learning_rate, bytes, checksum };
        // Before the rows of the step that it follows nothing may be sent.
        let (wait, hurried) = state.queue().map(|queue| (queue.wait(), queue.hurried))?;
        let sent = match state.send_unsent_step(!hurried) {
            Ok(Sent::Yes) => state.queue()?.send_unless_hurried(Message::Checkpoint(row), 0),
            Ok(Sent::Dropped) => Err(RecordError::Timeout(wait)),
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if state.goes_on_after(&error) => Ok(()),
            other => other,
        }
    }
}

/// The tensors by name, in main memory, each of a type that candle can save.
fn host_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> io::Result<HashMap<String, Tensor>> {
    let mut by_name = HashMap::new();
    for (name, tensor) in tensors {
        // candle panics on these, which no recorder may do to a training.
        if matches!(tensor.dtype(), DType::F6E2M3 | DType::F6E3M2 | DType::F4 | DType::F8E8M0) {
            return Err(io::Error::other(format!(
                "`{name}` is of type {:?}, which candle cannot save",
                tensor.dtype()
            )));
        }
        let tensor = tensor.detach().to_device(&Device::Cpu).map_err(io::Error::other)?;
        if let Some(name) = by_name.insert(name.clone(), tensor).map(|_| name) {
            return Err(io::Error::other(format!("two tensors are called `{name}`")));
        }
    }
    Ok(by_name)
}

/// Writes the file and gives it its name; returns its length and checksum.
fn save_tensors(run: &Path, path: &Path, tensors: &HashMap<String, Tensor>) -> Result<(u64, u32), LogError> {
    let (Some(folder), temporary) = (path.parent(), path.with_extension("safetensors.new")) else {
        return Err(io_error("write", path)(io::Error::other("it has no folder")));
    };
    make_folder(folder).map_err(io_error("create the folder", folder))?;
    let write = || -> io::Result<(u64, u32)> {
        // The header names each tensor with its type, shape and place; 256 bytes and its name are more than it takes.
        let own = |(name, tensor): (&String, &Tensor)| {
            (tensor.elem_count() * tensor.dtype().size_in_bytes() + 2 * name.len() + 256) as u64
        };
        check_size_limit(tensors.iter().map(own).sum())?;
        candle_core::safetensors::save(tensors, &temporary).map_err(io::Error::other)?;
        // candle makes the file for its owner alone; it is to be as readable as the run is.
        std::fs::set_permissions(&temporary, std::fs::metadata(run.join(MANIFEST_FILE))?.permissions())?;
        let file = File::open(&temporary)?;
        let length_and_sum = checksum(&file)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_folder(path)?;
        Ok(length_and_sum)
    };
    write().map_err(|error| {
        // What is left of it would only take room on a disk that may be full.
        let _ = std::fs::remove_file(&temporary);
        io_error("write the checkpoint", path)(error)
    })
}

fn checksum(mut file: &File) -> io::Result<(u64, u32)> {
    let (mut bytes, mut hasher) = (0u64, crc32fast::Hasher::new());
    let mut chunk = vec![0u8; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((bytes, hasher.finalize())),
            Ok(n) => {
                hasher.update(&chunk[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
