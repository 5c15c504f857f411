//! Squared norms of rows without the layers that are not trained, and with the learning rates of single layers.
//!
//! A row has the squared norm of its whole gradient. That of a factored layer is had from its two vectors, that of the
//! folded ones is what is left. So with weights `w_l` it is `w_f·‖g‖² + Σ_l (w_l − w_f)·‖g_l‖²` over the factored
//! layers, `w_f` the weight of the folded ones. Without folded layers `w_f` is 0 or 1, whichever leaves less to the
//! sketches.

use super::gradient::{Gradients, Layout};
use super::layer_rates::LayerRates;
use crate::vectors::lengths::excess_of_signs;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::{Column, Manifest};
use gradlog_format::run::{Block, Vectors};
use gradlog_format::sketch::Encoding;
use gradlog_kernels::simd::squared_norm_f64;

/// Which weights layers have in a squared norm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerNorms<'a> {
    pub rates: &'a LayerRates,
    pub manifest: &'a Manifest,
    /// Whether a layer has its rate as its weight, or 1 if it is trained.
    pub uses_rates: bool,
    pub on_sweeps: bool,
}

impl LayerNorms<'_> {
    /// Corrects the squared norms of the rows of a block, as [`Column::SquaredNorm`] holds them.
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] if layers that share the folded vector have several rates;
    /// [`AnalysisError::Read`].
    pub(crate) fn correct(&self, block: &Block, norms: &mut [f32]) -> Result<(), AnalysisError> {
        let layout = Layout::read(block, self.manifest);
        if self.rates.is_empty() || layout.is_empty() {
            return Ok(());
        }
        let steps = column::u64s(block, Column::Step)?;
        let weight = |layer: u16, step: u64| {
            // A checkpoint and its sweeps have the rate of the step before.
            let factor = self.rates.factor(layer, if self.on_sweeps { step.saturating_sub(1) } else { step });
            if self.uses_rates || factor == 0.0 {
                f64::from(factor)
            } else {
                1.0
            }
        };
        let is_factored = |number: usize| layout.factored.iter().any(|f| usize::from(f.layer) == number);
        let folded: Vec<u16> = match layout.folded {
            Some(_) => (0..self.manifest.layers.len()).filter(|n| !is_factored(*n)).map(|n| n as u16).collect(),
            None => Vec::new(),
        };
        let changed = steps.iter().any(|step| {
            layout.factored.iter().map(|f| f.layer).chain(folded.iter().copied()).any(|l| weight(l, *step) != 1.0)
        });
        if !changed {
            return Ok(());
        }
        let gradients = Gradients::read(block, &layout)?;
        let mut scratch = Vec::new();
        for (row, (norm, step)) in norms.iter_mut().zip(&steps).enumerate() {
            let weights: Vec<f64> = layout.factored.iter().map(|f| weight(f.layer, *step)).collect();
            let mut moving = folded.iter().map(|layer| weight(*layer, *step)).filter(|weight| *weight > 0.0);
            let of_folded = moving.next().unwrap_or(0.0);
            if let Some(other) = moving.find(|other| *other != of_folded) {
                return Err(AnalysisError::OutOfRange {
                    what: "the learning rates of the layers that share the folded vector",
                    given: format!("{of_folded} and {other} times the step's"),
                    range: "one rate: take a score without learning rates, or record these layers apart".into(),
                });
            }
            let mut own = Vec::with_capacity(weights.len());
            for (number, factored) in layout.factored.iter().enumerate() {
                let mut square = |part: usize| squared_norm(gradients.part(part), row, &mut scratch);
                own.push((square(2 * number) + f64::from(u8::from(factored.bias))) * square(2 * number + 1));
            }
            let left_to_sketches =
                |base: f64| weights.iter().zip(&own).map(|(w, own)| (w - base).abs() * own).sum::<f64>();
            let base = match folded.is_empty() {
                false => of_folded,
                true if left_to_sketches(0.0) < left_to_sketches(1.0) => 0.0,
                true => 1.0,
            };
            let others: f64 = weights.iter().zip(&own).map(|(weight, own)| (weight - base) * own).sum();
            if norm.is_finite() {
                let square = base * Column::decode_squared_norm(*norm) + others;
                *norm = Column::encode_squared_norm(square.max(0.0));
            }
        }
        Ok(())
    }
}

/// The squared norm of the vector that a row stands for.
fn squared_norm(vectors: &Vectors, row: usize, scratch: &mut Vec<f32>) -> f64 {
    scratch.resize(vectors.width(), 0.0);
    vectors.decode(row, scratch);
    let excess = match vectors.encoding() {
        Encoding::Signs => excess_of_signs(vectors.width(), vectors.row(row).1.to_f32()),
        _ => 0.0,
    };
    (squared_norm_f64(scratch) - excess).max(0.0)
}
