//! Matrix products on slices: the one safe door to the `gemm` crate, which candle brings anyway.
//!
//! Used by the taps (weight and per-example gradients) and by the analysis (dot products of many pairs).

use gemm::Parallelism;

/// A read-only matrix inside a slice, with a stride for each dimension, so that a transpose is free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie one after another.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns, "a matrix longer than its slice");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Rows and columns.
    #[cfg_attr(not(feature = "candle"), allow(dead_code))]
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// `count` rows from row `first` on.
    ///
    /// # Panics
    /// If there are not so many.
    #[cfg_attr(not(feature = "candle"), allow(dead_code))]
    pub(crate) fn rows(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows, "rows behind the last one");
        // Of no rows, or of rows without numbers, the place does not matter, and it may be the end of the slice.
        let start = (first * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: count, ..self }
    }

    /// The same numbers with rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = a·b`, or `out += a·b` where `accumulate` is set; `out` is `[a.rows, b.columns]` with its rows one after another.
///
/// # Panics
/// If the shapes do not fit.
pub(crate) fn matmul(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, threads: usize) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "the inner dimensions differ");
    assert_eq!(out.len(), m * n, "the result has another size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: `Matrix::new` checked that both inputs lie inside their slices, transposing keeps that, and `out` has
    // exactly `m·n` numbers by the assertion above and is borrowed exclusively, so it aliases neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
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

    #[test]
    fn equals_the_definition_for_every_transpose() {
        let numbers =
            |n: usize, seed: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect() };
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (64, 100, 10), (4, 0, 3)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let (at, bt) = (numbers(k * m, 1), numbers(n * k, 2));
            let cases = [
                (Matrix::new(&a, m, k), Matrix::new(&b, k, n)),
                (Matrix::new(&at, k, m).t(), Matrix::new(&b, k, n)),
                (Matrix::new(&a, m, k), Matrix::new(&bt, n, k).t()),
            ];
            for (left, right) in cases {
                for accumulate in [false, true] {
                    let mut out = vec![2.0; m * n];
                    matmul(&mut out, left, right, accumulate, 1);
                    for i in 0..m {
                        for j in 0..n {
                            let at =
                                |x: &Matrix<'_>, r: usize, c: usize| x.data[r * x.row_stride + c * x.column_stride];
                            let dot: f32 = (0..k).map(|l| at(&left, i, l) * at(&right, l, j)).sum();
                            let expected = dot + if accumulate { 2.0 } else { 0.0 };
                            assert_eq!(out[i * n + j], expected, "{m}x{k}x{n}");
                        }
                    }
                }
            }
        }
    }
}
