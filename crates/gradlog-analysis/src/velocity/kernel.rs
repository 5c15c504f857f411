//! Gram matrices of probes' gradients, and how far they turn.

use super::groups::Chosen;
use super::{GroupVelocity, VelocityKernel, VelocityStep};
use crate::influence::plan::index::{Index, Record};
use crate::rows::gradient::{Gradients, Layout};
use crate::{AnalysisError, InfluenceQuestion, LeftOut, Mode, PredictionScore, Progress};
use gradlog_format::run::{Damage, ReadError, Run};
use gradlog_kernels::matmul::{matmul, Matrix};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The records whose Gram matrix is taken: those of one probe set, or of one for each class.
pub(super) struct Kernel {
    form: VelocityKernel,
    /// At least one. All have the same layout.
    indices: Vec<Index>,
}

impl Kernel {
    /// Finds the records of `set`; for gradients of logits those of `set/0`, `set/1`, ...
    pub(super) fn read(run: &Run, set: &str, form: VelocityKernel, progress: &Progress) -> Result<Self, AnalysisError> {
        if form == VelocityKernel::Recorded {
            return Ok(Self { form, indices: vec![build(run, set, progress)?] });
        }
        let class_of = |name: &String| name.strip_prefix(set)?.strip_prefix('/')?.parse::<u32>().ok();
        let names = run.probe_sets()?;
        let classes: BTreeMap<u32, &String> =
            names.iter().filter_map(|name| class_of(name).map(|class| (class, name))).collect();
        let mut indices: Vec<Index> = Vec::with_capacity(classes.len());
        for (class, name) in classes {
            let index = build(run, name, progress)?;
            if index.probes.values().any(|probe| probe.scored != Some((PredictionScore::Logit, class))) {
                return Err(no_logits());
            }
            if let Some(first) = indices.first().filter(|first| first.layout != index.layout) {
                let layers = &run.manifest().layers;
                let (visits, probes) = (index.layout.describe(layers), first.layout.describe(layers));
                return Err(AnalysisError::OtherLayers { visits, probes });
            }
            indices.push(index);
        }
        if indices.is_empty() {
            return Err(no_logits());
        }
        Ok(Self { form, indices })
    }

    /// The index of the set, or of the first class.
    pub(super) fn first(&self) -> &Index {
        &self.indices[0]
    }

    /// How many gradients an example has.
    pub(super) fn rows_an_example(&self) -> usize {
        self.indices.len()
    }

    /// Ids that have records.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.first().records.keys().copied().filter(|id| self.has(*id))
    }

    /// Whether an example has records, of each class.
    pub(super) fn has(&self, id: u64) -> bool {
        self.indices.iter().all(|index| index.records.contains_key(&id))
    }

    /// At which times there are any, ascending.
    pub(super) fn times(&self) -> Vec<u64> {
        let all = self.indices.iter().flat_map(|index| index.records.values().flat_map(BTreeMap::keys));
        all.copied().collect::<BTreeSet<u64>>().into_iter().collect()
    }

    pub(super) fn modes(&self) -> Vec<Mode> {
        self.indices
            .iter()
            .flat_map(|index| index.modes.iter().copied())
            .collect::<BTreeSet<Mode>>()
            .into_iter()
            .collect()
    }

    pub(super) fn left_out(&self) -> LeftOut {
        let mut sum = LeftOut::default();
        self.indices.iter().for_each(|index| sum.add(&index.left_out));
        sum
    }

    pub(super) fn damage(&self) -> Option<Damage> {
        self.indices.iter().find_map(|index| index.damage.clone())
    }

    fn record(&self, index: usize, id: u64, time: u64) -> Option<Record> {
        self.indices[index].records.get(&id).and_then(|records| records.get(&time)).copied()
    }

    fn has_at(&self, id: u64, time: u64) -> bool {
        (0..self.indices.len()).all(|index| self.record(index, id, time).is_some())
    }

    /// The velocity of a group between successive times.
    pub(super) fn velocity(&self, group: Chosen, times: &[u64]) -> Result<GroupVelocity, AnalysisError> {
        let mut steps = Vec::new();
        // The Gram matrix of the last time, with the examples that it is of.
        let mut last: Option<(Vec<u64>, u64, Vec<f64>)> = None;
        for pair in times.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let has_both = |id: &u64| self.has_at(*id, from) && self.has_at(*id, to);
            let both: Vec<u64> = group.ids.iter().copied().filter(has_both).collect();
            if both.is_empty() {
                continue;
            }
            let before = match last.take() {
                Some((ids, time, gram)) if time == from && ids == both => gram,
                _ => self.gram(&both, from)?,
            };
            let after = self.gram(&both, to)?;
            let velocity = 1.0 - cosine(&before, &after);
            steps.push(VelocityStep { from, to, examples: both.len() as u64, velocity });
            last = Some((both, to, after));
        }
        let (name, examples, mean_score) = (group.name, group.ids.len() as u64, group.mean_score);
        Ok(GroupVelocity { name, examples, mean_score, steps })
    }

    /// The kernel of some examples, which have records at this time.
    fn gram(&self, ids: &[u64], time: u64) -> Result<Vec<f64>, ReadError> {
        let (n, classes) = (ids.len(), self.indices.len());
        let layout = &self.first().layout;
        let mut parts: Vec<Vec<f32>> = layout.widths().iter().map(|width| vec![0f32; n * classes * width]).collect();
        for (number, index) in self.indices.iter().enumerate() {
            let rows = ids.iter().enumerate().filter_map(|(at, id)| Some((at, self.record(number, *id, time)?)));
            decode(index, rows.map(|(at, record)| (at * classes + number, record)), &mut parts)?;
        }
        let gram = multiply(layout, &parts, n * classes);
        let mean = |groups: usize, group_of: &dyn Fn(usize) -> usize| {
            let mut out = vec![0f64; groups * groups];
            for (row, values) in gram.chunks(n * classes).enumerate() {
                for (column, value) in values.iter().enumerate() {
                    out[group_of(row) * groups + group_of(column)] += value;
                }
            }
            out
        };
        // Sums, not means: a factor of the whole kernel does not turn it.
        Ok(match self.form {
            VelocityKernel::Recorded | VelocityKernel::Tangent => gram,
            VelocityKernel::MeanLogit => mean(n, &|row| row / classes),
            VelocityKernel::MeanExample => mean(classes, &|row| row % classes),
        })
    }
}

fn build(run: &Run, set: &str, progress: &Progress) -> Result<Index, AnalysisError> {
    Index::build(run, &InfluenceQuestion::new(set), progress).map_err(|error| match error {
        AnalysisError::Missing { what, how, .. } => AnalysisError::Missing { score: "kernel velocity", what, how },
        other => other,
    })
}

fn no_logits() -> AnalysisError {
    AnalysisError::Missing {
        score: "the velocity of the tangent kernel",
        what: "gradients of logits in this set",
        how: "record them with `recorder.tangents(\"NAME\", &ids)` at the end of each epoch, or ask for the kernel of the recorded gradients",
    }
}

/// `⟨A, B⟩_F / (‖A‖_F ‖B‖_F)`, NaN if one of them is zero; rounding does not lead outside of −1 to 1.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    (product(a, b) / (product(a, a).sqrt() * product(b, b).sqrt())).clamp(-1.0, 1.0)
}

/// Decodes records into the rows of the parts of a layout.
fn decode(index: &Index, rows: impl Iterator<Item = (usize, Record)>, parts: &mut [Vec<f32>]) -> Result<(), ReadError> {
    let mut by_block: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (place, record) in rows {
        by_block.entry(record.block).or_default().push((place, record.row));
    }
    let widths = index.layout.widths();
    for (block, rows) in by_block {
        let gradients = Gradients::read(&index.blocks[block], &index.layout)?;
        for ((number, part), &width) in parts.iter_mut().enumerate().zip(&widths) {
            for (place, row) in &rows {
                gradients.part(number).decode(*row, &mut part[place * width..(place + 1) * width]);
            }
        }
    }
    Ok(())
}

/// The Gram matrix `[n, n]` of gradients by their parts.
fn multiply(layout: &Layout, parts: &[Vec<f32>], n: usize) -> Vec<f64> {
    let products: Vec<Vec<f32>> = parts
        .par_iter()
        .zip(layout.widths())
        .map(|(part, width)| {
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
    gram
}
