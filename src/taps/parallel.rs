//! Shares work out to the threads that candle's element-wise ops run on.
//!
//! candle 0.11 has two pools. Its matrix products use rayon's. Its element-wise ops use a pool of its own, whose idle
//! workers spin before they sleep. A fused op on rayon's pool would find its cores taken by spinning workers. On
//! candle's pool it finds them awake.

use candle_core::utils::barrier_pool;
use gradlog_kernels::fresh::{self, Piece};
use gradlog_kernels::matmul::{self, Matrix};
use std::sync::{Mutex, PoisonError};

/// Below this many multiplications, handing a part to another thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 19;

/// Number of threads that share work, with the calling one.
pub(crate) fn count_threads() -> usize {
    barrier_pool().n_workers() + 1
}

/// Calls `work` on each part and returns the results in order. No part waits for another one.
pub(crate) fn map<P: Send, R: Send>(parts: Vec<P>, work: impl Fn(P) -> R + Sync) -> Vec<R> {
    if parts.len() <= 1 {
        return parts.into_iter().map(work).collect();
    }
    // Each cell holds a part and later its result. One thread at a time touches it, so no lock waits.
    let cells: Vec<Mutex<(Option<P>, Option<R>)>> = parts.into_iter().map(|p| Mutex::new((Some(p), None))).collect();
    barrier_pool().execute_chunked(cells.len(), |range| {
        for cell in &cells[range] {
            let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
            cell.1 = cell.0.take().map(&work);
        }
    });
    cells.into_iter().filter_map(|cell| cell.into_inner().unwrap_or_else(PoisonError::into_inner).1).collect()
}

/// Shares out the rows of `out`: calls `work(first, rows)` on one stretch for each thread. `first` is the number of the
/// stretch's first row; a row has `width` elements.
pub(crate) fn share_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let width = width.max(1);
    let rows = (out.len() / width).div_ceil(count_threads()).max(1);
    let parts = out.chunks_mut(rows * width).enumerate().collect();
    map(parts, |(number, part): (usize, &mut [f32])| work(number * rows, part));
}

/// With this many numbers it pays to wake a thread for an element-wise pass.
const STRETCH: usize = 1 << 12;

/// A vector of `length` numbers: calls `write` on one stretch for each thread. The vector is not cleared before.
pub(crate) fn fresh(length: usize, write: impl Fn(Piece<'_>) + Sync) -> Vec<f32> {
    let pieces = count_threads().min(length.div_ceil(STRETCH));
    fresh::vector(length, 1, pieces, |pieces| {
        map(pieces, write);
    })
}

/// `a·b`, with its rows shared out.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    if is_thin(a, b) {
        let mut out = vec![0f32; a.shape().0 * b.shape().1];
        add_flipped(&mut out, a, b);
        return out;
    }
    product_by_rows(a, b)
}

fn product_by_rows(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let (rows, inner) = a.shape();
    let (_, width) = b.shape();
    let pieces = if rows * inner * width < PARALLEL_FROM { 1 } else { count_threads() };
    fresh::vector(rows, width, pieces, |pieces| {
        map(pieces, |piece| piece.write_product(a, b));
    })
}

/// Adds `a·b` to `out`, with the rows of `out` shared out.
pub(super) fn add_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    let (_, width) = b.shape();
    let (rows, inner) = a.shape();
    if is_thin(a, b) {
        return add_flipped(out, a, b);
    }
    if rows * inner * width < PARALLEL_FROM {
        return matmul::matmul(out, a, b, true, 1);
    }
    share_rows(out, width, |first, part| matmul::matmul(part, a.rows(first, part.len() / width), b, true, 1));
}

/// The most rows of a thin product.
const THIN_ROWS: usize = 128;
/// Both sides have at least so many columns.
const THIN_COLUMNS: usize = 128;

/// Whether to compute `(bᵀ·aᵀ)ᵀ` in place of `a·b`: a few rows times the transpose of a large matrix. The product would
/// first copy all of `b` to have its columns lie in the order of vector registers, and once for each thread. The
/// flipped one does that with the few rows.
fn is_thin(a: Matrix<'_>, b: Matrix<'_>) -> bool {
    let (rows, inner) = a.shape();
    let (_, width) = b.shape();
    let are_long = inner >= THIN_COLUMNS && width >= THIN_COLUMNS && rows * inner * width >= PARALLEL_FROM;
    rows <= THIN_ROWS && are_long && a.has_contiguous_rows() && b.t().has_contiguous_rows()
}

/// Adds `a·b` to `out` as `(bᵀ·aᵀ)ᵀ`.
fn add_flipped(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    let ((rows, _), (_, width)) = (a.shape(), b.shape());
    let flipped = product_by_rows(b.t(), a.t());
    share_rows(out, width, |first, part| add_transpose(&flipped, rows, first, part, width));
}

/// Adds the rows from `first` on of the transpose of `[width, rows]` to `out`, whose rows have `width` numbers.
fn add_transpose(flipped: &[f32], rows: usize, first: usize, out: &mut [f32], width: usize) {
    /// Numbers of a side of a square that is in the first-level cache.
    const TILE: usize = 16;
    for (band, out) in out.chunks_mut(TILE * width).enumerate() {
        for column in (0..width).step_by(TILE) {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let row = first + band * TILE + row;
                let columns = column..width.min(column + TILE);
                let from = flipped[column * rows + row..].iter().step_by(rows);
                out[columns].iter_mut().zip(from).for_each(|(out, from)| *out += from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_order_and_rows_their_place() {
        let squares = map((0..37u64).collect(), |i| i * i);
        assert_eq!(squares, (0..37).map(|i| i * i).collect::<Vec<u64>>());
        let mut out = vec![0f32; 11 * 3];
        share_rows(&mut out, 3, |first, part| {
            for (offset, row) in part.chunks_exact_mut(3).enumerate() {
                row.fill((first + offset) as f32);
            }
        });
        let expected: Vec<f32> = (0..11).flat_map(|row| [row as f32; 3]).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn a_shared_product_is_the_product() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect() };
        // Large enough to be shared out, with a number of rows that is prime.
        let (m, k, n) = (97, 80, 71);
        let (a, b) = (numbers(k * m), numbers(k * n));
        let (a, b) = (Matrix::new(&a, k, m).t(), Matrix::new(&b, k, n));
        assert!(m * k * n >= PARALLEL_FROM);
        let (mut shared, mut alone) = (vec![1f32; m * n], vec![1f32; m * n]);
        add_product(&mut shared, a, b);
        matmul::matmul(&mut alone, a, b, true, 1);
        assert_eq!(shared, alone, "the numbers are small integers, so every order of summing gives the same");
        alone.iter_mut().for_each(|number| *number -= 1.0);
        assert_eq!(product(a, b), alone);
    }

    #[test]
    fn a_thin_product_is_the_product() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect() };
        for (rows, inner, width) in [(64, 200, 131), (37, 128, 128), (128, 129, 300), (1, 2_000, 300)] {
            let (a, b) = (numbers(rows * inner), numbers(width * inner));
            let (a, b) = (Matrix::new(&a, rows, inner), Matrix::new(&b, width, inner).t());
            assert!(is_thin(a, b) && rows * inner * width >= PARALLEL_FROM);
            let (mut thin, mut whole) = (vec![1f32; rows * width], vec![1f32; rows * width]);
            add_product(&mut thin, a, b);
            matmul::matmul(&mut whole, a, b, true, 1);
            assert_eq!(thin, whole, "{rows}x{inner}x{width}");
            whole.iter_mut().for_each(|number| *number -= 1.0);
            assert_eq!(product(a, b), whole, "{rows}x{inner}x{width}");
        }
        let long = numbers(129 * 128);
        assert!(!is_thin(Matrix::new(&long, 129, 128), Matrix::new(&long, 128, 128).t()));
        assert!(!is_thin(Matrix::new(&long, 64, 128), Matrix::new(&long, 128, 128)));
        assert!(!is_thin(Matrix::new(&long, 128, 64).t(), Matrix::new(&long, 128, 128).t()));
        assert!(!is_thin(Matrix::new(&long, 64, 128), Matrix::new(&long, 64, 128).t()));
    }
}
