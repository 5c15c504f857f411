//! TRAK's estimator (Park et al. 2023, §3.2) with the epochs of one run where the paper takes models.
//!
//! The gradient of the log-odds is had from that of the loss: `ℓ = −log p = log(1 + e⁻ᶠ)`, so `∇ℓ = −(1 − p)·∇f`. `1 −
//! p` is taken from the loss, `1 − e⁻ˡ`, which keeps its digits where `p` is almost 1. A visit whose loss is so small
//! that f32 has no gradient of it left (a margin of 70 and more) has a gradient of the log-odds all the same, which is
//! not known. It is a row of zeros, its own score is 0 as by the paper's `Q`, and it is counted in
//! [`LeftOut::without_log_odds`].
//!
//! Where the visits of each epoch are few enough, and their vectors would be folded, the inverse is solved by examples
//! (`dual.rs`): then the whole gradient counts. On an MLP that raised the linear datamodeling score
//! (`benches/results`, the audit under AdamW).
//!
//! The paper has no weights of examples. Its estimator is a Newton step of a logistic regression in `φ`, of which the
//! diagonal `p·(1 − p)` is dropped. With the weights of the visits in the objective
//! ([`Weights`](super::weights::Weights)) the same steps give `ΦᵀWΦ` for `ΦᵀΦ`, and `w·(1 − p)` for `1 − p` in `Q`.

use super::detail::Outputs;
use super::dual::{self, WholeRows};
use super::gram::Gram;
use super::influence_function::find_end;
use super::probes::{nearest, ProbeRows};
use super::scores::{dots, Scores, Walking};
use super::subject::Subject;
use crate::influence::plan::index::Record;
use crate::rows::driver::{fold_each, ReadTo};
use crate::rows::gradient::Gradients;
use crate::vectors::flatten::Flat;
use crate::vectors::sides::FactoredSides;
use crate::vectors::walk::{Walk, Walked};
use crate::Progress;
use crate::{rows::column, AnalysisError, EstimateDetails, Influence, LeftOut, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Block;
use std::collections::BTreeMap;

/// How far `1 − e⁻ˡ` may be from that of the recorded probability of the label, if the loss is a cross entropy: a share
/// of the larger, and what f32 rounds of a probability. A focal loss agrees better where the model is sure, so a share.
const CONFIDENCE_TOLERANCE: (f64, f64) = (1e-3, 1e-6);

/// Below this `1 − p`, gradients are too small for the digits of f32, or are 0.
const DOUBT_MIN: f64 = 1e-30;

/// What makes a gradient of the log-odds of one of the loss, but for the sign; 0 if it is not known.
fn to_scale(doubt: f64) -> f64 {
    if doubt >= DOUBT_MIN {
        1.0 / doubt
    } else {
        0.0
    }
}

/// `1 − p` of the label, if the loss is the cross entropy of one prediction.
fn doubt(loss: f32, confidence: Option<f32>) -> Option<f64> {
    let loss = f64::from(loss);
    let doubt = -(-loss).exp_m1();
    let fits = |confidence: f32| {
        let recorded = 1.0 - f64::from(confidence);
        let (share, rounding) = CONFIDENCE_TOLERANCE;
        (doubt - recorded).abs() < share * doubt.max(recorded) + rounding
    };
    confidence.is_some_and(fits).then_some(doubt)
}

fn not_cross_entropy() -> AnalysisError {
    AnalysisError::Missing {
        score: "TRAK's estimator",
        what: "plain cross entropies, of which p is e to the minus loss",
        how: "it is for classifiers with one prediction an example: record the loss with `pass.cross_entropy`, or take another method",
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
    let sides = find_dual(subject, &found);
    let before = subject.walk().before.into_iter().chain(&cut).min_by_key(|damage| damage.block.unwrap_or(u64::MAX));
    let mut damage = cut.clone();
    let (mut rows, mut epochs, mut probes_without_log_odds) = (0, 0, 0);
    let mut lambdas = vec![vec![0f64; subject.flattener.blocks.len()]; dampings.len()];
    for epoch in found.into_keys() {
        let window = Window { epochs: Some(epoch..epoch.saturating_add(1)), ..window.clone() };
        let walk = Walk { window: &window, before, ..subject.walk() };
        let end = find_end(subject, &window, progress)?;
        let mut probes = ProbeRows::load(&subject.index, &subject.flattener, ids, |records| nearest(records, end))?;
        if let Some(sides) = &sides {
            let made = Epoch::read(subject, &walk, sides, progress)?;
            damage = damage.or(made.walked.damage.clone());
            left_out.without_log_odds += made.without_log_odds;
            left_out.add(&made.walked.left_out);
            if made.rows.rows() == 0 {
                continue;
            }
            let scales = scales_of_probes(&probes)?;
            let unknown = scales.iter().filter(|scale| **scale == 0.0).count() as u64;
            probes_without_log_odds = probes_without_log_odds.max(unknown);
            let chosen = ids.iter().filter_map(|id| subject.index.records.get(id));
            let records = chosen.filter_map(|records| nearest(records, end)).map(|(_, record)| record);
            let probes = load_whole(subject, sides, &records.collect::<Vec<Record>>(), &scales)?;
            let numbers = subject.flattener.length();
            let solution = dual::solve(&made.rows, &probes, dampings, (made.total, numbers))?;
            rows += made.rows.rows() as u64;
            epochs += 1;
            lambdas.iter_mut().zip(&solution.lambdas).for_each(|(sums, lambda)| sums[0] += lambda);
            let mut row = 0;
            let _ = walk.walk_tiles(progress, |visits, outputs: &[Outputs], tile| {
                for (visit, outputs) in visits.iter().zip(outputs) {
                    let slot = scores.slot(visit, outputs.prediction, Walking::Forwards);
                    doubts.resize(scores.examples(), (0.0, 0));
                    if tile.is_none() || row >= made.roots.len() {
                        continue;
                    }
                    let doubt = doubt(outputs.loss, outputs.confidence).ok_or_else(not_cross_entropy)?;
                    doubts[slot] = (doubts[slot].0 + doubt, doubts[slot].1 + 1);
                    scores.add(slot, made.roots[row], &solution.solved[row * columns..(row + 1) * columns]);
                    row += 1;
                }
                Ok(())
            })?;
            continue;
        }
        let mut gram = Gram::new(&subject.flattener);
        let mut without_log_odds = 0;
        let walked = walk.walk_forwards(progress, |visits, outputs: &[Outputs], flat| {
            if flat.rows > 0 {
                let mut scale = |outputs: &Outputs| {
                    let doubt = doubt(outputs.loss, outputs.confidence).ok_or_else(not_cross_entropy)?;
                    without_log_odds += u64::from(doubt < DOUBT_MIN);
                    Ok(to_scale(doubt))
                };
                let scales: Vec<f64> = outputs.iter().map(&mut scale).collect::<Result<_, AnalysisError>>()?;
                gram.add(flat, &subject.weights.of_rows(visits), &scales);
            }
            Ok(())
        })?;
        damage = damage.or(walked.damage);
        left_out.without_log_odds += without_log_odds;
        if walked.visits == 0 || gram.rows() == 0 {
            left_out.add(&walked.left_out);
            continue;
        }
        let total = gram.weight().max(f64::MIN_POSITIVE);
        rows += gram.rows();
        epochs += 1;
        let inverse = gram.invert(dampings)?;
        for (number, sums) in lambdas.iter_mut().enumerate() {
            sums.iter_mut().zip(inverse.lambdas(number)).for_each(|(sum, lambda)| *sum += lambda);
        }
        probes_without_log_odds = probes_without_log_odds.max(to_log_odds(&mut probes)?);
        let solved = inverse.solve(&probes.flat);
        let walked = walk.walk_forwards(progress, |visits, outputs: &[Outputs], flat| {
            let dots = dots(flat, &solved, columns);
            let mut dots = dots.chunks(columns.max(1));
            for (visit, outputs) in visits.iter().zip(outputs) {
                let slot = scores.slot(visit, outputs.prediction, Walking::Forwards);
                doubts.resize(scores.examples(), (0.0, 0));
                let (true, Some(dots)) = (visit.usable, dots.next()) else { continue };
                let doubt = doubt(outputs.loss, outputs.confidence).ok_or_else(not_cross_entropy)?;
                doubts[slot] = (doubts[slot].0 + doubt, doubts[slot].1 + 1);
                scores.add(slot, subject.weights.of(visit) * to_scale(doubt) / total, dots);
            }
            Ok(())
        })?;
        left_out.add(&walked.left_out);
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

/// The sides of the layers, if the inverse is better solved by examples: gradients would be folded, and the visits of
/// each epoch are few enough.
fn find_dual(subject: &Subject<'_>, epochs: &BTreeMap<u32, u64>) -> Option<FactoredSides> {
    let most = epochs.values().copied().max()?;
    let (layout, manifest) = (&subject.flattener.layout, subject.run.manifest());
    let is_folded = !subject.asked.shape.by_layer && !subject.estimate().exact;
    let by_examples = is_folded && dual::fits(layout, manifest, most);
    by_examples.then(|| FactoredSides::new(layout, manifest, usize::MAX))
}

/// The visits of an epoch, for an inverse that is solved by examples.
struct Epoch {
    /// `√κ·φ` of each visit.
    rows: WholeRows,
    /// `√κ` of each.
    roots: Vec<f64>,
    /// What they weigh together.
    total: f64,
    without_log_odds: u64,
    walked: Walked,
}

impl Epoch {
    fn read(
        subject: &Subject<'_>,
        walk: &Walk<'_>,
        sides: &FactoredSides,
        progress: &Progress,
    ) -> Result<Self, AnalysisError> {
        let mut rows = WholeRows::new(&subject.flattener.layout);
        let (mut roots, mut total, mut without_log_odds) = (Vec::new(), 0.0, 0);
        let walked = walk.walk_tiles(progress, |visits, outputs: &[Outputs], tile| {
            let Some(tile) = tile else { return Ok(()) };
            let mut scales = Vec::with_capacity(visits.len());
            for (weight, outputs) in subject.weights.of_rows(visits).iter().zip(outputs) {
                let doubt = doubt(outputs.loss, outputs.confidence).ok_or_else(not_cross_entropy)?;
                without_log_odds += u64::from(doubt < DOUBT_MIN);
                roots.push(weight.sqrt());
                total += weight;
                scales.push(weight.sqrt() * to_scale(doubt));
            }
            rows.add(sides, (tile.gradients, tile.rows), &scales);
            Ok(())
        })?;
        Ok(Self { rows, roots, total: total.max(f64::MIN_POSITIVE), without_log_odds, walked })
    }
}

/// What makes gradients of the log-odds of those of probes; 0 where it is not known.
fn scales_of_probes(probes: &ProbeRows) -> Result<Vec<f64>, AnalysisError> {
    let pairs = probes.losses.iter().zip(&probes.confidences);
    pairs.map(|(loss, confidence)| doubt(*loss, *confidence).map(to_scale).ok_or_else(not_cross_entropy)).collect()
}

/// The whole gradients of some records, in their order, each times its scale.
fn load_whole(
    subject: &Subject<'_>,
    sides: &FactoredSides,
    records: &[Record],
    scales: &[f64],
) -> Result<WholeRows, AnalysisError> {
    let mut rows = WholeRows::new(&subject.flattener.layout);
    let mut at = 0;
    for group in records.chunk_by(|a, b| a.block == b.block) {
        let gradients = Gradients::read(&subject.index.blocks[group[0].block], &subject.flattener.layout)?;
        let places: Vec<usize> = group.iter().map(|record| record.row).collect();
        rows.add(sides, (&gradients, &places), &scales[at..at + group.len()]);
        at += group.len();
    }
    Ok(rows)
}

/// `sign(τ)·max(|τ| − λ, 0)`, the last step of the paper's estimator and the one that it may leave out.
fn soft_thresholded(score: f64, threshold: f64) -> f64 {
    if score.abs() <= threshold {
        0.0
    } else {
        score - threshold.copysign(score)
    }
}

/// From gradients of the loss to gradients of the log-odds, but for the sign, which the visits leave out as well.
/// How many of them are not known.
fn to_log_odds(probes: &mut ProbeRows) -> Result<u64, AnalysisError> {
    let mut without = 0;
    let Flat { rows, blocks, .. } = &mut probes.flat;
    for row in 0..*rows {
        let doubt = doubt(probes.losses[row], probes.confidences[row]).ok_or_else(not_cross_entropy)?;
        let scale = to_scale(doubt) as f32;
        without += u64::from(doubt < DOUBT_MIN);
        for values in blocks.iter_mut() {
            let width = values.len() / *rows;
            values[row * width..(row + 1) * width].iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(without)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss beside logits need not be their cross entropy, and a focal loss is nearly zero where the model is sure.
    #[test]
    fn a_loss_that_is_not_a_cross_entropy_is_told_by_the_probability() {
        for p in [0.3f64, 0.9, 0.9999, 1.0 - 1e-6] {
            let own = doubt(-p.ln() as f32, Some(p as f32)).unwrap();
            assert!((own - (1.0 - p)).abs() < 1e-6 + 1e-6 * own, "{p}: {own}");
            let focal = -(1.0 - p).powi(2) * p.ln();
            assert!(doubt(focal as f32, Some(p as f32)).is_none() || 1.0 - p < 1e-5, "{p}");
        }
        assert_eq!(doubt(0.5, None), None);
    }
}
