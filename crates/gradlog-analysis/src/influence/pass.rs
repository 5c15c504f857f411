//! Passes over the visits: which probes go together, and what is read for each block.
//!
//! Probes that were taken at the same times share a pass, as many as fit the stated memory. A pass streams the visit
//! blocks; the probes' gradients at the times that the current blocks need are decoded, and dropped when the visits have
//! moved on, so that memory does not grow with the number of probe times either.

use super::block_visits::{BlockVisits, Dots};
use super::counts::Counts;
use super::index::{Index, Record};
use super::norms::make_unit;
use super::products::{ProbeSide, Scheme, Stored};
use super::strongest::Strongest;
use super::sums::Sums;
use super::{Influence, Normalisation, ProbeTime, Question};
use crate::rows::driver::{blocks_in_flight, fold_each, fold_groups, Progress, ReadTo};
use crate::rows::gradient::{Gradients, Layout};
use crate::rows::sweep::Sweeps;
use crate::{rows::column, AnalysisError};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage, ReadError, Run};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// The most probes of a pass.
const PROBES_MAX: usize = 4096;

/// A question that has been looked up in the run and cut into passes over the visits.
///
/// Most questions take one pass. A matrix of many probes takes several; each gives the scores of its own probes, so that
/// a matrix larger than memory can be written down pass by pass.
pub struct InfluencePlan<'run> {
    pub(super) run: &'run Run,
    pub(super) question: Question,
    pub(super) index: Index,
    /// The layers that count.
    pub(super) layout: Layout,
    /// What is known of the sweeps, if the question is on these.
    pub(super) sweeps: Sweeps,
    pub(super) scheme: Scheme,
    /// Of each example, its visits inside the window, if there are enough probes for it to be worth counting.
    pub(super) visits_of: Option<Counts>,
    /// Whether the scores of examples that are done are given up.
    only_strongest: bool,
    /// The last block that was counted: what a recorder writes later belongs to no pass.
    last_block: Option<u64>,
    pub(super) passes: Vec<Pass>,
}

/// Probes that share their times.
pub(super) struct Pass {
    pub ids: Vec<u64>,
    pub times: Vec<u64>,
}

/// The probes of a pass, by the position of their time.
pub(super) type Lent = HashMap<usize, Arc<ProbeSide>>;

impl<'run> InfluencePlan<'run> {
    /// The most bytes that unpacked probe gradients take at a time, unless those of a single probe take more.
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
        let layout = index.layout.of_layers(&question.layers, &run.manifest().layers)?;
        let scheme = Scheme::new(&layout, &run.manifest().layers, false);
        let question = question.clone();
        let mut plan = Self {
            run,
            question,
            index,
            layout,
            sweeps,
            scheme,
            visits_of: None,
            only_strongest: false,
            last_block: run.scan().last().map(|block| block.sequence()),
            passes: Vec::new(),
        };
        // A group has one column, whatever the number of its probes.
        if plan.index.records.len() > 16 && !plan.question.group {
            plan.visits_of = Some(plan.count_visits(progress)?);
        }
        plan.cut(PROBES_MAX, Self::SCORE_BYTES_MAX);
        Ok(plan)
    }

    /// The same with an error bar for each score, which costs about as much again.
    #[must_use]
    pub fn with_errors(mut self) -> Self {
        self.scheme = Scheme::new(&self.layout, &self.run.manifest().layers, true);
        self.cut(PROBES_MAX, Self::SCORE_BYTES_MAX);
        self
    }

    /// The same for [`strongest`](Self::strongest) alone. It gives an example's scores up after its last visit, so that more
    /// probes fit a pass, whatever the number of examples; [`pass`](Self::pass) keeps them all, and may then take more than
    /// [`SCORE_BYTES_MAX`](Self::SCORE_BYTES_MAX).
    #[must_use]
    pub fn only_strongest(mut self) -> Self {
        self.only_strongest = true;
        self.cut(PROBES_MAX, Self::SCORE_BYTES_MAX);
        self
    }

    /// Cuts the question into passes of at most so many probes and bytes of scores.
    pub(super) fn cut(&mut self, probes_max: usize, score_bytes_max: usize) {
        let mut groups: BTreeMap<Vec<u64>, Vec<u64>> = BTreeMap::new();
        for (&id, records) in &self.index.records {
            groups.entry(records.keys().copied().collect()).or_default().push(id);
        }
        // Sums in f64; where all are kept, the scores that they become too, for a moment; as much again for the errors.
        let (kept, examples) = match (&self.visits_of, self.only_strongest) {
            (None, _) => (1, 0),
            (Some(visits), true) => (1, visits.open_at_most()),
            (Some(visits), false) => (2, visits.examples()),
        };
        let example_bytes = examples * kept * if self.scheme.errors() { 16 } else { 8 };
        let score_limit = score_bytes_max.checked_div(example_bytes).map_or(usize::MAX, |limit| limit.max(16));
        self.passes.clear();
        for (times, ids) in groups {
            // A code and the number that is made of it where the other side has floats.
            let numbers = self.layout.widths().iter().sum::<usize>().max(1);
            let bytes = self.times_in_flight(&times).saturating_mul(5 * numbers);
            let limit = (Self::PROBE_BYTES_MAX / bytes.max(1)).min(score_limit).clamp(1, probes_max);
            for ids in ids.chunks(limit) {
                self.passes.push(Pass { ids: ids.to_vec(), times: times.clone() });
            }
        }
    }

    /// How many answers there are, each of one pass over the visits or, of a group, of all its passes; at least one.
    pub fn passes(&self) -> usize {
        if self.question.group {
            return 1;
        }
        self.passes.len()
    }

    /// How many probes are asked about.
    pub fn probes(&self) -> usize {
        self.index.records.len()
    }

    /// Names of the blocks of a gradient that count, in their order.
    pub(super) fn layer_names(&self) -> Vec<String> {
        self.layout.names(&self.index.layout, &self.run.manifest().layers)
    }

    fn wants(&self, block: &Block) -> bool {
        let before_damage = |damage: &Damage| damage.block.is_none_or(|at| block.sequence() < at);
        self.question.window.is_on(block)
            && self.question.window.touches(block)
            && self.last_block.is_some_and(|last| block.sequence() <= last)
            // Probes behind the damage are unknown, so visits behind it would be measured against stale ones.
            && self.index.damage.as_ref().is_none_or(before_damage)
    }

    /// How many visits each example has: when an example's last one is done, its scores are complete.
    fn count_visits(&self, progress: Progress<'_>) -> Result<Counts, AnalysisError> {
        let mut visits = Counts::default();
        let read = |block: &Block| {
            let ids = column::u64s(block, Column::Example)?;
            Ok((self.sweeps.rows(&self.question.window, block)?, ids))
        };
        // The passes that follow meet the same damage.
        let _ = fold_each(
            self.run,
            progress,
            |block| self.wants(block),
            read,
            |(inside, ids): (Option<Vec<bool>>, Vec<u64>)| {
                let counts = |row: &usize| inside.as_ref().is_none_or(|inside| inside[*row]);
                visits.block((0..ids.len()).filter(counts).map(|row| ids[row]));
                Ok(())
            },
        )?;
        Ok(visits)
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
        let mut whole: Option<Influence> = None;
        for pass in self.passes_of(number) {
            let mut sums = Sums::new(self, pass, None);
            let damage = self.stream(pass, &mut sums, progress)?;
            let part = sums.finish(self, damage)?;
            match &mut whole {
                Some(whole) => whole.add_to_group(part),
                None => whole = Some(part),
            }
        }
        // There is a probe, or there would be no plan.
        Ok(whole.unwrap_or_else(|| Influence::new(self.question.set.clone(), self.question.time)))
    }

    /// The `count` strongest proponents and the `count` strongest opponents of each probe of one pass, without ever
    /// holding the whole matrix: an example's scores are given up when its last visit has been added.
    ///
    /// # Errors
    /// As [`influence`](super::influence()).
    ///
    /// # Panics
    /// If `number` is not below [`InfluencePlan::passes`], or `count` is 0.
    pub fn strongest(&self, number: usize, count: usize, progress: Progress<'_>) -> Result<Strongest, AnalysisError> {
        assert!(count > 0, "the strongest none");
        if self.question.group {
            // One column is held whole: its passes must all be added up before anyone is judged.
            return Ok(Strongest::of_column(self.pass(number, progress)?, count));
        }
        let pass = &self.passes[number];
        let mut sums = Sums::new(self, pass, Some(count));
        let damage = self.stream(pass, &mut sums, progress)?;
        sums.finish_strongest(self, damage)
    }

    /// Adds all visit blocks to `sums`; says where the run stopped being readable.
    fn stream(
        &self,
        pass: &Pass,
        sums: &mut Sums<'_>,
        progress: Progress<'_>,
    ) -> Result<Option<Damage>, AnalysisError> {
        let read = |lent: &Lent, block: &Block| self.read(pass, lent, block);
        let read_to = self.stream_as(pass, progress, read, |lent, blocks| {
            sums.add(lent, blocks);
            Ok(())
        })?;
        Ok(read_to.0)
    }

    /// Hands all visit blocks to `read` and what it makes of them to `fold`, with the probes at the times that they need.
    pub(super) fn stream_as<T: Send>(
        &self,
        pass: &Pass,
        progress: Progress<'_>,
        read: impl Fn(&Lent, &Block) -> Result<T, AnalysisError> + Sync,
        fold: impl FnMut(&Lent, Vec<T>) -> Result<(), AnalysisError> + Send,
    ) -> Result<ReadTo, AnalysisError> {
        let mut held = Lent::new();
        let prepare = |blocks: &[Block]| {
            let needed: BTreeSet<usize> = blocks.iter().flat_map(|block| self.needed(&pass.times, block)).collect();
            held.retain(|time, _| needed.contains(time));
            let absent: Vec<usize> = needed.into_iter().filter(|time| !held.contains_key(time)).collect();
            held.extend(self.decode_probes(pass, &absent)?);
            Ok(held.clone())
        };
        fold_groups(self.run, progress, blocks_in_flight(), |block| self.wants(block), prepare, read, fold)
    }

    /// The gradients of the pass's probes at some times.
    fn decode_probes(&self, pass: &Pass, times: &[usize]) -> Result<Lent, AnalysisError> {
        let layout = &self.layout;
        let parts = layout.widths().len();
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
        let stored: Vec<Result<Vec<Vec<Stored>>, ReadError>> = by_block
            .par_iter()
            .map(|(&block, wanted)| {
                let gradients = Gradients::read(&self.index.blocks[block], layout)?;
                let of_row = |row| (0..parts).map(|part| Stored::read(gradients.part(part), row)).collect();
                let mut stored: Vec<Vec<Stored>> = wanted.iter().map(|&(_, _, row)| of_row(row)).collect();
                if self.question.normalise == Normalisation::Cosine {
                    let rows: Vec<usize> = wanted.iter().map(|&(_, _, row)| row).collect();
                    let norms = self.squared_norms(&self.index.blocks[block], &gradients, &rows)?;
                    stored.iter_mut().zip(norms).for_each(|(parts, norm)| make_unit(parts, layout, norm));
                }
                Ok(stored)
            })
            .collect();
        let mut by_time: BTreeMap<usize, Vec<(usize, Vec<Stored>)>> = BTreeMap::new();
        for (wanted, stored) in by_block.into_values().zip(stored) {
            for ((time, probe, _), stored) in wanted.into_iter().zip(stored?) {
                by_time.entry(time).or_default().push((probe, stored));
            }
        }
        let side = |(time, mut probes): (usize, Vec<(usize, Vec<Stored>)>)| {
            probes.sort_by_key(|(probe, _)| *probe);
            let stored: Vec<Vec<Stored>> = probes.into_iter().map(|(_, stored)| stored).collect();
            (time, Arc::new(ProbeSide::new(&self.scheme, &stored)))
        };
        Ok(by_time.into_par_iter().map(side).collect())
    }

    /// What a block of visits or of sweeps adds.
    fn read(&self, pass: &Pass, lent: &Lent, block: &Block) -> Result<BlockVisits, AnalysisError> {
        let mut out = self.read_rows(pass, lent, block)?;
        self.read_gradients(block, &mut out)?;
        if out.gradients.is_none() {
            return Ok(out);
        }
        let probes = pass.ids.len();
        if self.question.group {
            out.dots = Some(Dots::of_group(&self.scheme, &out, lent, probes, self.probes()));
            out.gradients = None;
        } else if Dots::fit(probes) {
            out.dots = Some(Dots::of(&self.scheme, &out, lent, probes));
            out.gradients = None;
        }
        Ok(out)
    }

    /// Which rows of a block of visits or of sweeps count, and with which weights.
    pub(super) fn read_rows(&self, pass: &Pass, lent: &Lent, block: &Block) -> Result<BlockVisits, AnalysisError> {
        let on_sweeps = self.question.window.is_on_sweeps();
        let inside = self.sweeps.rows(&self.question.window, block)?;
        let examples = column::u64s(block, Column::Example)?;
        let steps = column::u64s(block, Column::Step)?;
        let mut out = BlockVisits {
            labels: column::classes(block, Column::Label)?,
            predictions: column::classes(block, Column::Prediction)?,
            examples,
            steps,
            ..BlockVisits::default()
        };
        out.inside = (0..out.examples.len()).filter(|&row| inside.as_ref().is_none_or(|i| i[row])).collect();
        let layout = Layout::of(block, &self.run.manifest().layers);
        if layout != self.index.layout {
            out.of_other_form = true;
            let count = out.inside.len() as u64;
            if layout.is_empty() {
                out.without_gradient = count;
            } else {
                out.other_layers = Some((count, layout));
            }
            return Ok(out);
        }
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
        for &row in &out.inside {
            let weight: f64 = factors.iter().map(|factor| f64::from(factor[row])).product();
            if flags.as_ref().is_some_and(|flags| flags[row] & (Column::FLAG_NOT_FINITE | unseen) != 0)
                || !weight.is_finite()
            {
                out.not_finite += 1;
            } else if let Some(time) = time_of(out.steps[row]) {
                out.rows.push(row);
                out.weights.push(weight);
                out.times.push(time);
                out.at_probe_times += u64::from(pass.times[time] == out.steps[row]);
            } else {
                out.before_first_probe += 1;
            }
        }
        if out.times.iter().any(|time| !lent.contains_key(time)) {
            return Err(block.damaged("a step outside the range in the block's header".into()).into());
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
