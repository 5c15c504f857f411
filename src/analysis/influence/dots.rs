//! Dot products of many visits with many probes, layer by layer, as matrix products.

use super::super::gradient::{Gradients, Layout};
use crate::matmul::{matmul, Matrix};
use std::ops::Range;

/// Rows of a tile: its decoded vectors should stay in the cache between decoding and multiplying.
const TILE_ROWS: usize = 128;

/// The decoded gradients of all probes of a pass at one time: of each part a matrix `[probes, width]`.
pub(super) struct ProbeMatrices {
    parts: Vec<Vec<f32>>,
    probes: usize,
}

impl ProbeMatrices {
    pub(super) fn new(layout: &Layout, probes: usize) -> Self {
        Self { parts: layout.widths().into_iter().map(|width| vec![0f32; probes * width]).collect(), probes }
    }

    /// Sets the gradient of one probe, its parts one after another.
    pub(super) fn set(&mut self, layout: &Layout, probe: usize, gradient: &[f32]) {
        let mut from = 0;
        for (part, width) in self.parts.iter_mut().zip(layout.widths()) {
            part[probe * width..(probe + 1) * width].copy_from_slice(&gradient[from..from + width]);
            from += width;
        }
    }
}

/// Buffers that are kept from tile to tile.
#[derive(Default)]
pub(super) struct Scratch {
    decoded: Vec<f32>,
    left: Vec<f32>,
    right: Vec<f32>,
}

/// Writes `⟨g_row, g'_probe⟩` of the visits `rows` into `out`, which is `[rows, probes]`.
///
/// The products of a layer are f32 (`gemm`), their sum over layers is f64.
pub(super) fn dots(
    layout: &Layout,
    visits: &Gradients,
    rows: &[usize],
    probes: &ProbeMatrices,
    scratch: &mut Scratch,
    out: &mut [f64],
) {
    out.fill(0.0);
    for (tile, out) in rows.chunks(TILE_ROWS).zip(out.chunks_mut(TILE_ROWS * probes.probes)) {
        for (number, layer) in layout.factored.iter().enumerate() {
            let Scratch { decoded, left, right } = scratch;
            part(visits, 2 * number, layer.inputs, tile, probes, decoded, left);
            part(visits, 2 * number + 1, layer.outputs, tile, probes, decoded, right);
            let bias = if layer.bias { 1.0 } else { 0.0 };
            for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
                *out += (f64::from(*left) + bias) * f64::from(*right);
            }
        }
        if let Some(width) = layout.folded {
            let Scratch { decoded, left, .. } = scratch;
            part(visits, 2 * layout.factored.len(), width, tile, probes, decoded, left);
            for (out, dot) in out.iter_mut().zip(left) {
                *out += f64::from(*dot);
            }
        }
    }
}

/// `out = [tile, width]·[probes, width]ᵀ` of one part.
fn part(
    visits: &Gradients,
    number: usize,
    width: usize,
    tile: &[usize],
    probes: &ProbeMatrices,
    decoded: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    decoded.resize(tile.len() * width, 0.0);
    if width > 0 {
        for (row, vector) in tile.iter().zip(decoded.chunks_exact_mut(width)) {
            visits.decode(number, *row, vector);
        }
    }
    out.resize(tile.len() * probes.probes, 0.0);
    let left = Matrix::new(decoded, tile.len(), width);
    let right = Matrix::new(&probes.parts[number], probes.probes, width).t();
    matmul(out, left, right, false, 1);
}

/// The maximal stretches of equal neighbours.
pub(super) fn stretches(times: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    times.chunk_by(|a, b| a == b).map(move |stretch| {
        let range = start..start + stretch.len();
        start = range.end;
        range
    })
}
