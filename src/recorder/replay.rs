//! Replays: records probes and sweeps at the checkpoints, after the training.
//!
//! A replay loads the checkpoints of a run into the model, one after another, and runs examples through it: probes, or
//! a sweep over the training set. Passes, losses and the background thread are those of the recorder. Only the step is
//! that of the checkpoint. New segments take the rows; they supersede nothing.

use super::config::{Config, OnBatchNorm, OnFailure, Overflow, Worker};
use super::curvature::CurvaturePass;
use super::error::{find_no_run, RecordError};
use super::handle::Recorder;
use super::manifest::list_differences;
use super::message::{Message, PassKind, Replayed};
use super::past::{lock_end, Past};
use super::probe_pass::ProbePass;
use super::replayed_weights::{find_foreign_variables, find_unused_tensors};
use super::reproduction::{RecordedLosses, Reproduction};
use super::start::{prepare_taps, start_recorder};
use crate::ids::IntoIds;
use crate::step::StepReport;
use crate::taps::{named_variables, Taps};
use candle_core::{Device, Tensor};
use candle_nn::VarMap;
use gradlog_format::log::{LogError, LogWriter, Mode};
use gradlog_format::run::{Checkpoint, ReadError, Run};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// Runs examples through the checkpoints of a recorded run, without training.
///
/// ```no_run
/// # use candle_core::{Device, Module, Tensor};
/// # use gradlog::{Config, Replay, Tapped, Taps};
/// # fn run(
/// #     taps: Taps,
/// #     variables: candle_nn::VarMap,
/// #     model: Tapped<candle_nn::Linear>,
/// #     batches: Vec<(Vec<u64>, Tensor, Tensor)>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let mut replay = Replay::open("runs/mnist", &taps, Config::default())?;
/// for checkpoint in replay.checkpoints() {
///     replay.load(&checkpoint, &variables)?;
///     for (ids, x, y) in &batches {
///         let mut pass = replay.probe("asked later", ids)?; // or replay.sweep(ids)
///         pass.cross_entropy(&model.forward(x)?, y)?.backward()?;
///         pass.commit()?;
///     }
/// }
/// replay.finish()?;
/// # Ok(())
/// # }
/// ```
///
/// # What is recorded
/// A probe belongs to the step of its checkpoint, as if it had been taken during the training. Influence finds it
/// there. A sweep is its own kind of record: no score counts it as a visit, and the analysis reads it only if it is
/// asked for sweeps. Every row holds the [`Mode`] that the model ran in.
///
/// New probes of an existing set extend the set. Of several records of one example at one step the last one counts; the
/// same holds for sweeps. So a replay that was killed can simply be repeated.
///
/// # Proof
/// [`Replay::load`] accepts the variables of the tapped model only, all of them, and checkpoints of this run only. It
/// compares the file's checksum with the log. In training mode, on the batch of the step that follows the checkpoint, a
/// sweep must give the losses that the training recorded. [`ReplaySummary::reproduction`] says whether it did.
///
/// # Checkpoints from elsewhere
/// [`Replay::create`] starts a run without a training, for checkpoints that no recorder saved, such as PyTorch's.
///
/// # Several workers
/// One replay serves the run of several workers: it takes the checkpoints of all workers and adds to one worker's part.
/// Several processes cannot replay at once, because a run that is being written to is refused.
///
/// # Shutdown
/// When [`Replay::finish`] returns `Ok`, everything is on disk. A replay that ends earlier leaves a readable run. If
/// the run was finished, it stays finished. A replay of a run that a recorder is writing to is refused.
pub struct Replay {
    pub(super) recorder: Recorder,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) mode: Mode,
    /// Number of steps of the run. `None` for a run without a training, whose checkpoints come from elsewhere.
    pub(super) steps: Option<u64>,
    /// The run as it was when the replay began.
    pub(super) run: Run,
    /// Beginnings of names of tensors that are no weights.
    pub(super) ignored: Vec<String>,
    /// A checksum of the weights from elsewhere that were loaded at each step.
    pub(super) loaded: BTreeMap<u64, u32>,
}

/// What a replay added to its run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct ReplaySummary {
    /// Probes recorded, counted once for each checkpoint.
    pub probes: u64,
    /// Examples swept, counted once for each checkpoint.
    pub swept_examples: u64,
    /// Bytes in the new segments.
    pub bytes: u64,
    /// How many of the recorded losses the sweeps reproduced.
    pub reproduction: Reproduction,
}

impl std::fmt::Display for ReplaySummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        write!(f, "{} probes and {} swept examples in {megabytes:.1} MB", self.probes, self.swept_examples)?;
        if self.swept_examples > 0 {
            write!(f, "; {}", self.reproduction)?;
        }
        Ok(())
    }
}

/// The part that a replay of `run` adds to: one worker's part, or the run itself.
fn choose_part<'run>(run: &'run Run, config: &Config) -> Result<&'run Run, RecordError> {
    let Some(lowest) = run.parts().first() else { return Ok(run) };
    let Some(wanted) = config.worker.map(|worker| worker.rank) else { return Ok(lowest) };
    let rank = |part: &&Run| part.manifest().worker.map(|worker| worker.rank);
    run.parts().iter().find(|part| rank(part) == Some(wanted)).ok_or_else(|| {
        RecordError::Replay(format!(
            "worker {wanted} has no part in it: give a worker that has one, or none for the lowest rank"
        ))
    })
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Replay");
        out.field("recorder", &self.recorder).field("mode", &self.mode).field("steps", &self.steps);
        out.field("checkpoints", &self.checkpoints.len()).finish_non_exhaustive()
    }
}

impl Replay {
    /// Opens the run in the folder `dir` to add to it. The taps must be on a model like the recorded one.
    ///
    /// `config` sets the limits of queue and waiting, and the sizes of blocks and segments. Seed and sketches come from
    /// the run, so that new rows can be compared with the old ones. Nothing is ever dropped, and a failure is returned
    /// at once. For a run of several workers, `config.worker` selects the part to add to. Without it, the part of the
    /// lowest rank is used.
    ///
    /// # Errors
    /// [`RecordError::NoRun`] if there is no run. [`RecordError::Differs`] if the layers differ.
    /// [`RecordError::Replay`] if the run is damaged. [`RecordError::Start`] if a recorder writes to it or the folder
    /// cannot be written; otherwise as [`Recorder::create`].
    ///
    /// # Cost
    /// One read of the whole run.
    pub fn open(dir: impl AsRef<Path>, taps: &Taps, config: Config) -> Result<Self, RecordError> {
        let dir = dir.as_ref();
        let refuse = |error: ReadError| RecordError::Replay(error.to_string());
        let run = Run::open(dir).map_err(|error| find_no_run(dir, &error).unwrap_or_else(|| refuse(error)))?;
        if run.is_being_written() {
            return Err(RecordError::Start(Arc::new(LogError::Locked { path: dir.to_owned() })));
        }
        let part = choose_part(&run, &config)?;
        let manifest = part.manifest().clone();
        let (seed, sketch) = (manifest.seed, manifest.sketch.clone());
        let worker = config.worker.or(manifest.worker.map(Worker::from_record));
        let (overflow, on_failure) = (Overflow::Block, OnFailure::Stop);
        // A replay adds to a run that says how it treats BatchNorm.
        let on_batch_norm = OnBatchNorm::RecordShare;
        let config = Config { seed, sketch, overflow, on_failure, on_batch_norm, worker, ..config };
        let (wanted, held) = prepare_taps(taps, &config)?;
        let differences = list_differences(&manifest, &wanted);
        if !differences.is_empty() {
            return Err(RecordError::Differs { what: differences });
        }
        let (past, writer) = lock_end(part.dir(), None, &config, LogWriter::add_to, refuse)?;
        let checkpoints = run.checkpoints().map_err(refuse)?;
        let steps = (!past.is_without_training()).then_some(past.steps);
        // The rates of layers are those of the training.
        let past = Past { step: 0, has_layer_rates: false, ..past };
        let recorder = start_recorder(part.dir(), taps, held, config, manifest, writer, past)?;
        let (ignored, loaded) = (Vec::new(), BTreeMap::new());
        Ok(Self { recorder, checkpoints, mode: Mode::default(), steps, run, ignored, loaded })
    }

    /// The checkpoints of the run, in the order of their steps. [`Replay::load`] checks that a file is there and sound.
    /// The list is a copy, so that a loop over it can load.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.checkpoints.clone()
    }

    /// Sets the mode that the model runs in from here on. Every row holds it. Default [`Mode::Evaluation`].
    ///
    /// The caller must run the model that way, for example by `forward_t(x, false)` with dropout off.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        if let Some(state) = &mut self.recorder.state {
            state.replayed = state.replayed.map(|replayed| Replayed { mode, ..replayed });
        }
    }

    /// Declares tensors of checkpoints that are no weights, by the beginning of their names. An example is the state of
    /// an optimizer that was saved by [`Recorder::checkpoint_tensors`] under `optimizer.`.
    pub fn ignore_tensors(&mut self, prefix: impl Into<String>) -> &mut Self {
        self.ignored.push(prefix.into());
        self
    }

    /// Sets the variables to the weights of a checkpoint. Everything replayed from here on belongs to its step.
    ///
    /// `variables` holds the variables of the tapped model, all of them. The file is compared with the checksum in the
    /// log before a variable changes.
    ///
    /// # Errors
    /// [`RecordError::Replay`] in these cases. The text gives names, and no variable has changed.
    ///
    /// - The checkpoint is not one of this run.
    /// - The file is lost or damaged.
    /// - A parameter of a tapped layer, or a variable of the declared model, is not among the variables.
    /// - The file lacks a variable, or has another shape or dtype for it.
    /// - The file holds a tensor that no variable takes, unless [`Replay::ignore_tensors`] named it.
    ///
    /// [`RecordError::Candle`] if the device fails while variables are set; some may have changed then.
    ///
    /// # Cost
    /// One read of the file. It is in memory twice while the tensors are made: as bytes, and as tensors.
    pub fn load(&mut self, checkpoint: &Checkpoint, variables: &VarMap) -> Result<(), RecordError> {
        let step = checkpoint.step;
        let refuse =
            |what: String| RecordError::Replay(format!("the checkpoint of step {step} cannot be loaded: {what}"));
        let identity = |checkpoint: &Checkpoint| (checkpoint.step, checkpoint.bytes, checkpoint.checksum);
        if !self.checkpoints.iter().any(|own| identity(own) == identity(checkpoint)) {
            return Err(refuse("it is not a checkpoint of this run: take one from `Replay::checkpoints`".into()));
        }
        self.check_variables(variables, refuse)?;
        let bytes = checkpoint.read().map_err(|fault| refuse(format!("{fault} ({})", checkpoint.path.display())))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| refuse(e.to_string()))?;
        drop(bytes);
        let unused = find_unused_tensors(&tensors, &named_variables(variables), &self.ignored);
        self.set_variables(&tensors, variables, unused, refuse)?;
        self.set_place(step, checkpoint.epoch, checkpoint.learning_rate.unwrap_or(f32::NAN));
        Ok(())
    }

    /// Refuses variables that are not those of the tapped model.
    pub(super) fn check_variables(
        &self,
        variables: &VarMap,
        refuse: impl Fn(String) -> RecordError,
    ) -> Result<(), RecordError> {
        let named = named_variables(variables);
        let registry = self.recorder.state.as_ref().map(|state| state.taps.registry());
        match registry.and_then(|registry| find_foreign_variables(&registry, &named)) {
            Some(what) => Err(refuse(what)),
            None => Ok(()),
        }
    }

    /// Sets the variables to the tensors of their names. Changes none if one does not fit, or if `also` is wrong.
    pub(super) fn set_variables(
        &self,
        tensors: &HashMap<String, Tensor>,
        variables: &VarMap,
        also: Option<String>,
        refuse: impl Fn(String) -> RecordError,
    ) -> Result<(), RecordError> {
        let named = named_variables(variables);
        let (mut wrong, mut values) = (Vec::new(), Vec::<Tensor>::new());
        for (name, variable) in &named {
            match tensors.get(name) {
                None => wrong.push(format!("it has no `{name}`")),
                Some(value) if value.shape() != variable.shape() || value.dtype() != variable.dtype() => {
                    let (was, is) = ((value.shape(), value.dtype()), (variable.shape(), variable.dtype()));
                    wrong.push(format!("`{name}` is {:?} {:?} there and {:?} {:?} here", was.0, was.1, is.0, is.1));
                }
                Some(value) => values.push(value.clone()),
            }
        }
        wrong.extend(also);
        if !wrong.is_empty() {
            return Err(refuse(wrong.join("; ")));
        }
        for ((_, variable), value) in named.iter().zip(values) {
            variable.set(&value.to_device(variable.device())?)?;
        }
        Ok(())
    }

    /// Declares that the model holds the weights before step `step` of epoch `epoch`, which the caller has loaded.
    /// `learning_rate` is that of the step before: the `η` of this checkpoint in TracInCP. NaN if it is not known.
    ///
    /// Nothing checks the weights here. [`ReplaySummary::reproduction`] shows whether they gave the recorded losses.
    ///
    /// # Errors
    /// [`RecordError::Replay`] if the run has fewer steps, or if the learning rate is negative or infinite. A run
    /// without a training takes any step.
    pub fn set_weights_step(&mut self, step: u64, epoch: u32, learning_rate: f64) -> Result<(), RecordError> {
        if learning_rate < 0.0 || (learning_rate as f32).is_infinite() {
            let what = format!("a learning rate of {learning_rate} is not possible: give the rate of the step before");
            return Err(RecordError::Replay(what));
        }
        self.check_step(step)?;
        self.set_place(step, epoch, learning_rate as f32);
        Ok(())
    }

    pub(super) fn check_step(&self, step: u64) -> Result<(), RecordError> {
        match self.steps {
            Some(steps) if step > steps => {
                Err(RecordError::Replay(format!("step {step} is after its end: the run has {steps} steps")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set_place(&mut self, step: u64, epoch: u32, learning_rate: f32) {
        let mode = self.mode;
        if let Some(state) = &mut self.recorder.state {
            state.step = step;
            state.epoch = epoch;
            state.replayed = Some(Replayed { mode, learning_rate });
            // Those of other weights.
            state.moments = None;
            state.set_metric(None);
        }
    }

    /// Begins a pass over probes of the set `set` at the step of the checkpoint, as [`Recorder::probe`] does.
    ///
    /// # Errors
    /// [`RecordError::Replay`] if no checkpoint was loaded; otherwise as [`Recorder::probe`].
    pub fn probe(&mut self, set: &str, ids: impl IntoIds) -> Result<ProbePass<'_>, RecordError> {
        self.check_loaded()?;
        self.recorder.probe(set, ids)
    }

    /// Reads the second moments of Adam at the checkpoint: call it after [`Replay::load`], with an optimizer that took
    /// up the state that was saved beside the checkpoint ([`AdamW::load_state`](crate::optim::AdamW::load_state)).
    /// Its sweeps then also have norms in Adam's metric, and its probes a second record, as in
    /// [`Recorder::read_moments`].
    pub fn read_moments(&mut self, optimizer: &impl StepReport) {
        self.recorder.read_moments(optimizer);
        if let Some(state) = &mut self.recorder.state {
            state.set_metric(None);
        }
    }

    /// Begins a pass over training examples at the checkpoint: a part of a sweep. The ids are those of the training.
    ///
    /// # Errors
    /// As [`Replay::probe`]; also [`RecordError::Replay`] if the recorded losses of this step cannot be read.
    ///
    /// # Cost
    /// The first sweep at a step reads the visits of that step.
    pub fn sweep(&mut self, ids: impl IntoIds) -> Result<ProbePass<'_>, RecordError> {
        self.check_loaded()?;
        if let Some(state) = &mut self.recorder.state {
            let step = state.step;
            if state.recorded_losses.as_ref().is_none_or(|losses| losses.step != step) {
                let refuse = |error: ReadError| RecordError::Replay(error.to_string());
                state.recorded_losses = Some(RecordedLosses::read(&self.run, step).map_err(refuse)?);
            }
            state.prepare_metric();
        }
        let ids = self.recorder.read_ids(ids)?;
        Ok(ProbePass::new(self.recorder.begin(ids, PassKind::Sweep)?))
    }

    /// Begins to record curvature of the examples `ids` at the checkpoint, as [`Recorder::curvature`] does.
    ///
    /// # Errors
    /// [`RecordError::Replay`] if no checkpoint was loaded; otherwise as [`Recorder::curvature`].
    pub fn curvature(&mut self, set: &str, ids: impl IntoIds) -> Result<CurvaturePass<'_>, RecordError> {
        self.check_loaded()?;
        self.recorder.curvature(set, ids)
    }

    pub(super) fn check_loaded(&self) -> Result<(), RecordError> {
        match self.recorder.state.as_ref().and_then(|state| state.replayed) {
            Some(_) => Ok(()),
            None => Err(RecordError::Replay(
                "no weights were loaded: call `load`, `load_file` or `set_weights_step` first".into(),
            )),
        }
    }

    /// Ends the replay. When it returns `Ok`, everything committed is on disk.
    ///
    /// # Errors
    /// As [`Recorder::flush`].
    pub fn finish(mut self) -> Result<ReplaySummary, RecordError> {
        // A run has one end, that of its training. A replay neither writes nor removes it. A run without a training
        // ends with its replay.
        let request = if self.steps.is_some() { Message::Flush } else { Message::Finish };
        let mut summary = ReplaySummary::default();
        if let Some(mut state) = self.recorder.state.take() {
            state.send_gap().and_then(|()| state.ask(request))?;
            (summary.probes, summary.swept_examples) = (state.probes, state.sweeps);
            summary.bytes = state.shared.progress().bytes;
            summary.reproduction = state.reproduction;
            state.close(true);
        }
        Ok(summary)
    }
}
