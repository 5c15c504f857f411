//! The index: where in the run each probe's gradients lie.
//!
//! One pass over the probe blocks, which are also checked whole, so that what is decoded later is known to be sound.
//! The vectors themselves are decoded when a pass over the visits comes to their time.

use super::{Probe, Probes, Question};
use crate::rows::driver::{fold_each, Progress};
use crate::rows::gradient::Layout;
use crate::{error::NO_GRADIENTS, rows::column, AnalysisError};
use gradlog_format::log::{BlockKind, Column, Mode, PredictionScore};
use gradlog_format::run::{Block, Damage, Run};
use std::collections::{BTreeMap, BTreeSet};

/// The most bytes that the sketched gradient of one probe may take once it is decoded.
const GRADIENT_BYTES_MAX: usize = 1 << 30;

/// One record of a probe: a row of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Position in [`Index::blocks`].
    pub block: usize,
    pub row: usize,
}

/// The wanted probes of one set.
pub(crate) struct Index {
    pub blocks: Vec<Block>,
    pub layout: Layout,
    /// Of each probe, its records by time.
    pub records: BTreeMap<u64, BTreeMap<u64, Record>>,
    pub probes: BTreeMap<u64, Probe>,
    pub left_out: u64,
    pub repeated: u64,
    /// How the model ran where a replay says so.
    pub modes: BTreeSet<Mode>,
    /// Where the run stopped being readable; visits behind it do not count either.
    pub damage: Option<Damage>,
    /// Rows of curvature, in the order of the log.
    weighted: Vec<CurvatureRow>,
}

/// A row of the matrix `Σ w g gᵀ / Σ w`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CurvatureRow {
    pub time: u64,
    pub record: Record,
    pub weight: f64,
}

/// What one block tells the index.
enum Told {
    Name { number: u32, name: String },
    Rows(Box<Rows>),
}

struct Rows {
    block: Block,
    layout: Layout,
    sets: Vec<u32>,
    ids: Vec<u64>,
    steps: Vec<u64>,
    flags: Option<Vec<u8>>,
    labels: Option<Vec<Option<u32>>>,
    predictions: Option<Vec<Option<u32>>>,
    modes: Option<Vec<u8>>,
    scores: Option<Vec<u8>>,
    classes: Option<Vec<u32>>,
    weights: Option<Vec<f32>>,
}

/// What a record's gradient is of: a loss, or a score of the prediction of a class.
type Measure = Option<PredictionScore>;

impl Rows {
    /// `None` for a score that a newer version added.
    fn measure(&self, row: usize) -> Option<Measure> {
        match self.scores.as_ref().map_or(0, |scores| scores[row]) {
            0 => Some(None),
            code => PredictionScore::from_code(code).map(Some),
        }
    }
}

fn read(run: &Run, block: &Block) -> Result<Told, AnalysisError> {
    if block.kind() == Some(BlockKind::ProbeSet) {
        let name = String::from_utf8_lossy(&block.u8s(Column::Name)?).into_owned();
        let number = column::u32s(block, Column::ProbeSet)?.first().copied().unwrap_or(0);
        return Ok(Told::Name { number, name });
    }
    block.check()?;
    let layout = Layout::of(block, &run.manifest().layers);
    // Matrices of this size are made of it, and a few kilobytes of zstd can claim any.
    if layout.decoded_bytes() > GRADIENT_BYTES_MAX {
        let what = format!("a gradient of {} bytes, more than any recorder writes", layout.decoded_bytes());
        return Err(block.damaged(what).into());
    }
    Ok(Told::Rows(Box::new(Rows {
        layout,
        sets: column::u32s(block, Column::ProbeSet)?,
        ids: column::u64s(block, Column::Example)?,
        steps: column::u64s(block, Column::Step)?,
        flags: column::optional(block, Column::Flags, column::u8s)?,
        labels: column::classes(block, Column::Label)?,
        predictions: column::classes(block, Column::Prediction)?,
        modes: column::optional(block, Column::Mode, column::u8s)?,
        scores: column::optional(block, Column::PredictionScore, column::u8s)?,
        classes: column::optional(block, Column::ScoredClass, column::u32s)?,
        weights: column::optional(block, Column::CurvatureWeight, column::f32s)?,
        block: block.clone(),
    })))
}

impl Index {
    pub(crate) fn build(run: &Run, question: &Question, progress: Progress<'_>) -> Result<Self, AnalysisError> {
        Self::read(run, question, false, progress)
    }

    /// The rows of a set that is to be curvature: those that were recorded as such, and its probes.
    pub(crate) fn of_curvature(
        run: &Run,
        set: &str,
        question: &Question,
        progress: Progress<'_>,
    ) -> Result<Self, AnalysisError> {
        let question = Question { set: set.into(), probes: Probes::All, ..question.clone() };
        Self::read(run, &question, true, progress)
    }

    /// The rows of curvature, and each probe with the weight 1.
    pub(crate) fn curvature_rows(&self) -> Vec<CurvatureRow> {
        let probe = |(&time, &record): (&u64, &Record)| CurvatureRow { time, record, weight: 1.0 };
        self.records.values().flatten().map(probe).chain(self.weighted.iter().copied()).collect()
    }

    fn read(
        run: &Run,
        question: &Question,
        for_curvature: bool,
        progress: Progress<'_>,
    ) -> Result<Self, AnalysisError> {
        let wanted: Option<BTreeSet<u64>> = match &question.probes {
            // Labels are known at the end alone.
            Probes::All | Probes::Label(_) => None,
            Probes::Ids(ids) => Some(ids.iter().copied().collect()),
        };
        let mut names: BTreeMap<u32, String> = BTreeMap::new();
        let mut known: BTreeSet<u64> = BTreeSet::new();
        let mut layout: Option<Layout> = None;
        let mut measure: Option<Measure> = None;
        // Of each record of a score, the class.
        let mut classes: BTreeMap<(u64, u64), u32> = BTreeMap::new();
        let mut with_gradient = false;
        let mut index = Index {
            blocks: Vec::new(),
            layout: Layout { factored: Vec::new(), folded: None },
            records: BTreeMap::new(),
            probes: BTreeMap::new(),
            left_out: 0,
            repeated: 0,
            modes: BTreeSet::new(),
            damage: None,
            weighted: Vec::new(),
        };
        let mut passed_over = 0;
        let fold = |told: Told| {
            let rows = match told {
                Told::Name { number, name } => {
                    names.insert(number, name);
                    return Ok(());
                }
                Told::Rows(rows) => rows,
            };
            let number = rows.block.sequence();
            debug_assert!(index.blocks.last().is_none_or(|last| last.sequence() < number));
            let mut used = false;
            for (row, &id) in rows.ids.iter().enumerate() {
                // A set's name is written before its first probe.
                if names.get(&rows.sets[row]) != Some(&question.set) {
                    continue;
                }
                let weight = rows.weights.as_ref().map(|weights| weights[row]);
                if weight.is_some() && !for_curvature {
                    passed_over += 1;
                    continue;
                }
                known.insert(id);
                if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&id)) {
                    continue;
                }
                let flags = rows.flags.as_ref().map_or(0, |flags| flags[row]);
                let usable = flags & (Column::FLAG_NOT_FINITE | Column::FLAG_NO_WEIGHT) == 0
                    && !rows.layout.is_empty()
                    && *layout.get_or_insert_with(|| rows.layout.clone()) == rows.layout
                    // A sum over gradients of different things would be the influence on none of them.
                    && rows.measure(row).is_some_and(|own| *measure.get_or_insert(own) == own)
                    && weight.is_none_or(|weight| weight.is_finite() && weight >= 0.0);
                with_gradient |= !rows.layout.is_empty();
                if !usable {
                    index.left_out += 1;
                    continue;
                }
                let record = Record { block: index.blocks.len(), row };
                if let Some(weight) = weight {
                    index.weighted.push(CurvatureRow { time: rows.steps[row], record, weight: f64::from(weight) });
                    used = true;
                    continue;
                }
                let scored = rows.measure(row).flatten().zip(rows.classes.as_ref().map(|classes| classes[row]));
                if let Some((_, class)) = scored {
                    classes.insert((id, rows.steps[row]), class);
                }
                let mode = rows.modes.as_ref().and_then(|modes| Mode::from_code(modes[row]));
                index.modes.extend(mode);
                let replaced = index.records.entry(id).or_default().insert(rows.steps[row], record);
                index.repeated += u64::from(replaced.is_some());
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
        let keep = |block: &Block| matches!(block.kind(), Some(BlockKind::ProbeSet | BlockKind::Probes));
        index.damage = fold_each(run, progress, keep, |block| read(run, block), fold)?.0;
        for (id, records) in &mut index.records {
            // A score is asked of one class: that of the last time. Records of another one are of another score.
            if let Some(class) = records.keys().last().and_then(|time| classes.get(&(*id, *time)).copied()) {
                let before = records.len();
                records.retain(|time, _| classes.get(&(*id, *time)) == Some(&class));
                index.left_out += (before - records.len()) as u64;
                if let Some(Probe { scored: Some((_, scored)), .. }) = index.probes.get_mut(id) {
                    *scored = class;
                }
            }
            if let Some(probe) = index.probes.get_mut(id) {
                probe.times = records.len() as u64;
            }
        }
        index.layout = layout.clone().unwrap_or(index.layout);
        let mut labels = BTreeSet::new();
        if let Probes::Label(label) = question.probes {
            labels = index.probes.values().filter_map(|probe| probe.label).collect();
            index.probes.retain(|_, probe| probe.label == Some(label));
            index.records.retain(|id, _| index.probes.contains_key(id));
        }
        let lookup = Lookup { names, known, wanted, labels, any_gradient: with_gradient, passed_over };
        match (lookup.failure(&index, question), index.damage.clone()) {
            (None, _) => Ok(index),
            (Some(error), None) => Err(error),
            (Some(error), Some(damage)) => Err(AnalysisError::Cut { source: Box::new(error), damage }),
        }
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
    /// Rows of curvature that are no probes.
    passed_over: u64,
}

impl Lookup {
    /// Why the question has no answer, if it has none.
    fn failure(self, index: &Index, question: &Question) -> Option<AnalysisError> {
        let set = question.set.clone();
        if !self.names.values().any(|name| *name == set) {
            return Some(AnalysisError::NoSuchSet { name: set, known: self.names.into_values().collect() });
        }
        let wanted = self.wanted.unwrap_or_default();
        if let Some(&id) = wanted.iter().find(|id| !self.known.contains(id)) {
            let near = nearest(&self.known, id, 5);
            return Some(AnalysisError::NoSuchProbe { set, id, near, count: self.known.len() });
        }
        if index.left_out > 0 && !self.any_gradient {
            let what = "gradients of these probes";
            return Some(AnalysisError::Missing { score: "influence", what, how: NO_GRADIENTS });
        }
        let unusable = wanted.iter().find(|id| !index.records.contains_key(id));
        if unusable.is_none() && !(index.records.is_empty() && index.weighted.is_empty()) {
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
        let why = if index.left_out > 0 {
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
