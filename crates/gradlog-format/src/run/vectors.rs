//! The vectors of one column, decoded on demand.

use super::spare::Spare;
use crate::log::LayerRecord;
use crate::sketch::{locate, read_rotated, rotate_back, Apart, Encoding, Rounding, SketchConfig};
use half::bf16;

/// What the vectors of a column are made of. It says where a number that is kept apart belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The numbers themselves. A place is one of them.
    Whole,
    /// A [`Projection`](crate::sketch::Projection) of longer vectors. A place is one of those.
    Projected {
        /// Its seed.
        seed: u64,
        /// Length of the longer vectors.
        inputs: u32,
    },
    /// Folded vectors after [`rotate`](crate::sketch::rotate). A place is one of the numbers before the rotation.
    Rotated,
}

impl Origin {
    /// What the stored inputs of `layer` are made of, in a run with these sketches.
    pub fn of_input(layer: &LayerRecord, sketch: &SketchConfig) -> Self {
        Self::of_side(layer.inputs, sketch.input_cap, layer.seed_input)
    }

    /// What the stored output gradients of `layer` are made of.
    pub fn of_delta(layer: &LayerRecord, sketch: &SketchConfig) -> Self {
        Self::of_side(layer.outputs, sketch.delta_cap, layer.seed_delta)
    }

    fn of_side(inputs: u32, cap: u32, seed: u64) -> Self {
        // The stored length does not tell: a projection may be as long as its input.
        if inputs > cap {
            Origin::Projected { seed, inputs }
        } else {
            Origin::Whole
        }
    }
}

/// The vectors of one column, one per row, in their stored encoding.
///
/// A vector is its codes times its scale, plus its numbers that are kept apart.
#[derive(Debug, Clone)]
pub struct Vectors {
    encoding: Encoding,
    width: usize,
    row_bytes: usize,
    codes: Spare,
    scales: Vec<bf16>,
    origin: Origin,
    /// Numbers kept apart in each row, 0 if no row has any.
    slots: usize,
    /// `[rows, slots]`; a value of 0 is an empty slot.
    apart: Vec<Apart>,
    /// For each row, if it was rounded at random.
    rounding: Vec<Rounding>,
}

impl Vectors {
    pub(super) fn new(encoding: Encoding, width: usize, codes: Spare, scales: Vec<bf16>, origin: Origin) -> Self {
        let row_bytes = encoding.bytes(width);
        Self { encoding, width, row_bytes, codes, scales, origin, slots: 0, apart: Vec::new(), rounding: Vec::new() }
    }

    /// Encodes `rows`, each of `width` numbers, rounded to the nearest.
    pub fn from_rows(encoding: Encoding, width: usize, rows: &[Vec<f32>]) -> Self {
        let mut codes = Vec::new();
        let scales = rows.iter().map(|row| encoding.encode(row, &mut codes).scale).collect();
        Self::new(encoding, width, codes.into(), scales, Origin::Whole)
    }

    /// The same, made of something else.
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Sets the numbers that are kept apart: `[rows, slots]` places and values. An error says what does not fit.
    pub fn keep_apart(&mut self, places: Vec<u32>, values: Vec<f32>) -> Result<(), String> {
        if places.len() != values.len() || !places.len().is_multiple_of(self.rows().max(1)) {
            return Err(format!("{} places of {} numbers in {} rows", places.len(), values.len(), self.rows()));
        }
        let places_end = match self.origin {
            Origin::Whole => self.width,
            Origin::Projected { inputs, .. } => inputs as usize,
            Origin::Rotated => self.width.next_power_of_two(),
        };
        let used = |(place, value): &(&u32, &f32)| **value != 0.0 && **place as usize >= places_end;
        if let Some((place, _)) = places.iter().zip(&values).find(used) {
            return Err(format!("a number at place {place} of {places_end}"));
        }
        self.slots = places.len() / self.rows().max(1);
        self.apart = places.into_iter().zip(values).map(|(place, value)| Apart { place, value }).collect();
        Ok(())
    }

    /// Sets what rounding left open: two bytes for each row. An error says what does not fit.
    pub fn keep_rounding(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        if bytes.len() != 2 * self.rows() {
            return Err(format!("{} bytes for {} rows", bytes.len(), self.rows()));
        }
        self.rounding = bytes.chunks_exact(2).map(|b| Rounding { spread: b[0], nonzero: b[1] }).collect();
        Ok(())
    }

    /// Numbers in each vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How the numbers are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What the vectors are made of.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// How many vectors there are.
    pub fn rows(&self) -> usize {
        self.scales.len()
    }

    /// The stored bytes of the vector of `row`, and its scale. They lack the numbers that are kept apart
    /// ([`Vectors::apart`]).
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::rows`].
    pub fn row(&self, row: usize) -> (&[u8], bf16) {
        (&self.codes[row * self.row_bytes..(row + 1) * self.row_bytes], self.scales[row])
    }

    /// Whether any row has numbers that are kept apart.
    pub fn has_apart(&self) -> bool {
        self.slots > 0
    }

    /// The numbers of `row` that are kept apart. Their places are those of [`Vectors::origin`].
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::rows`].
    pub fn apart(&self, row: usize) -> impl Iterator<Item = Apart> + '_ {
        let own = &self.apart[row * self.slots..(row + 1) * self.slots];
        own.iter().copied().filter(|apart| apart.value != 0.0)
    }

    /// What rounding left open of `row`, or `None` if it was rounded to the nearest.
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::rows`].
    pub fn rounding(&self, row: usize) -> Option<Rounding> {
        assert!(row < self.rows(), "a row that is not there");
        self.rounding.get(row).copied()
    }

    /// Writes the vector of `row` into `out`, with the numbers that are kept apart.
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::rows`] or `out` is not [`Vectors::width`] long.
    pub fn decode(&self, row: usize, out: &mut [f32]) {
        self.decode_rest(row, out);
        for Apart { place, value } in self.apart(row) {
            match self.origin {
                Origin::Whole => out[place as usize] += value,
                Origin::Projected { seed, .. } => {
                    let (bucket, sign) = locate(seed, self.width.next_power_of_two(), place);
                    read_rotated(bucket, sign * value, out);
                }
                Origin::Rotated => read_rotated(place as usize, value, out),
            }
        }
    }

    /// Writes the vector of `row` into `out`, without the numbers that are kept apart.
    ///
    /// # Panics
    /// As [`Vectors::decode`].
    pub fn decode_rest(&self, row: usize, out: &mut [f32]) {
        let (bytes, scale) = self.row(row);
        self.encoding.decode(bytes, scale, out);
    }

    /// Where number `place` of the original vector lies in what [`Vectors::rotate_back`] makes, and its sign there.
    pub fn locate(&self, place: u32) -> (usize, f32) {
        match self.origin {
            Origin::Whole | Origin::Rotated => (place as usize, 1.0),
            Origin::Projected { seed, .. } => locate(seed, self.width.next_power_of_two(), place),
        }
    }

    /// Turns stored numbers back, in place: an estimate of the numbers before the rotation. Numbers that were not
    /// rotated stay as they are.
    pub fn rotate_back(&self, numbers: &mut Vec<f32>) {
        if self.origin != Origin::Whole {
            rotate_back(numbers);
        }
    }
}
