//! Both sides of a product as the kernels take them: which quads of the rows are used, and the columns packed in panels.

use super::{COLUMNS, LANES, ROWS, WIDTH_MAX};

/// How many quads hold `width` numbers.
pub fn quads(width: usize) -> usize {
    width.div_ceil(4)
}

/// What a row's products are too large by: `128·Σ codes`.
#[inline(always)]
pub fn offset(codes: &[i8]) -> i32 {
    // 16 bits hold 128 codes, and twice as many lanes as 32 do.
    let sum = |codes: &[i8]| i32::from(codes.iter().map(|&code| i16::from(code)).sum::<i16>());
    128 * codes.chunks(128).map(sum).sum::<i32>()
}

/// The quads of [`ROWS`] rows that are not zeros in all of them: borders of images and dead units are, and need no product.
#[derive(Default)]
pub struct UsedQuads {
    /// Ascending, each below `of`.
    pub(super) quads: Vec<u32>,
    pub(super) of: usize,
}

impl UsedQuads {
    /// All, whatever they hold: where they are multiplied once, finding the zeros takes longer than multiplying them.
    pub fn all(&mut self, rows: &[i8]) {
        self.of = rows.len() / ROWS / 4;
        self.quads.clear();
        self.quads.extend(0..self.of as u32);
    }

    /// Those of `rows`, `[ROWS, 4·quads]`. `scratch` is anything.
    #[inline(always)]
    pub fn find(&mut self, rows: &[i8], scratch: &mut Vec<i8>) {
        let row_bytes = rows.len() / ROWS;
        self.of = row_bytes / 4;
        scratch.clear();
        scratch.resize(row_bytes, 0);
        for row in rows.chunks_exact(row_bytes.max(1)) {
            scratch.iter_mut().zip(row).for_each(|(any, code)| *any |= code);
        }
        // Each is written, and stays if it is used: a branch here would be guessed wrong too often.
        self.quads.resize(self.of, 0);
        let mut count = 0;
        for (number, quad) in scratch.chunks_exact(4).enumerate() {
            self.quads[count] = number as u32;
            count += usize::from(quad != [0; 4]);
        }
        self.quads.truncate(count);
    }
}

/// The right side: up to [`COLUMNS`] columns to a panel, `[quad, column, 4]`.
pub struct Panels {
    columns: usize,
    pub(super) quads: usize,
    bytes: Vec<u8>,
}

impl Panels {
    /// Columns of zeros.
    ///
    /// # Panics
    /// If `width` is above [`WIDTH_MAX`].
    pub fn new(width: usize, columns: usize) -> Self {
        assert!(width <= WIDTH_MAX, "a sum that 32 bits do not hold");
        let quads = quads(width);
        Self { columns, quads, bytes: vec![128; quads * 4 * columns.next_multiple_of(LANES)] }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// Sets one column.
    ///
    /// # Panics
    /// If there is no such column or it has no room for so many codes.
    pub fn set(&mut self, column: usize, codes: &[i8]) {
        assert!(column < self.columns && codes.len() <= 4 * self.quads, "a column of another size");
        let (panel, place) = (column / COLUMNS, column % COLUMNS);
        let lanes = self.vectors(panel) * LANES;
        let first = panel * COLUMNS * 4 * self.quads;
        for (quad, codes) in codes.chunks(4).enumerate() {
            let at = first + (quad * lanes + place) * 4;
            for (byte, &code) in self.bytes[at..at + 4].iter_mut().zip(codes) {
                *byte = (code as u8) ^ 0x80; // + 128, as an unsigned number
            }
        }
    }

    /// The codes of one column, which may have up to three zeros behind its last number.
    pub fn get(&self, column: usize) -> impl Iterator<Item = i8> + '_ {
        let (panel, place) = (column / COLUMNS, column % COLUMNS);
        let lanes = self.vectors(panel) * LANES;
        let first = panel * COLUMNS * 4 * self.quads;
        let quad = move |quad: usize| first + (quad * lanes + place) * 4;
        (0..self.quads).flat_map(move |n| self.bytes[quad(n)..quad(n) + 4].iter().map(|byte| (byte ^ 0x80) as i8))
    }

    fn vectors(&self, panel: usize) -> usize {
        (self.columns - panel * COLUMNS).min(COLUMNS).div_ceil(LANES)
    }

    /// The bytes of one panel, and how many vectors of columns it has.
    pub(super) fn panel(&self, panel: usize) -> (&[u8], usize) {
        let (vectors, bytes) = (self.vectors(panel), 4 * self.quads);
        let first = panel * COLUMNS * bytes;
        (&self.bytes[first..first + vectors * LANES * bytes], vectors)
    }
}
