//! A question that has been looked up in a run: which probes go together, and which blocks are read.
//!
//! Probes that were taken at the same times share a pass, as many as fit the stated memory.

use super::counts::Counts;
use super::index::Index;
use super::times::position;
use crate::influence::products::Scheme;
use crate::influence::question::{InfluenceQuestion, Normalization, OptimizerChoice};
use crate::rows::adam_norms::AdamNorms;
use crate::rows::adam_steps::AdamRates;
use crate::rows::basis::Uses;
use crate::rows::driver::{blocks_in_flight, fold_each};
use crate::rows::gradient::Layout;
use crate::rows::layer_rates::LayerRates;
use crate::rows::sweep::{Sweeps, Untrained};
use crate::{rows::column, AnalysisError, Basis};
use gradlog_format::log::Column;
use gradlog_format::run::{Block, Damage, Run};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The most probes of a pass.
const PROBES_MAX: usize = 4096;

/// A question that has been looked up in the run and cut into passes over the visits.
///
/// Most questions take one pass. A matrix of many probes takes several; each gives the scores of its own probes, so
/// that a matrix larger than memory can be written down pass by pass.
pub struct InfluencePlan<'run> {
    pub(in crate::influence) run: &'run Run,
    pub(in crate::influence) question: InfluenceQuestion,
    pub(in crate::influence) index: Index,
    /// The layers that count.
    pub(in crate::influence) layout: Layout,
    /// What multiplies the learning rate of each of them: of the factored ones, then of the folded vector.
    pub(in crate::influence) factors: Vec<f32>,
    /// The rates at which gradients act, if the steps are taken as those of Adam.
    pub(in crate::influence) adam: Option<AdamRates>,
    /// The norms of visits in its metric, if scores are divided by self-influence.
    pub(in crate::influence) norms: Option<AdamNorms>,
    /// What is known of the sweeps, if the question is on these.
    pub(in crate::influence) sweeps: Sweeps,
    /// What the answer rests on, but for what it leaves out.
    pub(in crate::influence) basis: Basis,
    pub(in crate::influence) scheme: Scheme,
    /// Of each example, its visits inside the window, if there are enough probes for it to be worth counting.
    pub(in crate::influence) visits_of: Option<Counts>,
    /// Whether the scores of examples that are done are given up.
    keeps_strongest: bool,
    /// The last block that was counted: what a recorder writes later belongs to no pass.
    last_block: Option<u64>,
    pub(in crate::influence) passes: Vec<Pass>,
}

impl fmt::Debug for InfluencePlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (question, passes) = (&self.question, self.passes());
        f.debug_struct("InfluencePlan").field("question", question).field("passes", &passes).finish_non_exhaustive()
    }
}

/// Probes that share their times.
pub(in crate::influence) struct Pass {
    pub ids: Vec<u64>,
    pub times: Vec<u64>,
}

type InMetric = (AdamRates, Option<AdamNorms>, Index);

impl<'run> InfluencePlan<'run> {
    /// The most bytes that unpacked probe gradients take at a time, unless those of a single probe take more.
    pub const PROBE_BYTES_MAX: usize = 256 << 20;
    /// The most bytes that the scores of one pass take, unless those of 16 probes take more.
    pub const SCORE_BYTES_MAX: usize = 512 << 20;

    /// Finds the probes of `question` and plans the passes.
    pub(in crate::influence) fn new(run: &'run Run, question: &InfluenceQuestion) -> Result<Self, AnalysisError> {
        let progress = &question.progress;
        let sweeps = Sweeps::find(run, &question.window, Untrained::JoinsIfNamed)?;
        let (adam, norms, index) = match Self::in_metric(run, question)? {
            Some((rates, norms, index)) => (Some(rates), norms, index),
            None => (None, None, Index::build(run, question, progress)?),
        };
        let layout = index.layout.select_layers(&question.layers, &run.manifest().layers)?;
        let layers = &run.manifest().layers;
        let factors = LayerRates::read(run)?.in_window(run, &question.window, &index.layout, true)?;
        let layout = factors.trained(&layout, "influence")?;
        let factors = factors.of(&layout);
        let basis = Basis::of(run, &question.window, sweeps.rows(), Uses::Steps)?;
        let basis = if adam.is_some() { basis.with_moments() } else { basis };
        let basis = if norms.is_some() { basis.with_norms_in_metric() } else { basis };
        let basis = basis.of_layers(run.manifest(), &layout.layer_numbers(&index.layout, layers));
        let scheme = Scheme::new(&layout, layers, &run.manifest().fold_places(), question.sketch_errors);
        let question = question.clone();
        let mut plan = Self {
            run,
            question,
            index,
            layout,
            factors,
            adam,
            norms,
            sweeps,
            basis,
            scheme,
            visits_of: None,
            keeps_strongest: false,
            last_block: run.scan().last().map(|block| block.sequence()),
            passes: Vec::new(),
        };
        // A group has one column, whatever the number of its probes.
        if plan.index.records.len() > 16 && !plan.question.group {
            plan.visits_of = Some(plan.count_visits()?);
        }
        plan.cut(PROBES_MAX, Self::SCORE_BYTES_MAX);
        Ok(plan)
    }

    /// The rates, norms and probes in the metric of Adam. `None` if the steps are to be taken as plain SGD: the run
    /// does not have what it takes. Numerator and divisor of a score are in one metric.
    fn in_metric(run: &Run, question: &InfluenceQuestion) -> Result<Option<InMetric>, AnalysisError> {
        if question.optimizer == OptimizerChoice::PlainSgd {
            return Ok(None);
        }
        let Some(rates) = AdamRates::read(run)? else { return Ok(None) };
        let Some(index) = Index::build_preconditioned(run, question, &question.progress)? else { return Ok(None) };
        if question.normalization != Normalization::Relatif {
            return Ok(Some((rates, None, index)));
        }
        // A log has the norm of all layers together.
        let layout = index.layout.select_layers(&question.layers, &run.manifest().layers)?;
        let norms = AdamNorms::find(run, &question.window)?.filter(|_| layout == index.layout);
        Ok(norms.map(|norms| (rates, Some(norms), index)))
    }

    /// The same for [`strongest`](Self::strongest) alone. It gives an example's scores up after its last visit, so that
    /// more probes fit a pass, whatever the number of examples; [`pass`](Self::pass) keeps them all, and may then
    /// take more than [`SCORE_BYTES_MAX`](Self::SCORE_BYTES_MAX).
    #[must_use]
    pub fn keep_strongest(mut self) -> Self {
        self.keeps_strongest = true;
        self.cut(PROBES_MAX, Self::SCORE_BYTES_MAX);
        self
    }

    /// Cuts the question into passes, each within these numbers of probes and bytes of scores.
    pub(in crate::influence) fn cut(&mut self, probes_max: usize, score_bytes_max: usize) {
        let mut groups: BTreeMap<Vec<u64>, Vec<u64>> = BTreeMap::new();
        for (&id, records) in &self.index.records {
            groups.entry(records.keys().copied().collect()).or_default().push(id);
        }
        // Sums in f64; where all are kept, the scores that they become too, for a moment; as much again for the errors.
        let (kept, examples) = match (&self.visits_of, self.keeps_strongest) {
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

    /// The ids of the probes that are asked about, rising.
    pub fn probe_ids(&self) -> Vec<u64> {
        self.index.records.keys().copied().collect()
    }

    /// Names of the blocks of a gradient that count, in their order.
    pub(in crate::influence) fn layer_names(&self) -> Vec<String> {
        self.layout.names(&self.index.layout, &self.run.manifest().layers)
    }

    pub(in crate::influence) fn wants_block(&self, block: &Block) -> bool {
        let before_damage = |damage: &Damage| damage.block.is_none_or(|at| block.sequence() < at);
        self.question.window.is_on(block)
            && self.question.window.touches(block)
            && self.last_block.is_some_and(|last| block.sequence() <= last)
            // Probes behind the damage are unknown, so visits behind it would be measured against stale ones.
            && self.index.damage.as_ref().is_none_or(before_damage)
    }

    /// Whether this is a share of the examples, and some block of the window has gradients of the probes' form: then
    /// they are those of the others.
    pub(in crate::influence) fn others_have_gradients(&self) -> bool {
        let has = |block: &Block| Layout::read(block, self.run.manifest()) == self.index.layout;
        self.question.window.share.is_some() && self.run.scan().any(|block| self.wants_block(&block) && has(&block))
    }

    /// The times of the probes of an answer.
    pub(crate) fn pass_times(&self, number: usize) -> Result<Vec<u64>, AnalysisError> {
        Ok(self.answer_passes(number)?.first().map(|pass| pass.times.clone()).unwrap_or_default())
    }

    /// How many visits each example has: when an example's last one is done, its scores are complete.
    fn count_visits(&self) -> Result<Counts, AnalysisError> {
        let mut visits = Counts::default();
        let read = |block: &Block| {
            let ids = column::u64s(block, Column::Example)?;
            Ok(self.sweeps.rows_inside(&self.question.window, block)?.select(ids))
        };
        // The passes that follow meet the same damage.
        let _ = fold_each(
            self.run,
            &self.question.progress,
            |block| self.wants_block(block),
            read,
            |ids: Vec<u64>| {
                visits.block(ids.into_iter());
                Ok(())
            },
        )?;
        Ok(visits)
    }

    /// The most probe times that blocks in flight can need.
    fn times_in_flight(&self, times: &[u64]) -> usize {
        let blocks = self.run.scan().filter(|block| self.wants_block(block));
        blocks.map(|block| self.needed_times(times, &block).len()).max().unwrap_or(1).max(1) * blocks_in_flight()
    }

    /// The position of the time that stands for a step.
    pub(in crate::influence) fn time_of(&self, times: &[u64], step: u64) -> Option<usize> {
        let first = self.adam.is_some() && !times.is_empty();
        // Before the first moments there are no others.
        position(times, step, self.question.time).or(first.then_some(0))
    }

    /// The times, by position, that the visits of a block can need.
    pub(in crate::influence) fn needed_times(&self, times: &[u64], block: &Block) -> Range<usize> {
        let (mut first, mut last) = block.steps();
        if let Some(steps) = &self.question.window.steps {
            (first, last) = (first.max(steps.start), last.min(steps.end.saturating_sub(1)));
        }
        if self.question.window.is_on_sweeps() {
            return times.partition_point(|time| *time < first)..times.partition_point(|time| *time <= last);
        }
        match self.time_of(times, last) {
            Some(to) if first <= last => self.time_of(times, first).unwrap_or(0)..to + 1,
            _ => 0..0,
        }
    }

    /// The passes that make an answer.
    pub(in crate::influence) fn answer_passes(&self, number: usize) -> Result<&[Pass], AnalysisError> {
        if self.question.group {
            return match number {
                0 => Ok(&self.passes),
                _ => Err(AnalysisError::no_such_pass(number, 1)),
            };
        }
        let pass = self.passes.get(number).ok_or_else(|| AnalysisError::no_such_pass(number, self.passes.len()))?;
        Ok(std::slice::from_ref(pass))
    }

    /// How many columns of scores there are: one for each probe, or one for the group.
    pub fn columns(&self) -> usize {
        if self.question.group {
            return 1;
        }
        self.probes()
    }
}
