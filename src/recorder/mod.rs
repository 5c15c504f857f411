//! The recorder: what a training loop holds.
//!
//! Owns [`Recorder`], [`Pass`] and [`Probe`], the queue and the background thread. Knows nothing of bytes on disk.
//!
//! # Threads
//! The training thread makes passes and sends them; one thread named `gradlog` sketches, compresses and writes them. Order is
//! kept. Nothing is shared but the queue and a few counters.
//!
//! # Guest manners
//! Nothing here panics in the training thread, waits longer than [`Config::wait_ms_max`] or holds more than
//! [`Config::queue_bytes_max`] of tensors. A failure of the background thread is returned by the next `commit` and by `finish`, and
//! by every one after that; or, under [`OnFailure::GoOn`], by `flush` and `finish` alone.

mod checkpoint;
mod collect;
mod config;
mod cost;
mod curvature;
mod error;
mod gaps;
mod loss;
mod message;
mod missed;
mod outputs;
mod pass;
mod past;
mod prediction;
mod queue;
mod replay;
mod rows;
mod start;
mod thread;
mod workers;

pub use config::{Config, OnFailure, Overflow, Worker};
pub use cost::{Cost, Summary};
pub use curvature::{CurvaturePass, CurvatureRows};
pub use error::RecordError;
pub use message::StepInfo;
pub use outputs::Reduction;
pub use pass::{Pass, Probe};
pub use replay::{Replay, ReplaySummary};

use crate::taps::{LazyFold, Registered, SharedFold, Taps};
use candle_core::Var;
use gradlog_format::log::Manifest;
use gradlog_format::sketch::Form;
use message::{Batch, Gap, Message, PassKind, Replayed, StepRow};
use queue::{Queue, Sent};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thread::Shared;

/// Records a training run. See the crate's documentation for the loop.
///
/// # Shutdown
/// [`Recorder::finish`] is the promise that everything committed is on disk. A recorder that is dropped writes what it has, best
/// effort, and leaves a readable run.
pub struct Recorder {
    inner: Option<Inner>,
}

struct Inner {
    dir: PathBuf,
    taps: Taps,
    layers: Arc<Vec<Registered>>,
    forms: Vec<Option<Form>>,
    variables: Vec<(usize, Var, Arc<LazyFold>)>,
    shared_fold: Arc<SharedFold>,
    manifest: Manifest,
    queue: Option<Queue<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    on_failure: OnFailure,
    step: u64,
    epoch: u32,
    /// Examples of the open step so far, over all its passes.
    batch_size: u32,
    gap: Option<Gap>,
    /// The end of a step whose last pass is missing, while it finds no room in the queue.
    unsent_step: Option<StepRow>,
    dropped: u64,
    visits: u64,
    probe_sets: Vec<String>,
    /// Of the last step of this recorder.
    learning_rate: Option<f64>,
    /// In a replay, once weights were loaded.
    replayed: Option<Replayed>,
    /// Probes and swept examples that were handed over.
    probes: u64,
    sweeps: u64,
}

/// Bytes that a message is taken to hold besides its batch.
const MESSAGE_BYTES: usize = 256;

impl Recorder {
    /// A recorder that records nothing: it makes no file and no thread, the taps stay unarmed, and nothing fails for reasons of
    /// recording. Losses are computed as ever.
    pub fn disabled() -> Self {
        Self { inner: None }
    }

    /// Whether this recorder records.
    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// Why nothing is recorded any more, if that is so; `finish` will say it too.
    pub fn failure(&self) -> Option<RecordError> {
        self.inner.as_ref().and_then(|inner| inner.healthy().err())
    }

    /// What the run will cost on disk, from its layers. See [`Cost`].
    pub fn cost(&self) -> Cost {
        self.inner
            .as_ref()
            .map(|inner| Cost::of(&inner.manifest, &inner.forms, inner.shared_fold.decided()))
            .unwrap_or_default()
    }

    /// Declares that what follows belongs to `epoch`. Without it all belongs to epoch 0.
    pub fn set_epoch(&mut self, epoch: u32) {
        if let Some(inner) = &mut self.inner {
            inner.epoch = epoch;
        }
    }

    /// Begins a training pass over the examples `ids`, in the order of the batch, and arms the taps for it. An id may occur
    /// several times; each occurrence is a visit of its own.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for a batch that is empty, and if layers were tapped after the recorder was created. A background thread
    /// that has failed is reported by `commit`, so that the training can go on without recording.
    pub fn pass(&mut self, ids: &[u64]) -> Result<Pass<'_>, RecordError> {
        self.begin(ids, PassKind::Training)
    }

    /// Begins a pass over probes, the examples that one asks questions about, in the set `set`. Sets are made when first named.
    ///
    /// # Errors
    /// As [`Recorder::pass`].
    pub fn probe(&mut self, set: &str, ids: &[u64]) -> Result<Probe<'_>, RecordError> {
        match self.probe_set(set) {
            Ok(number) => Ok(Probe::new(self.begin(ids, PassKind::Probe { set: number })?)),
            Err(error) if self.inner.as_mut().is_some_and(|inner| inner.goes_on_after(&error)) => {
                // The set has no number in the log, so its probes cannot be there either.
                Ok(Probe::new(Pass::new(self, 0, ids, PassKind::Probe { set: 0 })))
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to record curvature of some examples, at the weights of this moment, in the set `set`: the Gauss-Newton matrix of a
    /// classifier, which [`Curvature::Set`](gradlog_analysis::Curvature::Set) takes in place of the visits' own gradients. It changes
    /// nothing in the training and may be done at any step.
    ///
    /// ```ignore
    /// recorder.curvature("fisher", &ids)?.cross_entropy(|_, ids| model.forward(&images(ids)?))?;
    /// ```
    ///
    /// Its rows are no probes: a question about the probes of the set passes them over. What the matrix is the mean over is the
    /// examples of all such passes at one step, so a chosen thousand of a larger training set will do.
    ///
    /// # Errors
    /// [`RecordError::Pass`] without examples.
    pub fn curvature(&mut self, set: &str, ids: &[u64]) -> Result<CurvaturePass<'_>, RecordError> {
        if self.is_enabled() && ids.is_empty() {
            return Err(RecordError::Pass { step: self.step(), what: "curvature of no examples".into() });
        }
        Ok(CurvaturePass::new(self, set, ids))
    }

    /// Returns when everything committed so far is on the device.
    ///
    /// # Errors
    /// [`RecordError::Timeout`] after [`Config::wait_ms_max`], once for the question and once for the answer; the background thread's
    /// failure, if it has failed, under [`OnFailure::GoOn`] within [`RecordError::Unrecorded`].
    ///
    /// Passes of a step that is not complete are not written yet: they wait for its learning rate.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        match &mut self.inner {
            Some(inner) => {
                let asked = inner.send_gap().and_then(|()| inner.ask(Message::Flush));
                asked.map_err(|error| inner.told(error))
            }
            None => Ok(()),
        }
    }

    /// Ends the run. When it returns, everything committed is on disk.
    ///
    /// # Errors
    /// As [`Recorder::flush`].
    pub fn finish(mut self) -> Result<Summary, RecordError> {
        let Some(mut inner) = self.inner.take() else {
            return Ok(Summary::default());
        };
        let asked = inner.send_gap().and_then(|()| inner.ask(Message::Finish));
        let mut summary = Summary {
            visits: inner.visits,
            dropped: inner.dropped,
            blocked: inner.queue.as_ref().map_or(Duration::ZERO, |queue| queue.blocked),
            asked: inner.queue.as_ref().map_or(Duration::ZERO, |queue| queue.asked),
            ..Summary::default()
        };
        inner.close(asked.is_ok());
        let progress = inner.shared.progress();
        summary.bytes = progress.bytes;
        summary.bytes_per_visit = progress.visit_bytes as f64 / progress.visits.max(1) as f64;
        summary.background = progress.worked;
        asked.map_err(|error| inner.told(error)).map(|()| summary)
    }

    fn begin(&mut self, ids: &[u64], kind: PassKind) -> Result<Pass<'_>, RecordError> {
        let mut number = 0;
        if let Some(inner) = &mut self.inner {
            if inner.taps.registry().layers.len() != inner.layers.len() {
                let what = "layers were tapped after the recorder was created: build the whole model first";
                return Err(RecordError::Pass { step: inner.step, what: what.into() });
            }
            if inner.has_gone_on() {
                return Ok(Pass::new(self, 0, ids, kind));
            }
            if ids.is_empty() {
                return Err(RecordError::Pass { step: inner.step, what: "a pass over no examples".into() });
            }
            let visits = ids.len() + inner.batch_size as usize;
            if visits > 1 << 20 {
                let what = format!("a step over {visits} examples: at most 2^20 fit into one; `commit` ends a step");
                return Err(RecordError::Pass { step: inner.step, what });
            }
            number = inner.taps.arm_next();
        }
        Ok(Pass::new(self, number, ids, kind))
    }

    fn probe_set(&mut self, name: &str) -> Result<u32, RecordError> {
        let Some(inner) = self.inner.as_mut().filter(|inner| !inner.has_gone_on()) else {
            return Ok(0);
        };
        if let Some(number) = inner.probe_sets.iter().position(|set| set == name) {
            return Ok(number as u32);
        }
        if name.is_empty() || name.len() > 256 {
            let what = "a probe set's name has 1 to 256 bytes".into();
            return Err(RecordError::Pass { step: inner.step, what });
        }
        let number = inner.probe_sets.len() as u32;
        let message = Message::ProbeSet { number, name: name.into() };
        inner.queue()?.send_unless_hurried(message, 0)?;
        inner.probe_sets.push(name.into());
        Ok(number)
    }

    // What a pass asks of its recorder. A disabled recorder has neutral answers.

    fn step(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.step)
    }

    fn seed(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.manifest.seed)
    }

    fn epoch(&self) -> u32 {
        self.inner.as_ref().map_or(0, |inner| inner.epoch)
    }

    fn replayed(&self) -> Option<Replayed> {
        self.inner.as_ref().and_then(|inner| inner.replayed)
    }

    fn layers(&self) -> Arc<Vec<Registered>> {
        self.inner.as_ref().map(|inner| inner.layers.clone()).unwrap_or_default()
    }

    fn has_last_layer(&self) -> bool {
        let last = |layer: &Registered| layer.layer.is_none() && layer.spec.factors.is_some();
        self.inner.as_ref().is_some_and(|inner| inner.layers.iter().any(last))
    }

    fn variable_layers(&self) -> Vec<(usize, Var, Arc<LazyFold>)> {
        self.inner.as_ref().map(|inner| inner.variables.clone()).unwrap_or_default()
    }

    fn disarm(&self) {
        if let Some(inner) = &self.inner {
            inner.taps.disarm();
        }
    }

    /// The form that layer `number` is recorded in: the first pass decides, by what it saw.
    fn form(&mut self, number: usize, seen: Form) -> Form {
        match &mut self.inner {
            Some(inner) => *inner.forms[number].get_or_insert(seen),
            None => seen,
        }
    }

    fn shared_fold<R>(&self, f: impl FnOnce(&SharedFold) -> R) -> Option<R> {
        self.inner.as_ref().map(|inner| f(&inner.shared_fold))
    }

    fn known_form(&self, number: usize) -> Option<Form> {
        self.inner.as_ref().and_then(|inner| inner.forms[number])
    }

    /// A pass could not be recorded.
    fn lose(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        if let Some(inner) = &mut self.inner {
            inner.lose(kind, visits, info);
        }
    }

    /// A pass went by that was not armed, because nothing is recorded any more.
    fn skip(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) {
        if let Some(inner) = &mut self.inner {
            inner.skip(kind, visits, info);
        }
    }

    fn send(&mut self, batch: Batch, info: Option<StepInfo>) -> Result<(), RecordError> {
        match &mut self.inner {
            Some(inner) => inner.send(batch, info),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn healthy(&self) -> Result<(), RecordError> {
        self.shared.failure().map_or(Ok(()), Err)
    }

    fn queue(&mut self) -> Result<&mut Queue<Message>, RecordError> {
        self.queue.as_mut().ok_or_else(|| RecordError::Stopped("the recorder is closed".into()))
    }

    fn send(&mut self, batch: Batch, info: Option<StepInfo>) -> Result<(), RecordError> {
        let (visits, kind) = (batch.ids.len() as u32, batch.kind);
        let bytes = MESSAGE_BYTES + batch.bytes();
        let row = self.end_pass(kind, visits, info);
        if let Err(error) = self.healthy() {
            self.count_missing(kind, visits, row);
            return if self.on_failure == OnFailure::GoOn { Ok(()) } else { Err(error) };
        }
        let message = Message::Pass { batch: Some(Box::new(batch)), step: row, gap: self.gap, bytes };
        // Probes are few and each is asked for by name, and a replay holds up no training: they wait for their turn whatever the
        // policy.
        let queue = self.queue()?;
        let wait = kind != PassKind::Training && !queue.hurried;
        let sent = match self.send_unsent_step(wait) {
            Ok(Sent::Yes) if wait => self.queue()?.send_waiting(message, bytes).map(|()| Sent::Yes),
            Ok(Sent::Yes) => self.queue()?.send(message, bytes),
            other => other,
        };
        match sent {
            Ok(Sent::Yes) => {
                self.gap = None;
                *match kind {
                    PassKind::Training => &mut self.visits,
                    PassKind::Probe { .. } => &mut self.probes,
                    PassKind::Sweep => &mut self.sweeps,
                } += u64::from(visits);
                Ok(())
            }
            Ok(Sent::Dropped) => {
                self.miss(kind, visits, row);
                Ok(())
            }
            Err(error) => {
                let goes_on = self.goes_on_after(&error);
                self.miss(kind, visits, row);
                if goes_on {
                    Ok(())
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Counts a pass, and the step if it is its last.
    fn end_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) -> Option<StepRow> {
        if kind == PassKind::Training {
            self.batch_size = self.batch_size.saturating_add(visits);
        }
        let (step, epoch, batch_size) = (self.step, self.epoch, self.batch_size);
        let row = info.map(|info| StepRow { step, epoch, info, batch_size, wall_clock_ms: now_ms() });
        if let Some(info) = info {
            self.learning_rate = Some(info.learning_rate);
            self.step += 1;
            self.batch_size = 0;
        }
        row
    }

    /// Sends a question and waits for the answer.
    fn ask(&mut self, question: impl FnOnce(crossbeam_channel::Sender<()>) -> Message) -> Result<(), RecordError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let queue = self.queue()?;
        let wait = queue.wait();
        let start = std::time::Instant::now();
        let blocked = queue.blocked;
        let sent = queue.send_waiting(question(reply), 0);
        queue.nudge();
        let answered = sent.and_then(|()| answer.recv_timeout(wait).map_err(|_| RecordError::Timeout(wait)));
        // Whoever asks has chosen to wait, so that this is not counted as being held up.
        queue.blocked = blocked;
        queue.asked += start.elapsed();
        // The thread's own words say more than a time-out that they caused.
        self.healthy()?;
        answered
    }

    /// Lets the background thread end; waits for it only if it has said that it is done.
    fn close(&mut self, done: bool) {
        self.taps.release();
        for layer in self.layers.iter() {
            layer.slot.set_fold(None);
        }
        self.queue = None;
        if let (Some(thread), true) = (self.thread.take(), done) {
            // A panic inside was caught and is in `shared`.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    /// Best effort: the thread is asked to write what it has and is given the stated time, and an error goes unseen.
    fn drop(&mut self) {
        if self.queue.is_some() {
            let _ = self.send_gap();
            let done = self.ask(Message::Flush).is_ok();
            self.close(done);
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

const _: () = {
    const fn movable<T: Send>() {}
    movable::<Recorder>();
};
