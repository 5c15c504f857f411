//! What is read of one block for a summary.

use super::ColumnGroup;
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::{AbsentNumber, RowRule, UnseenGradient, Verdict};
use crate::rows::sweep::{self, Sweeps};
use crate::{rows::column, AnalysisError, Window};
use gradlog_format::log::{BlockKind, Column, Mode};
use gradlog_format::run::{Block, CardRows, EventRecord, GapCounts};
use std::collections::BTreeSet;

/// What is read of one block.
pub(super) enum Read {
    Visits {
        examples: Vec<u64>,
        epochs: (u32, u32),
        steps: (u64, u64),
        not_finite: Vec<u64>,
        detached: u64,
    },
    Probes {
        are_curvature: bool,
        sets: Vec<u32>,
        ids: Vec<u64>,
        steps: Vec<u64>,
    },
    Steps {
        count: usize,
        learning_rates: Vec<f32>,
        rules: Vec<u8>,
        momenta: Vec<f32>,
        decays: Vec<f32>,
        wall_clock: Vec<u64>,
    },
    Set {
        number: u32,
        name: String,
    },
    Gaps {
        counts: GapCounts,
        first_step: u64,
    },
    End,
    Sweeps {
        step: u64,
        rows: u64,
        modes: BTreeSet<Option<Mode>>,
    },
    Cards {
        examples: u64,
        probes: u64,
        refused: u64,
    },
    Events(Vec<EventRecord>),
    Other,
}

/// A summary counts what is there: a run without learning rates has nothing to leave out for them.
const RULE: RowRule =
    RowRule { absent: AbsentNumber::Ignored, ..RowRule::gradients(&[Column::LearningRate], UnseenGradient::NotUsed) };

/// The steps of the visits that have a NaN or an infinity: once for each visit.
fn steps_not_finite(block: &Block) -> Result<Vec<u64>, AnalysisError> {
    let (window, sweeps) = (&Window::everything(), &Sweeps::default());
    let reader = RowReader { window, sweeps, rule: RULE, gradient: WantedGradient::None };
    let rows = reader.read(block)?;
    let wrong: Vec<usize> = rows.inside.rows().filter(|row| rows.verdict(*row) == Verdict::NotFinite).collect();
    if wrong.is_empty() {
        return Ok(Vec::new());
    }
    let steps = column::u64s(block, Column::Step)?;
    Ok(wrong.into_iter().map(|row| steps[row]).collect())
}

/// The visits in whose pass a layer got no gradient. Where no gradients were recorded at all, no layer lacks one.
fn count_detached(block: &Block) -> Result<u64, AnalysisError> {
    let mut groups = block.sizes().map(|size| ColumnGroup::from_code(size.column));
    if !groups.any(|group| matches!(group, ColumnGroup::Inputs | ColumnGroup::Deltas | ColumnGroup::Folded)) {
        return Ok(0);
    }
    let flags = column::optional(block, Column::Flags, column::u8s)?.unwrap_or_default();
    Ok(flags.iter().filter(|flags| **flags & Column::FLAG_NO_GRADIENT != 0).count() as u64)
}

/// A block and what was read of it.
pub(super) struct BlockRead {
    pub read: Read,
    pub block: Block,
}

impl BlockRead {
    pub(super) fn read(block: &Block) -> Result<Self, AnalysisError> {
        let read = match block.kind() {
            Some(BlockKind::Visits) => Read::Visits {
                examples: column::u64s(block, Column::Example)?,
                epochs: block.epochs(),
                steps: block.steps(),
                not_finite: steps_not_finite(block)?,
                detached: count_detached(block)?,
            },
            // The same probes once more.
            Some(BlockKind::Probes) if block.is_preconditioned() => Read::Other,
            Some(BlockKind::Probes) => Read::Probes {
                are_curvature: block.is_curvature(),
                sets: column::u32s(block, Column::ProbeSet)?,
                ids: column::u64s(block, Column::Example)?,
                steps: column::u64s(block, Column::Step)?,
            },
            Some(BlockKind::Steps) => Read::Steps {
                count: column::u64s(block, Column::Step)?.len(),
                learning_rates: column::optional(block, Column::LearningRate, column::f32s)?.unwrap_or_default(),
                rules: column::optional(block, Column::UpdateRule, column::u8s)?.unwrap_or_default(),
                momenta: column::optional(block, Column::Momentum, column::f32s)?.unwrap_or_default(),
                decays: column::optional(block, Column::WeightDecay, column::f32s)?.unwrap_or_default(),
                wall_clock: column::optional(block, Column::WallClock, column::u64s)?.unwrap_or_default(),
            },
            Some(BlockKind::ProbeSet) => Read::Set {
                number: column::u32s(block, Column::ProbeSet)?.first().copied().unwrap_or(0),
                name: block.probe_set()?.1,
            },
            Some(BlockKind::Gaps) => Read::Gaps { counts: GapCounts::read(block)?, first_step: block.steps().0 },
            Some(BlockKind::Cards) => {
                let CardRows { cards, refused, .. } = block.cards()?;
                let probes = cards.iter().filter(|card| card.set.is_some()).count() as u64;
                Read::Cards { examples: cards.len() as u64 - probes, probes, refused }
            }
            Some(BlockKind::Events) => Read::Events(block.events()?),
            Some(BlockKind::End) => Read::End,
            Some(BlockKind::Sweeps) => {
                Read::Sweeps { step: block.steps().0, rows: block.rows() as u64, modes: sweep::modes(block)? }
            }
            _ => Read::Other,
        };
        Ok(Self { read, block: block.clone() })
    }
}
