//! Vectors that are written piece by piece, perhaps by several threads, without being cleared first.
//!
//! To clear a vector that is written whole afterwards takes as long as to write it: of a training step's products and
//! element-wise passes it was a tenth.

use crate::matmul::{matmul_into, Matrix};
use crate::simd::vectorized;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A stretch of a vector that nobody has written yet.
#[derive(Debug)]
pub struct Piece<'a> {
    first: usize,
    /// Numbers in a row.
    width: usize,
    out: &'a mut [MaybeUninit<f32>],
    written: &'a AtomicUsize,
}

impl Piece<'_> {
    /// The number of its first row.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Writes the numbers one after another.
    ///
    /// # Panics
    /// If there are fewer than the piece has room for.
    #[inline(always)]
    pub fn write(self, numbers: impl IntoIterator<Item = f32>) {
        let length = self.out.len();
        let done = vectorized(
            #[inline(always)]
            || {
                let mut done = 0;
                for (slot, number) in self.out.iter_mut().zip(numbers) {
                    slot.write(number);
                    done += 1;
                }
                done
            },
        );
        assert_eq!(done, length, "too few numbers for a piece");
        self.written.fetch_add(length, Ordering::Relaxed);
    }

    /// Writes the rows of `a·b` that stand here: those of `a` from [`Piece::first`] on.
    ///
    /// # Panics
    /// If `a` has too few rows, or another number of columns than `b` has rows, or if `b` has another width than the
    /// vector.
    pub fn write_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        let (_, width) = b.shape();
        assert_eq!(width, self.width, "a product of another width");
        let a = a.rows(self.first, self.out.len() / width.max(1));
        matmul_into(self.out, a, b);
        self.written.fetch_add(self.out.len(), Ordering::Relaxed);
    }
}

/// A vector of `rows` rows of `width` numbers, in at most `pieces` pieces of whole rows, which `write` writes.
///
/// ```
/// let squares = gradlog_kernels::fresh::vector(5, 1, 2, |pieces| {
///     for piece in pieces {
///         let first = piece.first();
///         piece.write((first..5).map(|row| (row * row) as f32));
///     }
/// });
/// assert_eq!(squares, [0.0, 1.0, 4.0, 9.0, 16.0]);
/// ```
///
/// # Panics
/// If `write` leaves a piece unwritten, or if `rows·width` overflows.
#[track_caller]
pub fn vector(rows: usize, width: usize, pieces: usize, write: impl FnOnce(Vec<Piece<'_>>)) -> Vec<f32> {
    let length = rows.checked_mul(width).expect("more numbers than there are addresses");
    let mut out = Vec::with_capacity(length);
    let written = AtomicUsize::new(0);
    let rows_a_piece = rows.div_ceil(pieces.max(1)).max(1);
    let parts = out.spare_capacity_mut()[..length].chunks_mut((rows_a_piece * width).max(1)).enumerate();
    write(parts.map(|(number, out)| Piece { first: number * rows_a_piece, width, out, written: &written }).collect());
    assert_eq!(written.into_inner(), length, "a piece was not written");
    // SAFETY: the capacity is at least `length`. The pieces are disjoint and cover the first `length` numbers. A piece
    // is gone when it is written, so each counts once at most, and it counts after all its numbers were written. They
    // add up to `length`, so every number was. What other threads wrote happened before: `write` has given back the
    // borrow of `out` that pieces hold, so these threads are done with them.
    unsafe { out.set_len(length) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_rows_once_whatever_their_number() {
        for rows in [0, 1, 2, 7, 64] {
            for (width, pieces) in [(1, 1), (3, 2), (3, 7), (5, 100), (0, 3), (4, 0)] {
                let made = vector(rows, width, pieces, |parts| {
                    assert!(parts.len() <= pieces.max(1));
                    for part in parts.into_iter().rev() {
                        let first = part.first() * width;
                        part.write((first..).map(|place| place as f32));
                    }
                });
                assert_eq!(made, (0..rows * width).map(|place| place as f32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn pieces_of_a_product_are_the_product() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect() };
        let (m, k, n) = (13, 5, 6);
        let (a, b) = (numbers(k * m), numbers(k * n));
        for a in [Matrix::new(&a, m, k), Matrix::new(&a, k, m).t()] {
            let b = Matrix::new(&b, k, n);
            let mut expected = vec![f32::NAN; m * n];
            crate::matmul::matmul(&mut expected, a, b, false, 1);
            for pieces in [1, 2, 5] {
                let made = vector(m, n, pieces, |parts| parts.into_iter().for_each(|part| part.write_product(a, b)));
                assert_eq!(made, expected);
            }
        }
        // A sum of nothing is zero.
        let (a, b) = (Matrix::new(&[], 3, 0), Matrix::new(&[], 0, 2));
        assert_eq!(vector(3, 2, 2, |parts| parts.into_iter().for_each(|part| part.write_product(a, b))), [0.0; 6]);
    }

    #[test]
    fn threads_write_their_pieces() {
        let made = vector(1000, 2, 4, |parts| {
            std::thread::scope(|scope| {
                for part in parts {
                    scope.spawn(move || {
                        let first = part.first() * 2;
                        part.write((first..).map(|place| place as f32));
                    });
                }
            });
        });
        assert_eq!(made, (0..2000).map(|place| place as f32).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_written_whole_is_refused() {
        let refused = |write: fn(Vec<Piece<'_>>)| {
            assert!(std::panic::catch_unwind(|| vector(4, 1, 2, write)).is_err());
        };
        refused(|_| ());
        refused(|parts| parts.into_iter().skip(1).for_each(|part| part.write([1.0; 2])));
        refused(|parts| parts.into_iter().for_each(|part| part.write([1.0])));
        refused(|parts| {
            let (a, b) = (Matrix::new(&[1.0; 8], 4, 2), Matrix::new(&[1.0; 4], 2, 2));
            parts.into_iter().for_each(|part| part.write_product(a, b));
        });
    }
}
