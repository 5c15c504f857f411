//! The two sides of factored layers as matrices: the inputs `a` and the output gradients `δ` of some rows.
//!
//! A layer's gradient is `δ·[a; 1]ᵀ`. Who works on flat vectors takes the outer product (`flatten.rs`). Who works on
//! Kronecker factors takes the sides.

use super::flatten::STREAM;
use super::part::{decode, excess_of};
use crate::rows::gradient::{Factored, Gradients, Layout};
use gradlog_format::log::Manifest;
use gradlog_format::sketch::{derive_seed, Fold, Side};
use rayon::prelude::*;

/// Rows that are decoded at a time by one thread.
const ROWS_A_TASK: usize = 16;

/// How the sides of the factored layers of a layout are made.
pub(crate) struct FactoredSides {
    pub layers: Vec<SidedLayer>,
}

/// A factored layer, and where its sides come from.
pub(crate) struct SidedLayer {
    pub name: String,
    recorded: Factored,
    input: Form,
    delta: Form,
    /// Whether a side has lost something: when it was recorded, or because it is folded here.
    pub is_lossy: bool,
}

/// How one side is made of what was recorded.
struct Form {
    /// Number of the vector among those of a gradient.
    part: usize,
    recorded: usize,
    fold: Option<Box<Fold>>,
    has_bias: bool,
}

/// One side of a layer, of some rows.
pub(crate) struct SideRows {
    /// `[rows, width]`; with a bias the last number of an input is 1.
    pub values: Vec<f32>,
    pub width: usize,
    /// Of each row, what rounding to signs adds to the expected square of each number; empty if there are no signs. A
    /// trailing 1 has none of it.
    pub noise: Vec<f64>,
}

/// Both sides of a layer, of the same rows.
pub(crate) struct LayerRows {
    pub input: SideRows,
    pub delta: SideRows,
}

impl FactoredSides {
    /// Of the factored layers of `layout`. A side of more than `length` numbers is folded to this many, which keeps
    /// dot products in expectation.
    pub(crate) fn new(layout: &Layout, manifest: &Manifest, length: usize) -> Self {
        let projected = layout.projected(&manifest.layers, &manifest.fold_places());
        let layer = |(number, layer): (usize, &Factored)| {
            let form = |part: usize, recorded: usize, side, has_bias| {
                let seed = || derive_seed(manifest.seed ^ STREAM, u32::from(layer.layer), side);
                let fold = (recorded > length).then(|| Box::new(Fold::new(seed(), recorded, length.max(1))));
                Form { part, recorded, fold, has_bias }
            };
            let input = form(2 * number, layer.inputs, Side::Input, layer.bias);
            let delta = form(2 * number + 1, layer.outputs, Side::Delta, false);
            let lossy = |form: &Form| form.fold.is_some() || projected.get(form.part).copied().unwrap_or(false);
            let name = manifest.layers.get(usize::from(layer.layer)).map_or("?", |layer| layer.name.as_str());
            let is_lossy = lossy(&input) || lossy(&delta);
            SidedLayer { name: name.into(), recorded: layer.clone(), input, delta, is_lossy }
        };
        Self { layers: layout.factored.iter().enumerate().map(layer).collect() }
    }

    /// The sides of each layer, of `rows`.
    pub(crate) fn decode(&self, gradients: &Gradients, rows: &[usize]) -> Vec<LayerRows> {
        let of = |form: &Form| form.decode(gradients, rows);
        self.layers.iter().map(|layer| LayerRows { input: of(&layer.input), delta: of(&layer.delta) }).collect()
    }

    /// How many numbers the outer products of all layers have.
    pub(crate) fn coordinates(&self) -> usize {
        self.layers.iter().fold(0usize, |sum, layer| sum.saturating_add(layer.inputs().saturating_mul(layer.outputs())))
    }

    /// Whether the sides are the recorded ones number for number.
    pub(crate) fn is_exact(&self) -> bool {
        self.layers.iter().all(|layer| layer.input.fold.is_none() && layer.delta.fold.is_none())
    }
}

impl SidedLayer {
    /// Numbers of an input, with the trailing 1 of a bias.
    pub(crate) fn inputs(&self) -> usize {
        self.input.width()
    }

    /// Numbers of an output gradient.
    pub(crate) fn outputs(&self) -> usize {
        self.delta.width()
    }

    /// Whether the last number of an input is the 1 of a bias.
    pub(crate) fn has_bias(&self) -> bool {
        self.recorded.bias
    }
}

impl Form {
    fn width(&self) -> usize {
        self.fold.as_ref().map_or(self.recorded, |fold| fold.outputs()) + usize::from(self.has_bias)
    }

    fn decode(&self, gradients: &Gradients, rows: &[usize]) -> SideRows {
        let width = self.width();
        let mut values = vec![0f32; rows.len() * width];
        values.par_chunks_mut(ROWS_A_TASK * width.max(1)).zip(rows.par_chunks(ROWS_A_TASK)).for_each(|(out, rows)| {
            let (mut side, mut own) = (Vec::new(), Vec::new());
            for (out, &row) in out.chunks_mut(width.max(1)).zip(rows) {
                decode(gradients, self.part, row, self.recorded, self.fold.as_deref(), &mut side, &mut own);
                if self.has_bias {
                    own.push(1.0);
                }
                out.copy_from_slice(&own);
            }
        });
        let numbers = (width - usize::from(self.has_bias)).max(1) as f64;
        let noise = rows.iter().map(|&row| excess_of(gradients.part(self.part), row) / numbers);
        let mut noise: Vec<f64> = noise.collect();
        if noise.iter().all(|noise| *noise == 0.0) {
            noise.clear();
        }
        SideRows { values, width, noise }
    }
}

impl SideRows {
    /// What rounding adds to the square of each number of a row.
    pub(crate) fn noise(&self, row: usize) -> f64 {
        self.noise.get(row).copied().unwrap_or(0.0)
    }

    /// Copies a row of another side.
    pub(crate) fn set_row(&mut self, to: usize, other: &Self, from: usize) {
        let width = self.width;
        self.values[to * width..(to + 1) * width].copy_from_slice(&other.values[from * width..(from + 1) * width]);
    }
}
