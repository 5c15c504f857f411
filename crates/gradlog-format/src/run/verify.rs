//! Checking every byte of a run.

use super::block::Block;
use super::cards;
use super::checkpoint::{self, CheckpointFault};
use super::checks;
use super::error::{Damage, ReadError};
use super::events;
use super::handle::Run;
use crate::log::{BlockKind, Column};
use std::collections::BTreeMap;

/// The result of [`Run::verify`]: the contents of a run, and whether all of it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Intact blocks.
    pub blocks: u64,
    /// Training visits in them.
    pub visits: u64,
    /// Probe visits in them.
    pub probes: u64,
    /// Rows of curvature in them.
    pub curvature: u64,
    /// Steps in them.
    pub steps: u64,
    /// Rows of sweeps in them: one for each example at each checkpoint.
    pub sweeps: u64,
    /// Cards in them: what examples look like.
    pub cards: u64,
    /// Cards that were refused while recording.
    pub refused_cards: u64,
    /// Visits that are there but superseded, because the training resumed at an earlier step. `visits` does not count
    /// them.
    pub superseded: u64,
    /// Visits that the recorder did not record, according to the gaps.
    pub dropped: u64,
    /// Visits of steps that were never taken: the loop abandoned them, or they were not finite.
    pub abandoned: u64,
    /// Steps of which the log knows nothing, because the training resumed behind the end of the log.
    pub unknown_steps: u64,
    /// Bytes of the intact blocks.
    pub bytes: u64,
    /// First and last step of the training visits.
    pub visit_steps: Option<(u64, u64)>,
    /// First and last epoch of the training visits.
    pub visit_epochs: Option<(u32, u32)>,
    /// Whether the recorder's `finish` returned. If not, visits after the last block may be missing.
    pub finished: bool,
    /// Checkpoints in the log that are not superseded.
    pub checkpoints: u64,
    /// Checkpoints whose file is lost or damaged, with their steps. Replays need these files; the log does not.
    pub checkpoint_faults: Vec<(u64, CheckpointFault)>,
    /// Columns of which a newer version of gradlog wrote the numbers in a way that this one does not know. Their
    /// checksums match: they are not damaged.
    pub newer_columns: u64,
    /// The damage at which reading stopped, if there is any.
    pub damage: Option<Damage>,
}

/// The counts of a Gaps block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GapCounts {
    /// Visits that were not recorded.
    pub dropped: u64,
    /// Visits of steps that were never taken.
    pub abandoned: u64,
    /// Steps of which the log knows nothing.
    pub unknown_steps: u64,
}

impl GapCounts {
    /// Sums the rows of a Gaps block.
    ///
    /// # Errors
    /// As [`Block::u64s`].
    pub fn read(block: &Block) -> Result<Self, ReadError> {
        let sum = |column: Column| -> Result<u64, ReadError> {
            Ok(block.u64s(column)?.into_iter().fold(0, u64::saturating_add))
        };
        let optional = |column: Column| if block.has(column) { sum(column) } else { Ok(0) };
        Ok(Self {
            dropped: sum(Column::Dropped)?,
            abandoned: optional(Column::Abandoned)?,
            unknown_steps: optional(Column::UnknownSteps)?,
        })
    }
}

impl Run {
    /// Reads the whole run and checks every checksum, also those of its checkpoints. Stops at the first damage of the
    /// log.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses. [`ReadError::Newer`] if only a newer version can say which rows
    /// there are.
    pub fn verify(&self) -> Result<VerifyReport, ReadError> {
        self.verify_with(|_| {})
    }

    /// As [`Run::verify`]. Calls `progress` with the bytes of each block that was checked.
    ///
    /// # Errors
    /// As [`Run::verify`].
    pub fn verify_with(&self, mut progress: impl FnMut(u64)) -> Result<VerifyReport, ReadError> {
        let mut report = VerifyReport::default();
        let mut scan = self.scan().with_void_blocks();
        let mut checkpoints = BTreeMap::new();
        let mut sets = 0u32;
        for block in scan.by_ref() {
            let rows = block.rows() as u64;
            let (mut cards, mut refused) = (0, 0);
            let counted = block.check().and_then(|()| match block.kind() {
                Some(BlockKind::Gaps) if rows > 0 => GapCounts::read(&block),
                Some(BlockKind::Checkpoints) if rows > 0 => {
                    let checkpoint = checkpoint::read(&block)?;
                    checkpoints.insert((checkpoint.step, block.worker()), checkpoint);
                    Ok(GapCounts::default())
                }
                // Of several workers, the scan has checked the numbers in each part.
                Some(BlockKind::ProbeSet) => match block.probe_set()? {
                    (number, _) if self.parts().is_empty() && number != sets => {
                        Err(block.damaged(format!("probe set {number} where {sets} belongs")))
                    }
                    _ => Ok(GapCounts::default()),
                },
                Some(BlockKind::Checks) if rows > 0 => checks::read(&block).map(|_| GapCounts::default()),
                Some(BlockKind::Cards) => {
                    let read = cards::read(&block)?;
                    read.check_sets(&block, (self.parts().is_empty()).then_some(sets))?;
                    (cards, refused) = (read.cards.len() as u64, read.refused);
                    Ok(GapCounts::default())
                }
                Some(BlockKind::Events) if rows > 0 => events::read(&block).map(|_| GapCounts::default()),
                _ => Ok(GapCounts::default()),
            });
            sets += u32::from(block.kind() == Some(BlockKind::ProbeSet));
            match counted {
                Ok(gaps) => {
                    report.cards += cards;
                    report.refused_cards = report.refused_cards.saturating_add(refused);
                    report.dropped = report.dropped.saturating_add(gaps.dropped);
                    report.abandoned = report.abandoned.saturating_add(gaps.abandoned);
                    report.unknown_steps = report.unknown_steps.saturating_add(gaps.unknown_steps);
                }
                Err(ReadError::Damaged(damage)) => {
                    report.damage = Some(damage);
                    break;
                }
                // It is intact, and counted below.
                Err(ReadError::Newer(_)) => {}
                Err(other) => return Err(other),
            }
            report.newer_columns += block.newer_columns();
            progress(block.bytes());
            // Superseded as a whole: it must be intact, but it counts for nothing.
            if rows == 0 {
                continue;
            }
            match block.kind() {
                Some(BlockKind::Visits) => {
                    report.visits += rows;
                    report.visit_steps = widen(report.visit_steps, block.steps());
                    report.visit_epochs = widen(report.visit_epochs, block.epochs());
                }
                Some(BlockKind::Probes) if block.is_curvature() => report.curvature += rows,
                // The same probes once more.
                Some(BlockKind::Probes) if block.is_preconditioned() => {}
                Some(BlockKind::Probes) => report.probes += rows,
                Some(BlockKind::Steps) => report.steps += rows,
                Some(BlockKind::Sweeps) => report.sweeps += rows,
                _ => {}
            }
            // A run that was finished and then resumed is finished again only by another end.
            match block.kind() {
                Some(BlockKind::End) => report.finished = true,
                Some(_) if block.reopens_run() => report.finished = false,
                _ => {}
            }
            report.blocks += 1;
            report.bytes += block.bytes();
        }
        report.superseded = scan.superseded_visits();
        if report.damage.is_none() {
            report.damage = scan.damage()?.cloned();
        }
        // A page that was lost reads as zeros, which a scan takes for the end. A run that is being written is not
        // asked: it may have grown since.
        if report.damage.is_none() && !self.lock_is_held()? {
            report.damage = scan.blocks_behind_the_end()?;
        }
        report.checkpoints = checkpoints.len() as u64;
        for checkpoint in checkpoints.into_values() {
            if let Err(fault) = checkpoint.check() {
                report.checkpoint_faults.push((checkpoint.step, fault));
            }
        }
        Ok(report)
    }
}

/// The range that spans both.
pub(super) fn widen<T: Ord>(range: Option<(T, T)>, (first, last): (T, T)) -> Option<(T, T)> {
    Some(match range {
        Some((a, b)) => (a.min(first), b.max(last)),
        None => (first, last),
    })
}
