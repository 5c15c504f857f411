//! Passes over the visits: which probes go together, and what is folded for each example.
//!
//! Probes that were taken at the same times share a pass, as many as fit the stated memory. A pass streams the visit
//! blocks; the probes' gradients at the times that the current blocks need are decoded, and dropped when the visits have
//! moved on, so that memory does not grow with the number of probe times either.

use super::super::driver::{blocks_in_flight, fold_blocks, fold_each, Progress};
use super::super::gradient::{Gradients, Layout};
use super::super::sweep::Sweeps;
use super::super::{column, AnalysisError};
use super::dots::{dots, stretches, ProbeMatrices, Scratch};
use super::index::{Index, Record};
use super::sums::{BlockDots, Sums};
use super::{Influence, ProbeTime, Question};
use crate::log::Column;
use crate::run::{Block, ReadError, Run};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// The most probes of a pass: the dot products of the blocks in flight are held, 8 bytes for each visit and probe.
const PROBES_MAX: usize = 256;

/// A question that has been looked up in the run and cut into passes over the visits.
///
/// Most questions take one pass. A matrix of many probes takes several; each gives the scores of its own probes, so that
/// a matrix larger than memory can be written down pass by pass.
pub struct InfluencePlan<'run> {
    pub(super) run: &'run Run,
    pub(super) question: Question,
    pub(super) index: Index,
    /// What is known of the sweeps, if the question is on these.
    pub(super) sweeps: Sweeps,
    passes: Vec<Pass>,
}

/// Probes that share their times.
pub(super) struct Pass {
    pub ids: Vec<u64>,
    pub times: Vec<u64>,
}

type Lent = HashMap<usize, Arc<ProbeMatrices>>;

impl<'run> InfluencePlan<'run> {
    /// The most bytes that decoded probe gradients take at a time, unless those of a single probe take more.
    pub const PROBE_BYTES_MAX: usize = 256 << 20;
    /// The most bytes that the scores of one pass take, unless those of 16 probes take more.
    pub const SCORE_BYTES_MAX: usize = 512 << 20;

    /// Finds the probes of `question` and plans the passes. `progress` is told of one or two passes over the run.
    ///
    /// # Errors
    /// As [`influence`](super::influence()), but for those that only the visits can show.
    pub fn new(run: &'run Run, question: &Question, progress: Progress<'_>) -> Result<Self, AnalysisError> {
        let sweeps = Sweeps::find(run, &question.window)?;
        let index = Index::build(run, question, progress)?;
        let mut groups: BTreeMap<Vec<u64>, Vec<u64>> = BTreeMap::new();
        for (&id, records) in &index.records {
            groups.entry(records.keys().copied().collect()).or_default().push(id);
        }
        let mut plan = Self { run, question: question.clone(), index, sweeps, passes: Vec::new() };
        let score_limit = if plan.index.records.len() > 16 {
            let examples = plan.count_examples(progress)?.max(1);
            (Self::SCORE_BYTES_MAX / 8 / examples).max(16)
        } else {
            usize::MAX
        };
        for (times, ids) in groups {
            let bytes = plan.times_in_flight(&times).saturating_mul(plan.index.layout.decoded_bytes().max(1));
            let limit = (Self::PROBE_BYTES_MAX / bytes.max(1)).min(score_limit).clamp(1, PROBES_MAX);
            for ids in ids.chunks(limit) {
                plan.passes.push(Pass { ids: ids.to_vec(), times: times.clone() });
            }
        }
        Ok(plan)
    }

    /// How many passes over the visits it takes; at least one.
    pub fn passes(&self) -> usize {
        self.passes.len()
    }

    /// How many probes are asked about.
    pub fn probes(&self) -> usize {
        self.index.records.len()
    }

    fn wants(&self, block: &Block) -> bool {
        let before_damage = |damage: &crate::run::Damage| damage.block.is_none_or(|at| block.sequence() < at);
        self.question.window.is_on(block)
            && self.question.window.touches(block)
            // Probes behind the damage are unknown, so visits behind it would be measured against stale ones.
            && self.index.damage.as_ref().is_none_or(before_damage)
    }

    /// How many different examples there are, which is what the scores' memory goes by.
    fn count_examples(&self, progress: Progress<'_>) -> Result<usize, AnalysisError> {
        let mut examples = HashSet::new();
        let read = |block: &Block| Ok(column::u64s(block, Column::Example)?);
        fold_each(
            self.run,
            progress,
            |block| self.wants(block),
            read,
            |ids: Vec<u64>| {
                examples.extend(ids);
                Ok(())
            },
        )?;
        Ok(examples.len())
    }

    /// The most probe times that blocks in flight can need.
    fn times_in_flight(&self, times: &[u64]) -> usize {
        let needed = self.run.scan().filter(|block| self.wants(block));
        needed.map(|block| self.needed(times, &block).len()).max().unwrap_or(1).max(1) * blocks_in_flight()
    }

    /// The times, by position, that the visits of a block can need.
    fn needed(&self, times: &[u64], block: &Block) -> Range<usize> {
        let (mut first, mut last) = block.steps();
        if let Some(steps) = &self.question.window.steps {
            (first, last) = (first.max(steps.start), last.min(steps.end.saturating_sub(1)));
        }
        if self.question.window.is_on_sweeps() {
            return times.partition_point(|time| *time < first)..times.partition_point(|time| *time <= last);
        }
        let of = |step| position(times, step, self.question.time);
        match of(last) {
            Some(to) if first <= last => of(first).unwrap_or(0)..to + 1,
            _ => 0..0,
        }
    }

    /// The scores of the probes of one pass. `progress` is told of one pass over the run.
    ///
    /// # Errors
    /// As [`influence`](super::influence()).
    ///
    /// # Panics
    /// If `number` is not below [`InfluencePlan::passes`].
    pub fn pass(&self, number: usize, progress: Progress<'_>) -> Result<Influence, AnalysisError> {
        let pass = &self.passes[number];
        let mut sums = Sums::new(self, pass);
        let mut lent = Lent::new();
        let prepare = |blocks: &[Block]| {
            let needed: BTreeSet<usize> = blocks.iter().flat_map(|block| self.needed(&pass.times, block)).collect();
            lent.retain(|time, _| needed.contains(time));
            let absent: Vec<usize> = needed.into_iter().filter(|time| !lent.contains_key(time)).collect();
            lent.extend(self.decode_probes(pass, &absent)?);
            Ok(lent.clone())
        };
        let damage = fold_blocks(
            self.run,
            progress,
            |block| self.wants(block),
            prepare,
            |lent, block| self.read(pass, lent, block),
            |dots| {
                sums.add(dots);
                Ok(())
            },
        )?;
        sums.finish(self, damage)
    }

    /// The gradients of the pass's probes at some times.
    fn decode_probes(&self, pass: &Pass, times: &[usize]) -> Result<Lent, AnalysisError> {
        let layout = &self.index.layout;
        let mut by_block: BTreeMap<usize, Vec<(usize, usize, usize)>> = BTreeMap::new();
        for &time in times {
            for (probe, id) in pass.ids.iter().enumerate() {
                // Probes of one pass share their times, so each has a record at every one of them.
                let record = self.index.records.get(id).and_then(|records| records.get(&pass.times[time]));
                if let Some(&Record { block, row }) = record {
                    by_block.entry(block).or_default().push((time, probe, row));
                }
            }
        }
        let numbers: usize = layout.widths().iter().sum();
        let decoded: Vec<Result<Vec<f32>, ReadError>> = by_block
            .par_iter()
            .map(|(&block, wanted)| {
                let gradients = Gradients::read(&self.index.blocks[block], layout)?;
                let mut out = vec![0f32; wanted.len() * numbers];
                for ((_, _, row), mut rest) in wanted.iter().zip(out.chunks_exact_mut(numbers.max(1))) {
                    for (part, width) in layout.widths().into_iter().enumerate() {
                        let (vector, after) = rest.split_at_mut(width);
                        gradients.decode(part, *row, vector);
                        rest = after;
                    }
                }
                Ok(out)
            })
            .collect();
        let mut matrices: HashMap<usize, ProbeMatrices> =
            times.iter().map(|&time| (time, ProbeMatrices::new(layout, pass.ids.len()))).collect();
        for (wanted, decoded) in by_block.values().zip(decoded) {
            for ((time, probe, _), gradient) in wanted.iter().zip(decoded?.chunks_exact(numbers.max(1))) {
                if let Some(matrices) = matrices.get_mut(time) {
                    matrices.set(layout, *probe, gradient);
                }
            }
        }
        Ok(matrices.into_iter().map(|(time, matrices)| (time, Arc::new(matrices))).collect())
    }

    /// The weighted dot products of one visit block.
    fn read(&self, pass: &Pass, lent: &Lent, block: &Block) -> Result<BlockDots, AnalysisError> {
        let on_sweeps = self.question.window.is_on_sweeps();
        let inside = self.sweeps.rows(&self.question.window, block)?;
        let examples = column::u64s(block, Column::Example)?;
        let mut out = BlockDots {
            labels: column::optional(block, Column::Label, column::u32s)?,
            predictions: column::optional(block, Column::Prediction, column::u32s)?,
            examples,
            ..BlockDots::default()
        };
        out.inside = (0..out.examples.len()).filter(|&row| inside.as_ref().is_none_or(|i| i[row])).collect();
        let layout = Layout::of(block, &self.run.manifest().layers);
        if layout != self.index.layout {
            let count = out.inside.len() as u64;
            if layout.is_empty() {
                out.without_gradient = count;
            } else {
                out.other_layers = Some((count, layout));
            }
            return Ok(out);
        }
        let steps = column::u64s(block, Column::Step)?;
        let flags = column::optional(block, Column::Flags, column::u8s)?;
        // A sweep is of the example alone: it was in no batch and took no step.
        let factors: &[Column] = match on_sweeps {
            true => &[Column::LearningRate],
            false => &[Column::LearningRate, Column::Clip, Column::Coefficient],
        };
        let factors: Vec<Vec<f32>> =
            factors.iter().map(|factor| column::f32s(block, *factor)).collect::<Result<_, _>>()?;
        let unseen = if on_sweeps { Column::FLAG_NO_WEIGHT } else { 0 };
        let time_of = |step: u64| match on_sweeps {
            true => pass.times.binary_search(&step).ok(),
            false => position(&pass.times, step, self.question.time),
        };
        let (mut weights, mut times) = (Vec::new(), Vec::new());
        for &row in &out.inside {
            let weight: f64 = factors.iter().map(|factor| f64::from(factor[row])).product();
            if flags.as_ref().is_some_and(|flags| flags[row] & (Column::FLAG_NOT_FINITE | unseen) != 0)
                || !weight.is_finite()
            {
                out.not_finite += 1;
            } else if let Some(time) = time_of(steps[row]) {
                out.rows.push(row);
                weights.push(weight);
                times.push(time);
                out.at_probe_times += u64::from(pass.times[time] == steps[row]);
            } else {
                out.before_first_probe += 1;
            }
        }
        let probes = pass.ids.len();
        out.dots = vec![0.0; out.rows.len() * probes];
        let gradients = Gradients::read(block, &layout)?;
        let mut scratch = Scratch::default();
        for stretch in stretches(&times) {
            let Some(matrices) = lent.get(&times[stretch.start]) else {
                return Err(block.damaged("a step outside the range in the block's header".into()).into());
            };
            let dots_out = &mut out.dots[stretch.start * probes..stretch.end * probes];
            dots(&layout, &gradients, &out.rows[stretch], matrices, &mut scratch, dots_out);
        }
        for (weight, dots) in weights.iter().zip(out.dots.chunks_mut(probes.max(1))) {
            dots.iter_mut().for_each(|dot| *dot *= weight);
        }
        Ok(out)
    }
}

/// The position of the time that stands for `step`; `times` ascend.
fn position(times: &[u64], step: u64, rule: ProbeTime) -> Option<usize> {
    let later = times.partition_point(|&time| time <= step);
    let earlier = later.checked_sub(1);
    if rule == ProbeTime::Earlier || later == times.len() {
        return earlier;
    }
    match earlier {
        Some(earlier) if step - times[earlier] <= times[later] - step => Some(earlier),
        _ => Some(later),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_time_of_a_step() {
        let times = [10, 20, 30];
        for (step, earlier, nearest) in [
            (0, None, Some(0)),
            (9, None, Some(0)),
            (10, Some(0), Some(0)),
            (15, Some(0), Some(0)),
            (16, Some(0), Some(1)),
            (20, Some(1), Some(1)),
            (u64::MAX, Some(2), Some(2)),
        ] {
            assert_eq!(position(&times, step, ProbeTime::Earlier), earlier, "{step}");
            assert_eq!(position(&times, step, ProbeTime::Nearest), nearest, "{step}");
        }
        assert_eq!(position(&[], 5, ProbeTime::Nearest), None);
    }
}
