//! A recorder's state on the training's side, and how it hands over passes.

use super::cards::CardBook;
use super::config::{OnFailure, OnNonFinite, Sketching};
use super::copies::DeviceRing;
use super::error::RecordError;
use super::guard::{Found, GuardEvent, TrainingGuard};
use super::head::Head;
use super::layer_rates::{own_decays, rate_factors};
use super::message::{Batch, Gap, Message, PassKind, Replayed, StepEnd, StepRow};
use super::metric::MetricState;
use super::moments::Moments;
use super::own_losses::OwnLosses;
use super::queue::{Queue, Sent};
use super::reach::Reach;
use super::reproduction::{RecordedLosses, Reproduction};
use super::shared::Shared;
use super::statistics::FrozenStatistics;
use super::watch::{Seen, Watch};
use crate::step::StepInfo;
use crate::taps::{LazyFold, Registered, SharedFold, Taps};
use candle_core::Var;
use gradlog_format::log::Manifest;
use gradlog_format::sketch::Form;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes that a message counts for besides its batch.
const MESSAGE_BYTES: usize = 256;

/// Steps that were never taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Abandoned {
    pub steps: u64,
    pub visits: u64,
}

/// The state of an enabled recorder.
pub(super) struct State {
    pub dir: PathBuf,
    pub taps: Taps,
    pub layers: Arc<Vec<Registered>>,
    pub forms: Vec<Option<Form>>,
    pub variables: Vec<(usize, Var, Arc<LazyFold>)>,
    /// The layers' projections.
    pub folds: Vec<Arc<LazyFold>>,
    /// What the optimizer shows of Adam, after its last step.
    pub moments: Option<Moments>,
    /// In which metric norms of visits are made as well.
    pub metric: MetricState,
    /// Number of layers that the taps had when the recorder was made, frozen ones among them.
    pub registered: usize,
    /// Declared variables that no gradient has reached yet.
    pub reach: Reach,
    /// Whether an optimizer was asked for its variables.
    pub optimizer_asked: bool,
    /// Statistics of declared BatchNorm layers, which `per_example` must not change.
    pub statistics: Vec<(String, Var)>,
    /// How losses of `per_example` compare with those of their passes: of a training, and others.
    pub own_losses: [OwnLosses; 2],
    /// The declared last layer, if the declared model shows its variables.
    pub head: Option<Head>,
    /// Whether `per_example` has looked at all variables once.
    pub held_all: bool,
    pub shared_fold: Arc<SharedFold>,
    pub manifest: Manifest,
    pub queue: Option<Queue<Message>>,
    pub thread: Option<JoinHandle<()>>,
    pub shared: Arc<Shared>,
    pub on_failure: OnFailure,
    pub on_nonfinite: OnNonFinite,
    pub guard: TrainingGuard,
    pub cards: CardBook,
    /// Where gradients are sketched and losses are computed.
    pub sketching: Sketching,
    /// How numbers of passes come from a device.
    pub copies: DeviceRing,
    /// After this time cards that wait are sent, even if they are few.
    pub flush_interval: Duration,
    pub step: u64,
    pub epoch: u32,
    /// Examples of the open step so far, over all its passes.
    pub batch_size: u32,
    /// Of these, the visits that were handed over.
    pub sent_in_step: u32,
    pub gap: Option<Gap>,
    /// The end of a step whose last pass is missing, until the queue has room for it.
    pub unsent_end: Option<StepEnd>,
    pub dropped: u64,
    /// Probes and swept examples that were not handed over, although they were committed.
    pub dropped_probes: u64,
    pub abandoned: Abandoned,
    pub visits: u64,
    pub probe_sets: Vec<String>,
    /// The learning rate of this recorder's last step.
    pub learning_rate: Option<f64>,
    /// Set in a replay once weights are loaded.
    pub replayed: Option<Replayed>,
    /// In a replay, the losses that the training recorded at the step of the weights.
    pub recorded_losses: Option<RecordedLosses>,
    pub reproduction: Reproduction,
    /// Probes that were handed over.
    pub probes: u64,
    /// Swept examples that were handed over.
    pub sweeps: u64,
    /// Statistics that must not change.
    pub frozen: FrozenStatistics,
    /// Which layers no step changes.
    pub watch: Watch,
    /// What was seen of layers, until the queue has room for it.
    pub unsent_layers: Vec<Seen>,
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
            self.count_missing(kind, visits, row.as_ref());
            return if self.on_failure == OnFailure::GoOn { Ok(()) } else { Err(error) };
        }
        let losses = self.take_losses_to_compare(&batch);
        let end = row.clone().map(Box::new).map(StepEnd::Taken);
        let events = self.guard.waiting.clone();
        let message = Message::Pass { batch: Some(Box::new(batch)), end, gap: self.gap, events, bytes };
        // Probes are few and the user asked for each. A replay holds up no training. So both wait for their turn,
        // whatever the policy.
        let queue = self.queue()?;
        let wait = kind != PassKind::Training && !queue.hurried;
        let sent = match self.send_unsent_end(wait) {
            Ok(Sent::Yes) if wait => self.queue()?.send_waiting(message, bytes).map(|()| Sent::Yes),
            Ok(Sent::Yes) => self.queue()?.send(message, bytes),
            other => other,
        };
        match sent {
            Ok(Sent::Yes) => {
                self.send_old_cards();
                self.gap = None;
                self.guard.waiting.clear();
                if kind == PassKind::Training && row.is_none() {
                    self.sent_in_step = self.sent_in_step.saturating_add(visits);
                }
                if let Some((ids, losses)) = losses {
                    self.compare_losses(&ids, &losses);
                }
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

    /// Keeps an event for the log and for the caller.
    pub(super) fn keep_event(&mut self, found: Found) -> GuardEvent {
        let event = found.to_event(|number| self.layers.get(number).map(|layer| layer.name.as_str()));
        self.shared.lock_news().push(event.clone());
        self.guard.keep(found);
        event
    }

    /// Counts a pass, and the step if this is its last pass.
    pub(super) fn end_pass(&mut self, kind: PassKind, visits: u32, info: Option<StepInfo>) -> Option<StepRow> {
        if kind == PassKind::Training {
            self.batch_size = self.batch_size.saturating_add(visits);
        }
        let (step, epoch, batch_size) = (self.step, self.epoch, self.batch_size);
        let row = info.map(|info| {
            let factors = rate_factors(&self.layers, &info).unwrap_or_default();
            let decays = own_decays(&self.layers, &info);
            StepRow { step, epoch, info, factors, decays, batch_size, wall_clock_ms: now_ms() }
        });
        if let Some(row) = &row {
            self.metric.note_rates(row.info.learning_rate, &row.factors);
            self.learning_rate = Some(row.info.learning_rate);
            self.step += 1;
            self.batch_size = 0;
            self.sent_in_step = 0;
            self.guard.forget_step();
        }
        row
    }

    /// Ends the open step without an optimizer step: nobody takes it. Its visits are counted and not recorded, with
    /// `unsent` visits that were not handed over. The next step has the same number.
    pub(super) fn abandon_step(&mut self, unsent: u32) -> Result<(), RecordError> {
        let visits = u64::from(self.sent_in_step) + u64::from(unsent);
        if visits == 0 && self.batch_size == 0 {
            return Ok(());
        }
        self.abandoned.steps += 1;
        self.abandoned.visits += visits;
        self.gap_from(self.step, self.epoch).abandoned += visits;
        self.void_step()
    }

    /// Ends the open step with visits that are missing: it was taken, and nobody knows its learning rate.
    pub(super) fn lose_step(&mut self, unsent: u32) -> Result<(), RecordError> {
        let visits = u64::from(self.sent_in_step) + u64::from(unsent);
        self.dropped += visits;
        self.gap_from(self.step, self.epoch).visits += visits;
        let voided = self.void_step();
        self.step += 1;
        voided
    }

    /// Takes back what was handed over of the open step.
    fn void_step(&mut self) -> Result<(), RecordError> {
        let sent = std::mem::take(&mut self.sent_in_step);
        self.batch_size = 0;
        self.guard.forget_step();
        self.visits = self.visits.saturating_sub(u64::from(sent));
        if sent == 0 {
            // The next message takes the count along.
            return Ok(());
        }
        // While an earlier end waits, nothing is sent. So nothing of this step was, and there is no other end.
        self.unsent_end = Some(StepEnd::Void);
        if let Err(error) = self.check_health() {
            return if self.on_failure == OnFailure::GoOn { Ok(()) } else { Err(error) };
        }
        match self.send_unsent_end(false) {
            Err(error) if !self.goes_on_after(&error) => Err(error),
            _ => Ok(()),
        }
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
        let limit = queue.last_instant();
        let blocked = queue.blocked;
        let sent = queue.send_waiting(request(reply), 0);
        queue.nudge();
        let patience = limit.map_or(wait, |limit| wait.min(limit.saturating_duration_since(Instant::now())));
        let answered = sent.and_then(|()| answer.recv_timeout(patience).map_err(|_| RecordError::Timeout(wait)));
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
            layer.slot.set_metric(None);
        }
        self.queue = None;
        if let (Some(thread), true) = (self.thread.take(), done) {
            // It may be waiting to look again.
            thread.thread().unpark();
            // A panic inside was caught and is in `shared`.
            let _ = thread.join();
        }
    }
}

impl Drop for State {
    /// Abandons an open step, and asks the thread to write what it has. All waits together end after the longest wait.
    /// Errors are ignored.
    fn drop(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.limit_all_waits();
            let _ = self.abandon_step(0);
            let _ = self.send_gap();
            let _ = self.send_cards(true);
            let done = self.ask(Message::Flush).is_ok();
            self.close(done);
        }
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
