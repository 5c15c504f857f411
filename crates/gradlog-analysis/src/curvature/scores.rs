//! Scores while they grow: dot products of visits with solutions, gathered example by example.

use super::{Estimate, EstimatePlan};
use crate::influence::{Influence, InfluenceRow};
use crate::rows::driver::{fold_each, Progress};
use crate::vectors::{Flat, LeftOut, Visit, Walk};
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage};
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

    /// The place of a visit's example, which is made if it is new. What is told of the example is that of the last visit,
    /// or of the first to be met if the walk goes `backwards`.
    pub(super) fn slot(&mut self, visit: &Visit, backwards: bool) -> usize {
        let fresh = self.rows.len();
        let slot = *self.slots.entry(visit.example).or_insert(fresh);
        if slot == fresh {
            self.rows.push(InfluenceRow { example: visit.example, visits: 0, label: None, prediction: None });
            self.sums.resize(self.sums.len() + self.columns, 0.0);
        }
        let row = &mut self.rows[slot];
        let told = |old: Option<u32>, new: Option<u32>| if backwards { old.or(new) } else { new.or(old) };
        row.label = told(row.label, visit.label);
        row.prediction = told(row.prediction, visit.prediction);
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

    /// Makes of each sum what `of` says of its example, its column and itself.
    pub(super) fn map(&mut self, of: impl Fn(u64, usize, f64) -> f64) {
        for (row, sums) in self.rows.iter().zip(self.sums.chunks_mut(self.columns.max(1))) {
            sums.iter_mut().enumerate().for_each(|(column, sum)| *sum = of(row.example, column, *sum));
        }
    }

    /// One [`Influence`] for each of the `estimates`, whose columns follow one another.
    pub(super) fn finish(
        self,
        plan: &EstimatePlan<'_>,
        ids: &[u64],
        left_out: LeftOut,
        damage: Option<Damage>,
        estimates: Vec<Estimate>,
    ) -> Vec<Influence> {
        let probes = ids.len();
        let question = &plan.asked.question;
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
                influence.probes = ids.iter().filter_map(|id| plan.index.probes.get(id).cloned()).collect();
                influence.probe_modes = plan.index.modes.iter().copied().collect();
                influence.normalise = question.normalise;
                influence.rows = self.rows.clone();
                influence.scores = scores;
                influence.visits = self.visits;
                influence.probe_times = 1;
                influence.not_finite = left_out.not_finite + self.not_finite;
                influence.without_gradient = left_out.without_gradient;
                influence.other_layers = left_out.other_layers;
                influence.probe_records_left_out = plan.index.left_out;
                influence.probe_records_repeated = plan.index.repeated;
                influence.estimate = Some(estimate);
                influence.damage = damage.clone();
                influence
            })
            .collect()
    }
}

/// Tells `each` of the example of every visit inside the window, without opening a gradient.
pub(super) fn each_example(
    walk: &Walk<'_>,
    progress: Progress<'_>,
    mut each: impl FnMut(u64) + Send,
) -> Result<(), AnalysisError> {
    let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && walk.window.touches(block);
    let read = |block: &Block| {
        let inside = walk.window.rows(block)?;
        let examples = column::u64s(block, Column::Example)?;
        Ok(match inside {
            None => examples,
            Some(inside) => examples.into_iter().zip(inside).filter(|(_, inside)| *inside).map(|(e, _)| e).collect(),
        })
    };
    // Who walks the visits meets the same damage.
    let _ = fold_each(walk.run, progress, keep, read, |examples: Vec<u64>| {
        examples.into_iter().for_each(&mut each);
        Ok(())
    })?;
    Ok(())
}

impl Estimate {
    /// What is common to the answers of a plan.
    pub(super) fn of(plan: &EstimatePlan<'_>) -> Self {
        Self {
            method: plan.asked.method,
            curvature: plan.asked.curvature.clone(),
            curvature_rows: 0,
            length: plan.flattener.length(),
            exact: plan.flattener.is_exact(),
            by_layer: plan.asked.shape.by_layer,
            damping: None,
            soft_threshold: plan.asked.soft_threshold,
            lambdas: Vec::new(),
            epochs: 0,
            steps: 0,
            steps_without_record: 0,
            momentum: 0.0,
            weight_decay: 0.0,
            growth: 1.0,
            after_probes: 0,
            dropped: 0,
        }
    }
}
