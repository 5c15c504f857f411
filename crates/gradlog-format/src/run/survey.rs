//! Counts what is left of a damaged run, before the damage and behind it.

use super::block::Block;
use super::error::ReadError;
use super::handle::Run;
use super::lost::{has_steps, Lost};
use super::salvage::{Piece, Salvage};
use super::verify::widen;
use crate::log::{BlockKind, Column};

/// Counts of intact blocks and their rows, superseded rows included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Blocks.
    pub blocks: u64,
    /// Training visits.
    pub visits: u64,
    /// Probe visits and rows of curvature. A damaged block may not tell which it held.
    pub probes: u64,
    /// Steps.
    pub steps: u64,
    /// Bytes of the blocks.
    pub bytes: u64,
    /// First and last step of the training visits.
    pub visit_steps: Option<(u64, u64)>,
    /// First and last epoch of the training visits.
    pub visit_epochs: Option<(u32, u32)>,
}

impl Tally {
    fn merge(&mut self, other: Tally) {
        self.blocks += other.blocks;
        self.visits += other.visits;
        self.probes += other.probes;
        self.steps += other.steps;
        self.bytes += other.bytes;
        self.visit_steps = other.visit_steps.map_or(self.visit_steps, |steps| widen(self.visit_steps, steps));
        self.visit_epochs = other.visit_epochs.map_or(self.visit_epochs, |epochs| widen(self.visit_epochs, epochs));
    }

    pub(super) fn add(&mut self, block: &Block) {
        let rows = block.rows() as u64;
        self.blocks += 1;
        self.bytes += block.bytes();
        match block.kind() {
            Some(BlockKind::Visits) => {
                self.visits += rows;
                self.visit_steps = widen(self.visit_steps, block.steps());
                self.visit_epochs = widen(self.visit_epochs, block.epochs());
            }
            Some(BlockKind::Probes) => self.probes += rows,
            Some(BlockKind::Steps) => self.steps += rows,
            _ => {}
        }
    }
}

/// The result of [`Run::survey`]: what can still be read of a run, and what is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// What is before all damage. A scan yields this.
    pub before: Tally,
    /// What is behind the first damage. [`Run::recover`] saves this too.
    pub behind: Tally,
    /// The damaged places, in the order of the file.
    pub lost: Vec<Lost>,
    /// Lost training visits of those damaged places whose own count is not known, all together. `None` if the sum is
    /// not known either.
    pub uncounted_visits: Option<u64>,
    /// Bytes of intact blocks.
    pub bytes: u64,
}

impl Survey {
    /// How many training visits are lost, if that is known.
    pub fn lost_visits(&self) -> Option<u64> {
        let counted = self.lost.iter().filter_map(|lost| lost.visits).fold(0, u64::saturating_add);
        Some(counted.saturating_add(self.uncounted_visits?))
    }

    /// Adds the survey of another worker's part.
    pub(super) fn merge(&mut self, other: Survey) {
        self.before.merge(other.before);
        self.behind.merge(other.behind);
        self.lost.extend(other.lost);
        self.uncounted_visits =
            self.uncounted_visits.zip(other.uncounted_visits).map(|(own, more)| own.saturating_add(more));
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Whether nothing is lost. There may still be damage, for example of a segment's header.
    pub fn is_whole(&self) -> bool {
        self.lost.iter().all(Lost::is_nothing)
    }

    /// The number of the first place that does not say how many visits it held.
    pub(super) fn first_uncounted(&self) -> Option<usize> {
        self.lost.iter().position(|lost| lost.visits.is_none())
    }
}

impl Run {
    /// Reads everything that can be read of the run, also behind damage, and counts what is lost.
    ///
    /// In a run of several workers the counts are sums over the parts. Steps are counted in each part, and "before" and
    /// "behind" refer to the damage of the same part.
    ///
    /// # Errors
    /// [`ReadError::Io`] if the file system refuses. Damage and failures of the device are in the result.
    ///
    /// # Cost
    /// Reads every byte. Memory grows with the number of damaged places only.
    pub fn survey(&self) -> Result<Survey, ReadError> {
        self.survey_with(|_| {})
    }

    /// As [`Run::survey`]. Calls `progress` with the bytes of each intact block.
    ///
    /// # Errors
    /// As [`Run::survey`].
    pub fn survey_with(&self, mut progress: impl FnMut(u64)) -> Result<Survey, ReadError> {
        let mut survey = Survey::default();
        if !self.parts().is_empty() {
            survey.uncounted_visits = Some(0);
            for part in self.parts() {
                survey.merge(part.survey_with(&mut progress as &mut dyn FnMut(u64))?);
            }
            return Ok(survey);
        }
        // The total in the End block. It does not count if the run went on after it.
        let mut total = None;
        for piece in Salvage::new(self)? {
            match piece? {
                Piece::Block(block) => {
                    let tally = if survey.lost.is_empty() { &mut survey.before } else { &mut survey.behind };
                    tally.add(&block);
                    if has_steps(&block.header) && !block.is_replayed() {
                        // This is the first block with a step after these stretches.
                        for lost in survey.lost.iter_mut().rev().take_while(|lost| lost.last_step.is_none()) {
                            lost.last_step = Some(block.steps().0);
                        }
                    }
                    total = match block.kind() {
                        Some(BlockKind::End) => block.u64s(Column::Visits).ok().and_then(|t| t.first().copied()),
                        _ if block.reopens_run() => None,
                        _ => total,
                    };
                    survey.bytes += block.bytes();
                    progress(block.bytes());
                }
                Piece::Lost(lost) => survey.lost.push(lost),
                Piece::Resumed(_) => {}
            }
        }
        let known = survey.lost.iter().filter_map(|lost| lost.visits).fold(0, u64::saturating_add);
        let known = known.saturating_add(survey.before.visits).saturating_add(survey.behind.visits);
        survey.uncounted_visits = match survey.first_uncounted() {
            None => Some(0),
            Some(_) => total.and_then(|total| total.checked_sub(known)),
        };
        Ok(survey)
    }
}
