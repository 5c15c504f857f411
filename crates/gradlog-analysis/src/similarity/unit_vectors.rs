//! Flat vectors of length one.

use crate::{Basis, FlatVectors};

/// Flat vectors of length one.
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
    /// Examples whose gradient is 0, so that it has no direction: they are in nothing that follows.
    pub without_direction: Vec<u64>,
}

impl UnitVectors {
    /// Divides each vector by its norm, in place.
    pub fn new(vectors: FlatVectors) -> Self {
        let FlatVectors { examples, labels, length, mut values, basis, .. } = vectors;
        let mut out = Self {
            examples: Vec::with_capacity(examples.len()),
            labels: Vec::with_capacity(examples.len()),
            length,
            values: Vec::new(),
            basis,
            without_direction: Vec::new(),
        };
        for (position, (example, label)) in examples.into_iter().zip(labels).enumerate() {
            let from = position * length;
            let norm = values[from..from + length].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if !(norm.is_finite() && norm > 0.0) {
                out.without_direction.push(example);
                continue;
            }
            let to = out.examples.len() * length;
            for place in 0..length {
                values[to + place] = (f64::from(values[from + place]) / norm) as f32;
            }
            out.examples.push(example);
            out.labels.push(label);
        }
        values.truncate(out.examples.len() * length);
        out.values = values;
        out
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
