//! TRAK's estimator (Park et al. 2023, §3.2) with the epochs of one run where the paper takes models.
//!
//! The gradient of the log-odds is had from that of the loss: `ℓ = −log p = log(1 + e⁻ᶠ)`, so `∇ℓ = −(1 − p)·∇f`. `1 −
//! p` is taken from the loss, `1 − e⁻ˡ`, which keeps its digits where `p` is almost 1. A visit whose loss is so small
//! that f32 has no gradient of it left (a margin of 70 and more) has a gradient of the log-odds all the same, which is
//! not known. It is a row of zeros, its own score is 0 as by the paper's `Q`, and it is counted in
//! [`LeftOut::without_log_odds`].
//!
//! Where the visits of each epoch are few enough, and their vectors would be folded, the inverse is solved by examples
//! (`by_examples.rs`): then the whole gradient counts. On an MLP that raised the linear datamodeling score
//! (`benches/results`, the audit under AdamW).
//!
//! The paper has no weights of examples. Its estimator is a Newton step of a logistic regression in `φ`, of which the
//! diagonal `p·(1 − p)` is dropped. With the weights of the visits in the objective
//! ([`Weights`](super::weights::Weights)) the same steps give `ΦᵀWΦ` for `ΦᵀΦ`, and `w·(1 − p)` for `1 − p` in `Q`.

mod by_examples;
mod by_numbers;
mod log_odds;
mod whole_rows;

use super::detail::Outputs;
use super::influence_function::find_end;
use super::probes::{nearest, ProbeRows};
use super::scores::{dots, Scores, Walking};
use super::subject::Subject;
use crate::influence::plan::index::Record;
use crate::rows::driver::{fold_each, ReadTo};
use crate::vectors::walk::{Tile, Visit, Walk, Walked};
use crate::Progress;
use crate::{rows::column, AnalysisError, EstimateDetails, Influence, LeftOut, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Block;
use log_odds::{doubt, to_scale};
use std::collections::BTreeMap;

/// What the visits of an epoch came to.
struct Solved {
    walked: Walked,
    /// Visits that made the inverse.
    rows: u64,
    without_log_odds: u64,
    probes_without_log_odds: u64,
    /// For each damping, what it came to, block by block.
    lambdas: Vec<Vec<f64>>,
    /// `None` without visits.
    solution: Option<Solution>,
}

/// What the inverse made of the probes.
enum Solution {
    /// `(ΦᵀWΦ/Σκ + λI)⁻¹ φ'`: of each block `[dampings · probes, width]`.
    Numbers { vectors: Vec<Vec<f32>>, total: f64 },
    /// What each visit contributes to the scores but for `√κ`: `[visits, dampings · probes]`.
    Examples { values: Vec<f64>, roots: Vec<f64> },
}

impl Solution {
    /// What the visits of a tile contribute, and by which factor: `[visits, columns]`. `done` visits came before.
    fn contributions(
        &self,
        subject: &Subject<'_>,
        (visits, doubts, done): (&[Visit], &[f64], usize),
        tile: Tile<'_>,
        columns: usize,
    ) -> (Vec<f64>, Vec<f64>) {
        match self {
            Solution::Numbers { vectors, total } => {
                let flat = subject.flattener.flatten(tile.gradients, tile.rows);
                let factor = |(visit, doubt): (&Visit, &f64)| subject.weights.of(visit) * to_scale(*doubt) / total;
                (dots(&flat, vectors, columns), visits.iter().zip(doubts).map(factor).collect())
            }
            Solution::Examples { values, roots } => {
                let end = (done + visits.len()).min(roots.len());
                (values[done * columns..end * columns].to_vec(), roots[done..end].to_vec())
            }
        }
    }
}

pub(super) fn pass(subject: &Subject<'_>, ids: &[u64], progress: &Progress) -> Result<Vec<Influence>, AnalysisError> {
    let window = &subject.asked.question.window;
    let dampings = &subject.asked.dampings;
    let columns = ids.len() * dampings.len();
    let mut scores = Scores::new(columns);
    let mut doubts: Vec<(f64, u64)> = Vec::new();
    let mut left_out = LeftOut::default();
    let (found, ReadTo(cut)) = find_epochs(subject, progress)?;
    let sides = found.values().copied().max().and_then(|most| by_examples::find_sides(subject, most));
    let before = subject.walk().before.into_iter().chain(&cut).min_by_key(|damage| damage.block.unwrap_or(u64::MAX));
    let mut damage = cut.clone();
    let (mut rows, mut epochs, mut probes_without_log_odds) = (0, 0, 0);
    let mut lambdas = vec![vec![0f64; subject.flattener.blocks.len()]; dampings.len()];
    for epoch in found.into_keys() {
        let window = Window { epochs: Some(epoch..epoch.saturating_add(1)), ..window.clone() };
        let walk = Walk { window: &window, before, ..subject.walk() };
        let end = find_end(subject, &window, progress)?;
        let probes = ProbeRows::load(&subject.index, &subject.flattener, ids, |records| nearest(records, end))?;
        let solved = match &sides {
            Some(sides) => {
                let chosen = ids.iter().filter_map(|id| subject.index.records.get(id));
                let records: Vec<Record> =
                    chosen.filter_map(|records| nearest(records, end)).map(|(_, record)| record).collect();
                by_examples::solve(subject, (&walk, sides), (&probes, &records), progress)?
            }
            None => by_numbers::solve(subject, &walk, probes, progress)?,
        };
        damage = damage.or(solved.walked.damage);
        left_out.without_log_odds += solved.without_log_odds;
        left_out.add(&solved.walked.left_out);
        let Some(solution) = solved.solution else { continue };
        rows += solved.rows;
        epochs += 1;
        probes_without_log_odds = probes_without_log_odds.max(solved.probes_without_log_odds);
        for (sums, lambdas) in lambdas.iter_mut().zip(&solved.lambdas) {
            sums.iter_mut().zip(lambdas).for_each(|(sum, lambda)| *sum += lambda);
        }
        let mut done = 0;
        let _ = walk.walk_tiles(progress, |visits, outputs: &[Outputs], tile| {
            let slots: Vec<usize> = (visits.iter().zip(outputs))
                .map(|(visit, outputs)| scores.slot(visit, outputs.prediction, Walking::Forwards))
                .collect();
            doubts.resize(scores.examples(), (0.0, 0));
            let Some(tile) = tile else { return Ok(()) };
            let own: Vec<f64> = outputs.iter().map(doubt).collect::<Result<_, AnalysisError>>()?;
            let (sums, factors) = solution.contributions(subject, (visits, &own, done), tile, columns);
            done += visits.len();
            for ((slot, doubt), (sums, factor)) in
                slots.into_iter().zip(own).zip(sums.chunks(columns.max(1)).zip(factors))
            {
                doubts[slot] = (doubts[slot].0 + doubt, doubts[slot].1 + 1);
                scores.add(slot, factor, sums);
            }
            Ok(())
        })?;
    }
    left_out.without_log_odds += probes_without_log_odds;
    if epochs == 0 {
        Walked { visits: 0, left_out: left_out.clone(), damage: None }.check("TRAK's estimator")?;
    }
    scores.scale(|slot, _| {
        let (sum, count) = doubts[slot];
        sum / count.max(1) as f64 / epochs as f64
    });
    if let Some(threshold) = subject.asked.soft_threshold {
        scores.map(|_, _, score| soft_thresholded(score, threshold));
    }
    let estimates = dampings
        .iter()
        .zip(lambdas)
        .map(|(damping, lambdas)| EstimateDetails {
            curvature_rows: rows,
            damping: Some(*damping),
            lambdas: lambdas.iter().map(|sum| sum / epochs.max(1) as f64).collect(),
            epochs,
            exact: subject.estimate().exact || sides.is_some(),
            solved_by_examples: sides.is_some(),
            ..subject.estimate()
        })
        .collect();
    scores.finish(subject, ids, left_out, damage, estimates)
}

/// `sign(τ)·max(|τ| − λ, 0)`, the last step of the paper's estimator and the one that it may leave out.
fn soft_thresholded(score: f64, threshold: f64) -> f64 {
    if score.abs() <= threshold {
        0.0
    } else {
        score - threshold.copysign(score)
    }
}

/// The epochs that have visits inside the window and how many, as far as they can be read.
fn find_epochs(subject: &Subject<'_>, progress: &Progress) -> Result<(BTreeMap<u32, u64>, ReadTo), AnalysisError> {
    let mut epochs: BTreeMap<u32, u64> = BTreeMap::new();
    let window = &subject.asked.question.window;
    let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && window.touches(block);
    let read = |block: &Block| {
        let all = column::u32s(block, Column::Epoch)?;
        Ok(window.rows_inside(block)?.select(all))
    };
    let read_to = fold_each(subject.run, progress, keep, read, |found: Vec<u32>| {
        found.into_iter().for_each(|epoch| *epochs.entry(epoch).or_default() += 1);
        Ok(())
    })?;
    Ok((epochs, read_to))
}
