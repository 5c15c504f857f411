//! The vectors of one column, decoded on demand.

use crate::sketch::Encoding;
use half::bf16;

/// The vectors of one column, one per row, in their stored encoding.
#[derive(Debug, Clone)]
pub struct Vectors {
    pub(super) encoding: Encoding,
    pub(super) width: usize,
    pub(super) row_bytes: usize,
    pub(super) codes: Vec<u8>,
    pub(super) scales: Vec<bf16>,
}

impl Vectors {
    /// Encodes `rows`, each of `width` numbers.
    pub fn from_rows(encoding: Encoding, width: usize, rows: &[Vec<f32>]) -> Self {
        let mut codes = Vec::new();
        let scales = rows.iter().map(|row| encoding.encode(row, &mut codes).scale).collect();
        Self { encoding, width, row_bytes: encoding.bytes(width), codes, scales }
    }

    /// Numbers in each vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How the numbers are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// How many vectors there are.
    pub fn rows(&self) -> usize {
        self.scales.len()
    }

    /// The stored bytes of the vector of `row`, and its scale.
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::rows`].
    pub fn row(&self, row: usize) -> (&[u8], bf16) {
        (&self.codes[row * self.row_bytes..(row + 1) * self.row_bytes], self.scales[row])
    }

    /// Writes the vector of `row` into `out`.
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::rows`] or `out` is not [`Vectors::width`] long.
    pub fn decode(&self, row: usize, out: &mut [f32]) {
        let (bytes, scale) = self.row(row);
        self.encoding.decode(bytes, scale, out);
    }
}
