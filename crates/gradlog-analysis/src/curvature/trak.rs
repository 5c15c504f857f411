//! TRAK's estimator (Park et al. 2023, §3.2) with the epochs of one run where the paper takes models.
//!
//! The gradient of the log-odds is had from that of the loss: `ℓ = −log p = log(1 + e⁻ᶠ)`, so `∇ℓ = −(1 − p)·∇f`. `1 −
//! p` is taken from the loss, `1 − e⁻ˡ`, which keeps its digits where `p` is almost 1. A visit whose loss is so small
//! that it has no gradient left counts with `1 − p = 0`, as it does in the paper's `Q`.

use super::detail::Outputs;
use super::gram::Gram;
use super::influence_function::find_end;
use super::probes::{nearest, ProbeRows};
use super::scores::{dots, Scores, Walking};
use super::subject::Subject;
use crate::rows::driver::{fold_each, ReadTo};
use crate::vectors::flatten::Flat;
use crate::vectors::walk::{Walk, Walked};
use crate::Progress;
use crate::{rows::column, AnalysisError, EstimateDetails, Influence, LeftOut, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Block;
use std::collections::BTreeSet;

/// How far `1 − e⁻ˡ` may be from that of the recorded probability of the label, if the loss is a cross entropy: a share
/// of the larger, and what f32 rounds of a probability. A focal loss agrees better where the model is sure, so a share.
const CONFIDENCE_TOLERANCE: (f64, f64) = (1e-3, 1e-6);

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
    let before = subject.walk().before.into_iter().chain(&cut).min_by_key(|damage| damage.block.unwrap_or(u64::MAX));
    let mut damage = cut.clone();
    let (mut rows, mut epochs) = (0, 0);
    let mut lambdas = vec![vec![0f64; subject.flattener.blocks.len()]; dampings.len()];
    for epoch in found {
        let window = Window { epochs: Some(epoch..epoch.saturating_add(1)), ..window.clone() };
        let walk = Walk { window: &window, before, ..subject.walk() };
        let mut gram = Gram::new(&subject.flattener);
        let walked = walk.walk_forwards(progress, |_, outputs: &[Outputs], flat| {
            if flat.rows > 0 {
                let scale = |outputs: &Outputs| {
                    let doubt = doubt(outputs.loss, outputs.confidence).ok_or_else(not_cross_entropy)?;
                    Ok(if doubt > 0.0 { 1.0 / doubt } else { 0.0 })
                };
                let scales: Vec<f64> = outputs.iter().map(scale).collect::<Result<_, AnalysisError>>()?;
                gram.add(flat, &scales);
            }
            Ok(())
        })?;
        damage = damage.or(walked.damage);
        if walked.visits == 0 || gram.rows() == 0 {
            left_out.add(&walked.left_out);
            continue;
        }
        let count = gram.rows();
        rows += count;
        epochs += 1;
        let inverse = gram.invert(dampings)?;
        for (number, sums) in lambdas.iter_mut().enumerate() {
            sums.iter_mut().zip(inverse.lambdas(number)).for_each(|(sum, lambda)| *sum += lambda);
        }
        let end = find_end(subject, &window, progress)?;
        let mut probes = ProbeRows::load(&subject.index, &subject.flattener, ids, |records| nearest(records, end))?;
        to_log_odds(&mut probes)?;
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
                if doubt > 0.0 {
                    scores.add(slot, 1.0 / (doubt * count as f64), dots);
                } else {
                    scores.add(slot, 0.0, dots);
                }
            }
            Ok(())
        })?;
        left_out.add(&walked.left_out);
    }
    if epochs == 0 {
        Walked { visits: 0, left_out: left_out.clone(), damage: None }.check("TRAK's estimator")?;
    }
    scores.scale(|slot, visits| {
        let (sum, count) = doubts[slot];
        sum / count.max(1) as f64 / visits.max(1) as f64
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

/// From gradients of the loss to gradients of the log-odds, but for the sign, which the visits leave out as well.
fn to_log_odds(probes: &mut ProbeRows) -> Result<(), AnalysisError> {
    let Flat { rows, blocks, .. } = &mut probes.flat;
    for row in 0..*rows {
        let doubt = doubt(probes.losses[row], probes.confidences[row]).ok_or_else(not_cross_entropy)?;
        let scale = if doubt > 0.0 { (1.0 / doubt) as f32 } else { 0.0 };
        for values in blocks.iter_mut() {
            let width = values.len() / *rows;
            values[row * width..(row + 1) * width].iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(())
}

/// The epochs that have visits inside the window, as far as they can be read.
fn find_epochs(subject: &Subject<'_>, progress: &Progress) -> Result<(BTreeSet<u32>, ReadTo), AnalysisError> {
    let mut epochs = BTreeSet::new();
    let window = &subject.asked.question.window;
    let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && window.touches(block);
    let read = |block: &Block| {
        let all = column::u32s(block, Column::Epoch)?;
        Ok(window.rows_inside(block)?.select(all).into_iter().collect::<BTreeSet<u32>>())
    };
    let read_to = fold_each(subject.run, progress, keep, read, |found| {
        epochs.extend(found);
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
