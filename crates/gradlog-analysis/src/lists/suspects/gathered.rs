//! What is gathered of an example before the list is made.

use super::list::SignalValue;
use crate::RunsRow;

/// What is gathered of an example before the list is made.
pub(super) struct Gathered {
    pub values: Vec<SignalValue>,
    pub runs: u64,
    pub visits: u64,
    pub label: Option<u32>,
    pub labels_differ: bool,
    pub never_learned: u64,
}

impl Gathered {
    pub(super) fn new(row: &RunsRow) -> Self {
        let (label, labels_differ) = (row.label, row.labels_differ);
        Self { values: Vec::new(), runs: 0, visits: 0, label, labels_differ, never_learned: 0 }
    }

    pub(super) fn add(&mut self, signal: usize, row: &RunsRow, rank: f64) {
        self.values.resize(signal, NOTHING);
        let rank = if row.score.is_nan() { f64::NAN } else { rank };
        self.values.push(SignalValue { value: row.score, rank });
        self.runs = self.runs.max(row.runs);
        self.visits = self.visits.max(row.visits);
        self.labels_differ |= row.labels_differ;
        self.label = self.label.or(row.label).filter(|_| !self.labels_differ);
    }

    /// The median rank, NaN without any.
    pub(super) fn median(&self) -> f64 {
        let mut ranks: Vec<f64> = self.values.iter().map(|v| v.rank).filter(|rank| !rank.is_nan()).collect();
        ranks.sort_by(f64::total_cmp);
        match ranks.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => ranks[n / 2],
            n => 0.5 * (ranks[n / 2 - 1] + ranks[n / 2]),
        }
    }
}

/// Of a signal that has no number for an example.
pub(super) const NOTHING: SignalValue = SignalValue { value: f64::NAN, rank: f64::NAN };
