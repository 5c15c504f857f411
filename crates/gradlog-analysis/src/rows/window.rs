//! The part of a run that a question is about.

use super::inside::Inside;
use super::share::ExampleShare;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, ReadError, Run};
use std::fmt;
use std::ops::{Bound, Range, RangeBounds};

/// Which rows a window is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The visits of the training.
    #[default]
    Visits,
    /// The examples that replays took through the model at checkpoints.
    Sweeps,
}

/// A window on a run: visits outside it do not count. The default is the whole training.
///
/// Both ranges are half open; a visit counts if it lies in each that is given. What is said of visits here holds for
/// the rows of sweeps where [`Window::source`] says so; their steps and epochs are those of their checkpoints.
///
/// ```
/// use gradlog_analysis::{Source, Window};
///
/// let window = Window::epochs(1..=3).with_steps(100..);
/// assert_eq!((window.epochs, window.steps), (Some(1..4), Some(100..u64::MAX)));
/// assert_eq!(Window::sweeps().with_epochs(5..6).source, Source::Sweeps);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// Epochs that count, or all.
    pub epochs: Option<Range<u32>>,
    /// Optimizer steps that count, or all.
    pub steps: Option<Range<u64>>,
    /// Whether visits count, or sweeps at checkpoints.
    pub source: Source,
    /// The share of the examples whose rows count, or all. Questions that can be shared out set it.
    pub(crate) share: Option<ExampleShare>,
}

impl Window {
    /// The whole run.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Only these epochs.
    pub fn epochs(epochs: impl RangeBounds<u32>) -> Self {
        Self::default().with_epochs(epochs)
    }

    /// Only these optimizer steps.
    pub fn steps(steps: impl RangeBounds<u64>) -> Self {
        Self::default().with_steps(steps)
    }

    /// The same window, of these epochs only. `..` is all epochs.
    #[must_use]
    pub fn with_epochs(&self, epochs: impl RangeBounds<u32>) -> Self {
        let after = |epoch: u32| epoch.saturating_add(1);
        Self { epochs: half_open(&epochs, 0, u32::MAX, after), ..self.clone() }
    }

    /// The same window, of these optimizer steps only. `..` is all steps.
    #[must_use]
    pub fn with_steps(&self, steps: impl RangeBounds<u64>) -> Self {
        let after = |step: u64| step.saturating_add(1);
        Self { steps: half_open(&steps, 0, u64::MAX, after), ..self.clone() }
    }

    /// The sweeps at all checkpoints.
    pub fn sweeps() -> Self {
        Self { source: Source::Sweeps, ..Self::default() }
    }

    /// The sweep at the checkpoint taken before step `step`.
    pub fn sweep_at(step: u64) -> Self {
        Self { steps: Some(step..step.saturating_add(1)), ..Self::sweeps() }
    }

    /// The same window, of the examples of a share only.
    #[must_use]
    pub(crate) fn with_share(&self, share: Option<ExampleShare>) -> Self {
        Self { share, ..self.clone() }
    }

    /// Whether the rows of an example count.
    pub(crate) fn has_example(&self, example: u64) -> bool {
        self.share.is_none_or(|share| share.holds(example))
    }

    pub(crate) fn is_on_sweeps(&self) -> bool {
        self.source == Source::Sweeps
    }

    /// Refuses a window on sweeps, for what would else take visits for them.
    ///
    /// # Errors
    /// [`AnalysisError::OnlyVisits`].
    pub(crate) fn refuse_sweeps(&self, what: &'static str) -> Result<(), AnalysisError> {
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

    pub(crate) fn has_epoch(&self, epoch: u32) -> bool {
        self.epochs.as_ref().is_none_or(|epochs| epochs.contains(&epoch))
    }

    /// Whether a row of this step and epoch lies inside. [`Window::source`] does not matter.
    pub fn contains(&self, step: u64, epoch: u32) -> bool {
        self.has_step(step) && self.has_epoch(epoch)
    }

    /// Whether a row of the block can lie inside, by its header alone. [`Window::source`] does not matter.
    pub fn touches(&self, block: &Block) -> bool {
        overlaps(&self.epochs, block.epochs()) && overlaps(&self.steps, block.steps())
    }

    /// Whether all rows of the block lie inside, by its header alone: if so, its rows need not be looked at.
    /// [`Window::source`] does not matter.
    pub fn encloses(&self, block: &Block) -> bool {
        encloses(&self.epochs, block.epochs()) && encloses(&self.steps, block.steps())
    }

    /// Refuses runs without any visit, for a window on visits, and a window that lies outside of all `runs`.
    ///
    /// # Errors
    /// Those of [`refuse_no_visits`](Self::refuse_no_visits) and [`refuse_beside`](Self::refuse_beside).
    pub(crate) fn refuse_outside(&self, runs: &[&Run]) -> Result<(), AnalysisError> {
        self.refuse_no_visits(runs)?;
        self.refuse_beside(runs)
    }

    /// Refuses a window on visits that lies outside of all `runs`. A run without visits has nothing to compare with,
    /// and in one that is damaged something may lie behind the damage: neither is refused.
    ///
    /// # Errors
    /// [`AnalysisError::OutsideRun`], with the epochs and steps of which there are visits; [`AnalysisError::Read`] if
    /// the file system refuses.
    pub(crate) fn refuse_beside(&self, runs: &[&Run]) -> Result<(), AnalysisError> {
        if (self.epochs.is_none() && self.steps.is_none()) || self.is_on_sweeps() || self.may_be_empty(runs) {
            return Ok(());
        }
        for run in runs {
            if !self.is_outside(run)? {
                return Ok(());
            }
        }
        let visits = runs.iter().flat_map(|run| run.scan()).filter(|block| self.is_on(block));
        match visits.map(|block| Extent { epochs: block.epochs(), steps: block.steps() }).reduce(Extent::join) {
            Some(there) => {
                let unset = match self.epochs.is_some() && there.epochs == (0, 0) {
                    true => ". If the training had several epochs, its loop did not say so: call `recorder.set_epoch(epoch)` in it",
                    false => "",
                };
                Err(AnalysisError::OutsideRun { asked: self.to_string(), there: format!("{there}{unset}") })
            }
            None => Ok(()),
        }
    }

    /// Refuses runs none of which has a visit, if the window is on visits.
    ///
    /// # Errors
    /// [`AnalysisError::NoVisits`], inside [`AnalysisError::Cut`] if a run is damaged before its first visit;
    /// [`AnalysisError::Read`] if the file system refuses.
    pub(crate) fn refuse_no_visits(&self, runs: &[&Run]) -> Result<(), AnalysisError> {
        if self.is_on_sweeps() || self.may_be_empty(runs) {
            return Ok(());
        }
        let mut damage = None;
        for run in runs {
            let mut scan = run.scan();
            if scan.by_ref().any(|block| self.is_on(&block)) {
                return Ok(());
            }
            damage = damage.or(scan.damage()?.cloned());
        }
        Err(match damage {
            Some(damage) => AnalysisError::Cut { source: Box::new(AnalysisError::NoVisits), damage },
            None => AnalysisError::NoVisits,
        })
    }

    /// Whether the share of the examples may have no visit, though the runs have some: of a compacted run, a share
    /// reads its own buckets.
    fn may_be_empty(&self, runs: &[&Run]) -> bool {
        self.share.is_some() && runs.iter().any(|run| run.buckets().is_some())
    }

    /// Whether nothing of `run` lies inside, as far as it can be read; false if it is damaged, since something may lie
    /// behind.
    ///
    /// # Errors
    /// [`ReadError`] if the file system refuses.
    fn is_outside(&self, run: &Run) -> Result<bool, ReadError> {
        let mut scan = run.scan();
        for block in scan.by_ref().filter(|block| self.is_on(block) && self.touches(block)) {
            // A block that cannot be read is reported where its rows are needed.
            if self.all_inside(&block).map_or(true, |inside| !inside.is_empty()) {
                return Ok(false);
            }
        }
        Ok(scan.damage()?.is_none())
    }

    /// Which rows of the block lie inside and are of examples that count. Mostly all are, which needs no reading.
    pub(crate) fn rows_inside(&self, block: &Block) -> Result<Inside, ReadError> {
        let inside = self.all_inside(block)?;
        let Some(share) = self.share else { return Ok(inside) };
        let examples = column::u64s(block, Column::Example)?;
        Ok(inside.intersect(&examples.into_iter().map(|example| share.holds(example)).collect::<Vec<_>>()))
    }

    /// Which rows of the block lie inside, of all examples: for what must not depend on the share.
    pub(crate) fn all_inside(&self, block: &Block) -> Result<Inside, ReadError> {
        if self.encloses(block) {
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

/// The ranges in words, such as `epochs 1..3 and steps 10..`; all visits for an open window.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epochs = self.epochs.as_ref().map(|range| range_words("epochs", range, u32::MAX));
        let steps = self.steps.as_ref().map(|range| range_words("steps", range, u64::MAX));
        let ranges: Vec<String> = epochs.into_iter().chain(steps).collect();
        f.write_str(&if ranges.is_empty() { "the whole run".to_owned() } else { ranges.join(" and ") })
    }
}

fn range_words<T: fmt::Display + PartialEq>(name: &str, range: &Range<T>, open_end: T) -> String {
    if range.end == open_end {
        return format!("{name} {}..", range.start);
    }
    format!("{name} {}..{}", range.start, range.end)
}

/// A range with both ends, the second not included; `None` for one without any. An open end is `max`.
fn half_open<T: Copy>(range: &impl RangeBounds<T>, min: T, max: T, after: impl Fn(T) -> T) -> Option<Range<T>> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => after(*start),
        Bound::Unbounded => min,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => after(*end),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => max,
    };
    let is_open = matches!((range.start_bound(), range.end_bound()), (Bound::Unbounded, Bound::Unbounded));
    (!is_open).then_some(start..end)
}

/// First and last epoch and step of some visits.
#[derive(Debug, Clone, Copy)]
struct Extent {
    epochs: (u32, u32),
    steps: (u64, u64),
}

impl Extent {
    fn join(self, other: Self) -> Self {
        Self {
            epochs: (self.epochs.0.min(other.epochs.0), self.epochs.1.max(other.epochs.1)),
            steps: (self.steps.0.min(other.steps.0), self.steps.1.max(other.steps.1)),
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epochs, steps) = (self.epochs, self.steps);
        write!(f, "epochs {} to {} and steps {} to {}", epochs.0, epochs.1, steps.0, steps.1)
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
