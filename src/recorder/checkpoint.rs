//! Checkpoints: saves the model's weights to files during the training (FORMAT.md, "Checkpoints").
//!
//! This runs on the training thread, which has the weights. It copies and writes one tensor at a time. The row that
//! names the file goes through the queue, like all rows.

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

/// Bytes that the checksum reads at a time.
const CHUNK_BYTES: usize = 1 << 20;

impl Recorder {
    /// Saves the model's current weights in safetensors, as the checkpoint of the next step. The file is
    /// `checkpoints/step-NNNNNNNN.safetensors` in the run's folder. Call it between the optimizer's step and the next
    /// pass, or before the first pass.
    ///
    /// The file is written under another name, synced, and renamed. So it exists either whole or not at all. The log
    /// keeps its length and checksum. A second checkpoint at the same step replaces the first.
    ///
    /// # Errors
    /// [`RecordError::Pass`] if there are no variables: an empty file would replace a good one.
    /// [`RecordError::Checkpoint`] if the file cannot be written, for example on a full disk. Recording and training
    /// can go on. Otherwise the failure of the background thread, if it has failed. Under
    /// [`OnFailure::GoOn`](crate::OnFailure::GoOn) a recorder that has failed saves no checkpoint and returns no error.
    ///
    /// # Cost
    /// The training waits while the file is written, synced and read back once. Only the disk bounds this wait, so take
    /// checkpoints at chosen steps. Memory: a copy of the largest tensor, and of every tensor outside main memory.
    pub fn checkpoint(&mut self, variables: &VarMap) -> Result<(), RecordError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let named = named_variables(variables);
        if named.is_empty() {
            let step = self.step();
            let what = "`checkpoint` was given a `VarMap` without variables: give the one that the model was made with";
            return Err(RecordError::Pass { step, what: what.into() });
        }
        self.checkpoint_tensors(named.into_iter().map(|(name, variable)| (name, variable.as_detached_tensor())))
    }

    /// As [`Recorder::checkpoint`], for any named tensors: weights outside a `VarMap`, or more than the weights.
    ///
    /// # Errors
    /// As [`Recorder::checkpoint`]; also for dtypes that candle cannot save, and for a name that occurs twice.
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
        // A resumed recorder does not know the learning rate of the last step, hence NaN. The rows of the steps have
        // it.
        let learning_rate = state.learning_rate.map_or(f32::NAN, |rate| rate as f32);
        let row = CheckpointRow { step, epoch, learning_rate, bytes, checksum };
        // The end of the step must reach the log before its checkpoint.
        let (wait, hurried) = state.queue().map(|queue| (queue.wait_max(), queue.hurried))?;
        let sent = match state.send_unsent_end(!hurried) {
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

/// The tensors by name, in main memory. Refuses dtypes that candle cannot save.
fn host_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> io::Result<HashMap<String, Tensor>> {
    let mut by_name = HashMap::new();
    for (name, tensor) in tensors {
        // candle panics on these dtypes, and a recorder must not panic in the training.
        if matches!(tensor.dtype(), DType::F6E2M3 | DType::F6E3M2 | DType::F4 | DType::F8E8M0) {
            return Err(io::Error::other(format!(
                "`{name}` is of type {:?}, which candle cannot save: convert it first",
                tensor.dtype()
            )));
        }
        let tensor = tensor.detach().to_device(&Device::Cpu).map_err(io::Error::other)?;
        if let Some(name) = by_name.insert(name.clone(), tensor).map(|_| name) {
            return Err(io::Error::other(format!("two tensors are called `{name}`: give each its own name")));
        }
    }
    Ok(by_name)
}

/// Writes the file under another name and renames it. Returns its length and checksum.
fn save_tensors(run: &Path, path: &Path, tensors: &HashMap<String, Tensor>) -> Result<(u64, u32), LogError> {
    let (Some(folder), temporary) = (path.parent(), path.with_extension("safetensors.new")) else {
        return Err(io_error("write", path)(io::Error::other("the path has no parent folder")));
    };
    make_folder(folder).map_err(io_error("create the folder", folder))?;
    let write = || -> io::Result<(u64, u32)> {
        // The header has each tensor's name, type, shape and offsets. 256 bytes and twice the name bound its size.
        let own = |(name, tensor): (&String, &Tensor)| {
            (tensor.elem_count() * tensor.dtype().size_in_bytes() + 2 * name.len() + 256) as u64
        };
        check_size_limit(tensors.iter().map(own).sum())?;
        candle_core::safetensors::save(tensors, &temporary).map_err(io::Error::other)?;
        // candle makes the file readable by its owner only. It gets the permissions of the run's manifest.
        std::fs::set_permissions(&temporary, std::fs::metadata(run.join(MANIFEST_FILE))?.permissions())?;
        let file = File::open(&temporary)?;
        let length_and_sum = checksum(&file)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        sync_folder(path)?;
        Ok(length_and_sum)
    };
    write().map_err(|error| {
        // A partial file would only take space on a disk that may be full.
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
