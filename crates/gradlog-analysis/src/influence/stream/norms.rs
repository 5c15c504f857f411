//! Norms of gradients, for scores that are divided by them ([`Normalization`]).
//!
//! In Adam's metric they are those that were recorded. Else a block with all its layers has exact norms beside its
//! sketches. Of some layers alone, or where no norms were recorded, the norm is that of the sketch: `‖g‖² = Σ (‖a‖² +
//! bias)·‖δ‖²` over factored layers, and `‖s‖²` of the folded ones.

use super::block_visits::BlockVisits;
use crate::influence::plan::InfluencePlan;
use crate::influence::products::Stored;
use crate::influence::question::Normalization;
use crate::rows::column;
use crate::rows::gradient::{Gradients, Layout};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, ReadError};

/// The squared norms of the gradients of some rows, of the layers of `layout`; `exact` if these are all that were
/// recorded.
fn squared_norms(
    block: &Block,
    layout: &Layout,
    (exact, factors): (bool, &[f32]),
    gradients: &Gradients,
    rows: &[usize],
) -> Result<Vec<f64>, ReadError> {
    if exact {
        if let Some(norms) = column::optional(block, Column::SquaredNorm, column::f32s)? {
            return Ok(rows.iter().map(|&row| Column::decode_squared_norm(norms[row])).collect());
        }
    }
    let part = |number: usize, row: usize| Stored::read(gradients.part(number), row).squared_norm();
    let row_norm = |&row: &usize| {
        let layers = layout.factored.iter().enumerate().map(|(number, layer)| {
            let bias = if layer.bias { 1.0 } else { 0.0 };
            f64::from(factors[number]) * (part(2 * number, row) + bias) * part(2 * number + 1, row)
        });
        let count = layout.factored.len();
        layers.sum::<f64>() + layout.folded.map_or(0.0, |_| f64::from(factors[count]) * part(2 * count, row))
    };
    Ok(rows.iter().map(row_norm).collect())
}

/// What a gradient is multiplied by to have unit length; 0 if it has none.
fn to_unit(squared_norm: f64) -> f64 {
    if squared_norm == 0.0 {
        return 0.0;
    }
    // NaN and infinity stay what they are not: a number. A product with it counts as not finite.
    let factor = squared_norm.sqrt().recip();
    if factor > 0.0 {
        factor
    } else {
        f64::NAN
    }
}

/// Brings the stored parts of a probe's gradient to unit length.
pub(super) fn make_unit(parts: &mut [Stored], layout: &Layout, squared_norm: f64) {
    let layers = layout.factored.len() + usize::from(layout.folded.is_some());
    scale_layers(parts, layout, &vec![to_unit(squared_norm) as f32; layers]);
}

/// Multiplies the layers of a probe's gradient by `factors`: the factored ones, then the folded vector. One of the two
/// vectors of a factored layer is enough.
pub(super) fn scale_layers(parts: &mut [Stored], layout: &Layout, factors: &[f32]) {
    for (number, factor) in factors.iter().enumerate().filter(|(_, factor)| **factor != 1.0) {
        let part = if number < layout.factored.len() { 2 * number + 1 } else { 2 * number };
        if let Some(part) = parts.get_mut(part) {
            part.scale(*factor);
        }
    }
}

impl InfluencePlan<'_> {
    /// The squared norms of some rows, of the layers that count.
    pub(super) fn squared_norms(
        &self,
        block: &Block,
        gradients: &Gradients,
        rows: &[usize],
    ) -> Result<Vec<f64>, ReadError> {
        if let (Some(_), true) = (&self.norms, self.question.window.is_on(block)) {
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            let norms = column::f32s(block, Column::PreconditionedSquaredNorm)?;
            return Ok(rows.iter().map(|&row| Column::decode_squared_norm(norms[row])).collect());
        }
        // A cosine goes by the gradients alone, a self-influence by their learning rates too.
        let ones = vec![1.0; self.factors.len()];
        let factors = if self.question.normalization == Normalization::Relatif { &self.factors } else { &ones };
        let exact = self.layout == self.index.layout && factors.iter().all(|factor| *factor == 1.0);
        squared_norms(block, &self.layout, (exact, factors), gradients, rows)
    }
}

impl BlockVisits {
    /// Makes the weights those of a normalized score, by the squared norms of the rows that count.
    pub(super) fn normalize(&mut self, by: Normalization, squared_norms: &[f64]) {
        let rows = self.weights.iter_mut().zip(squared_norms);
        match by {
            Normalization::None => {}
            Normalization::Cosine => rows.for_each(|(weight, norm)| *weight *= to_unit(*norm)),
            Normalization::Relatif => {
                self.self_influence = rows
                    .map(|(weight, norm)| {
                        let own = weight.abs() * norm;
                        if own.is_finite() {
                            return own;
                        }
                        // A visit without a norm does not count, so that it spoils no other visit of its example.
                        *weight = f64::NAN;
                        0.0
                    })
                    .collect();
            }
        }
    }
}

/// What the scores of an example are divided by, if they are.
pub(super) fn divisor(self_influence: f64) -> f64 {
    if self_influence > 0.0 {
        self_influence.sqrt()
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_length_of_what_has_a_length() {
        assert_eq!(to_unit(4.0), 0.5);
        assert_eq!(to_unit(0.0), 0.0);
        assert!([f64::NAN, f64::INFINITY, -1.0].into_iter().all(|norm| to_unit(norm).is_nan()));
        assert_eq!((divisor(9.0), divisor(0.0)), (3.0, 1.0));
    }

    #[test]
    fn a_visit_without_a_norm_does_not_count() {
        let block = || BlockVisits { weights: vec![-2.0, 2.0, 3.0], ..BlockVisits::default() };
        let norms = [4.0, f64::INFINITY, 0.0];
        let mut relatif = block();
        relatif.normalize(Normalization::Relatif, &norms);
        assert_eq!(relatif.self_influence, [8.0, 0.0, 0.0]);
        assert!(relatif.weights[0] == -2.0 && relatif.weights[1].is_nan() && relatif.weights[2] == 3.0);
        let mut cosine = block();
        cosine.normalize(Normalization::Cosine, &norms);
        assert!(cosine.weights[0] == -1.0 && cosine.weights[1].is_nan() && cosine.weights[2] == 0.0);
    }
}
