//! The background thread: takes passes off the queue, makes rows of them, writes blocks. The only thread that touches files.

use super::message::{Batch, CheckpointRow, Gap, Message, PassKind, StepRow};
use super::missed::Missed;
use super::queue::{Gauge, Inbox};
use super::rows::RowMaker;
use super::{Config, OnFailure, RecordError};
use crossbeam_channel::RecvTimeoutError;
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column, LogError, LogWriter};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the two sides share besides the queue.
#[derive(Default)]
pub(super) struct Shared {
    failure: Mutex<Option<RecordError>>,
    progress: Mutex<Progress>,
}

/// What the background thread has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub visits: u64,
    pub visit_bytes: u64,
    pub bytes: u64,
    pub worked: Duration,
    /// The first step of which visits are missing because recording had failed, and how many are.
    pub unrecorded: (Option<u64>, u64),
}

impl Shared {
    /// The first failure, which stays.
    pub(super) fn failure(&self) -> Option<RecordError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there was one.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn fail(&self, error: RecordError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_unrecorded(&self, step: Option<u64>, visits: u64) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).unrecorded = (step, visits);
    }
}

impl From<LogError> for RecordError {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}

/// The thread's state.
pub(super) struct Worker {
    config: Config,
    pub(super) writer: LogWriter,
    rows: RowMaker,
    visits: BlockBuilder,
    probes: BlockBuilder,
    sweeps: BlockBuilder,
    steps: BlockBuilder,
    /// Rows of the step that is not complete, which have no learning rate yet; one builder for each set of columns. Between steps an
    /// empty one may wait here.
    open: Vec<BlockBuilder>,
    pub(super) shared: Arc<Shared>,
    pub(super) missed: Missed,
    /// Since when there are rows that are not in the log.
    waiting_since: Option<Instant>,
    synced: Instant,
}

/// Runs until it is told to finish or the recorder is gone. Whatever goes wrong is kept in `shared`, and messages are then
/// taken and let go, so that the training is never held up by a recorder that has failed.
pub(super) fn run(
    config: Config,
    writer: LogWriter,
    rows: RowMaker,
    mut inbox: Inbox<Message>,
    gauge: Arc<Gauge>,
    shared: Arc<Shared>,
) {
    let mut worker = Worker {
        config,
        writer,
        rows,
        visits: BlockBuilder::new(BlockKind::Visits),
        probes: BlockBuilder::new(BlockKind::Probes),
        sweeps: BlockBuilder::new(BlockKind::Sweeps),
        steps: BlockBuilder::new(BlockKind::Steps),
        open: Vec::new(),
        shared: shared.clone(),
        missed: Missed::default(),
        waiting_since: None,
        synced: Instant::now(),
    };
    let goes_on = worker.config.on_failure == OnFailure::GoOn;
    if goes_on {
        worker.writer.spare_room();
    }
    loop {
        let message = match inbox.next(worker.patience()) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            // Dropped without `finish`: what is here is written, best effort, and no totals, since they were not asked for.
            Err(RecvTimeoutError::Disconnected) => {
                if worker.can_write() {
                    let _ = guarded(&shared, || worker.end());
                }
                return;
            }
        };
        let start = Instant::now();
        let (bytes, last) = match &message {
            Some(Message::Pass { bytes, .. }) => (*bytes, false),
            Some(Message::Finish(_)) => (0, true),
            _ => (0, false),
        };
        let asker = match &message {
            Some(Message::Flush(reply) | Message::Finish(reply)) => Some(reply.clone()),
            _ => None,
        };
        if let Some(message) = &message {
            worker.missed.meet(message);
        }
        if !shared.has_failed() {
            let outcome = guarded(&shared, || {
                if let Some(message) = message {
                    worker.take(message)?;
                }
                worker.on_time()
            });
            if outcome.is_err() && goes_on {
                worker.say_from_where();
            }
        }
        if last && shared.has_failed() {
            // What came before a pass that could not be recorded is written all the same.
            if worker.can_write() {
                let _ = guarded(&shared, || worker.end());
            }
            if goes_on {
                worker.say_how_many();
            }
            if worker.can_write() {
                let _ = guarded(&shared, || Ok(worker.writer.finish()?));
            }
        }
        if goes_on {
            worker.tell();
        }
        gauge.release(bytes);
        {
            let mut progress = shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.bytes = worker.writer.written_bytes();
            progress.worked += start.elapsed();
        }
        // Only now: who is answered may read what was told, and end the process. He may also have stopped waiting.
        if let Some(asker) = asker {
            let _ = asker.send(());
        }
        if last {
            return;
        }
    }
}

/// Runs `f`; an error or a panic becomes the recorder's sticky failure.
fn guarded(shared: &Shared, f: impl FnOnce() -> Result<(), RecordError>) -> Result<(), ()> {
    let outcome = catch_unwind(AssertUnwindSafe(f));
    let error = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            RecordError::Stopped(format!(
                "the background thread panicked: {words}; please report this as a bug in gradlog"
            ))
        }
    };
    shared.fail(error);
    Err(())
}

impl Worker {
    /// Whether the log itself is in order, whatever else went wrong.
    pub(super) fn can_write(&self) -> bool {
        !matches!(self.shared.failure(), Some(RecordError::Log(_)))
    }

    /// How long to wait for a message before something is due.
    fn patience(&self) -> Duration {
        let due = |since: Instant, limit_ms: u64| Duration::from_millis(limit_ms).saturating_sub(since.elapsed());
        let flush = self.waiting_since.map(|since| due(since, self.config.flush_ms));
        let sync = due(self.synced, self.config.sync_ms);
        flush.unwrap_or(sync).min(sync).max(Duration::from_millis(1))
    }

    fn take(&mut self, message: Message) -> Result<(), RecordError> {
        match message {
            Message::Pass { batch, step, gap, .. } => {
                if let Some(gap) = gap {
                    self.gap(gap)?;
                }
                if let Some(batch) = batch {
                    self.batch(*batch)?;
                }
                if let Some(step) = step {
                    self.step(step)?;
                }
                if self.visits.rows() + self.probes.rows() + self.steps.rows() + self.sweeps.rows() > 0 {
                    self.waiting_since.get_or_insert_with(Instant::now);
                }
                if self.full() {
                    self.write_all()?;
                }
                Ok(())
            }
            Message::ProbeSet { number, name } => {
                let mut builder = BlockBuilder::new(BlockKind::ProbeSet);
                builder.u32s(Column::ProbeSet, [number]);
                builder.column(Column::Name, Cells::U8, name.len() as u32).extend(name.bytes());
                builder.advance(1, 0, 0);
                self.writer.append(&mut builder)?;
                Ok(())
            }
            Message::Checkpoint(row) => self.checkpoint(row),
            Message::Flush(_) => {
                self.write_all()?;
                Ok(self.writer.sync()?)
            }
            Message::Finish(_) => {
                self.end()?;
                self.writer.append_end()?;
                Ok(self.writer.finish()?)
            }
        }
    }

    fn full(&self) -> bool {
        let builders = [&self.visits, &self.probes, &self.steps, &self.sweeps];
        builders.iter().any(|builder| builder.rows() >= self.config.block_rows)
            || builders.iter().map(|builder| builder.raw_bytes()).sum::<usize>() >= self.config.block_bytes
    }

    /// Does what is due by the clock.
    fn on_time(&mut self) -> Result<(), RecordError> {
        let flush = Duration::from_millis(self.config.flush_ms);
        if self.waiting_since.is_some_and(|since| since.elapsed() >= flush) {
            self.write_all()?;
        }
        if self.synced.elapsed() >= Duration::from_millis(self.config.sync_ms) {
            self.writer.sync()?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    fn batch(&mut self, batch: Batch) -> Result<(), RecordError> {
        let keys = self.rows.keys(&batch);
        if batch.kind == PassKind::Training {
            let (rows, bytes) = self.waiting();
            if rows > 0 && bytes >= self.config.step_bytes_max {
                return Err(RecordError::Stopped(format!(
                    "{rows} visits of step {}, {bytes} bytes, wait for its learning rate, and another pass came: end each step with \
                     `commit`, or raise `step_bytes_max`",
                    batch.step
                )));
            }
            // The last builder, if its rows have the same columns; a block has one set of columns.
            if !self.open.last_mut().is_some_and(|open| open.prepare(&keys)) {
                let mut fresh = BlockBuilder::new(BlockKind::Visits);
                fresh.prepare(&keys);
                self.open.push(fresh);
            }
            if let Some(open) = self.open.last_mut() {
                self.rows.push(batch, open)?;
            }
            return Ok(());
        }
        let sweep = batch.kind == PassKind::Sweep;
        let builder = if sweep { &mut self.sweeps } else { &mut self.probes };
        // A replay goes through its checkpoints in any order, and the rows of a block are in the order of their steps.
        let elsewhere = batch.replayed.is_some() && builder.steps().is_some_and(|(_, last)| last != batch.step);
        if elsewhere || !builder.prepare(&keys) {
            self.write_all()?;
        }
        let builder = if sweep { &mut self.sweeps } else { &mut self.probes };
        builder.prepare(&keys);
        self.rows.push(batch, builder)?;
        Ok(())
    }

    /// All that came before a checkpoint is in the log before it, and on the device as its file is.
    fn checkpoint(&mut self, row: CheckpointRow) -> Result<(), RecordError> {
        self.write_all()?;
        let mut builder = BlockBuilder::new(BlockKind::Checkpoints);
        builder.u64s(Column::Step, [row.step]);
        builder.u32s(Column::Epoch, [row.epoch]);
        builder.f32s(Column::LearningRate, [row.learning_rate]);
        builder.u64s(Column::Bytes, [row.bytes]);
        builder.u32s(Column::Checksum, [row.checksum]);
        builder.advance(1, row.step, row.epoch);
        self.writer.append(&mut builder)?;
        Ok(self.writer.sync()?)
    }

    /// How many rows of the step that is not complete there are, and their bytes.
    fn waiting(&self) -> (u64, usize) {
        let counted = |(rows, bytes), open: &BlockBuilder| (rows + u64::from(open.rows()), bytes + open.raw_bytes());
        self.open.iter().fold((0, 0), counted)
    }

    /// Gives the rows of the step that is complete now their learning rate, and lets them go to the log.
    fn close_open_rows(&mut self, learning_rate: f32, clip: f32) -> Result<(), RecordError> {
        let mut closing = std::mem::take(&mut self.open);
        for open in closing.iter_mut().filter(|open| open.rows() > 0) {
            let rows = open.rows() as usize;
            open.f32s(Column::LearningRate, std::iter::repeat_n(learning_rate, rows));
            open.f32s(Column::Clip, std::iter::repeat_n(clip, rows));
            if !self.visits.absorb(open) {
                self.write_all()?;
                self.visits.absorb(open);
            }
        }
        // The next step has the columns of this one, as a rule: one builder keeps its memory for it.
        closing.truncate(1);
        self.open = closing;
        Ok(())
    }

    /// Writes all there is before the run ends. Rows whose step never came were part of no step: their learning rate is 0.
    fn end(&mut self) -> Result<(), RecordError> {
        self.close_open_rows(0.0, 1.0)?;
        self.write_all()
    }

    fn step(&mut self, row: StepRow) -> Result<(), RecordError> {
        self.close_open_rows(row.info.learning_rate as f32, row.info.clip)?;
        let steps = &mut self.steps;
        steps.u64s(Column::Step, [row.step]);
        steps.u32s(Column::Epoch, [row.epoch]);
        steps.f32s(Column::LearningRate, [row.info.learning_rate as f32]);
        steps.f32s(Column::Clip, [row.info.clip]);
        steps.f32s(Column::Momentum, [row.info.momentum]);
        steps.f32s(Column::WeightDecay, [row.info.weight_decay]);
        steps.u32s(Column::BatchSize, [row.batch_size]);
        steps.u64s(Column::WallClock, [row.wall_clock_ms]);
        steps.advance(1, row.step, row.epoch);
        Ok(())
    }

    fn gap(&mut self, gap: Gap) -> Result<(), RecordError> {
        Ok(self.writer.append_gap(gap.step, gap.epoch, gap.visits)?)
    }

    /// Commits all rows of complete steps, and probes. Probes go first: one at a step was taken before that step's visits.
    fn write_all(&mut self) -> Result<(), RecordError> {
        self.writer.append(&mut self.probes)?;
        self.writer.append(&mut self.sweeps)?;
        self.writer.append(&mut self.steps)?;
        let before = self.writer.written_bytes();
        let rows = u64::from(self.visits.rows());
        self.writer.append(&mut self.visits)?;
        self.waiting_since = None;
        let mut progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.visits += rows;
        progress.visit_bytes += self.writer.written_bytes() - before;
        drop(progress);
        self.missed.written(rows);
        Ok(())
    }
}
