//! Whole gradients of some rows, and their dot products. Outer products are never made.

use crate::rows::gradient::{Factored, Gradients, Layout};
use crate::vectors::sides::{FactoredSides, LayerRows};
use gradlog_kernels::matmul::{matmul, Matrix};

/// Whole gradients of some rows: the two sides of each factored layer, and the folded vector.
pub(super) struct WholeRows {
    /// Of each vector of a gradient `[rows, width]`, where the two sides of a layer follow one another.
    pairs: Vec<[(Vec<f32>, usize); 2]>,
    folded: Option<(Vec<f32>, usize)>,
    rows: usize,
}

impl WholeRows {
    /// None yet, of this layout.
    pub(super) fn new(layout: &Layout) -> Self {
        let pair = |f: &Factored| [(Vec::new(), f.inputs + usize::from(f.bias)), (Vec::new(), f.outputs)];
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
    pub(super) fn products(&self, first: usize, count: usize, others: &WholeRows) -> Vec<f32> {
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
