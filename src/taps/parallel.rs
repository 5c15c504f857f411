//! Shares work out to the threads that candle's element-wise ops run on.
//!
//! candle 0.11 has two pools. Its matrix products use rayon's. Its element-wise ops use a pool of its own, whose idle
//! workers spin before they sleep. A fused op on rayon's pool would find its cores taken by spinning workers. On
//! candle's pool it finds them awake.

use candle_core::utils::barrier_pool;
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

/// Computes `out = a·b`, or `out += a·b` if `accumulate` is set, with the rows of `out` shared out.
pub(super) fn matmul(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    let (_, width) = b.shape();
    let (rows, inner) = a.shape();
    if rows * inner * width < PARALLEL_FROM {
        return matmul::matmul(out, a, b, accumulate, 1);
    }
    share_rows(out, width, |first, part| matmul::matmul(part, a.rows(first, part.len() / width), b, accumulate, 1));
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
        matmul(&mut shared, a, b, true);
        matmul::matmul(&mut alone, a, b, true, 1);
        assert_eq!(shared, alone, "the numbers are small integers, so every order of summing gives the same");
    }
}
