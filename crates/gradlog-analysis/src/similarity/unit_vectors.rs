//! Flat vectors divided by the lengths of their gradients, and the angles between those that were stored as signs.

use crate::vectors::lengths::sine_correction;
use crate::vectors::Signs;
use crate::{Basis, FlatVectors};
use gradlog_kernels::matmul::{matmul, Matrix};
use gradlog_kernels::simd::squared_norm_f64;
use std::ops::Range;

/// The largest squared length of a vector that was divided by its gradient's length. Signs alone make a vector longer
/// than 1, and by a small factor.
const SQUARED_MAX: f64 = 1e6;

/// Flat vectors divided by the lengths of their gradients.
///
/// A vector has length one, unless it is made of signs, which are too long ([`VectorQuestion`](crate::VectorQuestion)).
/// Neighbors, pairs and clusters are corrected for that.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct UnitVectors {
    /// Of each vector, the example.
    pub examples: Vec<u64>,
    /// Of each vector, the label at its last visit, if labels were recorded.
    pub labels: Vec<Option<u32>>,
    /// Numbers in a vector.
    pub length: usize,
    /// `[vectors, length]`, row by row.
    pub values: Vec<f32>,
    /// What the flat vectors rest on.
    pub basis: Basis,
    /// What is made of signs, if anything is.
    pub(crate) signs: Option<SignAngles>,
    /// Examples whose gradient is 0, so that it has no direction, and those whose numbers do not fit the recorded
    /// norm, as in a damaged log: they are in nothing that follows.
    pub without_direction: Vec<u64>,
}

impl UnitVectors {
    /// Divides each vector by the length of its gradient, in place.
    ///
    /// # Cost
    /// Where folded layers are recorded as signs, a copy of their numbers.
    pub fn new(vectors: FlatVectors) -> Self {
        let FlatVectors { examples, labels, length, mut values, norms, signs, basis, .. } = vectors;
        let mut out = Self {
            examples: Vec::with_capacity(examples.len()),
            labels: Vec::with_capacity(examples.len()),
            length,
            values: Vec::new(),
            basis,
            signs: signs.as_ref().map(|signs| SignAngles { length: signs.places.len(), ..SignAngles::default() }),
            without_direction: Vec::new(),
        };
        for (position, (example, label)) in examples.into_iter().zip(labels).enumerate() {
            let from = position * length;
            let norm = norms[position];
            if !(norm.is_finite() && norm > 0.0) {
                out.without_direction.push(example);
                continue;
            }
            let to = out.examples.len() * length;
            for place in 0..length {
                values[to + place] = (f64::from(values[from + place]) / norm) as f32;
            }
            let squared = squared_norm_f64(&values[to..to + length]);
            if squared.is_nan() || squared >= SQUARED_MAX {
                out.without_direction.push(example);
                continue;
            }
            if let (Some(angles), Some(signs)) = (&mut out.signs, &signs) {
                let vector = &values[to..to + length];
                let apart: Option<Vec<f32>> =
                    signs.apart(position).map(|apart| apart.iter().map(|v| (f64::from(*v) / norm) as f32).collect());
                let alone = Signs::alone(&vector[signs.places.clone()], apart.as_deref());
                angles.push(&alone, signs.norms[position] / norm, squared);
            }
            out.examples.push(example);
            out.labels.push(label);
        }
        values.truncate(out.examples.len() * length);
        out.values = values;
        out
    }

    /// Writes the cosines of the vectors of `rows` with those of `columns` into `out`, row by row.
    pub(super) fn write_cosines(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut Vec<f32>,
        scratch: &mut Vec<f32>,
        threads: usize,
    ) {
        let multiply = |values: &[f32], length: usize, out: &mut Vec<f32>| {
            out.clear();
            out.resize(rows.len() * columns.len(), 0f32);
            let part = |range: &Range<usize>| {
                Matrix::new(&values[range.start * length..range.end * length], range.len(), length)
            };
            matmul(out, part(&rows), part(&columns).t(), false, threads);
        };
        multiply(&self.values, self.length, out);
        let Some(signs) = &self.signs else {
            out.iter_mut().for_each(|cosine| *cosine = cosine.clamp(-1.0, 1.0));
            return;
        };
        multiply(&signs.values, signs.length, scratch);
        let angles = scratch.chunks(columns.len().max(1)).zip(&signs.shares[rows.clone()]);
        for (cosines, (angles, share)) in out.chunks_mut(columns.len().max(1)).zip(angles) {
            for ((cosine, angle), other) in cosines.iter_mut().zip(angles).zip(&signs.shares[columns.clone()]) {
                let exact = f64::from(*cosine) + share * other * sine_correction(f64::from(*angle));
                *cosine = exact.clamp(-1.0, 1.0) as f32;
            }
        }
    }

    /// By how much the squared length of a vector is more than 1, because it is made of signs.
    pub(super) fn excess(&self, position: usize) -> f64 {
        self.signs.as_ref().map_or(0.0, |signs| signs.excess[position])
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The vector at a position.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn vector(&self, position: usize) -> &[f32] {
        &self.values[position * self.length..(position + 1) * self.length]
    }

    /// The position of an example's first vector.
    pub fn position(&self, example: u64) -> Option<usize> {
        self.examples.iter().position(|other| *other == example)
    }
}

/// The part of some vectors that is made of signs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SignAngles {
    length: usize,
    /// `[vectors, length]`: divided so that the product of two vectors is the mean arcsine of their visits' cosines.
    values: Vec<f32>,
    /// Of each vector, its share in the length of the whole.
    shares: Vec<f64>,
    /// Of each vector, by how much its squared length is more than 1.
    excess: Vec<f64>,
}

impl SignAngles {
    fn push(&mut self, signs: &[f32], share: f64, squared_norm: f64) {
        let scale = if share > 0.0 { share.recip() as f32 } else { 0.0 };
        self.values.extend(signs.iter().map(|value| scale * value));
        self.shares.push(share);
        self.excess.push(if share > 0.0 { (squared_norm - 1.0).max(0.0) } else { 0.0 });
    }
}
