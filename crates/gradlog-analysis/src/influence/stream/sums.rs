//! The scores of a pass while they grow: what the blocks add, example by example, in the order of the file.
//!
//! Each thread owns the sums of some probes and adds to them in the order of the file, so that a score does not depend
//! on how many threads there are. An example takes a slot at its first visit. Where the strongest are all that is asked
//! for, it is ranked after the tile of its last visit. Its slot is given to the next, while it is still in the cache.

use super::block_visits::{BlockVisits, Dots, Lent};
use super::columns::{Columns, Placed};
use super::norms::divisor;
use super::strongest::{Ranks, Strongest};
use crate::error::{no_gradients, NO_RATES, RATES};
use crate::influence::answer::{Influence, InfluenceRow, Total};
use crate::influence::plan::{Counts, InfluencePlan, Pass};
use crate::influence::products::{panels_of, ErrorSum, Scheme, TILE_ROWS};
use crate::influence::question::Normalization;
use crate::rows::gradient::Layout;
use crate::rows::reader::BlockGap;
use crate::{AnalysisError, LeftOut};
use gradlog_format::run::Damage;
use rayon::prelude::*;
use std::collections::HashMap;

/// The scores of a pass while they grow.
pub(super) struct Sums<'plan> {
    scheme: &'plan Scheme,
    positions: foldhash::HashMap<u64, usize>,
    /// Of each row, its slot, and how many of its visits are still to come; where that is not known, slots are kept.
    slots: Vec<usize>,
    /// Of each row, the last step of its visits so far.
    last_steps: Vec<u64>,
    /// Of each row, its self-influence so far; empty unless scores are divided by it.
    self_influence: Vec<f64>,
    to_come: Option<(&'plan Counts, Vec<u32>)>,
    free: Vec<usize>,
    slots_made: usize,
    columns: Vec<Columns>,
    result: Influence,
    other_layout: Option<Layout>,
}

impl<'plan> Sums<'plan> {
    /// For all scores, or for the `strongest` of each probe.
    pub(super) fn new(plan: &'plan InfluencePlan<'_>, pass: &Pass, strongest: Option<usize>) -> Self {
        let question = &plan.question;
        let probes = match question.group {
            true => plan.index.common_probe().into_iter().collect(),
            false => pass.ids.iter().filter_map(|id| plan.index.probes.get(id).cloned()).collect(),
        };
        let layers = if question.layers.is_empty() { Vec::new() } else { plan.layer_names() };
        let mut left_out = plan.sweeps.left_out();
        left_out.add(&plan.index.left_out);
        let result = Influence {
            basis: plan.basis.clone(),
            probe_modes: plan.index.modes.iter().copied().collect(),
            normalization: question.normalization,
            layers,
            group: if question.group { plan.index.probes.keys().copied().collect() } else { Vec::new() },
            probes,
            probe_times: pass.times.len() as u64,
            left_out,
            ..Influence::new(question.set.clone(), question.time)
        };
        let probes = result.probes.len();
        // One for each thread, since every owner unpacks the visits for itself. (Unpacked once for all they were read
        // from farther away, and that took longer.)
        let owners = if Dots::fit(probes) { 1 } else { rayon::current_num_threads() };
        let owners = owners.min(panels_of(probes)).max(1);
        let begin = |owner: usize| panels_of(probes) * owner / owners;
        let columns = (0..owners).map(|owner| Columns::new(begin(owner)..begin(owner + 1), probes, strongest));
        Self {
            scheme: &plan.scheme,
            positions: foldhash::HashMap::default(),
            slots: Vec::new(),
            last_steps: Vec::new(),
            self_influence: Vec::new(),
            to_come: strongest.and(plan.visits_of.as_ref()).map(|visits| (visits, Vec::new())),
            free: Vec::new(),
            slots_made: 0,
            columns: columns.collect(),
            result,
            other_layout: None,
        }
    }

    /// Adds the blocks of a group, all threads together.
    pub(super) fn add(&mut self, lent: &Lent, group: Vec<BlockVisits>) {
        let group: Vec<Placed> = group.into_iter().map(|block| self.place(block)).collect();
        let (scheme, about, shared) = (self.scheme, &self.result, (self.slots_made, self.self_influence.as_slice()));
        let not_finite: Vec<Vec<[usize; 3]>> =
            self.columns.par_iter_mut().map(|columns| columns.add(scheme, lent, &group, about, shared)).collect();
        let mut lost: HashMap<[usize; 2], usize> = HashMap::new();
        for [block, position, count] in not_finite.into_iter().flatten() {
            *lost.entry([block, position]).or_default() += count;
        }
        let probes = self.result.probes.len();
        for (number, placed) in group.iter().enumerate() {
            for (position, &at) in placed.examples.iter().enumerate() {
                let lost = if lost.is_empty() { 0 } else { lost.get(&[number, position]).copied().unwrap_or(0) };
                self.result.left_out.not_finite += u64::from(lost > 0);
                self.result.rows[at].visits += u64::from(lost < probes);
                self.result.visits += u64::from(lost < probes);
            }
        }
    }

    /// Gives the block's examples their rows and slots.
    fn place(&mut self, mut block: BlockVisits) -> Placed {
        let result = &mut self.result;
        let divides = result.normalization == Normalization::Relatif;
        let mut done = vec![Vec::new(); block.rows.len().div_ceil(TILE_ROWS).max(1)];
        let (mut slots, mut examples) = (Vec::with_capacity(block.rows.len()), Vec::with_capacity(block.rows.len()));
        let (mut counted, mut freed) = (0, 0);
        for &row in &block.inside {
            // The tile of this row, or where it does not count, of the last one before it that does.
            let counts = block.rows.get(counted) == Some(&row);
            counted += usize::from(counts);
            let tile = counted.saturating_sub(1) / TILE_ROWS;
            // Slots of an earlier tile: no other example of the same one may have them.
            self.free.extend(done[freed..tile.max(freed)].iter().flatten().map(|(slot, _): &(usize, usize)| *slot));
            freed = freed.max(tile);
            let example = block.examples[row];
            let at = *self.positions.entry(example).or_insert_with(|| {
                result.rows.push(InfluenceRow { example, visits: 0, label: None, prediction: None });
                self.slots.push(self.free.pop().unwrap_or_else(|| {
                    self.slots_made += 1;
                    self.slots_made - 1
                }));
                if let Some((visits, to_come)) = &mut self.to_come {
                    to_come.push(visits.visits(example).unwrap_or(u32::MAX));
                }
                self.last_steps.push(0);
                if divides {
                    self.self_influence.push(0.0);
                }
                result.rows.len() - 1
            });
            if let (true, Some(own)) = (counts, block.self_influence.get(slots.len())) {
                self.self_influence[at] += own;
            }
            if counts {
                slots.push(self.slots[at]);
                examples.push(at);
            }
            // Several workers' blocks lie between each other in steps, so the last row to come need not be the last
            // visit.
            if block.steps[row] >= self.last_steps[at] {
                self.last_steps[at] = block.steps[row];
                let entry = &mut result.rows[at];
                entry.label = block.labels.as_ref().and_then(|labels| labels[row]).or(entry.label);
                entry.prediction = block.predictions.as_ref().and_then(|p| p[row]).or(entry.prediction);
            }
            if let Some((_, to_come)) = &mut self.to_come {
                to_come[at] = to_come[at].saturating_sub(1);
                if to_come[at] == 0 {
                    done[tile].push((self.slots[at], at));
                }
            }
        }
        self.free.extend(done[freed..].iter().flatten().map(|(slot, _)| *slot));
        block.inside = Vec::new();
        result.visits_at_probe_times += block.at_probe_times;
        result.left_out.add(&block.left_out);
        if let Some(BlockGap::OtherLayers(layout)) = block.gap.take() {
            self.other_layout.get_or_insert(layout);
        }
        Placed { block, slots, examples, done }
    }

    /// Why there are no scores, if there are none.
    fn check(&self, plan: &InfluencePlan<'_>) -> Result<(), AnalysisError> {
        let LeftOut { not_finite, unseen, before_first_probe, without_probe, without_gradient, without_rate, .. } =
            self.result.left_out;
        let counted = self.result.visits + not_finite + unseen + before_first_probe + without_probe;
        if counted == 0 && plan.others_have_gradients() {
            return Ok(());
        }
        if let (0, Some(visits)) = (counted, &self.other_layout) {
            let layers = &plan.run.manifest().layers;
            return Err(AnalysisError::OtherLayers {
                visits: visits.describe(layers),
                probes: plan.index.layout.describe(layers),
            });
        }
        if counted == 0 && without_gradient > 0 {
            return Err(AnalysisError::Missing {
                score: "influence",
                what: "gradients of its visits",
                how: no_gradients(plan.run.manifest()),
            });
        }
        if counted == 0 && without_rate > 0 {
            return Err(AnalysisError::Missing { score: "influence", what: RATES, how: NO_RATES });
        }
        Ok(())
    }

    /// The scores of all examples.
    pub(super) fn finish(
        mut self,
        plan: &InfluencePlan<'_>,
        damage: Option<Damage>,
    ) -> Result<Influence, AnalysisError> {
        self.check(plan)?;
        let mut result = self.result;
        let (rows, probes) = (result.rows.len(), result.probes.len());
        let gather = |take: fn(&mut Columns) -> Vec<f64>, columns: &mut [Columns]| {
            let mut all = vec![f64::NAN; rows * probes];
            for columns in columns {
                let (width, first) = (columns.probes.len(), columns.probes.start);
                let sums = take(columns);
                for (row, &slot) in self.slots.iter().enumerate().filter(|(row, _)| result.rows[*row].visits > 0) {
                    let place = row * probes + first..row * probes + first + width;
                    all[place.clone()].copy_from_slice(&sums[slot * width..(slot + 1) * width]);
                    if let Some(own) = self.self_influence.get(row) {
                        all[place].iter_mut().for_each(|score| *score /= divisor(*own));
                    }
                }
            }
            all
        };
        result.scores = gather(|columns| std::mem::take(&mut columns.sums), &mut self.columns);
        if self.scheme.errors() {
            let deviations =
                |columns: &mut Columns| std::mem::take(&mut columns.errors).iter().map(ErrorSum::deviation).collect();
            result.sketch_errors = gather(deviations, &mut self.columns);
        }
        if result.normalization != Normalization::Relatif {
            let total = |&(score, error): &(f64, ErrorSum)| Total { score, sketch_error: error.deviation() };
            result.totals = self.columns.iter().flat_map(|columns| columns.totals.iter().map(total)).collect();
        }
        result.damage = damage.or_else(|| plan.index.damage.clone());
        result.basis.left_out = result.left_out.clone();
        Ok(result)
    }

    /// The strongest of each probe.
    pub(super) fn finish_strongest(
        mut self,
        plan: &InfluencePlan<'_>,
        damage: Option<Damage>,
    ) -> Result<Strongest, AnalysisError> {
        self.check(plan)?;
        // Those whose last visit is not known or did not come.
        let open = (0..self.slots.len()).filter(|&row| self.to_come.as_ref().is_none_or(|(_, left)| left[row] > 0));
        let open: Vec<(usize, usize)> = open.map(|row| (self.slots[row], row)).collect();
        let (scheme, about, divisors) = (self.scheme, &self.result, self.self_influence.as_slice());
        self.columns.par_iter_mut().for_each(|columns| {
            open.iter().for_each(|&(slot, row)| columns.rank(scheme, about, slot, row, divisors));
        });
        let ranks = self.columns.into_iter().filter_map(|columns| columns.ranks).map(Ranks::take);
        let (proponents, opponents): (Vec<_>, Vec<_>) = ranks.unzip();
        self.result.damage = damage.or_else(|| plan.index.damage.clone());
        self.result.basis.left_out = self.result.left_out.clone();
        Ok(Strongest {
            examples: self.result.rows.len() as u64,
            influence: self.result,
            proponents: proponents.into_iter().flatten().collect(),
            opponents: opponents.into_iter().flatten().collect(),
        }
        .keep_named())
    }
}
