//! The index: where in the run each probe's gradients lie.
//!
//! One pass over the probe blocks, which are also checked whole, so that what is decoded later is known to be sound.
//! The vectors themselves are decoded when a pass over the visits comes to their time.

use super::probe_rows::{read, FirstRecord, ProbeBlock};
use crate::influence::answer::Probe;
use crate::influence::question::{InfluenceQuestion, Probes};
use crate::rows::driver::fold_each;
use crate::rows::gradient::Layout;
use crate::Progress;
use crate::{error::no_gradients, rows::column, AnalysisError, LeftOut};
use gradlog_format::log::{BlockKind, Column, Manifest, Mode};
use gradlog_format::run::{Block, Damage, ReadError, Run};
use std::collections::{BTreeMap, BTreeSet};

/// One record of a probe: a row of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Position in [`Index::blocks`].
    pub block: usize,
    pub row: usize,
}

/// In which metric the records of probes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Their gradients themselves.
    Plain,
    /// Multiplied by a preconditioner.
    Preconditioned,
}

/// The wanted probes of one set.
pub(crate) struct Index {
    pub blocks: Vec<Block>,
    pub layout: Layout,
    /// Of each probe, its records by time.
    pub records: BTreeMap<u64, BTreeMap<u64, Record>>,
    pub probes: BTreeMap<u64, Probe>,
    /// Probe records that do not count.
    pub left_out: LeftOut,
    /// How the model ran where a replay says so.
    pub modes: BTreeSet<Mode>,
    /// Where the run stopped being readable; visits behind it do not count either.
    pub damage: Option<Damage>,
}

impl Index {
    pub(crate) fn build(run: &Run, question: &InfluenceQuestion, progress: &Progress) -> Result<Self, AnalysisError> {
        Self::read(run, question, Metric::Plain, None, progress)
    }

    /// The same, of the records that are multiplied by a preconditioner. `None` if the run has none of these probes.
    pub(crate) fn build_preconditioned(
        run: &Run,
        question: &InfluenceQuestion,
        progress: &Progress,
    ) -> Result<Option<Self>, AnalysisError> {
        if !run.scan().any(|block| block.is_preconditioned()) {
            return Ok(None);
        }
        match Self::read(run, question, Metric::Preconditioned, None, progress) {
            Ok(index) => Ok(Some(index)),
            Err(AnalysisError::NoSuchProbe { .. } | AnalysisError::NoProbeGradient { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// As [`Index::build`], in this metric; `take_weighted` gets the rows of curvature in the set: id, time, record and
    /// weight. Without it these are passed over.
    pub(crate) fn read(
        run: &Run,
        question: &InfluenceQuestion,
        metric: Metric,
        mut take_weighted: Option<&mut (dyn FnMut(u64, u64, Record, f64) + Send)>,
        progress: &Progress,
    ) -> Result<Self, AnalysisError> {
        let wanted: Option<BTreeSet<u64>> = match &question.probes {
            // Labels are known at the end alone.
            Probes::All | Probes::Label(_) => None,
            Probes::Ids(ids) => Some(ids.iter().copied().collect()),
        };
        let mut names: BTreeMap<u32, String> = BTreeMap::new();
        let mut known: BTreeSet<u64> = BTreeSet::new();
        let mut first = FirstRecord::default();
        // Of each record of a score, the class.
        let mut classes: BTreeMap<(u64, u64), u32> = BTreeMap::new();
        let (mut with_gradient, mut weighted) = (false, 0u64);
        let mut index = Index {
            blocks: Vec::new(),
            layout: Layout { factored: Vec::new(), folded: None },
            records: BTreeMap::new(),
            probes: BTreeMap::new(),
            left_out: LeftOut::default(),
            modes: BTreeSet::new(),
            damage: None,
        };
        let mut passed_over = 0;
        let mut misnumbered = None;
        let fold = |read: ProbeBlock| {
            if misnumbered.is_some() {
                return Ok(());
            }
            let rows = match read {
                ProbeBlock::Name { block, number, name } => {
                    // Of several workers, the scan has checked the numbers in each part.
                    if run.parts().is_empty() && number as usize != names.len() {
                        misnumbered = Some(block.damaged(format!("probe set {number} where {} belongs", names.len())));
                        return Ok(());
                    }
                    names.insert(column::u32s(&block, Column::ProbeSet)?.first().copied().unwrap_or(number), name);
                    return Ok(());
                }
                ProbeBlock::Rows(rows) => rows,
            };
            let number = rows.block.sequence();
            debug_assert!(index.blocks.last().is_none_or(|last| last.sequence() < number));
            let mut used = false;
            for (row, &id) in rows.ids.iter().enumerate() {
                // A set's name is written before its first probe.
                if names.get(&rows.sets[row]) != Some(&question.set) {
                    continue;
                }
                let weight = rows.weight(row);
                if weight.is_some() && take_weighted.is_none() {
                    passed_over += 1;
                    continue;
                }
                known.insert(id);
                if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&id)) {
                    continue;
                }
                with_gradient |= !rows.layout.is_empty();
                if !rows.is_usable(row, &mut first) {
                    index.left_out.probe_records += 1;
                    continue;
                }
                let record = Record { block: index.blocks.len(), row };
                if let (Some(weight), Some(take)) = (weight, take_weighted.as_mut()) {
                    take(id, rows.steps[row], record, f64::from(weight));
                    (weighted, used) = (weighted + 1, true);
                    continue;
                }
                // The last record counts. Of several workers, it is the last of the highest rank.
                let records = index.records.entry(id).or_default();
                let worker = |at: &Record| index.blocks.get(at.block).unwrap_or(&rows.block).worker();
                if let Some(before) = records.get(&rows.steps[row]) {
                    index.left_out.probe_records_replaced += 1;
                    if worker(before) > rows.block.worker() {
                        continue;
                    }
                }
                records.insert(rows.steps[row], record);
                let scored = rows.scored(row);
                if let Some((_, class)) = scored {
                    classes.insert((id, rows.steps[row]), class);
                }
                index.modes.extend(rows.mode(row));
                let probe = Probe {
                    id,
                    times: 0,
                    label: rows.labels.as_ref().and_then(|labels| labels[row]),
                    prediction: rows.predictions.as_ref().and_then(|predictions| predictions[row]),
                    scored,
                };
                index.probes.insert(id, probe);
                used = true;
            }
            if used {
                index.blocks.push(rows.block);
            }
            Ok(())
        };
        let keep = |block: &Block| match block.kind() {
            Some(BlockKind::ProbeSet) => true,
            Some(BlockKind::Probes) => block.is_preconditioned() == (metric == Metric::Preconditioned),
            _ => false,
        };
        let damage = fold_each(run, progress, keep, |block| read(run, block), fold)?.0;
        index.damage = match misnumbered {
            Some(ReadError::Damaged(damage)) => Some(damage),
            _ => damage,
        };
        for (id, records) in &mut index.records {
            // A score is asked of one class: that of the last time. Records of another one are of another score.
            if let Some(class) = records.keys().last().and_then(|time| classes.get(&(*id, *time)).copied()) {
                let before = records.len();
                records.retain(|time, _| classes.get(&(*id, *time)) == Some(&class));
                index.left_out.probe_records += (before - records.len()) as u64;
                if let Some(Probe { scored: Some((_, scored)), .. }) = index.probes.get_mut(id) {
                    *scored = class;
                }
            }
            if let Some(probe) = index.probes.get_mut(id) {
                probe.times = records.len() as u64;
            }
        }
        index.layout = first.layout.unwrap_or(index.layout);
        let mut labels = BTreeSet::new();
        if let Probes::Label(label) = question.probes {
            labels = index.probes.values().filter_map(|probe| probe.label).collect();
            index.probes.retain(|_, probe| probe.label == Some(label));
            index.records.retain(|id, _| index.probes.contains_key(id));
        }
        let lookup = Lookup { names, known, wanted, labels, any_gradient: with_gradient, weighted, passed_over };
        match (lookup.failure(&index, question, run.manifest()), index.damage.clone()) {
            (None, _) => Ok(index),
            (Some(error), None) => Err(error),
            (Some(error), Some(damage)) => Err(AnalysisError::Cut { source: Box::new(error), damage }),
        }
    }
}

impl Index {
    /// The probe that stands for all: what they have in common.
    pub(in crate::influence) fn common_probe(&self) -> Option<Probe> {
        let mut probes = self.probes.values();
        let mut one = probes.next()?.clone();
        for probe in probes {
            one.times = one.times.max(probe.times);
            one.label = one.label.filter(|_| one.label == probe.label);
            one.prediction = one.prediction.filter(|_| one.prediction == probe.prediction);
            one.scored = one.scored.filter(|_| one.scored == probe.scored);
        }
        Some(one)
    }
}

/// What was found beside the records.
struct Lookup {
    names: BTreeMap<u32, String>,
    /// Ids in the set.
    known: BTreeSet<u64>,
    wanted: Option<BTreeSet<u64>>,
    /// Labels of the probes, where one was asked for.
    labels: BTreeSet<u32>,
    any_gradient: bool,
    /// Rows of curvature that were taken.
    weighted: u64,
    /// Rows of curvature that are no probes.
    passed_over: u64,
}

impl Lookup {
    /// Why the question has no answer, if it has none.
    fn failure(self, index: &Index, question: &InfluenceQuestion, manifest: &Manifest) -> Option<AnalysisError> {
        let set = question.set.clone();
        if !self.names.values().any(|name| *name == set) {
            return Some(AnalysisError::NoSuchSet { name: set, known: self.names.into_values().collect() });
        }
        let wanted = self.wanted.unwrap_or_default();
        if let Some(&id) = wanted.iter().find(|id| !self.known.contains(id)) {
            let near = nearest(&self.known, id, 5);
            return Some(AnalysisError::NoSuchProbe { set, id, near, count: self.known.len() });
        }
        if index.left_out.probe_records > 0 && !self.any_gradient {
            let what = "gradients of these probes";
            return Some(AnalysisError::Missing { score: "influence", what, how: no_gradients(manifest) });
        }
        let unusable = wanted.iter().find(|id| !index.records.contains_key(id));
        if unusable.is_none() && !(index.records.is_empty() && self.weighted == 0) {
            return None;
        }
        if let (Probes::Label(label), false) = (&question.probes, self.known.is_empty()) {
            let labels: Vec<String> = self.labels.iter().take(20).map(u32::to_string).collect();
            let why = match labels.as_slice() {
                [] => "no labels of its probes were recorded".into(),
                labels => format!("the labels of its probes are {}", labels.join(", ")),
            };
            return Some(AnalysisError::NoProbeGradient { which: format!("class {label} of `{set}`"), why });
        }
        let which = match unusable {
            Some(id) => format!("probe {id} of `{set}`"),
            None => format!("probe set `{set}`"),
        };
        let why = if index.left_out.probe_records > 0 {
            "its records have no gradients, are not finite, had no weight in the loss, or differ in form from the first"
        } else if self.passed_over > 0 {
            "the set has rows of curvature, which are no probes: name it as the curvature of a method instead"
        } else {
            "the set has no records"
        };
        Some(AnalysisError::NoProbeGradient { which, why: why.into() })
    }
}

/// Up to `count` ids nearest to `id`, in ascending order.
fn nearest(ids: &BTreeSet<u64>, id: u64, count: usize) -> Vec<u64> {
    let around = ids.range(..id).rev().take(count).chain(ids.range(id..).take(count));
    let mut near: Vec<u64> = around.copied().collect();
    near.sort_by_key(|other| (other.abs_diff(id), *other));
    near.truncate(count);
    near.sort_unstable();
    near
}
