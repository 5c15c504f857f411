//! Matrix products on slices: a safe interface to the `gemm` crate, which candle depends on too.
//!
//! The taps use it for weight gradients and per-example gradients, the analysis for dot products of many pairs.

use gemm::Parallelism;
use std::mem::MaybeUninit;

/// A read-only matrix inside a slice. Each dimension has a stride, so a transpose copies nothing.
///
/// ```
/// use gradlog_kernels::matmul::{matmul, Matrix};
/// let a = Matrix::new(&[1.0, 2.0, 3.0, 4.0], 2, 2); // [[1, 2], [3, 4]]
/// let mut out = [0.0; 4];
/// matmul(&mut out, a, a.t(), false, 1);
/// assert_eq!(out, [5.0, 11.0, 11.0, 25.0]);
/// ```
// The unsafe call below relies on an invariant. Every element (r, c), with r below `rows` and c below `columns`, lies
// at `r·row_stride + c·column_stride < data.len()`. Where there is an element, neither stride is longer than some
// slice. Three functions make a matrix, and nothing else does:
// - `Matrix::new` checks `rows·columns <= data.len()`; its row stride is `columns`, its column stride 1.
// - `Matrix::t` exchanges rows and columns with their strides.
// - `Matrix::rows` drops rows and begins the slice at the first row that stays. `Matrix::columns` is made of the two.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of `rows` rows and `columns` columns. Its rows lie one after another at the start of `data`.
    ///
    /// # Panics
    /// If `data` has fewer than `rows·columns` numbers, or if that product overflows.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(rows.checked_mul(columns).is_some_and(|all| all <= data.len()), "a matrix longer than its slice");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The numbers of rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Whether the numbers of a row lie one after another.
    pub fn has_contiguous_rows(&self) -> bool {
        self.column_stride == 1
    }

    /// The `count` rows that begin with row `first`.
    ///
    /// # Panics
    /// If `first + count` is more than the number of rows.
    pub fn rows(self, first: usize, count: usize) -> Self {
        assert!(first.checked_add(count).is_some_and(|end| end <= self.rows), "rows behind the last one");
        // A matrix without numbers may begin anywhere, so also at the end of the slice.
        let start = (first * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: count, ..self }
    }

    /// The `count` columns that begin with column `first`.
    ///
    /// # Panics
    /// If `first + count` is more than the number of columns.
    pub fn columns(self, first: usize, count: usize) -> Self {
        self.t().rows(first, count).t()
    }

    /// The transpose: the same numbers, with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Computes `out = a·b`, or `out += a·b` if `accumulate` is true.
///
/// `out` has the shape `[rows of a, columns of b]`, with its rows one after another.
/// With `threads` above 1 the product runs on that many threads of rayon's pool.
///
/// # Panics
/// If `a` has another number of columns than `b` has rows, or `out` another length than the result.
pub fn matmul(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, threads: usize) {
    // SAFETY: the numbers of a slice are initialized, and `multiply` writes nothing that is not.
    unsafe { multiply(out.as_mut_ptr(), out.len(), a, b, accumulate, threads) }
}

/// Computes `out = a·b` and so initializes it.
///
/// # Panics
/// As [`matmul`].
pub(crate) fn matmul_into(out: &mut [MaybeUninit<f32>], a: Matrix<'_>, b: Matrix<'_>) {
    // SAFETY: as the result is not added to it, `out` is not read: `gemm` 0.19 writes each number before it reads it.
    unsafe { multiply(out.as_mut_ptr().cast(), out.len(), a, b, false, 1) }
}

/// Writes every number of `out`, and reads it only if `accumulate` is true.
///
/// # Safety
/// `out` must be valid for writes of `length` numbers, aligned, and overlap no input. With `accumulate` its numbers
/// must be initialized.
unsafe fn multiply(out: *mut f32, length: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, threads: usize) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "the inner dimensions differ");
    assert_eq!(Some(length), m.checked_mul(n), "the result has another size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            // SAFETY: `out` is valid for writes of so many numbers; a zero is eight bits of zero four times.
            unsafe { out.write_bytes(0, length) };
        }
        return;
    }
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: `gemm` reads lhs at `i·rs + l·cs` and rhs at `l·rs + j·cs`, and reads (if `accumulate`) and writes dst at
    // `i·rs + j·cs`, for i < m, l < k, j < n, and nothing else.
    // - lhs is m x k and rhs is k x n by the first assertion. By `Matrix`'s invariant all these places lie in their
    //   slices.
    // - dst has rs = n and cs = 1, so its places are at most `(m - 1)·n + n - 1 = m·n - 1`. By the second assertion
    //   `out` has m·n numbers.
    // - m, k and n are at least 1 here, so each stride is at most the length of a slice. That is below `isize::MAX`,
    //   and the casts change no number. (An empty matrix may have any stride. It has returned above.)
    // - The caller says that `out` may be written, overlaps neither input, and is initialized where it is read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            n as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Box<[f32]> {
        (0..n).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    fn element(x: &Matrix<'_>, row: usize, column: usize) -> f32 {
        x.data[row * x.row_stride + column * x.column_stride]
    }

    /// Compares with the definition for every transpose. Every slice has exactly the length it needs, in a heap block
    /// of its own. So Miri and the address sanitizer see every access outside.
    fn check(m: usize, k: usize, n: usize, threads: usize) {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        for left in [Matrix::new(&a, m, k), Matrix::new(&a, k, m).t(), Matrix::new(&a, m, k).t().t()] {
            for right in [Matrix::new(&b, k, n), Matrix::new(&b, n, k).t()] {
                for accumulate in [false, true] {
                    let mut out = vec![2.0; m * n].into_boxed_slice();
                    matmul(&mut out, left, right, accumulate, threads);
                    for (place, found) in out.iter().enumerate() {
                        let (i, j) = (place / n, place % n);
                        let dot: f32 = (0..k).map(|l| element(&left, i, l) * element(&right, l, j)).sum();
                        // Small whole numbers: every order of summing is exact.
                        assert_eq!(*found, dot + if accumulate { 2.0 } else { 0.0 }, "{m}x{k}x{n} at {i}, {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn equals_the_definition_for_every_transpose() {
        // Miri takes seconds for what takes the processor milliseconds.
        let sizes: &[usize] = if cfg!(miri) { &[0, 1, 2, 5] } else { &[0, 1, 2, 3, 5, 7, 8, 15, 17, 31, 33] };
        for &m in sizes {
            for &k in sizes {
                for &n in sizes {
                    check(m, k, n, 1);
                }
            }
        }
        let large: &[(usize, usize, usize)] =
            if cfg!(miri) { &[(17, 9, 13)] } else { &[(64, 100, 10), (257, 129, 65), (1, 513, 1), (300, 1, 300)] };
        for &(m, k, n) in large {
            check(m, k, n, 1);
            if !cfg!(miri) {
                check(m, k, n, 2);
            }
        }
    }

    /// The matrix is a part of a longer slice. The rest of it holds NaN, which would show in the result.
    #[test]
    fn reads_no_more_than_the_matrix() {
        let (mut a, mut b) = (vec![f32::NAN; 40], vec![f32::NAN; 40]);
        a[..15].copy_from_slice(&numbers(15, 1));
        b[..10].copy_from_slice(&numbers(10, 2));
        let mut out = vec![f32::NAN; 6];
        matmul(&mut out, Matrix::new(&a, 5, 3).t(), Matrix::new(&b, 5, 2), false, 1);
        assert!(out.iter().all(|x| x.is_finite()), "{out:?}");
    }

    /// The rows of a product are the products of the rows, wherever they begin. This holds for a transpose too.
    #[test]
    fn rows_of_a_matrix_are_a_matrix() {
        let (m, k, n) = (7, 3, 4);
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        for left in [Matrix::new(&a, m, k), Matrix::new(&a, k, m).t()] {
            for (first, count) in (0..=k).flat_map(|first| (0..=k - first).map(move |count| (first, count))) {
                let mut out = vec![2.0; m * n].into_boxed_slice();
                let left = left.columns(first, count);
                matmul(&mut out, left, Matrix::new(&b, k, n).rows(first, count), false, 1);
                for (place, found) in out.iter().enumerate() {
                    let (i, j) = (place / n, place % n);
                    let dot: f32 = (0..count).map(|l| element(&left, i, l) * b[(first + l) * n + j]).sum();
                    assert_eq!(*found, dot, "{count} columns from {first} at {i}, {j}");
                }
            }
            for (first, count) in (0..=m).flat_map(|first| (0..=m - first).map(move |count| (first, count))) {
                let mut out = vec![2.0; count * n].into_boxed_slice();
                matmul(&mut out, left.rows(first, count), Matrix::new(&b, k, n), false, 1);
                for (place, found) in out.iter().enumerate() {
                    let (i, j) = (first + place / n, place % n);
                    let dot: f32 = (0..k).map(|l| element(&left, i, l) * b[l * n + j]).sum();
                    assert_eq!(*found, dot, "{count} rows from {first} at {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let refused = |f: &dyn Fn()| assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err());
        let data = [1.0; 6];
        refused(&|| assert!(Matrix::new(&data, 2, 4).rows > 0));
        // The product of these is 0 in the arithmetic of 64 bits.
        refused(&|| assert!(Matrix::new(&data, 1 << 32, 1 << 32).rows > 0));
        refused(&|| assert!(Matrix::new(&data, usize::MAX, 2).rows > 0));
        refused(&|| assert!(Matrix::new(&data, 3, 2).rows(2, 2).rows > 0));
        // The sum of these is 1.
        refused(&|| assert!(Matrix::new(&data, 3, 2).rows(2, usize::MAX).rows > 0));
        let product = |out: usize, a: (usize, usize), b: (usize, usize)| {
            matmul(&mut vec![0.0; out], Matrix::new(&data, a.0, a.1), Matrix::new(&data, b.0, b.1), false, 1);
        };
        refused(&|| product(4, (2, 3), (2, 2)));
        refused(&|| product(5, (2, 3), (3, 2)));
        // Empty, so they lie in any slice, and their product has 2^64 numbers.
        refused(&|| product(0, (1 << 32, 0), (0, 1 << 32)));
        product(0, (0, usize::MAX), (usize::MAX, 0));
        product(4, (2, 3), (3, 2));
    }
}
