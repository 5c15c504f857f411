//! Scores while they grow: dot products of visits with solutions, gathered example by example.

use super::subject::Subject;
use crate::vectors::flatten::Flat;
use crate::vectors::walk::Visit;
use crate::{AnalysisError, EstimateDetails, Influence, InfluenceRow, LeftOut};
use gradlog_format::run::Damage;
use gradlog_kernels::matmul::{matmul, Matrix};
use std::collections::HashMap;

/// Dot products of the rows of a tile with the vectors `[columns, width]` of each block, summed over the blocks:
/// `[rows, columns]`.
pub(super) fn dots(flat: &Flat, vectors: &[Vec<f32>], columns: usize) -> Vec<f64> {
    let mut sums = vec![0f64; flat.rows * columns];
    for (rows, vectors) in flat.blocks.iter().zip(vectors) {
        for (sum, dot) in sums.iter_mut().zip(block_dots(rows, flat.rows, vectors, columns)) {
            *sum += f64::from(dot);
        }
    }
    sums
}

/// The same of one block.
pub(super) fn block_dots(rows: &[f32], count: usize, vectors: &[f32], columns: usize) -> Vec<f32> {
    let width = rows.len() / count.max(1);
    let mut out = vec![0f32; count * columns];
    let (left, right) = (Matrix::new(rows, count, width), Matrix::new(vectors, columns, width));
    matmul(&mut out, left, right.t(), false, rayon::current_num_threads());
    out
}

/// Which way a walk goes through the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walking {
    Forwards,
    Backwards,
}

/// Sums by example; the columns are the probes of a pass, once for each damping.
pub(super) struct Scores {
    columns: usize,
    rows: Vec<InfluenceRow>,
    slots: HashMap<u64, usize>,
    sums: Vec<f64>,
    pub visits: u64,
    pub not_finite: u64,
}

impl Scores {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, rows: Vec::new(), slots: HashMap::new(), sums: Vec::new(), visits: 0, not_finite: 0 }
    }

    /// How many examples there are.
    pub(super) fn examples(&self) -> usize {
        self.rows.len()
    }

    /// The place of a visit's example, which is made if it is new. Label and prediction are those of its last visit:
    /// walking backwards, the first that comes.
    pub(super) fn slot(&mut self, visit: &Visit, prediction: Option<u32>, walking: Walking) -> usize {
        let fresh = self.rows.len();
        let slot = *self.slots.entry(visit.example).or_insert(fresh);
        if slot == fresh {
            self.rows.push(InfluenceRow { example: visit.example, visits: 0, label: None, prediction: None });
            self.sums.resize(self.sums.len() + self.columns, 0.0);
        }
        let row = &mut self.rows[slot];
        let last = |old: Option<u32>, new: Option<u32>| match walking {
            Walking::Forwards => new.or(old),
            Walking::Backwards => old.or(new),
        };
        row.label = last(row.label, visit.label);
        row.prediction = last(row.prediction, prediction);
        slot
    }

    /// Adds `weight·dots` of a visit.
    pub(super) fn add(&mut self, slot: usize, weight: f64, dots: &[f64]) {
        let mut finite = 0;
        for (sum, dot) in self.sums[slot * self.columns..(slot + 1) * self.columns].iter_mut().zip(dots) {
            let value = weight * dot;
            // Finite factors can have a product that is not; the other probes and visits still count.
            if value.is_finite() {
                *sum += value;
                finite += 1;
            }
        }
        let counts = u64::from(finite == self.columns);
        self.rows[slot].visits += counts;
        self.visits += counts;
        self.not_finite += 1 - counts;
    }

    /// Multiplies the sums of each example by what `factor` says of the number of its visits.
    pub(super) fn scale(&mut self, factor: impl Fn(usize, u64) -> f64) {
        for (slot, row) in self.rows.iter().enumerate() {
            let factor = factor(slot, row.visits);
            self.sums[slot * self.columns..(slot + 1) * self.columns].iter_mut().for_each(|sum| *sum *= factor);
        }
    }

    /// Replaces each sum by what `change` makes of its example, its column and itself.
    pub(super) fn map(&mut self, change: impl Fn(u64, usize, f64) -> f64) {
        for (row, sums) in self.rows.iter().zip(self.sums.chunks_mut(self.columns.max(1))) {
            sums.iter_mut().enumerate().for_each(|(column, sum)| *sum = change(row.example, column, *sum));
        }
    }

    /// One [`Influence`] for each of the `estimates`, whose columns follow one another.
    pub(super) fn finish(
        self,
        subject: &Subject<'_>,
        ids: &[u64],
        mut left_out: LeftOut,
        damage: Option<Damage>,
        estimates: Vec<EstimateDetails>,
    ) -> Result<Vec<Influence>, AnalysisError> {
        let probes = ids.len();
        let question = &subject.asked.question;
        left_out.not_finite += self.not_finite;
        left_out.add(&subject.index.left_out);
        estimates
            .into_iter()
            .enumerate()
            .map(|(number, estimate)| {
                let mut scores = Vec::with_capacity(self.rows.len() * probes);
                for (row, sums) in self.rows.iter().zip(self.sums.chunks(self.columns.max(1))) {
                    let part = &sums[number * probes..(number + 1) * probes];
                    scores.extend(part.iter().map(|sum| if row.visits > 0 { *sum } else { f64::NAN }));
                }
                let mut influence = Influence::new(question.set.clone(), question.time);
                influence.basis = subject.basis(&estimate)?.with_left_out(&left_out);
                influence.probes = ids.iter().filter_map(|id| subject.index.probes.get(id).cloned()).collect();
                influence.probe_modes = subject.index.modes.iter().copied().collect();
                influence.normalization = question.normalization;
                influence.rows = self.rows.clone();
                influence.scores = scores;
                influence.visits = self.visits;
                influence.probe_times = 1;
                influence.left_out = left_out.clone();
                influence.estimate = Some(estimate);
                influence.damage = damage.clone();
                Ok(influence)
            })
            .collect()
    }
}
