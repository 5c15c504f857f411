//! Kernel velocity: how fast the geometry of a group of examples still turns (Paul et al. 2021, arXiv 2107.07075, §5.1,
//! after Fort et al. 2020, arXiv 2010.15110).
//!
//! For a group `S` of probes and a probe time `t`, the Gram matrix `K_t(S)_ij = ⟨g_i(w_t), g_j(w_t)⟩` of their
//! gradients, and
//!
//! ```text
//! v_t(S) = 1 − ⟨K_t, K_t'⟩_F / (‖K_t‖_F ‖K_t'‖_F)
//! ```
//!
//! for successive probe times `t` and `t'`: 0 if the geometry stands still, 1 if nothing of it is left.
//!
//! **This is the Gram matrix of loss gradients, not the neural tangent kernel.** The papers take the gradients of the
//! logits; the log holds those of the loss, in which each logit's gradient is multiplied by its error `p − onehot(y)`.
//! As an example is fitted its loss gradient shrinks and may turn without the tangent kernel turning. Scale does not
//! matter (`v` does not change if all of a Gram matrix is multiplied), but an example that is fitted later than the
//! others does. Gradients are the recorded sketches. Those of probes are never signs, so their lengths are right.
//!
//! The papers take groups of 100 examples with contiguous rank by EL2N: [`VelocityGroups::Ranked`]. For that the probe
//! set must hold training examples under their own ids.

use crate::influence::plan::index::{Index, Record};
use crate::rows::basis::Uses;
use crate::rows::gradient::Gradients;
use crate::{AnalysisError, Basis, BasisRows, InfluenceQuestion, LeftOut, Progress, RunsTable, Window};
use gradlog_format::run::{Damage, ReadError, Run};
use gradlog_kernels::matmul::{matmul, Matrix};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The largest group: two Gram matrices of it take 256 MB.
const GROUP_MAX: usize = 4096;

/// A named group of probes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VelocityGroup {
    /// What it is called in the result.
    pub name: String,
    /// Ids of its probes.
    pub ids: Vec<u64>,
}

impl VelocityGroup {
    /// A group of the probes with these ids.
    pub fn new(name: impl Into<String>, ids: impl IntoIterator<Item = u64>) -> Self {
        Self { name: name.into(), ids: ids.into_iter().collect() }
    }
}

/// Which groups of a probe set.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum VelocityGroups<'a> {
    /// The whole set, as one group.
    Whole,
    /// These.
    Given(&'a [VelocityGroup]),
    /// The set's examples in the order of difficulty by a score, hardest first, in groups of `size`; a last group of
    /// fewer than `size` is left out, for a smaller Gram matrix turns more slowly or faster by its size alone.
    Ranked {
        /// The score.
        table: &'a RunsTable,
        /// Examples in each group.
        size: usize,
    },
}

/// Kernel velocity of groups of probes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Velocity {
    /// Name of the probe set.
    pub set: String,
    /// Times at which it was recorded.
    pub times: u64,
    /// What it rests on: records of probes.
    pub basis: Basis,
    /// What the scores rest on that groups were made by; empty where no score made them.
    pub score_bases: Vec<Basis>,
    /// Where a score made the groups, probes whose label is not that of the training example of the same id.
    pub labels_differ: u64,
    /// The groups, in order.
    pub groups: Vec<GroupVelocity>,
    /// What was left out, by the reason: probe records, and as examples the ids that were asked for and have no usable
    /// record in the set, or no score, or are in the group left over.
    pub left_out: LeftOut,
    /// Where the run stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// One group.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GroupVelocity {
    /// Its name.
    pub name: String,
    /// Its examples that have a record.
    pub examples: u64,
    /// Mean score of its examples, where groups were made by one and it is finite.
    pub mean_score: Option<f64>,
    /// One entry for each pair of successive probe times at which at least one of its examples has a record at both.
    pub steps: Vec<VelocityStep>,
}

/// Between two successive probe times.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VelocityStep {
    /// The optimizer step before which the first Gram matrix was taken.
    pub from: u64,
    /// That of the second.
    pub to: u64,
    /// Examples in both.
    pub examples: u64,
    /// The velocity; NaN if all gradients of one of them are zero.
    pub velocity: f64,
}

/// Asks how fast the gradient kernel of groups of probes changes from one probe time to the next (Paul et al. 2021,
/// arXiv 2107.07075, §5.1).
///
/// With `K_t(S)_ij = ⟨g_i(w_t), g_j(w_t)⟩` the Gram matrix of the loss gradients of a group `S` at probe time `t`, and
/// `t'` the next probe time,
///
/// ```text
/// v_t(S) = 1 − ⟨K_t, K_t'⟩_F / (‖K_t‖_F ‖K_t'‖_F)
/// ```
///
/// 0 means that the kernel stays the same, 1 that nothing of it is left. It is not the neural tangent kernel, whose
/// gradients are those of the logits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VelocityQuestion<'a> {
    set: String,
    groups: VelocityGroups<'a>,
    progress: Progress,
}

progress_options!(VelocityQuestion<'_>);

impl<'a> VelocityQuestion<'a> {
    /// The probe set `set` as one group.
    pub fn new(set: impl Into<String>) -> Self {
        Self { set: set.into(), groups: VelocityGroups::Whole, progress: Progress::default() }
    }

    /// Takes these groups of the set instead.
    #[must_use]
    pub fn groups(mut self, groups: VelocityGroups<'a>) -> Self {
        self.groups = groups;
        self
    }

    /// Computes the velocity of the groups.
    ///
    /// # Errors
    /// [`AnalysisError::NoSuchSet`]; [`AnalysisError::Missing`] or [`AnalysisError::NoProbeGradient`] if its probes
    /// hold no gradient; [`AnalysisError::OutOfRange`] if there are fewer than two probe times, a group has no example
    /// in the set or is larger than 4,096, or groups of size 0 are asked for; [`AnalysisError::OtherExamples`] if
    /// groups are made by a score and most labels of the probes are not those of the training examples of the same
    /// ids.
    ///
    /// # Cost
    /// Reads each probe block once for each group that it holds examples of, twice where probes come and go. Time
    /// `n²·(numbers of a sketch)` for each group of `n` and probe time; memory two Gram matrices, `16·n²` bytes, and
    /// the group's decoded gradients.
    pub fn compute(&self, run: &Run) -> Result<Velocity, AnalysisError> {
        let (set, groups) = (self.set.as_str(), self.groups);
        let question = InfluenceQuestion::new(set);
        let index = Index::build(run, &question, &self.progress).map_err(|error| match error {
            AnalysisError::Missing { what, how, .. } => AnalysisError::Missing { score: "kernel velocity", what, how },
            other => other,
        })?;
        let times: Vec<u64> =
            index.records.values().flat_map(BTreeMap::keys).copied().collect::<BTreeSet<u64>>().into_iter().collect();
        if times.len() < 2 {
            let count = times.len();
            let range = format!("at least 2: record probes of `{set}` at the end of each epoch");
            return Err(AnalysisError::OutOfRange {
                what: "the number of probe times",
                given: count.to_string(),
                range,
            });
        }
        let (mut damage_of_table, mut score_bases, mut labels_differ) = (None, Vec::new(), 0);
        if let VelocityGroups::Ranked { table, .. } = groups {
            damage_of_table = table.runs.iter().find_map(|part| part.damage.clone());
            score_bases = table.runs.iter().map(|part| part.basis.clone()).collect();
            labels_differ = count_other_labels(&index, set, table)?;
        }
        let rows = BasisRows::Probes { times: times.clone(), modes: index.modes.iter().copied().collect() };
        let basis = Basis::of(run, &Window::everything(), rows, Uses::Gradients)?;
        let basis = basis.of_layers(run.manifest(), &index.layout.layer_numbers(&index.layout, &run.manifest().layers));
        let (groups, examples) = choose_groups(&index, set, groups)?;
        let groups = groups.into_iter().map(|group| group.velocity(&index, &times)).collect::<Result<_, _>>()?;
        let left_out = LeftOut { examples, ..index.left_out };
        Ok(Velocity {
            set: set.into(),
            times: times.len() as u64,
            // Visits that were dropped are no probes.
            basis: Basis { dropped: 0, ..basis.with_left_out(&left_out) },
            score_bases,
            labels_differ,
            groups,
            left_out,
            damage: index.damage.or(damage_of_table),
        })
    }
}

/// How many probes have another label than the training example of the same id. Some may: a probe can be recorded with
/// the true label of an example whose training label is wrong.
///
/// # Errors
/// [`AnalysisError::OtherExamples`] if more than half of them do. A set of other examples that happens to use the ids
/// of the training would be grouped by scores that are not its own.
fn count_other_labels(index: &Index, set: &str, table: &RunsTable) -> Result<u64, AnalysisError> {
    let labels: HashMap<u64, u32> = table.rows.iter().filter_map(|row| Some((row.example, row.label?))).collect();
    let both = index.probes.values().filter_map(|probe| Some((probe.id, probe.label?, *labels.get(&probe.id)?)));
    let both: Vec<(u64, bool)> = both.map(|(id, own, other)| (id, own != other)).collect();
    let differ = both.iter().filter(|(_, differ)| *differ).count() as u64;
    match both.iter().find(|(_, differ)| *differ) {
        Some(&(id, _)) if 2 * differ > both.len() as u64 => {
            Err(AnalysisError::OtherExamples { set: set.into(), differ, compared: both.len() as u64, id })
        }
        _ => Ok(differ),
    }
}

/// A group whose examples are all in the set.
struct Chosen {
    name: String,
    ids: Vec<u64>,
    mean_score: Option<f64>,
}

fn choose_groups(index: &Index, set: &str, groups: VelocityGroups<'_>) -> Result<(Vec<Chosen>, u64), AnalysisError> {
    let refuse = |given: String, range| Err(AnalysisError::OutOfRange { what: "the size of a group", given, range });
    let mut left_out = 0;
    let chosen: Vec<Chosen> = match groups {
        VelocityGroups::Whole => {
            vec![Chosen { name: "all".into(), ids: index.records.keys().copied().collect(), mean_score: None }]
        }
        VelocityGroups::Given(groups) => groups
            .iter()
            .map(|group| {
                let mut ids = group.ids.clone();
                ids.sort_unstable();
                ids.dedup();
                let asked = ids.len();
                ids.retain(|id| index.records.contains_key(id));
                left_out += (asked - ids.len()) as u64;
                Chosen { name: group.name.clone(), ids, mean_score: None }
            })
            .collect(),
        VelocityGroups::Ranked { size: 0, .. } => return refuse("0".into(), "at least 1".into()),
        VelocityGroups::Ranked { table, size } => {
            let mut scored: Vec<(u64, f64)> = table.hardest_first().map(|row| (row.example, row.score)).collect();
            scored.retain(|(id, _)| index.records.contains_key(id));
            let groups = scored.len() / size;
            left_out = (index.records.len() - groups * size) as u64;
            if groups == 0 {
                let count = scored.len();
                let range = format!(
                    "at most {count}, as many as examples of `{set}` have a score by {}: record training examples as \
                     probes under their own ids, or give smaller groups",
                    table.score
                );
                return refuse(size.to_string(), range);
            }
            let group = |(number, part): (usize, &[(u64, f64)])| {
                let mut ids: Vec<u64> = part.iter().map(|(id, _)| *id).collect();
                ids.sort_unstable();
                let mean = part.iter().map(|(_, score)| score).sum::<f64>() / size as f64;
                Chosen {
                    name: format!("{} {} to {}", table.score, number * size, (number + 1) * size - 1),
                    ids,
                    mean_score: Some(mean).filter(|mean| mean.is_finite()),
                }
            };
            scored.chunks_exact(size).enumerate().map(group).collect()
        }
    };
    for group in &chosen {
        let (name, count) = (&group.name, group.ids.len());
        if count == 0 {
            let range = format!("at least 1: none of its examples has a usable record in probe set `{set}`");
            return refuse(format!("0 (group `{name}`)"), range);
        }
        if count > GROUP_MAX {
            return refuse(format!("{count} (group `{name}`)"), format!("at most {GROUP_MAX}"));
        }
    }
    Ok((chosen, left_out))
}

impl Chosen {
    fn velocity(self, index: &Index, times: &[u64]) -> Result<GroupVelocity, AnalysisError> {
        let record_at = |id: &u64, time: u64| index.records.get(id).and_then(|records| records.get(&time)).copied();
        let mut steps = Vec::new();
        // The Gram matrix of the last time, with the examples that it is of.
        let mut last: Option<(Vec<u64>, u64, Vec<f64>)> = None;
        for pair in times.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let both: Vec<u64> = self
                .ids
                .iter()
                .copied()
                .filter(|id| record_at(id, from).is_some() && record_at(id, to).is_some())
                .collect();
            if both.is_empty() {
                continue;
            }
            let gram_at = |time: u64| {
                let records: Vec<Record> = both.iter().filter_map(|id| record_at(id, time)).collect();
                gram(index, &records)
            };
            let before = match last.take() {
                Some((ids, time, gram)) if time == from && ids == both => gram,
                _ => gram_at(from)?,
            };
            let after = gram_at(to)?;
            let velocity = 1.0 - cosine(&before, &after);
            steps.push(VelocityStep { from, to, examples: both.len() as u64, velocity });
            last = Some((both, to, after));
        }
        Ok(GroupVelocity { name: self.name, examples: self.ids.len() as u64, mean_score: self.mean_score, steps })
    }
}

/// `⟨A, B⟩_F / (‖A‖_F ‖B‖_F)`, NaN if one of them is zero; rounding does not lead outside of −1 to 1.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    (product(a, b) / (product(a, a).sqrt() * product(b, b).sqrt())).clamp(-1.0, 1.0)
}

/// The Gram matrix of some records, `[n, n]`.
fn gram(index: &Index, records: &[Record]) -> Result<Vec<f64>, ReadError> {
    let layout = &index.layout;
    let (n, widths) = (records.len(), layout.widths());
    let mut by_block: HashMap<usize, Vec<(usize, usize)>> = HashMap::new();
    for (place, record) in records.iter().enumerate() {
        by_block.entry(record.block).or_default().push((place, record.row));
    }
    let mut blocks: Vec<(usize, Vec<(usize, usize)>)> = by_block.into_iter().collect();
    blocks.sort_unstable();
    let mut parts: Vec<Vec<f32>> = widths.iter().map(|width| vec![0f32; n * width]).collect();
    for (block, rows) in blocks {
        let gradients = Gradients::read(&index.blocks[block], layout)?;
        for ((number, part), &width) in parts.iter_mut().enumerate().zip(&widths) {
            for (place, row) in &rows {
                gradients.part(number).decode(*row, &mut part[place * width..(place + 1) * width]);
            }
        }
    }
    let products: Vec<Vec<f32>> = parts
        .par_iter()
        .zip(&widths)
        .map(|(part, &width)| {
            let mut out = vec![0f32; n * n];
            let matrix = Matrix::new(part, n, width);
            matmul(&mut out, matrix, matrix.t(), false, 1);
            out
        })
        .collect();
    let mut gram = vec![0f64; n * n];
    for (number, layer) in layout.factored.iter().enumerate() {
        let bias = if layer.bias { 1.0 } else { 0.0 };
        for ((out, input), delta) in gram.iter_mut().zip(&products[2 * number]).zip(&products[2 * number + 1]) {
            *out += (f64::from(*input) + bias) * f64::from(*delta);
        }
    }
    if layout.folded.is_some() {
        for (out, dot) in gram.iter_mut().zip(&products[2 * layout.factored.len()]) {
            *out += f64::from(*dot);
        }
    }
    Ok(gram)
}

#[cfg(test)]
mod tests;
