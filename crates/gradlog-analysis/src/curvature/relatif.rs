//! ℓ-RelatIF (Barshan et al. 2020, arXiv 2003.11630): influence functions divided by the root of the example's own
//! self-influence under the same damped inverse, `√(ḡ_zᵀ (H + λI)⁻¹ ḡ_z)`.
//!
//! The mean gradient of an example over its visits is needed as a whole, because its visits have products with each
//! other. It is weighted as in the score ([`Weights`](super::weights::Weights)), so a weight that all visits of an
//! example have in common cancels out. As many examples as fit are gathered in a walk, so memory goes by a bound and
//! not by the run.

use super::gram::Inverse;
use super::subject::{Subject, PROBE_BYTES_MAX};
use crate::vectors::flatten::Flat;
use crate::AnalysisError;
use crate::Progress;
use std::collections::HashMap;

/// Mean gradients that are multiplied with the inverse at a time.
const MULTIPLIED_ROWS: usize = 256;

/// Of each example, `ḡᵀ (H + λI)⁻¹ ḡ` for each damping.
pub(super) struct SelfInfluence(HashMap<u64, Vec<f64>>);

impl SelfInfluence {
    /// Of examples that have usable visits, for each damping.
    pub(super) fn new(found: HashMap<u64, Vec<f64>>) -> Self {
        Self(found)
    }

    /// Adds that of other layers.
    pub(super) fn add(&mut self, other: Self) {
        for (example, own) in other.0 {
            if let Some(sums) = self.0.get_mut(&example) {
                sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
            }
        }
    }

    /// Of all `examples` that have a usable visit.
    pub(super) fn compute(
        subject: &Subject<'_>,
        inverse: &Inverse,
        examples: &[u64],
        progress: &Progress,
    ) -> Result<Self, AnalysisError> {
        let mut found = HashMap::new();
        let each = 4 * subject.flattener.length().max(1);
        let all = examples.len();
        for examples in examples.chunks((PROBE_BYTES_MAX / each).max(16)) {
            let means = Means::gather(subject, examples, all, progress)?;
            for first in (0..examples.len()).step_by(MULTIPLIED_ROWS) {
                let rows = first..examples.len().min(first + MULTIPLIED_ROWS);
                let products = inverse.quadratic(&means.rows(subject, rows.clone()));
                for (row, at) in rows.clone().enumerate() {
                    if means.visits[at] > 0 {
                        found.insert(examples[at], products.chunks(rows.len()).map(|products| products[row]).collect());
                    }
                }
            }
        }
        Ok(Self(found))
    }

    /// What the scores of an example are divided by at a damping. An example whose gradients are 0 has the score 0
    /// anyway.
    pub(super) fn divisor(&self, example: u64, damping: usize) -> f64 {
        match self.0.get(&example).map(|own| own[damping]) {
            Some(0.0) => 1.0,
            Some(own) if own.is_finite() => own.sqrt(),
            _ => f64::NAN,
        }
    }
}

/// Mean gradients of some examples over their usable visits inside the window, by the weights of the visits.
struct Means {
    /// Of each block `[examples, width]`.
    blocks: Vec<Vec<f32>>,
    /// As [`Flat::excess`].
    excess: Vec<Vec<f32>>,
    visits: Vec<u64>,
}

impl Means {
    /// Of `examples`, some of `all`.
    fn gather(subject: &Subject<'_>, examples: &[u64], all: usize, progress: &Progress) -> Result<Self, AnalysisError> {
        let slots: HashMap<u64, usize> = examples.iter().enumerate().map(|(slot, example)| (*example, slot)).collect();
        let about = &subject.flattener.blocks;
        let mut blocks: Vec<Vec<f32>> = about.iter().map(|block| vec![0f32; examples.len() * block.width]).collect();
        let mut visits = vec![0u64; examples.len()];
        let mut total = 0.0;
        let mut excess = vec![vec![0f32; examples.len()]; subject.flattener.regions.len()];
        let _ = subject.walk().walk_forwards(progress, |seen, _: &[()], flat| {
            for (row, visit) in seen.iter().enumerate().take(flat.rows) {
                let weight = subject.weights.of(visit);
                total += weight.abs();
                let Some(&slot) = slots.get(&visit.example) else { continue };
                visits[slot] += 1;
                for (region, sums) in excess.iter_mut().enumerate() {
                    sums[slot] += (weight * weight * flat.excess(region, row)) as f32;
                }
                for ((sums, values), about) in blocks.iter_mut().zip(&flat.blocks).zip(about) {
                    let width = about.width;
                    let values = &values[row * width..(row + 1) * width];
                    sums[slot * width..(slot + 1) * width]
                        .iter_mut()
                        .zip(values)
                        .for_each(|(sum, value)| *sum += weight as f32 * value);
                }
            }
            Ok(())
        })?;
        // What an example weighs in all of its visits, if it weighs as much as the mean.
        let mean = if total > 0.0 { (total / all as f64) as f32 } else { 1.0 };
        blocks.iter_mut().flatten().for_each(|sum| *sum /= mean);
        excess.iter_mut().flatten().for_each(|sum| *sum /= mean * mean);
        Ok(Self { blocks, excess, visits })
    }

    fn rows(&self, subject: &Subject<'_>, rows: std::ops::Range<usize>) -> Flat {
        let part = |(values, width): (&Vec<f32>, usize)| values[rows.start * width..rows.end * width].to_vec();
        let widths = subject.flattener.blocks.iter().map(|block| block.width);
        Flat {
            rows: rows.len(),
            blocks: self.blocks.iter().zip(widths).map(part).collect(),
            excess: self.excess.iter().map(|region| region[rows.clone()].to_vec()).collect(),
            apart: Vec::new(),
        }
    }
}
