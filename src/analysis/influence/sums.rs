//! The scores of a pass while they grow: what the blocks add, example by example, in the order of the file.

use super::super::gradient::Layout;
use super::super::{error::NO_GRADIENTS, AnalysisError};
use super::pass::{InfluencePlan, Pass};
use super::{Influence, InfluenceRow};
use crate::run::Damage;
use std::collections::HashMap;

/// What one block adds.
#[derive(Default)]
pub(super) struct BlockDots {
    pub examples: Vec<u64>,
    pub labels: Option<Vec<u32>>,
    pub predictions: Option<Vec<u32>>,
    /// Rows inside the window.
    pub inside: Vec<usize>,
    /// Of these, rows that count.
    pub rows: Vec<usize>,
    /// `[rows, probes]`, weighted.
    pub dots: Vec<f64>,
    pub at_probe_times: u64,
    pub before_first_probe: u64,
    pub not_finite: u64,
    pub without_gradient: u64,
    pub other_layers: Option<(u64, Layout)>,
}

/// The scores of a pass while they grow.
pub(super) struct Sums {
    slots: HashMap<u64, usize>,
    result: Influence,
    other_layout: Option<Layout>,
}

impl Sums {
    pub(super) fn new(plan: &InfluencePlan<'_>, pass: &Pass) -> Self {
        let result = Influence {
            set: plan.question.set.clone(),
            time: plan.question.time,
            basis: plan.sweeps.basis(),
            probe_modes: plan.index.modes.iter().copied().collect(),
            probes: pass.ids.iter().filter_map(|id| plan.index.probes.get(id).cloned()).collect(),
            rows: Vec::new(),
            scores: Vec::new(),
            visits: 0,
            visits_at_probe_times: 0,
            probe_times: pass.times.len() as u64,
            before_first_probe: 0,
            not_finite: 0,
            without_gradient: 0,
            other_layers: 0,
            probe_records_left_out: plan.index.left_out,
            probe_records_repeated: plan.index.repeated,
            damage: None,
        };
        Self { slots: HashMap::new(), result, other_layout: None }
    }

    pub(super) fn add(&mut self, block: BlockDots) {
        let result = &mut self.result;
        let probes = result.probes.len();
        for &row in &block.inside {
            let example = block.examples[row];
            let slot = *self.slots.entry(example).or_insert_with(|| {
                result.rows.push(InfluenceRow { example, visits: 0, label: None, prediction: None });
                result.scores.extend(std::iter::repeat_n(0.0, probes));
                result.rows.len() - 1
            });
            let entry = &mut result.rows[slot];
            entry.label = block.labels.as_ref().map(|labels| labels[row]).or(entry.label);
            entry.prediction = block.predictions.as_ref().map(|p| p[row]).or(entry.prediction);
        }
        for (row, dots) in block.rows.iter().zip(block.dots.chunks(probes.max(1))) {
            let Some(&slot) = self.slots.get(&block.examples[*row]) else { continue };
            let mut finite = 0;
            for (sum, dot) in result.scores[slot * probes..(slot + 1) * probes].iter_mut().zip(dots) {
                // Finite factors can have a product that is not; the other probes and visits still count.
                if dot.is_finite() {
                    *sum += dot;
                    finite += 1;
                }
            }
            result.not_finite += u64::from(finite < probes);
            result.rows[slot].visits += u64::from(finite > 0);
            result.visits += u64::from(finite > 0);
        }
        result.visits_at_probe_times += block.at_probe_times;
        result.before_first_probe += block.before_first_probe;
        result.not_finite += block.not_finite;
        result.without_gradient += block.without_gradient;
        if let Some((count, layout)) = block.other_layers {
            result.other_layers += count;
            self.other_layout.get_or_insert(layout);
        }
    }

    pub(super) fn finish(
        mut self,
        plan: &InfluencePlan<'_>,
        damage: Option<Damage>,
    ) -> Result<Influence, AnalysisError> {
        let result = &mut self.result;
        let counted = result.visits + result.not_finite + result.before_first_probe;
        if let (0, Some(visits)) = (counted, &self.other_layout) {
            let layers = &plan.run.manifest().layers;
            return Err(AnalysisError::OtherLayers {
                visits: visits.describe(layers),
                probes: plan.index.layout.describe(layers),
            });
        }
        if counted == 0 && result.without_gradient > 0 {
            return Err(AnalysisError::Missing {
                score: "influence",
                what: "gradients of its visits",
                how: NO_GRADIENTS,
            });
        }
        for (row, scores) in result.rows.iter().zip(result.scores.chunks_mut(result.probes.len().max(1))) {
            if row.visits == 0 {
                scores.fill(f64::NAN);
            }
        }
        result.damage = damage.or_else(|| plan.index.damage.clone());
        Ok(self.result)
    }
}
