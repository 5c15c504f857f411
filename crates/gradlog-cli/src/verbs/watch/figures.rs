//! All numbers of a run that are watched, added up block by block.
//!
//! Memory is bounded: a curve of 128 points, 100 steps, 4,096 clocks for each worker, the means of two epochs, 64 probe
//! sets, and the examples of `examples`.

use super::curve::{Curve, Recent, Sums};
use super::examples::{Examples, Seen, EXAMPLES_MAX};
use super::pace::Pace;
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, EventRecord, GapCounts, ReadError};
use std::collections::{BTreeMap, VecDeque};

/// Probe sets whose numbers are kept; further ones are counted.
const SETS_MAX: usize = 64;

/// Events of a guard that are kept: the last ones.
const EVENTS_KEPT: usize = 3;

/// The last probes of a set.
#[derive(Debug, Clone)]
pub(super) struct Probes {
    pub name: String,
    /// The step before which they were taken, and how many there are.
    pub step: Option<u64>,
    pub count: u64,
    pub sums: Sums,
}

/// What is known of a run so far.
#[derive(Debug)]
pub(super) struct Figures {
    pub visits: u64,
    /// Bytes of all blocks.
    pub bytes: u64,
    pub gaps: GapCounts,
    /// The last step with a row of its own, or with visits.
    pub last_step: Option<u64>,
    /// The epoch of the last visit that was read.
    pub epoch: Option<u32>,
    /// Visits with a NaN or an infinity, and the first step with one.
    pub not_finite: Option<(u64, u64)>,
    pub curve: Curve,
    pub recent: Recent,
    /// The last two epochs with visits.
    pub epochs: BTreeMap<u32, Sums>,
    /// The clocks of the workers.
    pub paces: Vec<Pace>,
    pub examples: Examples,
    pub probes: Vec<Probes>,
    /// Probe sets beyond the limit.
    pub more_sets: u64,
    /// Whether an example has several predictions, for which forgetting is not defined.
    pub has_several_predictions: bool,
    /// The last events that a guard told of.
    pub events: VecDeque<EventRecord>,
    /// Rows of all its events.
    pub event_rows: u64,
}

impl Figures {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            visits: 0,
            bytes: 0,
            gaps: GapCounts::default(),
            last_step: None,
            epoch: None,
            not_finite: None,
            curve: Curve::default(),
            recent: Recent::default(),
            epochs: BTreeMap::new(),
            paces: (0..workers).map(|_| Pace::default()).collect(),
            examples: Examples::new(EXAMPLES_MAX),
            probes: Vec::new(),
            more_sets: 0,
            has_several_predictions: false,
            events: VecDeque::new(),
            event_rows: 0,
        }
    }

    /// Adds a block of worker number `part`, whose probe sets have these names. Changes nothing if it fails.
    ///
    /// # Errors
    /// As [`Block::u8s`].
    pub(super) fn add(&mut self, part: usize, sets: &[String], block: &Block) -> Result<(), ReadError> {
        if block.rows() > 0 {
            match block.kind() {
                Some(BlockKind::Visits) => self.add_visits(block)?,
                Some(BlockKind::Steps) => self.add_steps(part, block)?,
                Some(BlockKind::Gaps) => self.add_gaps(block)?,
                Some(BlockKind::Probes) => self.add_probes(sets, block)?,
                Some(BlockKind::Events) => self.add_events(block)?,
                _ => {}
            }
        }
        self.bytes = self.bytes.saturating_add(block.bytes());
        Ok(())
    }

    fn add_visits(&mut self, block: &Block) -> Result<(), ReadError> {
        let rows = Rows::read(block)?;
        let (ids, steps, epochs) =
            (block.u64s(Column::Example)?, block.u64s(Column::Step)?, block.u32s(Column::Epoch)?);
        let mut at = 0;
        while at < steps.len() {
            // The rows of a step lie together.
            let (step, epoch) = (steps[at], epochs[at]);
            let end = at + (steps[at..].iter().zip(&epochs[at..])).take_while(|row| row == &(&step, &epoch)).count();
            let mut sums = Sums::default();
            for (row, id) in ids.iter().enumerate().take(end).skip(at) {
                self.add_visit(*id, step, row, &rows, &mut sums);
            }
            self.curve.add(step, &sums);
            self.recent.add(step, &sums);
            self.epochs.entry(epoch).or_default().merge(&sums);
            while self.epochs.len() > 2 {
                self.epochs.pop_first();
            }
            self.epoch = Some(epoch);
            self.last_step = self.last_step.max(Some(step));
            at = end;
        }
        self.visits += steps.len() as u64;
        Ok(())
    }

    fn add_visit(&mut self, id: u64, step: u64, row: usize, rows: &Rows, sums: &mut Sums) {
        let positions = rows.positions.as_ref().map_or(1, |positions| positions[row]);
        self.has_several_predictions |= positions > 1;
        let number = |column: &Option<Vec<f32>>| column.as_ref().map(|numbers| numbers[row]);
        let class = |column: &Option<Vec<u32>>| column.as_ref().map(|of| of[row]).filter(|of| *of != Column::NO_CLASS);
        let (loss, right) = (number(&rows.loss), number(&rows.correct));
        let flagged = rows.flags.as_ref().is_some_and(|flags| flags[row] & Column::FLAG_NOT_FINITE != 0);
        if flagged || positions > 0 && loss.is_some_and(|loss| !loss.is_finite()) {
            let (count, first) = self.not_finite.unwrap_or((0, step));
            self.not_finite = Some((count + 1, first.min(step)));
            return;
        }
        sums.add(loss, right);
        let right = right.filter(|right| right.is_finite()).map(|right| right >= 0.5);
        let (label, prediction, margin) = (class(&rows.label), class(&rows.prediction), number(&rows.margin));
        self.examples.add(id, &Seen { step, label, prediction, margin, right });
    }

    fn add_steps(&mut self, part: usize, block: &Block) -> Result<(), ReadError> {
        let clocks = optional(block, Column::WallClock, Block::u64s)?;
        let batches = optional(block, Column::BatchSize, Block::u32s)?;
        if let (Some(clocks), Some(pace)) = (clocks, self.paces.get_mut(part)) {
            for (row, clock) in clocks.iter().enumerate() {
                pace.add(*clock, batches.as_ref().map(|sizes| u64::from(sizes[row])));
            }
        }
        self.last_step = self.last_step.max(block.last_step()?);
        Ok(())
    }

    fn add_gaps(&mut self, block: &Block) -> Result<(), ReadError> {
        let gaps = GapCounts::read(block)?;
        self.gaps.dropped = self.gaps.dropped.saturating_add(gaps.dropped);
        self.gaps.abandoned = self.gaps.abandoned.saturating_add(gaps.abandoned);
        self.gaps.unknown_steps = self.gaps.unknown_steps.saturating_add(gaps.unknown_steps);
        Ok(())
    }

    fn add_events(&mut self, block: &Block) -> Result<(), ReadError> {
        let events = block.events()?;
        self.event_rows += events.len() as u64;
        self.events.extend(events);
        while self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
        }
        Ok(())
    }

    fn add_probes(&mut self, sets: &[String], block: &Block) -> Result<(), ReadError> {
        if block.is_replayed() || block.is_curvature() || block.is_preconditioned() {
            return Ok(());
        }
        // The loss of other scores is not a loss.
        if block.has(Column::PredictionScore) {
            return Ok(());
        }
        let rows = Rows::read(block)?;
        let (numbers, steps) = (block.u32s(Column::ProbeSet)?, block.u64s(Column::Step)?);
        for (row, step) in steps.iter().enumerate() {
            let Some(name) = sets.get(numbers[row] as usize) else { continue };
            let at = match self.probes.iter().position(|probes| probes.name == *name) {
                Some(at) => at,
                None if self.probes.len() >= SETS_MAX => {
                    self.more_sets += 1;
                    continue;
                }
                None => {
                    self.probes.push(Probes { name: name.clone(), step: None, count: 0, sums: Sums::default() });
                    self.probes.len() - 1
                }
            };
            let probes = &mut self.probes[at];
            if probes.step < Some(*step) {
                (probes.step, probes.count, probes.sums) = (Some(*step), 0, Sums::default());
            }
            if probes.step == Some(*step) {
                probes.count += 1;
                let number = |column: &Option<Vec<f32>>| column.as_ref().map(|numbers| numbers[row]);
                probes.sums.add(number(&rows.loss), number(&rows.correct));
            }
        }
        Ok(())
    }
}

/// The columns of visits and probes that are watched.
struct Rows {
    loss: Option<Vec<f32>>,
    correct: Option<Vec<f32>>,
    margin: Option<Vec<f32>>,
    label: Option<Vec<u32>>,
    prediction: Option<Vec<u32>>,
    positions: Option<Vec<u32>>,
    flags: Option<Vec<u8>>,
}

impl Rows {
    fn read(block: &Block) -> Result<Self, ReadError> {
        Ok(Self {
            loss: optional(block, Column::Loss, Block::f32s)?,
            correct: optional(block, Column::Correct, Block::f32s)?,
            margin: optional(block, Column::Margin, Block::f32s)?,
            label: optional(block, Column::Label, Block::u32s)?,
            prediction: optional(block, Column::Prediction, Block::u32s)?,
            positions: optional(block, Column::Positions, Block::u32s)?,
            flags: optional(block, Column::Flags, Block::u8s)?,
        })
    }
}

/// A column that a block may lack.
fn optional<T>(
    block: &Block,
    column: Column,
    read: impl Fn(&Block, Column) -> Result<Vec<T>, ReadError>,
) -> Result<Option<Vec<T>>, ReadError> {
    block.has(column).then(|| read(block, column)).transpose()
}
