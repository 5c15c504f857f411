//! The projection: a signed cyclic fold of `n` coordinates into `m`.

use super::seed::draw;
use gradlog_kernels::simd::vectorized;
use std::sync::Arc;

/// Keeps the sign stream apart from the shift stream of the same seed.
const SIGN_STREAM: u64 = 0x5349_474E_5349_474E; // "SIGNSIGN"

/// Bucket and sign of coordinate `place` in the fold of `seed` into `outputs` buckets, as [`Fold`] has it.
///
/// # Panics
/// If `outputs` is 0.
pub fn locate(seed: u64, outputs: usize, place: u32) -> (usize, f32) {
    let place = place as usize;
    let shift = ((draw(seed, (place / outputs) as u64) >> 32) * outputs as u64) >> 32;
    let negative = draw(seed ^ SIGN_STREAM, (place / 64) as u64) >> (place % 64) & 1 == 1;
    ((place % outputs + shift as usize) % outputs, if negative { -1.0 } else { 1.0 })
}

/// A sparse random projection `S: R^n -> R^m`, with one ±1 in each column.
///
/// It is a CountSketch (Charikar, Chen and Farach-Colton 2002) with a structured bucket function.
/// Coordinate `i` lies in block `b = i / m` at place `r = i mod m`. It is added with sign `s_i` to bucket
/// `(r + t_b) mod m`. The shift `t_b` is drawn for each block, and the sign for each coordinate:
///
/// * `t_b = (draw(seed, b) >> 32) · m >> 32`
/// * `s_i = -1` where bit `i mod 64` of `draw(seed ^ 0x5349474E5349474E, i / 64)` is set, else `+1`.
///
/// The signs are independent, so `E⟨S g, S h⟩ = ⟨g, h⟩` exactly. Two coordinates of different blocks share
/// a bucket with probability `1/m`. Two of the same block never do. So
///
/// `Var⟨S g, S h⟩ ≤ (‖g‖² ‖h‖² + ⟨g, h⟩²) / m`.
///
/// Whole runs of coordinates go to whole runs of buckets: the inner loop is a vector load, a sign flip and an add,
/// with no scattered writes.
#[derive(Debug, Clone)]
pub struct Fold {
    inputs: usize,
    /// Where coordinates are left out, and how many: see [`Fold::with_gap`].
    gap: (usize, usize),
    outputs: usize,
    /// What a second sketch behind the first is weighted by: see [`Fold::with_weights`].
    weights: Option<Arc<[f32]>>,
    shifts: Vec<u32>,
    /// Sign bit of each coordinate, as the top byte of an f32: 0x00 or 0x80.
    signs: Vec<u8>,
}

impl Fold {
    /// The projection from `inputs` coordinates to `outputs` that `seed` names.
    ///
    /// # Cost
    /// Holds one byte for each input coordinate and four for each block of `outputs`.
    ///
    /// # Panics
    /// If `outputs` is 0 or does not fit 32 bits.
    pub fn new(seed: u64, inputs: usize, outputs: usize) -> Self {
        assert!(outputs > 0, "a fold needs at least one output");
        let m = u64::from(u32::try_from(outputs).expect("a sketch is far shorter than 2^32")); // invariant
        let shifts =
            (0..inputs.div_ceil(outputs) as u64).map(|block| (((draw(seed, block) >> 32) * m) >> 32) as u32).collect();
        let mut signs = vec![0u8; inputs];
        for (word, chunk) in signs.chunks_mut(64).enumerate() {
            let bits = draw(seed ^ SIGN_STREAM, word as u64);
            for (place, sign) in chunk.iter_mut().enumerate() {
                *sign = (((bits >> place) & 1) as u8) << 7;
            }
        }
        Self { inputs, gap: (inputs, 0), outputs, weights: None, shifts, signs }
    }

    /// The same, but placed: coordinate `i` is added to bucket `first + i`, with its sign. No two coordinates share a
    /// bucket.
    ///
    /// # Panics
    /// If the coordinates do not fit: `first + inputs > outputs`.
    pub fn placed(seed: u64, inputs: usize, outputs: usize, first: usize) -> Self {
        assert!(first + inputs <= outputs, "the coordinates do not fit");
        let mut fold = Self::new(seed, inputs, outputs);
        fold.shifts.fill(first as u32);
        fold
    }

    /// The same, for a vector that lacks the `length` coordinates from `at` on, which are 0. `at` and the later numbers
    /// of the vector are the coordinates from `at + length` on. [`Fold::inputs`] no longer counts those it lacks.
    ///
    /// # Panics
    /// If the fold has no such coordinates.
    pub fn with_gap(mut self, at: usize, length: usize) -> Self {
        assert!(at + length <= self.inputs, "the gap passes the end of the gradient");
        self.inputs -= length;
        self.gap = (at, length);
        self
    }

    /// The same, with a second sketch behind the first: that of the vector whose numbers are multiplied by `weights`.
    /// So [`Fold::outputs`] is twice as many.
    ///
    /// # Panics
    /// If there are not as many weights as coordinates go in.
    pub fn with_weights(mut self, weights: Arc<[f32]>) -> Self {
        assert_eq!(weights.len(), self.inputs, "a weight for each coordinate");
        self.weights = Some(weights);
        self
    }

    /// How many coordinates go in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How many buckets come out.
    pub fn outputs(&self) -> usize {
        self.outputs * (1 + usize::from(self.weights.is_some()))
    }

    /// The numbers by which a second sketch weighs the vector ([`Fold::with_weights`]).
    pub fn weights(&self) -> Option<&[f32]> {
        self.weights.as_deref()
    }

    /// The number of buckets of one sketch.
    pub(super) fn buckets(&self) -> usize {
        self.outputs
    }

    /// Bucket and sign of number `place` of a vector.
    ///
    /// # Panics
    /// If the vector has no such number.
    pub fn locate(&self, place: usize) -> (usize, f32) {
        let (at, length) = self.gap;
        let coordinate = if place < at { place } else { place + length };
        let (block, within) = (coordinate / self.outputs, coordinate % self.outputs);
        let bucket = (within + self.shifts[block] as usize) % self.outputs;
        (bucket, if self.signs[coordinate] == 0 { 1.0 } else { -1.0 })
    }

    /// Adds `S` applied to the coordinates `first..first + values.len()` of a vector into `sketch`.
    ///
    /// The projection is linear: a gradient may arrive in any number of pieces, in any order.
    ///
    /// # Panics
    /// If the run passes the last input coordinate or `sketch` is not `outputs` long.
    pub fn add(&self, first: usize, values: &[f32], sketch: &mut [f32]) {
        assert_eq!(sketch.len(), self.outputs(), "the sketch has another length than the fold");
        assert!(first + values.len() <= self.inputs, "the run passes the end of the gradient");
        let (plain, weighted) = sketch.split_at_mut(self.outputs);
        self.add_values(first, values, plain);
        let Some(weights) = &self.weights else { return };
        let mut products = [0f32; 512];
        let weights = weights[first..first + values.len()].chunks(products.len());
        for (number, (values, weights)) in values.chunks(products.len()).zip(weights).enumerate() {
            let products = &mut products[..values.len()];
            products.iter_mut().zip(values.iter().zip(weights)).for_each(|(product, (v, w))| *product = v * w);
            self.add_values(first + number * 512, products, weighted);
        }
    }

    fn add_values(&self, first: usize, values: &[f32], sketch: &mut [f32]) {
        let (at, length) = self.gap;
        let (before, after) = values.split_at(at.saturating_sub(first).min(values.len()));
        self.add_run(first, before, sketch);
        self.add_run(first + before.len() + length, after, sketch);
    }

    /// Adds values whose coordinates follow each other.
    fn add_run(&self, first: usize, values: &[f32], sketch: &mut [f32]) {
        let m = self.outputs;
        let mut done = 0;
        while done < values.len() {
            let coordinate = first + done;
            let (block, place) = (coordinate / m, coordinate % m);
            let bucket = (place + self.shifts[block] as usize) % m;
            // A run ends where its block ends or where the buckets wrap round, whichever is first.
            let run = (m - place).min(m - bucket).min(values.len() - done);
            let signs = &self.signs[coordinate..coordinate + run];
            let values = &values[done..done + run];
            let slots = &mut sketch[bucket..bucket + run];
            vectorized(
                #[inline(always)]
                || {
                    for ((slot, value), sign) in slots.iter_mut().zip(values).zip(signs) {
                        *slot += f32::from_bits(value.to_bits() ^ (u32::from(*sign) << 24));
                    }
                },
            );
            done += run;
        }
    }

    /// `S` applied to a whole vector.
    ///
    /// # Panics
    /// If `values` is longer than the fold's input.
    pub fn apply(&self, values: &[f32]) -> Vec<f32> {
        let mut sketch = vec![0.0; self.outputs()];
        self.add(0, values, &mut sketch);
        sketch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_sketch_is_that_of_the_weighted_vector() {
        let values: Vec<f32> = (0..1500).map(|i| (i as f32 * 0.7).sin()).collect();
        let weights: Vec<f32> = (0..1500).map(|i| (i % 7) as f32).collect();
        let products: Vec<f32> = values.iter().zip(&weights).map(|(v, w)| v * w).collect();
        let plain = Fold::new(5, 1600, 64).with_gap(700, 100);
        let both = plain.clone().with_weights(weights.into());
        assert_eq!((both.inputs(), both.outputs()), (1500, 128));
        let mut sketch = vec![0.0; 128];
        for (number, piece) in values.chunks(400).enumerate() {
            both.add(number * 400, piece, &mut sketch);
        }
        for (made, right) in sketch.iter().zip(plain.apply(&values).iter().chain(&plain.apply(&products))) {
            assert!((made - right).abs() < 1e-4, "{made} {right}");
        }
    }

    /// The definition, one coordinate at a time.
    fn naive(seed: u64, values: &[f32], m: usize) -> Vec<f32> {
        let mut out = vec![0.0; m];
        for (i, v) in values.iter().enumerate() {
            let shift = ((draw(seed, (i / m) as u64) >> 32) * m as u64) >> 32;
            let negative = (draw(seed ^ SIGN_STREAM, (i / 64) as u64) >> (i % 64)) & 1 == 1;
            out[(i % m + shift as usize) % m] += if negative { -v } else { *v };
        }
        out
    }

    fn vector(seed: u64, n: usize) -> Vec<f32> {
        (0..n).map(|i| draw(seed, i as u64) as f32 / u64::MAX as f32 - 0.5).collect()
    }

    #[test]
    fn equals_the_definition_in_pieces_of_any_size() {
        for (n, m) in [(1, 1), (5, 64), (64, 64), (1000, 64), (777, 100), (4096, 512)] {
            let values = vector(1, n);
            let fold = Fold::new(9, n, m);
            let expected = naive(9, &values, m);
            for step in [1, 7, 64, n] {
                let mut sketch = vec![0.0; m];
                for (piece, chunk) in values.chunks(step).enumerate() {
                    fold.add(piece * step, chunk, &mut sketch);
                }
                for (got, want) in sketch.iter().zip(&expected) {
                    assert!((got - want).abs() < 1e-5, "n={n} m={m} step={step}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn placed_coordinates_meet_no_others() {
        let (a, b) = (Fold::placed(1, 5, 16, 0), Fold::placed(2, 11, 16, 5));
        let (x, y) = (vector(1, 5), vector(2, 11));
        let mut sketch = a.apply(&x);
        b.add(0, &y, &mut sketch);
        let magnitudes: Vec<f32> = sketch.iter().map(|v| v.abs()).collect();
        assert_eq!(magnitudes, x.iter().chain(&y).map(|v| v.abs()).collect::<Vec<f32>>());
    }

    #[test]
    fn dot_products_are_unbiased_with_the_stated_variance() {
        let (n, m, seeds) = (600, 32, 4000);
        let g = vector(3, n);
        let h: Vec<f32> = vector(4, n).iter().zip(&g).map(|(a, b)| a + 0.5 * b).collect();
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum() };
        let (exact, gg, hh) = (dot(&g, &h), dot(&g, &g), dot(&h, &h));
        let bound = (gg * hh + exact * exact) / m as f64;
        let samples: Vec<f64> = (0..seeds)
            .map(|seed| {
                let fold = Fold::new(seed, n, m);
                dot(&fold.apply(&g), &fold.apply(&h))
            })
            .collect();
        let mean = samples.iter().sum::<f64>() / seeds as f64;
        let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / seeds as f64;
        // Five standard errors of a mean over 4,000 seeds: false alarms are rarer than one in a million.
        assert!((mean - exact).abs() < 5.0 * (bound / seeds as f64).sqrt(), "{mean} {exact}");
        // The variance of a sample variance is about 2/seeds of its square; 15 % is more than six of those.
        assert!(variance < 1.15 * bound, "{variance} {bound}");
        assert!(variance > 0.5 * bound, "suspiciously small: {variance} {bound}");
    }
}
