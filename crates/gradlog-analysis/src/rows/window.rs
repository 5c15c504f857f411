//! The part of a run that a question is about.

use super::inside::Inside;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, ReadError, Run};
use std::ops::Range;

/// Which rows a window is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// The visits of the training.
    #[default]
    Visits,
    /// The examples that replays took through the model at checkpoints.
    Sweeps,
}

/// A window on a run: visits outside it do not count. The default is the whole training.
///
/// Both ranges are half open; a visit counts if it lies in each that is given. What is said of visits here holds for the rows of
/// sweeps where [`Window::source`] says so; their steps and epochs are those of their checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Epochs that count, or all.
    pub epochs: Option<Range<u32>>,
    /// Optimizer steps that count, or all.
    pub steps: Option<Range<u64>>,
    /// Whether visits count, or sweeps at checkpoints.
    pub source: Source,
}

impl Window {
    /// The whole run.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Only these epochs.
    pub fn epochs(epochs: Range<u32>) -> Self {
        Self { epochs: Some(epochs), ..Self::default() }
    }

    /// Only these optimizer steps.
    pub fn steps(steps: Range<u64>) -> Self {
        Self { steps: Some(steps), ..Self::default() }
    }

    /// The sweeps at all checkpoints.
    pub fn sweeps() -> Self {
        Self { source: Source::Sweeps, ..Self::default() }
    }

    /// The sweep at the checkpoint taken before step `step`.
    pub fn sweep_at(step: u64) -> Self {
        Self { steps: Some(step..step.saturating_add(1)), ..Self::sweeps() }
    }

    pub(crate) fn is_on_sweeps(&self) -> bool {
        self.source == Source::Sweeps
    }

    /// Refuses a window on sweeps, for what would else take visits for them.
    ///
    /// # Errors
    /// [`AnalysisError::OnlyVisits`].
    pub(crate) fn only_visits(&self, what: &'static str) -> Result<(), AnalysisError> {
        if self.is_on_sweeps() {
            return Err(AnalysisError::OnlyVisits { what });
        }
        Ok(())
    }

    /// Whether the block holds the rows that the window is on.
    pub(crate) fn is_on(&self, block: &Block) -> bool {
        let kind = match self.source {
            Source::Visits => BlockKind::Visits,
            Source::Sweeps => BlockKind::Sweeps,
        };
        block.kind() == Some(kind)
    }

    pub(crate) fn has_step(&self, step: u64) -> bool {
        self.steps.as_ref().is_none_or(|steps| steps.contains(&step))
    }

    /// Whether a row of the block can lie inside, by its header alone.
    pub(crate) fn touches(&self, block: &Block) -> bool {
        overlaps(&self.epochs, block.epochs()) && overlaps(&self.steps, block.steps())
    }

    /// Whether nothing of `run` lies inside, as far as it can be read; false if it is damaged, since something may lie behind.
    ///
    /// # Errors
    /// [`ReadError`] if the file system refuses.
    pub fn is_beside(&self, run: &Run) -> Result<bool, ReadError> {
        let mut scan = run.scan();
        for block in scan.by_ref().filter(|block| self.is_on(block) && self.touches(block)) {
            // A block that cannot be read is reported where its rows are needed.
            if self.inside(&block).map_or(true, |inside| !inside.is_empty()) {
                return Ok(false);
            }
        }
        Ok(scan.damage()?.is_none())
    }

    /// Which rows of the block lie inside. Mostly all do, which needs no reading.
    pub(crate) fn inside(&self, block: &Block) -> Result<Inside, ReadError> {
        if encloses(&self.epochs, block.epochs()) && encloses(&self.steps, block.steps()) {
            return Ok(Inside::All(block.rows()));
        }
        let mut marks = vec![true; column::u64s(block, Column::Example)?.len()];
        if let Some(epochs) = &self.epochs {
            for (mark, epoch) in marks.iter_mut().zip(column::u32s(block, Column::Epoch)?) {
                *mark &= epochs.contains(&epoch);
            }
        }
        if let Some(steps) = &self.steps {
            for (mark, step) in marks.iter_mut().zip(column::u64s(block, Column::Step)?) {
                *mark &= steps.contains(&step);
            }
        }
        Ok(Inside::Marked(marks))
    }
}

fn overlaps<T: PartialOrd>(range: &Option<Range<T>>, (first, last): (T, T)) -> bool {
    range.as_ref().is_none_or(|range| range.start < range.end && last >= range.start && first < range.end)
}

fn encloses<T: PartialOrd>(range: &Option<Range<T>>, (first, last): (T, T)) -> bool {
    range.as_ref().is_none_or(|range| first >= range.start && last < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_decide_at_the_borders() {
        let range = Some(3u32..6);
        for (header, touches, inside) in [
            ((0, 2), false, false),
            ((0, 3), true, false),
            ((3, 5), true, true),
            ((5, 6), true, false),
            ((6, 9), false, false),
            ((0, 9), true, false),
        ] {
            assert_eq!(overlaps(&range, header), touches, "{header:?}");
            assert_eq!(encloses(&range, header), inside, "{header:?}");
        }
        let empty = Some(Range { start: 4u32, end: 4 });
        assert!(!overlaps(&empty, (0, 9)));
        assert!(overlaps(&None, (7u32, 7)) && encloses(&None, (7u32, 7)));
    }
}
