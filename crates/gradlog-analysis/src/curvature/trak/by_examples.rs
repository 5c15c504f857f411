//! A damped inverse that is solved by examples in place of numbers of the gradient.
//!
//! With the rows `Φ` of `n` examples, `(ΦᵀΦ + μI)⁻¹Φᵀ = Φᵀ(ΦΦᵀ + μI)⁻¹`. So where a gradient has more numbers than
//! there are examples, the matrix of their dot products does: nothing is folded. A layer's part of it is the product
//! of those of its sides, `⟨a_i, a_j⟩·⟨δ_i, δ_j⟩`, so outer products are never made.
//!
//! # Cost
//! `2n²` operations for each number of the sides, `n³/3` for each damping, and 16 bytes for each pair of examples.

use super::log_odds::{doubt, is_known, scales_of_probes, to_scale};
use super::whole_rows::WholeRows;
use super::{Solution, Solved};
use crate::curvature::detail::Outputs;
use crate::curvature::gram::lambda;
use crate::curvature::probes::ProbeRows;
use crate::curvature::subject::{Subject, CURVATURE_BYTES_MAX};
use crate::influence::plan::index::Record;
use crate::rows::gradient::{Gradients, Layout};
use crate::vectors::sides::FactoredSides;
use crate::vectors::walk::Walk;
use crate::{AnalysisError, Damping, Progress};
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use gradlog_format::log::Manifest;
use gradlog_format::run::Origin;
use gradlog_format::sketch::Encoding;

/// Rows of the matrix that are made at a time.
const PANEL_ROWS: usize = 256;

/// The sides of the layers, if the inverse is better solved by examples: gradients would be folded, the visits of each
/// epoch are few enough, and none weighs less than 0.
pub(super) fn find_sides(subject: &Subject<'_>, most_visits: u64) -> Option<FactoredSides> {
    let (layout, manifest) = (&subject.flattener.layout, subject.run.manifest());
    let is_folded = !subject.asked.shape.by_layer && !subject.estimate().exact;
    let by_examples = is_folded && !subject.weights.has_negative() && fits(layout, manifest, most_visits);
    by_examples.then(|| FactoredSides::new(layout, manifest, usize::MAX))
}

/// Whether `examples` rows of this layout are better solved by examples: their matrix fits, and no vector is signs, of
/// which the lengths are not those of the gradients.
fn fits(layout: &Layout, manifest: &Manifest, examples: u64) -> bool {
    let sketch = &manifest.sketch;
    let is_projected = |origin: Origin| origin != Origin::Whole;
    let mut sides = layout.factored.iter().flat_map(|f| [f.input_origin, f.delta_origin]);
    let has_projected = layout.folded.is_some() || sides.any(is_projected);
    let has_signs = sketch.encoding == Encoding::Signs || has_projected && sketch.projected_encoding == Encoding::Signs;
    let numbers: u64 = layout.widths().iter().map(|width| *width as u64).sum();
    let bytes = 16u128 * u128::from(examples) * u128::from(examples) + 4 * u128::from(numbers) * u128::from(examples);
    !has_signs && bytes <= u128::from(CURVATURE_BYTES_MAX)
}

/// Gathers the whole gradients of the visits of `walk`, and solves for the probes, whose records are `records`.
///
/// # Errors
/// As [`crate::EstimateQuestion::plan`].
pub(super) fn solve(
    subject: &Subject<'_>,
    (walk, sides): (&Walk<'_>, &FactoredSides),
    (probes, records): (&ProbeRows, &[Record]),
    progress: &Progress,
) -> Result<Solved, AnalysisError> {
    let mut rows = WholeRows::new(&subject.flattener.layout);
    let (mut roots, mut total, mut without_log_odds) = (Vec::new(), 0.0, 0);
    let walked = walk.walk_tiles(progress, |visits, outputs: &[Outputs], tile| {
        let Some(tile) = tile else { return Ok(()) };
        let mut scales = Vec::with_capacity(visits.len());
        for (weight, outputs) in subject.weights.of_rows(visits).iter().zip(outputs) {
            let doubt = doubt(outputs)?;
            without_log_odds += u64::from(!is_known(doubt));
            roots.push(weight.sqrt());
            total += weight;
            scales.push(weight.sqrt() * to_scale(doubt));
        }
        rows.add(sides, (tile.gradients, tile.rows), &scales);
        Ok(())
    })?;
    let count = rows.rows() as u64;
    let mut solved = Solved {
        walked,
        rows: count,
        without_log_odds,
        probes_without_log_odds: 0,
        lambdas: Vec::new(),
        solution: None,
    };
    if count == 0 {
        return Ok(solved);
    }
    let scales = scales_of_probes(probes)?;
    solved.probes_without_log_odds = scales.iter().filter(|scale| **scale == 0.0).count() as u64;
    let probes = load_whole(subject, sides, records, &scales)?;
    let weighed = (total.max(f64::MIN_POSITIVE), subject.flattener.length());
    let (values, lambdas) = solve_rows(&rows, &probes, &subject.asked.dampings, weighed)?;
    solved.lambdas = lambdas.into_iter().map(|lambda| vec![lambda]).collect();
    solved.solution = Some(Solution::Examples { values, roots });
    Ok(solved)
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

/// `(ΦΦᵀ + μI)⁻¹ Φ v` of each probe `v`, `[rows, dampings · probes]`, and what each damping came to. The rows
/// weigh `total` together, so the mean of their outer products is `ΦᵀΦ / total`. A relative damping goes by its mean
/// eigenvalue over `numbers`.
///
/// # Errors
/// [`AnalysisError::Singular`] if the matrix cannot be inverted.
fn solve_rows(
    rows: &WholeRows,
    probes: &WholeRows,
    dampings: &[Damping],
    (total, numbers): (f64, usize),
) -> Result<(Vec<f64>, Vec<f64>), AnalysisError> {
    let (count, columns) = (rows.rows(), probes.rows());
    let mut kernel = Mat::<f64>::zeros(count, count);
    for first in (0..count).step_by(PANEL_ROWS) {
        let panel = PANEL_ROWS.min(count - first);
        for (row, products) in rows.products(first, panel, rows).chunks(count.max(1)).enumerate() {
            products.iter().enumerate().for_each(|(j, product)| kernel[(j, first + row)] = f64::from(*product));
        }
    }
    let mut right = Mat::<f64>::zeros(count, columns);
    for first in (0..count).step_by(PANEL_ROWS) {
        let panel = PANEL_ROWS.min(count - first);
        for (row, products) in rows.products(first, panel, probes).chunks(columns.max(1)).enumerate() {
            products.iter().enumerate().for_each(|(j, product)| right[(first + row, j)] = f64::from(*product));
        }
    }
    let trace: f64 = (0..count).map(|i| kernel[(i, i)]).sum::<f64>() / total;
    let singular = |damping, why: String| AnalysisError::Singular { block: "whole gradient".into(), damping, why };
    if !trace.is_finite() {
        return Err(singular(0.0, "a gradient is too large".into()));
    }
    let width = columns * dampings.len();
    let (mut values, mut lambdas) = (vec![0.0; count * width], Vec::new());
    let mut added = 0.0;
    for (number, damping) in dampings.iter().enumerate() {
        let lambda = lambda(*damping, trace, numbers as f64);
        if lambda <= 0.0 {
            return Err(singular(lambda, "all of its gradients are 0".into()));
        }
        let mu = lambda * total;
        (0..count).for_each(|i| kernel[(i, i)] += mu - added);
        added = mu;
        let factor = kernel.llt(Side::Lower).map_err(|error| singular(lambda, format!("{error}")))?;
        let mut solved = right.clone();
        factor.solve_in_place(&mut solved);
        for row in 0..count {
            for column in 0..columns {
                values[row * width + number * columns + column] = solved[(row, column)];
            }
        }
        lambdas.push(lambda);
    }
    Ok((values, lambdas))
}
