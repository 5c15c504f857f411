//! DataInf (Kwon et al. 2024, eq. 5): the mean over the rows of the inverses of each alone, applied to the probes.
//! A row counts in this mean as its visit does in the objective ([`Weights`](super::weights::Weights)).
//!
//! `(λI + g gᵀ)⁻¹ v = (1/λ)·(v − (g·v)/(λ + ‖g‖²)·g)` (Sherman and Morrison), so two passes over the gradients do it:
//! one for the trace that a relative damping goes by, one for the sum. A third gives the scores.

use super::gram::lambda;
use super::influence_function::{find_end, mean_scores};
use super::probes::{nearest, ProbeRows};
use super::scores::{block_dots, dots};
use super::subject::Subject;
use crate::Progress;
use crate::{AnalysisError, EstimateDetails, Influence};
use gradlog_kernels::matmul::{matmul, Matrix};

pub(super) fn pass(subject: &Subject<'_>, ids: &[u64], progress: &Progress) -> Result<Vec<Influence>, AnalysisError> {
    let end = find_end(subject, &subject.asked.question.window, progress)?;
    let probes = ProbeRows::load(&subject.index, &subject.flattener, ids, |records| nearest(records, end))?;
    let blocks = &subject.flattener.blocks;

    let mut traces = vec![0f64; blocks.len()];
    let mut total = 0.0;
    let walked = subject.walk().walk_forwards(progress, |visits, _: &[()], flat| {
        let weights = subject.weights.of_rows(&visits[..flat.rows]);
        total += weights.iter().sum::<f64>();
        for (number, (trace, about)) in traces.iter_mut().zip(blocks).enumerate() {
            let norms = subject.flattener.squared_norms(flat, number, about.width);
            *trace += norms.iter().zip(&weights).map(|(norm, weight)| norm * weight).sum::<f64>();
        }
        Ok(())
    })?;
    walked.check("influence")?;
    let (rows, total) = (walked.visits, if total > 0.0 { total } else { 1.0 });
    let lambdas: Vec<Vec<f64>> = subject
        .asked
        .dampings
        .iter()
        .map(|damping| {
            let of_block =
                |(trace, about): (&f64, &crate::VectorBlock)| lambda(*damping, trace / total, about.coordinates as f64);
            traces.iter().zip(blocks).map(of_block).collect()
        })
        .collect();
    for lambdas in &lambdas {
        if let Some((block, _)) = blocks.iter().zip(lambdas).find(|(_, lambda)| **lambda <= 0.0) {
            let why = "all of its gradients are 0".into();
            return Err(AnalysisError::Singular { block: block.name.clone(), damping: 0.0, why });
        }
    }

    let count = ids.len();
    let mut sums: Vec<Vec<f32>> = blocks.iter().map(|b| vec![0f32; lambdas.len() * count * b.width]).collect();
    let _ = subject.walk().walk_forwards(progress, |visits, _: &[()], flat| {
        let weights = subject.weights.of_rows(&visits[..flat.rows]);
        for (number, about) in blocks.iter().enumerate() {
            let lambdas: Vec<f64> = lambdas.iter().map(|lambdas| lambdas[number]).collect();
            let norms = subject.flattener.squared_norms(flat, number, about.width);
            let block = (&flat.blocks[number][..], about.width, &norms[..], &weights[..]);
            add_rows(block, &probes.flat.blocks[number], count, &lambdas, &mut sums[number]);
        }
        Ok(())
    })?;
    for (number, sums) in sums.iter_mut().enumerate() {
        let each = (count * blocks[number].width).max(1);
        for (sums, lambdas) in sums.chunks_mut(each).zip(&lambdas) {
            for (sum, value) in sums.iter_mut().zip(&probes.flat.blocks[number]) {
                *sum = ((f64::from(*value) - f64::from(*sum) / total) / lambdas[number]) as f32;
            }
        }
    }
    let columns = lambdas.len() * count;
    let (scores, walked) = mean_scores(subject, columns, progress, |tile| {
        dots(&subject.flattener.flatten(tile.gradients, tile.rows), &sums, columns)
    })?;
    let estimates = subject
        .asked
        .dampings
        .iter()
        .zip(lambdas)
        .map(|(damping, lambdas)| EstimateDetails {
            curvature_rows: rows,
            damping: Some(*damping),
            lambdas,
            ..subject.estimate()
        })
        .collect();
    scores.finish(subject, ids, walked.left_out, walked.damage, estimates)
}

/// Adds `Σ_r κ_r·(g_r·v)/(λ + ‖g_r‖²)·g_r` of one block of a tile, its values, width, squared norms and weights, to the
/// sums `[lambdas · probes, width]`.
fn add_rows(block: (&[f32], usize, &[f64], &[f64]), probes: &[f32], count: usize, lambdas: &[f64], sums: &mut [f32]) {
    let (values, width, norms, weights) = block;
    let rows = norms.len();
    let dots = block_dots(values, rows, probes, count);
    let mut weighted = vec![0f32; dots.len()];
    for (sums, lambda) in sums.chunks_mut((count * width).max(1)).zip(lambdas) {
        let pairs = weighted.chunks_mut(count.max(1)).zip(dots.chunks(count.max(1)));
        for ((out, dots), (norm, weight)) in pairs.zip(norms.iter().zip(weights)) {
            for (out, dot) in out.iter_mut().zip(dots) {
                *out = (weight * f64::from(*dot) / (lambda + norm)) as f32;
            }
        }
        let left = Matrix::new(&weighted, rows, count).t();
        matmul(sums, left, Matrix::new(values, rows, width), true, rayon::current_num_threads());
    }
}
