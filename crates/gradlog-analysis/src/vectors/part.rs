//! One part of a gradient on its way into a flat vector: a factored layer's outer product, or the folded vector.

use super::lengths::excess_of_signs;
use crate::rows::gradient::{Factored, Gradients};
use gradlog_format::run::Vectors;
use gradlog_format::sketch::{rotate_back, Encoding, Fold};
use gradlog_kernels::simd::squared_norm_f64;

/// A side of a factored layer that is wider is first folded to this many numbers, so that the signs of its outer
/// product stay within a megabyte whatever a file says of its widths.
pub(super) const SIDE_MAX: usize = 1024;

/// Number of the folded layers' part among the seeds, where a layer's own number stands for its part.
const FOLDED_PART: u32 = u32::MAX;

/// What the numbers of the folded layers stand for in a flat vector. Dot products are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldedBasis {
    /// As they are stored: rotated, so that each is a mix of all buckets.
    Rotated,
    /// The buckets of the fold. Where the layers fit, each is one parameter, but for its sign.
    Buckets,
}

/// Where a part's coordinates go.
pub(super) enum Place {
    /// To these places, as they are.
    At(usize),
    /// Folded over the places from here on.
    Fold(usize, Fold),
}

impl Place {
    pub(super) fn add(&self, first: usize, values: &[f32], block: &mut [f32]) {
        match self {
            Place::At(offset) => {
                let from = offset + first;
                for (slot, value) in block[from..from + values.len()].iter_mut().zip(values) {
                    *slot += value;
                }
            }
            Place::Fold(from, fold) => fold.add(first, values, &mut block[*from..from + fold.outputs()]),
        }
    }
}

/// One part of a gradient on its way into a block.
pub(super) enum Part {
    Factored { number: usize, layer: Factored, input: Option<Box<Fold>>, delta: Option<Box<Fold>>, place: Place },
    Folded { number: usize, width: usize, place: Place, basis: FoldedBasis },
}

impl Part {
    /// How many coordinates the part has once its wide sides are folded; the numbers are bounded by `SIDE_MAX` and by
    /// the format's limit on the width of a vector.
    pub(super) fn coordinates(&self) -> usize {
        match self {
            Part::Factored { .. } => {
                let (rows, length) = self.sides();
                rows * length
            }
            Part::Folded { width, basis: FoldedBasis::Rotated, .. } => *width,
            Part::Folded { width, basis: FoldedBasis::Buckets, .. } => width.next_power_of_two(),
        }
    }

    /// Of a factored layer, the rows of its outer product and their length, once wide sides are folded.
    pub(super) fn sides(&self) -> (usize, usize) {
        match self {
            Part::Factored { layer, .. } => {
                (layer.outputs.min(SIDE_MAX), layer.inputs.min(SIDE_MAX) + usize::from(layer.bias))
            }
            Part::Folded { .. } => (1, self.coordinates()),
        }
    }

    /// The same of the recorded gradient, before wide sides are folded.
    pub(super) fn recorded(&self) -> u64 {
        match self {
            Part::Factored { layer, .. } => layer.outputs as u64 * (layer.inputs as u64 + u64::from(layer.bias)),
            Part::Folded { width, .. } => *width as u64,
        }
    }

    pub(super) fn seed_number(&self) -> u32 {
        match self {
            Part::Factored { layer, .. } => u32::from(layer.layer),
            Part::Folded { .. } => FOLDED_PART,
        }
    }

    pub(super) fn is_folded(&self) -> bool {
        matches!(self, Part::Folded { .. })
    }

    /// How much larger the squared norm of the stored numbers of a row is than that of the gradient: 0 unless they are
    /// signs.
    pub(super) fn excess(&self, gradients: &Gradients, row: usize, scratch: &mut Scratch) -> f64 {
        match self {
            Part::Folded { number, .. } => excess_of(gradients.part(*number), row),
            Part::Factored { number, layer, .. } => {
                let (input, delta) = (gradients.part(2 * number), gradients.part(2 * number + 1));
                let (of_input, of_delta) = (excess_of(input, row), excess_of(delta, row));
                if of_input + of_delta == 0.0 {
                    return 0.0;
                }
                let mut norm = |vectors: &Vectors| {
                    scratch.side.resize(vectors.width(), 0.0);
                    vectors.decode(row, &mut scratch.side);
                    squared_norm_f64(&scratch.side)
                };
                let (a, d, bias) = (norm(input), norm(delta), f64::from(u8::from(layer.bias)));
                d * (a + bias) - (d - of_delta) * (a - of_input + bias)
            }
        }
    }

    pub(super) fn set_place(&mut self, to: Place) {
        match self {
            Part::Factored { place, .. } | Part::Folded { place, .. } => *place = to,
        }
    }
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    side: Vec<f32>,
    input: Vec<f32>,
    delta: Vec<f32>,
    row: Vec<f32>,
}

impl Part {
    pub(super) fn add(
        &self,
        (gradients, row): (&Gradients, usize),
        factor: f32,
        scratch: &mut Scratch,
        block: &mut [f32],
    ) {
        match self {
            Part::Folded { number, width, place, basis } => {
                scratch.row.resize(*width, 0.0);
                gradients.part(*number).decode(row, &mut scratch.row);
                if *basis == FoldedBasis::Buckets {
                    to_buckets(&mut scratch.row);
                }
                if factor != 1.0 {
                    scratch.row.iter_mut().for_each(|value| *value *= factor);
                }
                place.add(0, &scratch.row, block);
            }
            Part::Factored { number, layer, input, delta, place } => {
                let Scratch { side, input: a, delta: d, row: product } = scratch;
                decode(gradients, 2 * number, row, layer.inputs, input.as_deref(), side, a);
                decode(gradients, 2 * number + 1, row, layer.outputs, delta.as_deref(), side, d);
                if layer.bias {
                    a.push(1.0);
                }
                product.resize(a.len(), 0.0);
                for (j, &scale) in d.iter().enumerate() {
                    if scale == 0.0 {
                        continue;
                    }
                    let scale = factor * scale;
                    for (slot, value) in product.iter_mut().zip(a.iter()) {
                        *slot = scale * value;
                    }
                    place.add(j * a.len(), product, block);
                }
            }
        }
    }
}

/// Undoes the rotation. What the rotation has cut off is 0, so lengths and dot products stay.
fn to_buckets(rotated: &mut Vec<f32>) {
    let kept = rotated.len().max(1);
    rotate_back(rotated);
    if rotated.len() != kept {
        let factor = (kept as f32 / rotated.len() as f32).sqrt();
        rotated.iter_mut().for_each(|value| *value *= factor);
    }
}

/// By how much the squared norm of the stored numbers of a row is too large: 0 unless they are signs.
pub(super) fn excess_of(vectors: &Vectors, row: usize) -> f64 {
    match vectors.encoding() {
        Encoding::Signs => excess_of_signs(vectors.width(), vectors.row(row).1.to_f32()),
        _ => 0.0,
    }
}

/// Decodes one side of a factored layer into `out`, folded if it is wide.
pub(super) fn decode(
    gradients: &Gradients,
    part: usize,
    row: usize,
    width: usize,
    fold: Option<&Fold>,
    side: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    out.clear();
    match fold {
        None => {
            out.resize(width, 0.0);
            gradients.part(part).decode(row, out);
        }
        Some(fold) => {
            side.resize(width, 0.0);
            gradients.part(part).decode(row, side);
            out.resize(fold.outputs(), 0.0);
            fold.add(0, side, out);
        }
    }
}
