//! A damped inverse that is solved by examples in place of numbers of the gradient.
//!
//! With the rows `Φ` of `n` examples, `(ΦᵀΦ + μI)⁻¹Φᵀ = Φᵀ(ΦΦᵀ + μI)⁻¹`. So where a gradient has more numbers than
//! there are examples, the matrix of their dot products does: nothing is folded. A layer's part of it is the product
//! of those of its sides, `⟨a_i, a_j⟩·⟨δ_i, δ_j⟩`, so outer products are never made.
//!
//! # Cost
//! `2n²` operations for each number of the sides, `n³/3` for each damping, and 16 bytes for each pair of examples.

use super::gram::lambda;
use super::subject::CURVATURE_BYTES_MAX;
use crate::rows::gradient::{Gradients, Layout};
use crate::vectors::sides::{FactoredSides, LayerRows};
use crate::{AnalysisError, Damping};
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use gradlog_format::log::Manifest;
use gradlog_format::run::Origin;
use gradlog_format::sketch::Encoding;
use gradlog_kernels::matmul::{matmul, Matrix};

/// Rows of the matrix that are made at a time.
const PANEL_ROWS: usize = 256;

/// Whole gradients of some rows: the two sides of each factored layer, and the folded vector.
pub(super) struct WholeRows {
    /// Of each vector of a gradient `[rows, width]`, where the two sides of a layer follow one another.
    pairs: Vec<[(Vec<f32>, usize); 2]>,
    folded: Option<(Vec<f32>, usize)>,
    rows: usize,
}

/// Whether `examples` rows of this layout are better solved by examples: their matrix fits, and no vector is signs, of
/// which the lengths are not those of the gradients.
pub(super) fn fits(layout: &Layout, manifest: &Manifest, examples: u64) -> bool {
    let sketch = &manifest.sketch;
    let is_projected = |origin: Origin| origin != Origin::Whole;
    let mut sides = layout.factored.iter().flat_map(|f| [f.input_origin, f.delta_origin]);
    let has_projected = layout.folded.is_some() || sides.any(is_projected);
    let has_signs = sketch.encoding == Encoding::Signs || has_projected && sketch.projected_encoding == Encoding::Signs;
    let numbers: u64 = layout.widths().iter().map(|width| *width as u64).sum();
    let bytes = 16u128 * u128::from(examples) * u128::from(examples) + 4 * u128::from(numbers) * u128::from(examples);
    !has_signs && bytes <= u128::from(CURVATURE_BYTES_MAX)
}

impl WholeRows {
    /// None yet, of this layout.
    pub(super) fn new(layout: &Layout) -> Self {
        let pair = |f: &crate::rows::gradient::Factored| {
            [(Vec::new(), f.inputs + usize::from(f.bias)), (Vec::new(), f.outputs)]
        };
        Self {
            pairs: layout.factored.iter().map(pair).collect(),
            folded: layout.folded.map(|width| (Vec::new(), width)),
            rows: 0,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds rows of a block, each times its scale.
    pub(super) fn add(&mut self, sides: &FactoredSides, (gradients, rows): (&Gradients, &[usize]), scales: &[f64]) {
        for (pair, LayerRows { input, mut delta }) in self.pairs.iter_mut().zip(sides.decode(gradients, rows)) {
            for (values, scale) in delta.values.chunks_mut(delta.width.max(1)).zip(scales) {
                values.iter_mut().for_each(|value| *value *= *scale as f32);
            }
            pair[0].0.extend(input.values);
            pair[1].0.extend(delta.values);
        }
        if let Some((values, width)) = &mut self.folded {
            let mut own = vec![0f32; *width];
            for (&row, scale) in rows.iter().zip(scales) {
                gradients.part(2 * self.pairs.len()).decode(row, &mut own);
                values.extend(own.iter().map(|value| value * *scale as f32));
            }
        }
        self.rows += rows.len();
    }

    /// Dot products of rows `first..first + count` with those of `others`: `[count, others]`.
    fn products(&self, first: usize, count: usize, others: &WholeRows) -> Vec<f32> {
        let threads = rayon::current_num_threads();
        let product = |(own, width): &(Vec<f32>, usize), (other, _): &(Vec<f32>, usize)| {
            let mut out = vec![0f32; count * others.rows];
            let left = Matrix::new(&own[first * width..(first + count) * width], count, *width);
            matmul(&mut out, left, Matrix::new(other, others.rows, *width).t(), false, threads);
            out
        };
        let mut sums = match (&self.folded, &others.folded) {
            (Some(own), Some(other)) => product(own, other),
            _ => vec![0f32; count * others.rows],
        };
        for (own, other) in self.pairs.iter().zip(&others.pairs) {
            let inputs = product(&own[0], &other[0]);
            let deltas = product(&own[1], &other[1]);
            sums.iter_mut().zip(inputs.iter().zip(&deltas)).for_each(|(sum, (a, d))| *sum += a * d);
        }
        sums
    }
}

/// `(ΦΦᵀ + μI)⁻¹ Φ v` of each probe `v`, for each damping.
pub(super) struct DualSolution {
    /// `[rows, dampings · probes]`.
    pub solved: Vec<f64>,
    /// What each damping came to.
    pub lambdas: Vec<f64>,
}

/// Solves for all dampings. The rows weigh `total` together, so the mean of their outer products is `ΦᵀΦ / total`. A
/// relative damping goes by its mean eigenvalue over `numbers`.
///
/// # Errors
/// [`AnalysisError::Singular`] if the matrix cannot be inverted.
pub(super) fn solve(
    rows: &WholeRows,
    probes: &WholeRows,
    dampings: &[Damping],
    (total, numbers): (f64, usize),
) -> Result<DualSolution, AnalysisError> {
    let (count, columns) = (rows.rows, probes.rows);
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
    let mut solution = DualSolution { solved: vec![0.0; count * columns * dampings.len()], lambdas: Vec::new() };
    let width = columns * dampings.len();
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
                solution.solved[row * width + number * columns + column] = solved[(row, column)];
            }
        }
        solution.lambdas.push(lambda);
    }
    Ok(solution)
}
