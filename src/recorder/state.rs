//! A recorder's state on the training's side, and what it does with a pass that is ready.

use super::config::OnFailure;
use super::error::RecordError;
use super::message::{Batch, Gap, Message, PassKind, Replayed, StepRow};
use super::queue::{Queue, Sent};
use super::shared::Shared;
use crate::step::StepInfo;
use crate::taps::{LazyFold, Registered, SharedFold, Taps};
use candle_core::Var;
use gradlog_format::log::Manifest;
use gradlog_format::sketch::Form;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Bytes that a message is taken to hold besides its batch.
const MESSAGE_BYTES: usize = 256;

/// What a recorder that records holds.
pub(super) struct State {
    pub dir: PathBuf,
    pub taps: Taps,
    pub layers: Arc<Vec<Registered>>,
    pub forms: Vec<Option<Form>>,
    pub variables: Vec<(usize, Var, Arc<LazyFold>)>,
    pub shared_fold: Arc<SharedFold>,
    pub manifest: Manifest,
    pub queue: Option<Queue<Message>>,
    pub thread: Option<JoinHandle<()>>,
    pub shared: Arc<Shared>,
    pub on_failure: OnFailure,
    pub step: u64,
    pub epoch: u32,
    /// Examples of the open step so far, over all its passes.
    pub batch_size: u32,
    pub gap: Option<Gap>,
    /// The end of a step whose last pass is missing, while it finds no room in the queue.
    pub unsent_step: Option<StepRow>,
    pub dropped: u64,
    pub visits: u64,
    pub probe_sets: Vec<String>,
    /// Of the last step of this recorder.
    pub learning_rate: Option<f64>,
    /// In a replay, once weights were loaded.
    pub replayed: Option<Replayed>,
    /// Probes and swept examples that were handed over.
    pub probes: u64,
    pub sweeps: u64,
}

impl State {
    pub(super) fn check_health(&self) -> Result<(), RecordError> {
        self.shared.failure().map_or(Ok(()), Err)
    }

    pub(super) fn queue(&mut self) -> Result<&mut Queue<Message>, RecordError> {
        self.queue.as_mut().ok_or_else(|| RecordError::Stopped("the recorder is closed".into()))
    }

    pub(super) fn send(&mut self, batch: Batch, info: Option<StepInfo>) -> Result<(), RecordError> {
        let (visits, kind) = (batch.ids.len() as u32, batch.kind);
        let bytes = MESSAGE_BYTES + batch.bytes();
        let row = self.end_pass(kind, visits, info);
        if let Err(error) = self.check_health() {
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
                self.miss_pass(kind, visits, row);
                Ok(())
            }
            Err(error) => {
                let goes_on = self.goes_on_after(&error);
                self.miss_pass(kind, visits, row);
                if goes_on {
                    Ok(())
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Counts a pass, and the step if it is its last.
    pub(super) fn end_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) -> Option<StepRow> {
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
    pub(super) fn ask(
        &mut self,
        question: impl FnOnce(crossbeam_channel::Sender<()>) -> Message,
    ) -> Result<(), RecordError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let queue = self.queue()?;
        let wait = queue.wait_max();
        let start = Instant::now();
        let blocked = queue.blocked;
        let sent = queue.send_waiting(question(reply), 0);
        queue.nudge();
        let answered = sent.and_then(|()| answer.recv_timeout(wait).map_err(|_| RecordError::Timeout(wait)));
        // The caller has chosen to wait, so this does not count as being blocked.
        queue.blocked = blocked;
        queue.asked += start.elapsed();
        // The thread's own words say more than a time-out that they caused.
        self.check_health()?;
        answered
    }

    /// Lets the background thread end; waits for it only if it has said that it is done.
    pub(super) fn close(&mut self, done: bool) {
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

impl Drop for State {
    /// Best effort: the thread is asked to write what it has and is given the stated time, and an error goes unseen.
    fn drop(&mut self) {
        if self.queue.is_some() {
            let _ = self.send_gap();
            let done = self.ask(Message::Flush).is_ok();
            self.close(done);
        }
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
