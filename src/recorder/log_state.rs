//! The background thread's state: the writer and the rows that wait. Turns messages into blocks.

use super::cards::card_blocks;
use super::config::Config;
use super::error::{wrap_log_error, RecordError};
use super::guard::{Found, Ledger};
use super::layer_rates::{seen_rows, RatesTold};
use super::message::{Batch, CheckRow, CheckpointRow, Gap, Message, PassKind, StepEnd, StepRow};
use super::missed::Missed;
use super::rows::RowMaker;
use super::shared::Shared;
use crate::step::{StepInfo, StepRule};
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column, LogWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The state of the background thread.
pub(super) struct LogState {
    config: Config,
    pub(super) writer: LogWriter,
    rows: RowMaker,
    rates_told: RatesTold,
    visits: BlockBuilder,
    asked: AskedRows,
    steps: BlockBuilder,
    events: Ledger,
    /// Rows of the incomplete step, which have no learning rate yet. There is one builder for each set of columns.
    /// Between steps one empty builder may remain.
    open: Vec<BlockBuilder>,
    pub(super) shared: Arc<Shared>,
    pub(super) missed: Missed,
    /// Since when rows wait that are not in the log.
    waiting_since: Option<Instant>,
    synced: Instant,
}

/// Rows that wait and take part in no step.
struct AskedRows {
    probes: BlockBuilder,
    /// The same probes once more, preconditioned.
    preconditioned: BlockBuilder,
    sweeps: BlockBuilder,
}

impl AskedRows {
    fn new() -> Self {
        let [probes, preconditioned] = [BlockKind::Probes; 2].map(BlockBuilder::new);
        Self { probes, preconditioned, sweeps: BlockBuilder::new(BlockKind::Sweeps) }
    }

    fn builder_of(&mut self, batch: &Batch) -> &mut BlockBuilder {
        match batch.kind {
            PassKind::Sweep => &mut self.sweeps,
            _ if batch.is_preconditioned() => &mut self.preconditioned,
            _ => &mut self.probes,
        }
    }
}

impl LogState {
    pub(super) fn new(
        config: Config,
        writer: LogWriter,
        (rows, rates_told): (RowMaker, RatesTold),
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            config,
            writer,
            rows,
            rates_told,
            visits: BlockBuilder::new(BlockKind::Visits),
            asked: AskedRows::new(),
            steps: BlockBuilder::new(BlockKind::Steps),
            events: Ledger::new(),
            open: Vec::new(),
            shared,
            missed: Missed::default(),
            waiting_since: None,
            synced: Instant::now(),
        }
    }

    /// Whether the log can still be written, whatever else has failed.
    pub(super) fn can_write(&self) -> bool {
        !matches!(self.shared.failure(), Some(RecordError::Log(_)))
    }

    /// How long to wait for a message before other work is due.
    pub(super) fn patience(&self) -> Duration {
        let due = |since: Instant, limit: Duration| limit.saturating_sub(since.elapsed());
        let flush = self.waiting_since.map(|since| due(since, self.config.flush_interval));
        let sync = due(self.synced, self.config.sync_interval);
        flush.unwrap_or(sync).min(sync).max(Duration::from_millis(1))
    }

    pub(super) fn take_message(&mut self, message: Message) -> Result<(), RecordError> {
        match message {
            Message::Pass { batch, end, gap, events, .. } => {
                if let Some(gap) = gap {
                    self.write_gap(gap)?;
                }
                events.into_iter().try_for_each(|found| self.add_event(found))?;
                if let Some(batch) = batch {
                    self.add_batch(*batch, matches!(end, Some(StepEnd::Taken(_))))?;
                }
                match end {
                    Some(StepEnd::Taken(step)) => self.add_step(*step)?,
                    Some(StepEnd::Void) => {
                        self.rows.forget_step();
                        self.drop_open_rows();
                    }
                    None => {}
                }
                let waiting = self.asked.probes.rows() + self.asked.sweeps.rows() + self.events.rows().rows();
                if self.visits.rows() + self.steps.rows() + waiting > 0 {
                    self.waiting_since.get_or_insert_with(Instant::now);
                }
                if self.is_full() {
                    self.write_all()?;
                }
                Ok(())
            }
            Message::ProbeSet { number, name } => {
                let mut builder = BlockBuilder::new(BlockKind::ProbeSet);
                builder.u32s(Column::ProbeSet, [number]);
                builder.column(Column::Name, Cells::U8, name.len() as u32).extend(name.bytes());
                builder.advance(1, 0, 0);
                self.writer.append(&mut builder).map_err(wrap_log_error)?;
                Ok(())
            }
            Message::Cards { cards, refused, .. } => {
                let mut blocks = card_blocks(&cards, refused);
                blocks.iter_mut().try_for_each(|block| self.writer.append(block)).map_err(wrap_log_error)
            }
            Message::LayersSeen(seen) => self.writer.append(&mut seen_rows(&seen)).map_err(wrap_log_error).map(drop),
            Message::Checkpoint(row) => self.write_checkpoint(row),
            Message::Check(row) => self.write_check(row),
            Message::Flush(_) => {
                self.write_all()?;
                self.write_rest_of_events()?;
                self.writer.sync().map_err(wrap_log_error)
            }
            Message::Finish(_) => {
                self.write_rest()?;
                self.writer.append_end().map_err(wrap_log_error)?;
                self.writer.finish().map_err(wrap_log_error)
            }
        }
    }

    fn is_full(&self) -> bool {
        let builders = [&self.visits, &self.asked.probes, &self.asked.preconditioned, &self.steps, &self.asked.sweeps];
        builders.iter().any(|builder| builder.rows() >= self.config.block_rows)
            || builders.iter().map(|builder| builder.raw_bytes()).sum::<usize>() >= self.config.block_bytes
    }

    /// Does the work that the clock makes due: flush and sync.
    pub(super) fn do_due_work(&mut self) -> Result<(), RecordError> {
        if self.waiting_since.is_some_and(|since| since.elapsed() >= self.config.flush_interval) {
            self.write_all()?;
        }
        if self.synced.elapsed() >= self.config.sync_interval {
            self.writer.sync().map_err(wrap_log_error)?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    fn add_batch(&mut self, mut batch: Batch, ends_step: bool) -> Result<(), RecordError> {
        batch.fence.wait()?;
        let copied = batch.unpack()?;
        {
            let mut progress = self.shared.lock_progress();
            progress.device_bytes += copied.bytes;
            progress.copied_ahead += u64::from(copied.ahead);
        }
        if batch.read_numbers()? {
            self.rows.watch_losses(&batch, ends_step);
        }
        let again = batch.take_preconditioned()?;
        self.add_rows(batch)?;
        again.map_or(Ok(()), |again| self.add_rows(again))
    }

    fn add_rows(&mut self, batch: Batch) -> Result<(), RecordError> {
        let keys = self.rows.keys(&batch);
        if batch.kind == PassKind::Training {
            let (rows, bytes) = self.count_waiting();
            if rows > 0 && bytes >= self.config.step_bytes_max {
                return Err(RecordError::Stopped(format!(
                    "{rows} visits of step {} ({bytes} bytes) wait for its learning rate, and another pass came: end each step with \
                     `commit`, or raise `step_bytes_max`",
                    batch.step
                )));
            }
            // Uses the last builder if its rows have the same columns: a block has one set of columns.
            if !self.open.last_mut().is_some_and(|open| open.prepare(&keys)) {
                let mut fresh = BlockBuilder::new(BlockKind::Visits);
                fresh.prepare(&keys);
                self.open.push(fresh);
            }
            if let Some(open) = self.open.last_mut() {
                self.rows.push(batch, open)?;
            }
            return self.tell_events();
        }
        let builder = self.asked.builder_of(&batch);
        // A replay takes its checkpoints in any order, and the rows of a block are ordered by step.
        let is_other_step = batch.replayed.is_some() && builder.steps().is_some_and(|(_, last)| last != batch.step);
        if is_other_step || !builder.prepare(&keys) {
            self.write_all()?;
        }
        let builder = self.asked.builder_of(&batch);
        builder.prepare(&keys);
        self.rows.push(batch, builder)?;
        Ok(())
    }

    /// Tells the training of what the guard noticed in the last pass, and keeps it for the log.
    fn tell_events(&mut self) -> Result<(), RecordError> {
        for found in self.rows.take_events() {
            self.shared.lock_news().push(found.to_event(|number| self.rows.layer_name(number)));
            self.add_event(found)?;
        }
        Ok(())
    }

    fn add_event(&mut self, found: Found) -> Result<(), RecordError> {
        if self.events.is_before_waiting(&found) {
            self.write_all()?;
        }
        self.events.add(found);
        Ok(())
    }

    /// Writes how many events there were beyond the bound.
    fn write_rest_of_events(&mut self) -> Result<(), RecordError> {
        let mut rest = self.events.take_rest();
        rest.iter_mut().try_for_each(|rows| self.writer.append(rows)).map_err(wrap_log_error)
    }

    /// Writes a checkpoint's row. All earlier rows go to the log first, and the log is synced, as the checkpoint's file
    /// is.
    fn write_checkpoint(&mut self, row: CheckpointRow) -> Result<(), RecordError> {
        self.write_all()?;
        let mut builder = BlockBuilder::new(BlockKind::Checkpoints);
        builder.u64s(Column::Step, [row.step]);
        builder.u32s(Column::Epoch, [row.epoch]);
        builder.f32s(Column::LearningRate, [row.learning_rate]);
        builder.u64s(Column::Bytes, [row.bytes]);
        builder.u32s(Column::Checksum, [row.checksum]);
        builder.advance(1, row.step, row.epoch);
        self.writer.append(&mut builder).map_err(wrap_log_error)?;
        self.writer.sync().map_err(wrap_log_error)
    }

    /// Writes the verdict of a check. It stands before the rows that wait.
    fn write_check(&mut self, row: CheckRow) -> Result<(), RecordError> {
        let mut builder = BlockBuilder::new(BlockKind::Checks);
        builder.u64s(Column::Step, [row.step]);
        builder.u32s(Column::Epoch, [row.epoch]);
        builder.u32s(Column::Checked, [row.examples]);
        builder.u32s(Column::Findings, [row.findings]);
        builder.column(Column::Text, Cells::U8, row.text.len() as u32).extend(row.text.bytes());
        builder.advance(1, row.step, row.epoch);
        self.writer.append(&mut builder).map_err(wrap_log_error)
    }

    /// Number of rows of the incomplete step, and their bytes.
    fn count_waiting(&self) -> (u64, usize) {
        let counted = |(rows, bytes), open: &BlockBuilder| (rows + u64::from(open.rows()), bytes + open.raw_bytes());
        self.open.iter().fold((0, 0), counted)
    }

    /// Gives the rows of the completed step their learning rate, and lets them go to the log.
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
        // The next step usually has the same columns: one builder keeps its memory for it.
        closing.truncate(1);
        self.open = closing;
        Ok(())
    }

    /// Drops the rows of a step that was not taken. The training's side has counted them.
    fn drop_open_rows(&mut self) {
        let (rows, _) = self.count_waiting();
        self.open.clear();
        self.missed.count_void(rows, self.visits.rows() > 0);
    }

    /// Writes all rows before the run ends. Rows of a step that was never completed get the learning rate 0.
    pub(super) fn write_rest(&mut self) -> Result<(), RecordError> {
        self.close_open_rows(0.0, 1.0)?;
        self.write_all()?;
        self.write_rest_of_events()
    }

    fn add_step(&mut self, row: StepRow) -> Result<(), RecordError> {
        let StepInfo { learning_rate, clip, momentum, weight_decay, steps_taken, rule, .. } = row.info;
        // A step at the rate 0 moves nothing, so the layers keep the factors that they had.
        let changes = (learning_rate != 0.0).then(|| self.rates_told.take_changes(row.step, &row.factors)).flatten();
        if let Some(mut rates) = changes {
            self.writer.append(&mut rates).map_err(wrap_log_error)?;
        }
        if let Some(mut decays) = self.rates_told.take_decays(row.step, &row.decays) {
            self.writer.append(&mut decays).map_err(wrap_log_error)?;
        }
        self.close_open_rows(learning_rate as f32, clip as f32)?;
        let steps = &mut self.steps;
        steps.u64s(Column::Step, [row.step]);
        steps.u32s(Column::Epoch, [row.epoch]);
        steps.f32s(Column::LearningRate, [learning_rate as f32]);
        steps.f32s(Column::Clip, [clip as f32]);
        steps.optional_f32(Column::Momentum, momentum.map(|momentum| momentum as f32));
        steps.optional_f32(Column::WeightDecay, weight_decay.map(|decay| decay as f32));
        steps.told_u8(Column::UpdateRule, rule.map(|rule| rule.in_log().code()));
        let adam = rule.and_then(StepRule::adam);
        steps.optional_f32(Column::Beta1, adam.map(|adam| adam.beta1 as f32));
        steps.optional_f32(Column::Beta2, adam.map(|adam| adam.beta2 as f32));
        steps.optional_f32(Column::Epsilon, adam.map(|adam| adam.epsilon as f32));
        steps.told_u64(Column::StepsTaken, adam.map(|adam| adam.steps_taken).or(steps_taken));
        steps.u32s(Column::BatchSize, [row.batch_size]);
        steps.u64s(Column::WallClock, [row.wall_clock_ms]);
        steps.advance(1, row.step, row.epoch);
        Ok(())
    }

    fn write_gap(&mut self, gap: Gap) -> Result<(), RecordError> {
        let Gap { step, epoch, visits, abandoned } = gap;
        if visits > 0 {
            self.writer.append_gap(step, epoch, visits).map_err(wrap_log_error)?;
        }
        if abandoned > 0 {
            self.writer.append_abandoned(step, epoch, abandoned).map_err(wrap_log_error)?;
        }
        Ok(())
    }

    /// Appends all rows of complete steps, probes, and events. Probes go first: a probe at a step was taken before the
    /// step's visits.
    fn write_all(&mut self) -> Result<(), RecordError> {
        let probes = u64::from(self.asked.probes.rows());
        self.writer.append(&mut self.asked.probes).map_err(wrap_log_error)?;
        self.shared.lock_progress().probes += probes;
        self.writer.append(&mut self.asked.preconditioned).map_err(wrap_log_error)?;
        self.writer.append(&mut self.asked.sweeps).map_err(wrap_log_error)?;
        self.writer.append(&mut self.steps).map_err(wrap_log_error)?;
        let before = self.writer.written_bytes();
        let rows = u64::from(self.visits.rows());
        self.writer.append(&mut self.visits).map_err(wrap_log_error)?;
        self.waiting_since = None;
        let mut progress = self.shared.lock_progress();
        progress.visits += rows;
        progress.visit_bytes += self.writer.written_bytes() - before;
        drop(progress);
        self.missed.count_written(rows);
        // Events come after the visits of earlier steps.
        self.writer.append(self.events.rows()).map_err(wrap_log_error)
    }
}
