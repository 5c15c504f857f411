//! The curves of many examples, or of the probes of a set, in one pass.

use crate::example::Columns;
use crate::rows::basis::{Basis, BasisRows, Uses};
use crate::rows::driver::{fold_in_step_order, ReadTo};
use crate::rows::layer_norms::LayerNorms;
use crate::rows::layer_rates::LayerRates;
use crate::rows::{column, sweep};
use crate::{AnalysisError, ExampleVisit, Progress, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage, Run};
use std::collections::{BTreeMap, BTreeSet, HashSet};

#[cfg(test)]
mod tests;

/// Asks for the curves of many training examples, or of the probes of a set, in one pass.
///
/// [`ExampleQuestion`](crate::ExampleQuestion) gives that of one example and reads the run for it.
///
/// ```no_run
/// use gradlog_analysis::{HistoryQuestion, Run};
///
/// let found = HistoryQuestion::new().examples([4475, 12]).compute(&Run::open("runs/mnist")?)?;
/// for history in &found.histories {
///     println!("{}: {} visits", history.id, history.visits.len());
/// }
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HistoryQuestion {
    /// The probe set, or the training examples.
    set: Option<String>,
    /// Those that count, or all.
    ids: Option<HashSet<u64>>,
    window: Window,
    progress: Progress,
}

window_options!(HistoryQuestion);
progress_options!(HistoryQuestion);

/// The curves of some training examples, or of some probes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Histories {
    /// What they rest on.
    pub basis: Basis,
    /// One for each example or probe that has a record, ascending by id.
    pub histories: Vec<History>,
    /// Where the run stopped being readable, if it did; the records are then those of what came before.
    pub damage: Option<Damage>,
}

/// The curve of one training example or probe.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct History {
    /// Its id.
    pub id: u64,
    /// Its visits in the order of the steps, those with a NaN or an infinity among them. For a probe its records, the
    /// last of each step: they have no learning rate and no squared norm.
    pub visits: Vec<ExampleVisit>,
}

impl HistoryQuestion {
    /// The curves of all training examples.
    pub fn new() -> Self {
        Self::default()
    }

    /// The curves of the probes of this set.
    pub fn probes(set: impl Into<String>) -> Self {
        Self { set: Some(set.into()), ..Self::default() }
    }

    /// Only those of these ids.
    #[must_use]
    pub fn examples(mut self, ids: impl IntoIterator<Item = u64>) -> Self {
        self.ids = Some(ids.into_iter().collect());
        self
    }

    /// Reads the visits. An id without any is not in the answer.
    ///
    /// # Errors
    /// [`AnalysisError::OutsideRun`] for a window without visits, [`AnalysisError::OnlyVisits`] for one on sweeps,
    /// [`AnalysisError::NoSuchSet`] for a probe set that the run does not name, [`AnalysisError::Read`] if the file
    /// system refuses. Damage is not an error.
    ///
    /// # Cost
    /// One pass over the small columns of the run. Memory: about 100 bytes for each visit that is wanted.
    pub fn compute(&self, run: &Run) -> Result<Histories, AnalysisError> {
        self.window.refuse_sweeps("the curves of many examples")?;
        let mut found: BTreeMap<u64, Vec<ExampleVisit>> = BTreeMap::new();
        let mut modes = BTreeSet::new();
        let rates = LayerRates::read(run)?;
        let norms = LayerNorms { rates: &rates, manifest: run.manifest(), uses_rates: false, on_sweeps: false };
        let numbers = match &self.set {
            Some(set) => Some(set_numbers(run, set)?),
            None => {
                self.window.refuse_outside(&[run])?;
                None
            }
        };
        let keep = |block: &Block| match numbers {
            None => self.window.is_on(block) && self.window.touches(block),
            Some(_) => is_plain_probes(block) && self.window.touches(block),
        };
        let read = |block: &Block| self.read_block(numbers.as_ref(), &norms, block);
        let fold = |rows: &Found, range: std::ops::Range<usize>| {
            modes.extend(rows.modes.iter().copied().flatten());
            for (_, id, visit) in rows.visits.iter().filter(|(row, ..)| range.contains(row)) {
                found.entry(*id).or_default().push(*visit);
            }
            Ok(())
        };
        let ReadTo(damage) = fold_in_step_order(run, &self.progress, keep, read, fold)?;
        if self.set.is_some() {
            found.values_mut().for_each(keep_last_of_each_step);
        }
        let rows = match self.set {
            None => BasisRows::Visits,
            Some(_) => {
                let times: BTreeSet<u64> = found.values().flatten().map(|visit| visit.step).collect();
                BasisRows::Probes { times: times.into_iter().collect(), modes: modes.into_iter().collect() }
            }
        };
        let basis = Basis::of(run, &self.window, rows, Uses::Outputs)?;
        let histories = found.into_iter().map(|(id, visits)| History { id, visits }).collect();
        Ok(Histories { basis, histories, damage })
    }

    fn read_block(
        &self,
        numbers: Option<&HashSet<u32>>,
        norms: &LayerNorms<'_>,
        block: &Block,
    ) -> Result<Found, AnalysisError> {
        let ids = column::u64s(block, Column::Example)?;
        let sets = numbers.map(|_| column::u32s(block, Column::ProbeSet)).transpose()?;
        let is_in_set = |row: usize| match (numbers, &sets) {
            (Some(numbers), Some(sets)) => numbers.contains(&sets[row]),
            _ => true,
        };
        let is_wanted = |row: &usize| self.ids.as_ref().is_none_or(|wanted| wanted.contains(&ids[*row]));
        let inside = self.window.rows_inside(block)?;
        let wanted: Vec<usize> =
            (0..ids.len()).filter(is_wanted).filter(|row| is_in_set(*row) && inside.contains(*row)).collect();
        if wanted.is_empty() {
            return Ok(Found::default());
        }
        let mut columns = Columns::read(block)?;
        if numbers.is_some() {
            columns.squared_norms = None;
            columns.learning_rates = None;
        } else if let Some(squared_norms) = &mut columns.squared_norms {
            norms.correct(block, squared_norms)?;
        }
        let visits = wanted.into_iter().map(|row| (row, ids[row], columns.visit(row))).collect();
        let modes = if numbers.is_some() { sweep::modes(block)?.into_iter().collect() } else { Vec::new() };
        Ok(Found { visits, modes })
    }
}

/// The rows of a block that are wanted.
#[derive(Default)]
struct Found {
    /// Row, id and visit.
    visits: Vec<(usize, u64, ExampleVisit)>,
    modes: Vec<Option<gradlog_format::log::Mode>>,
}

/// Whether a block holds probes as they are: neither rows of curvature nor the same probes in another metric.
pub(crate) fn is_plain_probes(block: &Block) -> bool {
    block.kind() == Some(BlockKind::Probes) && !block.is_curvature() && !block.is_preconditioned()
}

/// The numbers under which the run has a set: several workers may number it differently.
fn set_numbers(run: &Run, set: &str) -> Result<HashSet<u32>, AnalysisError> {
    let mut numbers = HashSet::new();
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::ProbeSet)) {
        let (number, name) = block.probe_set()?;
        if name == set {
            numbers.insert(column::u32s(&block, Column::ProbeSet)?.first().copied().unwrap_or(number));
        }
    }
    match numbers.is_empty() {
        true => Err(AnalysisError::NoSuchSet { name: set.to_owned(), known: run.probe_sets()? }),
        false => Ok(numbers),
    }
}

/// A probe that was recorded twice before one step counts once, with its last record.
fn keep_last_of_each_step(visits: &mut Vec<ExampleVisit>) {
    let all: BTreeMap<u64, ExampleVisit> = visits.drain(..).map(|visit| (visit.step, visit)).collect();
    visits.extend(all.into_values());
}
