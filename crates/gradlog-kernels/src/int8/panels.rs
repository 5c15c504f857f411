//! Both sides of a product in the layout of the kernels: the used quads of the rows, and the columns packed in panels.

use super::{COLUMNS, GROUP, LANES, ROWS, WIDTH_MAX};

/// The number of quads that hold `width` numbers: `⌈width / 4⌉`.
pub fn quads(width: usize) -> usize {
    width.div_ceil(4)
}

/// The number that each product of this row is too large by: `128·Σ codes`.
#[inline(always)]
pub fn offset(codes: &[i8]) -> i32 {
    // 16 bits hold the sum of 128 codes. A vector has twice as many lanes of 16 bits as of 32.
    let sum = |codes: &[i8]| i32::from(codes.iter().map(|&code| i16::from(code)).sum::<i16>());
    128 * codes.chunks(128).map(sum).sum::<i32>()
}

/// The quads that are not zero in all of [`ROWS`] rows. Borders of images and dead units are zero and need no product.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the plain kernel takes all quads
pub struct UsedQuads {
    /// Ascending, each below `of`.
    pub(super) quads: Vec<u32>,
    /// The groups of [`GROUP`] quads that these are in, ascending.
    pub(super) groups: Vec<u32>,
    pub(super) of: usize,
}

impl UsedQuads {
    /// Takes all quads of `rows`, `[ROWS, 4·quads]`. If the rows are multiplied once, this is faster than looking for
    /// zeros.
    pub fn take_all(&mut self, rows: &[i8]) {
        self.of = rows.len() / ROWS / 4;
        self.quads.clear();
        self.quads.extend(0..self.of as u32);
        self.groups.clear();
        self.groups.extend(0..self.of.div_ceil(GROUP) as u32);
    }

    /// Takes the quads of `rows`, `[ROWS, 4·quads]`, that are not zero everywhere. The contents of `scratch` do not
    /// matter.
    #[inline(always)]
    pub fn take_nonzero(&mut self, rows: &[i8], scratch: &mut Vec<i8>) {
        let row_bytes = rows.len() / ROWS;
        self.of = row_bytes / 4;
        scratch.clear();
        scratch.resize(row_bytes, 0);
        for row in rows.chunks_exact(row_bytes.max(1)) {
            scratch.iter_mut().zip(row).for_each(|(any, code)| *any |= code);
        }
        // Each number is written, and stays if its quad is used. A branch here would be mispredicted too often.
        self.quads.resize(self.of, 0);
        let mut count = 0;
        let whole = &scratch[..4 * self.of];
        for (number, quad) in whole.chunks_exact(4).enumerate() {
            self.quads[count] = number as u32;
            count += usize::from(quad != [0; 4]);
        }
        self.quads.truncate(count);
        self.groups.clear();
        let groups = whole.chunks(4 * GROUP).enumerate();
        self.groups
            .extend(groups.filter(|(_, group)| group.iter().any(|any| *any != 0)).map(|(number, _)| number as u32));
    }
}

/// The right side of a product, in panels of up to [`COLUMNS`] columns. A panel's layout is `[quad, column, 4]`.
#[derive(Debug, Clone)]
pub struct Panels {
    columns: usize,
    pub(super) quads: usize,
    bytes: Vec<u8>,
}

impl Panels {
    /// `columns` columns of `width` zeros each.
    ///
    /// # Panics
    /// If `width` is above [`WIDTH_MAX`].
    pub fn new(width: usize, columns: usize) -> Self {
        assert!(width <= WIDTH_MAX, "a sum that 32 bits do not hold");
        let quads = quads(width);
        Self { columns, quads, bytes: vec![128; quads * 4 * columns.next_multiple_of(LANES)] }
    }

    /// The number of panels.
    pub(super) fn len(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// Sets the first numbers of one column to `codes`.
    ///
    /// # Panics
    /// If there is no such column, or if `codes` is longer than the column.
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

    /// The codes of one column. Up to three zeros may follow its last number.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn get(&self, column: usize) -> impl Iterator<Item = i8> + '_ {
        assert!(column < self.columns, "no such column");
        let (panel, place) = (column / COLUMNS, column % COLUMNS);
        let lanes = self.vectors(panel) * LANES;
        let first = panel * COLUMNS * 4 * self.quads;
        let quad = move |quad: usize| first + (quad * lanes + place) * 4;
        (0..self.quads).flat_map(move |n| self.bytes[quad(n)..quad(n) + 4].iter().map(|byte| (byte ^ 0x80) as i8))
    }

    fn vectors(&self, panel: usize) -> usize {
        (self.columns - panel * COLUMNS).min(COLUMNS).div_ceil(LANES)
    }

    /// The bytes of one panel, and the number of its vectors of columns, 1 to 3.
    ///
    /// # Panics
    /// If there is no such panel.
    pub(super) fn panel(&self, panel: usize) -> (&[u8], usize) {
        assert!(panel < self.len(), "no such panel");
        let (vectors, bytes) = (self.vectors(panel), 4 * self.quads);
        let first = panel * COLUMNS * bytes;
        (&self.bytes[first..first + vectors * LANES * bytes], vectors)
    }
}
