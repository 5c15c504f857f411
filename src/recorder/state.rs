//! A recorder's state on the training's side, and how it hands over passes.

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

/// Bytes that a message counts for besides its batch.
const MESSAGE_BYTES: usize = 256;

/// The state of an enabled recorder.
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
    /// The end of a step whose last pass is missing, until the queue has room for it.
    pub unsent_step: Option<StepRow>,
    pub dropped: u64,
    pub visits: u64,
    pub probe_sets: Vec<String>,
    /// The learning rate of this recorder's last step.
    pub learning_rate: Option<f64>,
    /// Set in a replay once weights are loaded.
    pub replayed: Option<Replayed>,
    /// Probes that were handed over.
    pub probes: u64,
    /// Swept examples that were handed over.
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
        // Probes are few and the user asked for each. A replay holds up no training. So both wait for their turn,
        // whatever the policy.
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

    /// Counts a pass, and the step if this is its last pass.
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

    /// Sends a request and waits for the answer.
    pub(super) fn ask(
        &mut self,
        request: impl FnOnce(crossbeam_channel::Sender<()>) -> Message,
    ) -> Result<(), RecordError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let queue = self.queue()?;
        let wait = queue.wait_max();
        let start = Instant::now();
        let blocked = queue.blocked;
        let sent = queue.send_waiting(request(reply), 0);
        queue.nudge();
        let answered = sent.and_then(|()| answer.recv_timeout(wait).map_err(|_| RecordError::Timeout(wait)));
        // The caller chose to wait, so this time does not count as blocked.
        queue.blocked = blocked;
        queue.flush_wait += start.elapsed();
        // The thread's own failure says more than a time-out that it caused.
        self.check_health()?;
        answered
    }

    /// Lets the background thread end. Waits for it only if it has answered that it is done.
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
    /// Asks the thread to write what it has, within the longest wait. Errors are ignored.
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
