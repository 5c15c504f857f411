//! The past of a run that is resumed: where it ends, and how it was recorded.

use super::cards::{CardKey, PastCards};
use super::config::Config;
use super::error::RecordError;
use super::message::Gap;
use gradlog_format::log::{
    BlockKind, CardKind, Column, ColumnKey, LogError, LogWriter, ResumePlace, Totals, WriterOptions,
};
use gradlog_format::run::{Block, ReadError, Run};
use gradlog_format::sketch::Form;
use std::path::Path;
use std::sync::Arc;

/// The past of a run that is resumed.
#[derive(Default)]
pub(super) struct Past {
    /// The step at which the run goes on.
    pub step: u64,
    /// The step after the last one in the log, whether or not its visits are there.
    pub steps: u64,
    /// Steps before `step` that are not in the log at all: from which step and epoch on, and how many.
    pub unknown: Option<(u64, u32, u64)>,
    /// Steps before `step` whose visits are not in the log, for example after a full disk.
    pub gap: Option<Gap>,
    pub forms: Vec<Option<Form>>,
    pub probe_sets: Vec<String>,
    pub folded_width: Option<u32>,
    /// Whether the run holds anything that only a training writes.
    pub has_training: bool,
    /// Whether the run holds rows of a replay.
    pub has_replay: bool,
    /// Examples that are described.
    pub cards: PastCards,
    /// Whether the log says of layers how they are trained.
    pub has_layer_rates: bool,
}

impl Past {
    /// Whether the run is a replay of checkpoints from elsewhere, and no training was recorded into it.
    pub(super) fn is_without_training(&self) -> bool {
        self.has_replay && !self.has_training
    }
}

/// Number of attempts to find the end of a run while others write to it.
const TRIES: usize = 3;

/// Reads a run and takes its lock, so that `open` writes after what was read. Another recorder may write in between;
/// then it reads again.
pub(super) fn lock_end(
    dir: &Path,
    step: Option<u64>,
    config: &Config,
    open: fn(&Path, ResumePlace, WriterOptions) -> Result<LogWriter, LogError>,
    refuse: fn(ReadError) -> RecordError,
) -> Result<(Past, LogWriter), RecordError> {
    for _ in 0..TRIES {
        let read = |run: Run| read_past(&run, step, config.cards.count);
        let (past, place) = Run::open_one(dir).and_then(read).map_err(refuse)?;
        let end = (place.next_segment, place.sequence);
        let writer = match open(dir, place, config.writer_options()) {
            Ok(writer) => writer,
            // Another recorder has already begun this segment.
            Err(LogError::Exists { .. }) => continue,
            Err(error) => return Err(RecordError::Start(Arc::new(error))),
        };
        let run = Run::open_one(dir).map_err(refuse)?.with_lock_held();
        let mut scan = run.part_scan();
        scan.by_ref().for_each(drop);
        if scan.place() == end && scan.damage().map_err(refuse)?.is_none() {
            return Ok((past, writer));
        }
    }
    Err(refuse(ReadError::Absent("another recorder wrote to it at the same time: try again".into())))
}

/// Reads where a run ends and how its layers were recorded.
fn read_past(run: &Run, step: Option<u64>, cards_max: usize) -> Result<(Past, ResumePlace), ReadError> {
    let mut scan = run.part_scan().with_void_blocks();
    let mut totals = Totals::default();
    let mut past = Past { forms: vec![None; run.manifest().layers.len()], ..Past::default() };
    let mut last_epoch = 0;
    // A recorder writes the rows of steps before their visits. A crash in between leaves steps without visits.
    let mut orphans = Vec::new();
    for block in scan.by_ref() {
        // No reader reads beyond damage.
        block.check().map_err(advise_recovery)?;
        let with_superseded = block.clone().with_superseded_rows();
        match with_superseded.kind() {
            Some(BlockKind::Visits) => totals.visits = totals.visits.saturating_add(with_superseded.rows() as u64),
            Some(BlockKind::Gaps) => {
                let dropped = with_superseded.u64s(Column::Dropped)?.into_iter().fold(0, u64::saturating_add);
                totals.dropped = totals.dropped.saturating_add(dropped);
            }
            _ => {}
        }
        match with_superseded.kind() {
            Some(BlockKind::Sweeps) => past.has_replay = true,
            Some(BlockKind::Probes) if with_superseded.has(Column::Mode) => past.has_replay = true,
            Some(
                BlockKind::Visits
                | BlockKind::Steps
                | BlockKind::Probes
                | BlockKind::Gaps
                | BlockKind::Checkpoints
                | BlockKind::LayerRates,
            ) => past.has_training = true,
            _ => {}
        }
        // All rows of the block are superseded.
        if block.rows() == 0 {
            continue;
        }
        match block.kind() {
            Some(BlockKind::Steps) => {
                past.steps = past.steps.max(block.last_step()?.map_or(0, |last| last.saturating_add(1)));
                last_epoch = block.epochs().1;
                orphans.extend(read_gaps(&block)?);
            }
            Some(BlockKind::End) => orphans.clear(),
            Some(BlockKind::LayerRates) => past.has_layer_rates = true,
            Some(BlockKind::Cards) => read_cards(&block, &mut past.cards, cards_max)?,
            Some(BlockKind::Visits | BlockKind::Probes | BlockKind::Sweeps) => {
                if block.kind() == Some(BlockKind::Visits) {
                    orphans.clear();
                }
                let width = block.width(Column::Folded).and_then(|width| u32::try_from(width).ok());
                past.folded_width = past.folded_width.or(width);
                for (number, form) in past.forms.iter_mut().enumerate() {
                    let factors = ColumnKey { column: Column::Input, layer: number as u16 };
                    if block.has(factors) {
                        *form = Some(Form::Factored);
                    } else if block.has(Column::Folded) {
                        // A layer that this block's passes left out has no column here. The next pass would decide its
                        // form. A layer that is factored elsewhere in the run shows there.
                        form.get_or_insert(Form::Folded);
                    }
                }
            }
            _ => {}
        }
    }
    // A lost page reads as zeros. Resuming there would hide the blocks after it.
    let damage = match scan.damage()?.cloned() {
        None => scan.blocks_behind_the_end()?,
        found => found,
    };
    if let Some(damage) = damage {
        return Err(advise_recovery(ReadError::Damaged(damage)));
    }
    let (next_segment, sequence) = scan.place();
    past.probe_sets = run.probe_sets()?;
    past.step = step.or(orphans.first().map(|gap| gap.step)).unwrap_or(past.steps);
    let unknown = past.step.saturating_sub(past.steps);
    past.unknown = (unknown > 0).then_some((past.steps, last_epoch, unknown));
    past.gap = orphans
        .into_iter()
        .filter(|gap| gap.step < past.step)
        .reduce(|all, gap| Gap { visits: all.visits.saturating_add(gap.visits), ..all })
        .filter(|all| all.visits > 0);
    let place = ResumePlace { run_id: run.manifest().run_id, next_segment, sequence, step: past.step, totals };
    Ok((past, place))
}

/// Adds to a damage what the user can do about it.
fn advise_recovery(error: ReadError) -> ReadError {
    match error {
        ReadError::Damaged(damage) => {
            ReadError::Absent(format!("{damage}; make a sound copy with `gradlog recover`, and resume that"))
        }
        other => other,
    }
}

/// Adds the keys of a block of cards, and how many bytes they take.
fn read_cards(block: &Block, past: &mut PastCards, limit: usize) -> Result<(), ReadError> {
    let (examples, kinds) = (block.u64s(Column::Example)?, block.u8s(Column::CardKind)?);
    let lengths = block.u32s(Column::CardBytes)?;
    let sets = if block.has(Column::ProbeSet) { Some(block.u32s(Column::ProbeSet)?) } else { None };
    for (row, ((example, kind), length)) in examples.into_iter().zip(kinds).zip(lengths).enumerate() {
        if kind != CardKind::Refused.code() {
            let set = sets.as_ref().and_then(|sets| sets.get(row).copied());
            past.add(CardKey { set, example }, u64::from(length), limit);
        }
    }
    Ok(())
}

/// The gaps of these steps, if none of their visits is in the log.
fn read_gaps(steps: &Block) -> Result<Vec<Gap>, ReadError> {
    let gap = |((step, epoch), visits): ((u64, u32), u32)| Gap { step, epoch, visits: u64::from(visits), abandoned: 0 };
    let (numbers, epochs) = (steps.u64s(Column::Step)?, steps.u32s(Column::Epoch)?);
    Ok(numbers.into_iter().zip(epochs).zip(steps.u32s(Column::BatchSize)?).map(gap).collect())
}

#[cfg(test)]
mod tests;
