//! Dataset cartography: the map of a training set by confidence and variability (Swayamdipta et al. 2020, arXiv
//! 2009.10795, §2 and §3).
//!
//! With `p_t` the probability of the label at visit `t`: confidence `μ` is its mean, variability `σ` its population
//! standard deviation, correctness the share of right predictions. The paper's three regions, each a third of the
//! examples:
//!
//! - *easy to learn*: the highest confidence,
//! - *ambiguous*: the highest variability; these help to generalize,
//! - *hard to learn*: the lowest confidence; often mislabeled.
//!
//! The regions may overlap, as in the paper: an ambiguous example may have a low confidence too. The paper takes one
//! number at the end of each epoch, in evaluation mode; here each visit gives one, in training mode, or on a window of
//! sweeps each checkpoint, as in the paper. Over several runs the three numbers are means over runs.

use crate::scores::order::suspicious_first;
use crate::{AnalysisError, Basis, Extra, LeftOut, Order, OverRuns, Progress, Score, Window};
use gradlog_format::run::{Damage, Run};
use std::collections::HashMap;

/// Asks for the data map of a training set: which examples are easy, ambiguous, hard to learn.
///
/// With `p_t` the probability of the label at visit `t` of an example, its confidence is `μ = (1/T) Σ_t p_t`, its
/// variability `σ = √((1/T) Σ_t (p_t − μ)²)`, and its correctness the share of right predictions (Swayamdipta et al.
/// 2020, arXiv 2009.10795, §2). Over several runs the three are means over runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MapQuestion {
    share: f64,
    window: Window,
    progress: Progress,
}

window_options!(MapQuestion);
source_options!(MapQuestion);
progress_options!(MapQuestion);

impl Default for MapQuestion {
    fn default() -> Self {
        Self { share: Self::SHARE, window: Window::default(), progress: Progress::default() }
    }
}

impl MapQuestion {
    /// The paper's share of each region.
    pub const SHARE: f64 = 0.33;

    /// The map over all visits, with the paper's share of examples in each region.
    pub fn new() -> Self {
        Self::default()
    }

    /// The share of the examples that each region takes, 0 to 1.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Draws the map of one run. Each region takes `round(share·N)` of the `N` examples; ties go to the lower id.
    ///
    /// # Errors
    /// Those of [`ScoreQuestion::compute_over`](crate::ScoreQuestion::compute_over) with confidence;
    /// [`AnalysisError::OutOfRange`] if the share is not between 0 and 1.
    ///
    /// # Cost
    /// Two passes over three small columns of the run; memory about 500 bytes per example.
    pub fn compute(&self, run: &Run) -> Result<DataMap, AnalysisError> {
        self.compute_over(&[run])
    }

    /// Draws the map of several runs, by means over runs.
    ///
    /// # Errors
    /// As [`MapQuestion::compute`].
    ///
    /// # Cost
    /// As [`MapQuestion::compute`], for each run.
    pub fn compute_over(&self, runs: &[&Run]) -> Result<DataMap, AnalysisError> {
        self.window.refuse_outside(runs)?;
        draw_map(runs, self)
    }
}

/// The data map of a training set.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataMap {
    /// What it rests on, of each run. If it is sweeps, "visits" below are rows of these.
    pub bases: Vec<Basis>,
    /// The share of the examples that each region takes.
    pub share: f64,
    /// Runs that it is made of.
    pub runs: u64,
    /// Visits that it is made of.
    pub visits: u64,
    /// What was left out, by the reason: visits without a usable confidence, in all runs, and examples that have no
    /// others.
    pub left_out: LeftOut,
    /// One row per example, the lowest confidence first; ties by id.
    pub rows: Vec<DataMapRow>,
    /// Where the first damaged run stopped being readable, if one did.
    pub damage: Option<Damage>,
}

/// An example on the map.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataMapRow {
    /// Its id.
    pub example: u64,
    /// Runs that it is made of.
    pub runs: u64,
    /// Visits that it is made of.
    pub visits: u64,
    /// Mean probability of the label.
    pub confidence: f64,
    /// Population standard deviation of that probability over the visits.
    pub variability: f64,
    /// Share of right predictions; NaN where the run does not hold it.
    pub correctness: f64,
    /// In the region that is easy to learn.
    pub easy: bool,
    /// In the ambiguous region.
    pub ambiguous: bool,
    /// In the region that is hard to learn.
    pub hard: bool,
    /// The recorded label, if all runs agree.
    pub label: Option<u32>,
}

impl DataMap {
    /// Examples in the regions: easy, ambiguous, hard.
    pub fn counts(&self) -> [u64; 3] {
        let count = |region: fn(&DataMapRow) -> bool| self.rows.iter().filter(|row| region(row)).count() as u64;
        [count(|row| row.easy), count(|row| row.ambiguous), count(|row| row.hard)]
    }
}

fn draw_map(runs: &[&Run], asked: &MapQuestion) -> Result<DataMap, AnalysisError> {
    let MapQuestion { share, window, progress } = asked;
    let share = *share;
    if !(0.0..=1.0).contains(&share) {
        let (given, range) = (share.to_string(), "between 0 and 1".into());
        return Err(AnalysisError::OutOfRange { what: "the share of each region", given, range });
    }
    let confidence = Score::Confidence.compute_over_runs(runs, window, OverRuns::Mean, progress)?;
    let correct = match Score::Correctness.compute_over_runs(runs, window, OverRuns::Mean, progress) {
        Ok(table) => Some(table),
        Err(error) if error.is_about_what_was_recorded() => None,
        Err(error) => return Err(error),
    };
    let correctness: HashMap<u64, f64> =
        correct.iter().flat_map(|table| &table.rows).map(|row| (row.example, row.score)).collect();
    let examples = confidence.rows.len();
    let visits = confidence.visits();
    let mut left_out = confidence.left_out();
    let mut bases: Vec<Basis> = confidence.runs.iter().map(|part| part.basis.clone()).collect();
    let parts = confidence.runs.iter().chain(correct.iter().flat_map(|table| &table.runs));
    let damage = parts.into_iter().find_map(|part| part.damage.clone());
    let mut rows: Vec<DataMapRow> = confidence
        .rows
        .into_iter()
        .filter(|row| !row.score.is_nan())
        .map(|row| DataMapRow {
            example: row.example,
            runs: row.runs,
            visits: row.visits,
            confidence: row.score,
            variability: match row.extra("variability") {
                Some(Extra::Number(variability)) => variability,
                _ => f64::NAN,
            },
            correctness: correctness.get(&row.example).copied().unwrap_or(f64::NAN),
            easy: false,
            ambiguous: false,
            hard: false,
            label: row.label,
        })
        .collect();
    rows.sort_by(|a, b| a.confidence.total_cmp(&b.confidence).then(a.example.cmp(&b.example)));
    let count = (share * rows.len() as f64).round() as usize;
    mark(&mut rows, count, Order::HighestFirst, |row| row.confidence, |row| row.easy = true);
    mark(&mut rows, count, Order::LowestFirst, |row| row.confidence, |row| row.hard = true);
    mark(&mut rows, count, Order::HighestFirst, |row| row.variability, |row| row.ambiguous = true);
    let unscored = (examples - rows.len()) as u64;
    left_out.examples += unscored;
    // An example without a score has none in any run.
    if let Some(first) = bases.first_mut() {
        first.left_out.examples += unscored;
    }
    Ok(DataMap { bases, share, runs: runs.len() as u64, visits, left_out, rows, damage })
}

/// Marks the first `count` rows in an order.
fn mark(rows: &mut [DataMapRow], count: usize, order: Order, value: fn(&DataMapRow) -> f64, mark: fn(&mut DataMapRow)) {
    let mut sorted: Vec<usize> = (0..rows.len()).collect();
    sorted.sort_by(|&a, &b| {
        suspicious_first(order, value(&rows[a]), value(&rows[b])).then(rows[a].example.cmp(&rows[b].example))
    });
    sorted.into_iter().take(count).for_each(|row| mark(&mut rows[row]));
}

#[cfg(test)]
mod tests;
