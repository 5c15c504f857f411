//! Dot products of one column with rows of codes as they are stored, for a question about few columns.
//!
//! A panel multiplies sixteen columns an instruction, and its rows have a byte for each code. For one column both are
//! waste: here an instruction multiplies 64 codes of a row, and 4-bit codes are taken apart in registers.

use super::{Isa, Kernel, WIDTH_MAX};

/// One column of the right side, for rows of 4-bit or of 8-bit codes.
#[derive(Debug, Clone)]
pub struct Column {
    /// With 4-bit rows the codes at even and at odd places, with 8-bit rows all codes and nothing. Each is padded with
    /// zeros to whole vectors.
    codes: [Vec<i8>; 2],
    /// Bytes of a row.
    row_bytes: usize,
    /// What a product is too large by: rows enter it as unsigned numbers.
    offset: i32,
}

/// Bytes of a row that are multiplied at a time.
const STRETCH: usize = 64;

impl Column {
    /// For rows of 4-bit codes, two to a byte, the first in its low half.
    ///
    /// # Panics
    /// If there are more than [`WIDTH_MAX`] codes.
    pub fn for_4_bit(codes: &[i8]) -> Self {
        let of = |place: usize| codes.iter().skip(place).step_by(2).copied().collect();
        Self::new([of(0), of(1)], codes.len().div_ceil(2), 8)
    }

    /// For rows of 8-bit codes.
    ///
    /// # Panics
    /// If there are more than [`WIDTH_MAX`] codes.
    pub fn for_8_bit(codes: &[i8]) -> Self {
        Self::new([codes.to_vec(), Vec::new()], codes.len(), 128)
    }

    fn new(mut codes: [Vec<i8>; 2], row_bytes: usize, middle: i32) -> Self {
        let sum: i32 = codes.iter().flatten().map(|code| i32::from(*code)).sum();
        assert!(codes[0].len() + codes[1].len() <= WIDTH_MAX, "a sum that 32 bits do not hold");
        let is_halves = middle == 8;
        codes[0].resize(row_bytes.next_multiple_of(STRETCH), 0);
        codes[1].resize(if is_halves { codes[0].len() } else { 0 }, 0);
        Self { codes, row_bytes, offset: middle * sum }
    }
}

impl Isa {
    /// The dot product of a row and a column. Exact, so every instruction set gives the same.
    ///
    /// # Panics
    /// If `row` has another length than the column's rows.
    #[inline(always)]
    pub fn dot(self, row: &[u8], column: &Column) -> i32 {
        assert_eq!(row.len(), column.row_bytes, "a row of another width than the column");
        let [first, second] = &column.codes;
        let sum = match self.0 {
            // SAFETY: this value exists only where `available` found the features. Both lists of codes are as long as
            // the row, rounded up to whole vectors, or the second is empty.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 { .. } if second.is_empty() => unsafe { super::kernels::dot8_avx512(row, first.as_ptr()) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 { .. } => unsafe { super::kernels::dot4_avx512(row, first.as_ptr(), second.as_ptr()) },
            _ if second.is_empty() => self.run(
                #[inline(always)]
                || {
                    let product = |(byte, code): (&u8, &i8)| i32::from(byte ^ 0x80) * i32::from(*code);
                    row.iter().zip(first).map(product).sum::<i32>()
                },
            ),
            _ => self.run(
                #[inline(always)]
                || {
                    let product = |(byte, (low, high)): (&u8, (&i8, &i8))| {
                        i32::from(byte & 15 ^ 8) * i32::from(*low) + i32::from(byte >> 4 ^ 8) * i32::from(*high)
                    };
                    row.iter().zip(first.iter().zip(second)).map(product).sum::<i32>()
                },
            ),
        };
        sum - column.offset
    }
}
