//! Matrix products with the sides of a layer.

use crate::curvature::gram::product;
use crate::vectors::sides::{LayerRows, SideRows};
use faer::{Mat, MatRef};
use gradlog_kernels::matmul::{matmul, Matrix};
use rayon::prelude::*;

/// The most numbers that the products of one side of a tile with the solutions take at a time, unless those with one
/// solution take more.
const PRODUCTS_MAX: usize = 4 << 20;

/// The numbers of a side in f64, each row times its scale if there are any.
pub(super) fn to_f64(side: &SideRows, scales: Option<&[f64]>) -> Vec<f64> {
    let mut wide = Vec::with_capacity(side.values.len());
    for (row, values) in side.values.chunks(side.width.max(1)).enumerate() {
        let scale = scales.map_or(1.0, |scales| scales[row]);
        wide.extend(values.iter().map(|value| scale * f64::from(*value)));
    }
    wide
}

/// The rows of a side by the columns of a basis: `[rows, width]`.
pub(super) fn rotate(side: &SideRows, basis: &Mat<f64>) -> Mat<f64> {
    let wide = to_f64(side, None);
    product(MatRef::from_row_major_slice(&wide, wide.len() / side.width.max(1), side.width), basis.as_ref())
}

/// Adds `δᵀ M a` of each row with each of the matrices `M`, `[columns, outputs, inputs]`, to `sums`, `[rows, columns]`.
pub(super) fn add_dots(rows: &LayerRows, solutions: &[f32], columns: usize, sums: &mut [f64]) {
    let (inputs, outputs) = (rows.input.width, rows.delta.width);
    let count = sums.len() / columns.max(1);
    let chunk = (PRODUCTS_MAX / (count * outputs).max(1)).clamp(1, columns.max(1));
    let mut products = Vec::new();
    for first in (0..columns).step_by(chunk) {
        let chunk = chunk.min(columns - first);
        let solutions = &solutions[first * outputs * inputs..(first + chunk) * outputs * inputs];
        products.resize(count * chunk * outputs, 0f32);
        let left = Matrix::new(&rows.input.values, count, inputs);
        let right = Matrix::new(solutions, chunk * outputs, inputs);
        matmul(&mut products, left, right.t(), false, rayon::current_num_threads());
        let of_rows = products.par_chunks(chunk * outputs).zip(rows.delta.values.par_chunks(outputs));
        sums.par_chunks_mut(columns).zip(of_rows).for_each(|(sums, (products, delta))| {
            for (sum, product) in sums[first..first + chunk].iter_mut().zip(products.chunks(outputs)) {
                *sum += product.iter().zip(delta).map(|(p, d)| f64::from(*p) * f64::from(*d)).sum::<f64>();
            }
        });
    }
}
