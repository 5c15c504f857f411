//! Checkpoints from elsewhere: a replay that is a run of its own, without a recorded training.
//!
//! Owns where such weights come from and what the caller says of them. How they reach the variables, and everything
//! that is recorded at them, is the replay's.

use super::config::{Config, OnFailure, Overflow};
use super::error::RecordError;
use super::handle::Recorder;
use super::replay::Replay;
use crate::taps::{named_variables, Taps};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use gradlog_format::log::Mode;
use gradlog_format::run::Run;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What is known of a checkpoint that no recorder saved: its place in the training, and its learning rate.
///
/// ```
/// use gradlog::CheckpointInfo;
///
/// let last = CheckpointInfo::new(4_680).epoch(4).learning_rate(0.01);
/// assert_eq!((last.step, last.learning_rate, CheckpointInfo::new(0).learning_rate), (4_680, Some(0.01), None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// The number of optimizer steps before it. Each checkpoint of a run needs its own: results name checkpoints by
    /// their step, and two sets of weights at one step would count as one.
    pub step: u64,
    /// The epoch that it belongs to. Default 0.
    pub epoch: u32,
    /// `η` of this checkpoint in TracInCP. Default `None`: not known. Influence and self-influence then leave the
    /// checkpoint out. Other scores do not use the rate.
    pub learning_rate: Option<f64>,
}

impl CheckpointInfo {
    /// A checkpoint after `step` optimizer steps.
    #[must_use]
    pub fn new(step: u64) -> Self {
        Self { step, epoch: 0, learning_rate: None }
    }

    /// Sets the epoch.
    #[must_use]
    pub fn epoch(self, epoch: u32) -> Self {
        Self { epoch, ..self }
    }

    /// Sets the learning rate, `η` of this checkpoint in TracInCP.
    #[must_use]
    pub fn learning_rate(self, learning_rate: f64) -> Self {
        Self { learning_rate: Some(learning_rate), ..self }
    }
}

impl Replay {
    /// Starts a run in the folder `dir` for checkpoints that come from elsewhere: of PyTorch, of another program, of a
    /// training that was not recorded. The run holds no training, only sweeps, probes and curvature at checkpoints.
    ///
    /// [`Replay::load_file`] and [`Replay::load_tensors`] load the weights. Then everything is as in a replay of a
    /// recorded training. [`Replay::open`] adds to the run later.
    ///
    /// ```no_run
    /// # use candle_core::{Module, Tensor};
    /// # use gradlog::{CheckpointInfo, Config, Replay, Tapped, Taps};
    /// # fn run(
    /// #     taps: Taps,
    /// #     variables: candle_nn::VarMap,
    /// #     model: Tapped<candle_nn::Linear>,
    /// #     batches: Vec<(Vec<u64>, Tensor, Tensor)>,
    /// #     asked: (Vec<u64>, Tensor, Tensor),
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// // In PyTorch: safetensors.torch.save_file(model.state_dict(), f"epoch-{epoch}.safetensors")
    /// let mut replay = Replay::create("runs/from-pytorch", &taps, Config::default())?;
    /// for epoch in 0..5 {
    ///     let info = CheckpointInfo::new(938 * u64::from(epoch + 1)).epoch(epoch).learning_rate(0.1);
    ///     replay.load_file(format!("epoch-{epoch}.safetensors"), &variables, info)?;
    ///     for (ids, x, y) in &batches {
    ///         let mut pass = replay.sweep(ids)?;
    ///         pass.cross_entropy(&model.forward(x)?, y)?.backward()?;
    ///         pass.commit()?;
    ///     }
    ///     let (ids, x, y) = &asked;
    ///     let mut pass = replay.probe("test", ids)?;
    ///     pass.cross_entropy(&model.forward(x)?, y)?.backward()?;
    ///     pass.commit()?;
    /// }
    /// replay.finish()?; // then: gradlog influence runs/from-pytorch --probe test --id 0 --at sweep
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Recorder::create`]. [`RecordError::Config`] if `config.worker` is set: one process sweeps.
    pub fn create(dir: impl AsRef<Path>, taps: &Taps, config: Config) -> Result<Self, RecordError> {
        if config.worker.is_some() {
            let what = "`worker` is set, and a run of sweeps has one process: leave it `None`";
            return Err(RecordError::Config(what.into()));
        }
        let config = Config { overflow: Overflow::Block, on_failure: OnFailure::Stop, ..config };
        let recorder = Recorder::create(dir.as_ref(), taps, config)?;
        let run = Run::open(dir).map_err(|error| RecordError::Replay(error.to_string()))?;
        let (checkpoints, ignored, loaded) = (Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Self { recorder, checkpoints, mode: Mode::default(), steps: None, run, ignored, loaded })
    }

    /// Sets the variables to the weights in a safetensors file that no recorder saved. Everything replayed from here
    /// on belongs to `info.step`.
    ///
    /// The file needs a tensor of the same name, shape and dtype for each variable. It may hold more, such as the
    /// counters of a `BatchNorm`. Names are those of the `VarMap`, for example `fc1.weight`. PyTorch's names are the
    /// same where its modules have the names of the `VarBuilder`'s prefixes.
    ///
    /// The file has no checksum in the log. So nothing tells a wrong file with fitting shapes from the right one.
    ///
    /// # Errors
    /// [`RecordError::Replay`] if the file cannot be read or is no safetensors file, if it lacks a variable or has
    /// another shape or dtype for it, and if `info` does not fit the run or names the step of other weights that this
    /// replay has loaded. No variable has changed then.
    /// [`RecordError::Candle`] if the device fails while variables are set; some may have changed then.
    ///
    /// # Cost
    /// As [`Replay::load`], and one pass over the weights.
    pub fn load_file(
        &mut self,
        path: impl AsRef<Path>,
        variables: &VarMap,
        info: CheckpointInfo,
    ) -> Result<(), RecordError> {
        let path = path.as_ref();
        let refuse =
            |what: String| RecordError::Replay(format!("the weights in {} cannot be loaded: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| refuse(e.to_string()))?;
        drop(bytes);
        self.load_from(&tensors, variables, info, refuse)
    }

    /// As [`Replay::load_file`], from tensors by name. Use it for names or dtypes that differ, and for other file
    /// types: candle reads PyTorch's own files with `candle_core::pickle::read_all`.
    ///
    /// # Errors
    /// As [`Replay::load_file`].
    pub fn load_tensors(
        &mut self,
        tensors: &HashMap<String, Tensor>,
        variables: &VarMap,
        info: CheckpointInfo,
    ) -> Result<(), RecordError> {
        self.load_from(tensors, variables, info, |what| {
            RecordError::Replay(format!("the weights of step {} cannot be loaded: {what}", info.step))
        })
    }

    fn load_from(
        &mut self,
        tensors: &HashMap<String, Tensor>,
        variables: &VarMap,
        info: CheckpointInfo,
        refuse: impl Fn(String) -> RecordError,
    ) -> Result<(), RecordError> {
        let CheckpointInfo { step, epoch, learning_rate } = info;
        self.check_step(step)?;
        if let Some(rate) = learning_rate.filter(|rate| !rate.is_finite() || *rate < 0.0) {
            return Err(refuse(format!("its learning rate is {rate}: give a finite number of at least 0, or none")));
        }
        let sum = checksum(tensors, variables).map_err(|error| refuse(error.to_string()))?;
        if self.loaded.get(&step).is_some_and(|other| *other != sum) {
            return Err(refuse(format!(
                "this replay has loaded other weights at step {step}, and one step has one set of weights: give each \
                 checkpoint its own step"
            )));
        }
        self.check_variables(variables, &refuse)?;
        self.set_variables(tensors, variables, None, refuse)?;
        self.loaded.insert(step, sum);
        self.set_place(step, epoch, learning_rate.map_or(f32::NAN, |rate| rate as f32));
        Ok(())
    }
}

/// A checksum of the weights that the variables take from `tensors`, in f32.
fn checksum(tensors: &HashMap<String, Tensor>, variables: &VarMap) -> candle_core::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    for tensor in named_variables(variables).iter().filter_map(|(name, _)| tensors.get(name)) {
        let values: Vec<f32> = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        values.iter().for_each(|value| hasher.update(&value.to_le_bytes()));
    }
    Ok(hasher.finalize())
}
