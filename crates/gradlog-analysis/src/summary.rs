//! What is in a run: counts, layers, probes, bytes.

mod column_group;
mod event_summary;
mod read;
#[cfg(test)]
mod tests;

pub use column_group::ColumnGroup;
pub use event_summary::EventSummary;

use crate::rows::driver::fold_each;
use crate::rows::layer_rates::LayerRates;
use crate::rows::wiring::{EpochsBack, LabelChanges};
use crate::{AnalysisError, GradientCoverage, Progress};
use gradlog_format::log::{Column, ColumnKey, Mode, UpdateRule};
use gradlog_format::run::{Damage, Run};
use read::{BlockRead, Read};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::RangeInclusive;

/// What a run holds.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RunSummary {
    /// Training visits.
    pub visits: u64,
    /// Different examples among them.
    pub examples: u64,
    /// Examples with several labels, if there are any: ids that are positions in the batch, or corrected labels.
    pub label_changes: Option<LabelChanges>,
    /// Where epochs go backwards, if they do: a resumption that did not set its epoch.
    pub epochs_back: Option<EpochsBack>,
    /// First and last epoch of the visits.
    pub epochs: Option<RangeInclusive<u32>>,
    /// First and last optimizer step of the visits.
    pub steps: Option<RangeInclusive<u64>>,
    /// Steps that were recorded as such.
    pub recorded_steps: u64,
    /// Least and greatest learning rate of the recorded steps.
    pub learning_rates: Option<RangeInclusive<f32>>,
    /// Rules of the recorded steps, as far as the optimizer told them.
    pub optimizers: BTreeSet<UpdateRule>,
    /// Least and greatest momentum of the recorded steps, as far as the optimizer told it; `None` if it never did.
    pub momentum: Option<RangeInclusive<f32>>,
    /// Recorded steps of which the momentum was not told.
    pub steps_without_momentum: u64,
    /// Least and greatest weight decay, likewise.
    pub weight_decay: Option<RangeInclusive<f32>>,
    /// Recorded steps of which the weight decay was not told.
    pub steps_without_weight_decay: u64,
    /// Visits of which a number was NaN or infinite; sketches of such gradients are zeros.
    pub not_finite: u64,
    /// The first step that has such a visit.
    pub first_not_finite: Option<u64>,
    /// Visits in whose pass a layer ran and got no gradient, for example because its output was detached. That layer's
    /// part of their gradients is zero.
    pub detached: u64,
    /// Milliseconds since the Unix epoch of the first and the last recorded step.
    pub wall_clock_ms: Option<RangeInclusive<u64>>,
    /// The probe sets, by number.
    pub probes: Vec<ProbeSummary>,
    /// The sets that hold rows of curvature, by number; visits are such rows.
    pub curvature: Vec<ProbeSummary>,
    /// The sweeps at checkpoints, by step.
    pub sweeps: Vec<SweepSummary>,
    /// The recorded layers, by number.
    pub layers: Vec<LayerSummary>,
    /// Parameters of the recorded layers that are trained.
    pub recorded_parameters: u64,
    /// Their share of the model's parameters, if the model was declared.
    pub coverage: Option<f64>,
    /// Recorded layers that no step changed, as of the last step: they are not in the optimizer, and scores leave them
    /// out.
    pub untrained_layers: Vec<String>,
    /// Recorded layers of which steps changed some parameters and not others, as of the last step. Their gradients
    /// count whole, so scores of them are wrong by what the other parameters add.
    pub partly_trained_layers: Vec<String>,
    /// Variables of the model that are in no recorded layer, if the model was declared.
    pub untapped: Vec<String>,
    /// Bytes of all blocks.
    pub bytes: u64,
    /// Bytes of the visit blocks, headers included.
    pub visit_bytes: u64,
    /// Bytes of the visit blocks by what they hold, compressed; headers and padding are the rest.
    pub visit_bytes_by_group: Vec<(ColumnGroup, u64)>,
    /// Visits that the recorder says it dropped.
    pub dropped: u64,
    /// The first step of which it says so.
    pub first_gap: Option<u64>,
    /// Visits of steps that were never taken: the loop abandoned them, or they were not finite.
    pub abandoned: u64,
    /// Steps of which the log knows nothing, because the training resumed behind the end of the log.
    pub unknown_steps: u64,
    /// Training examples that are described: the log has a thumbnail, a text or a row of each.
    pub cards: u64,
    /// Probes that are described.
    pub probe_cards: u64,
    /// Cards that were refused while recording.
    pub refused_cards: u64,
    /// What the guard noticed: large gradients, a loss that diverges, NaN and infinity.
    pub events: EventSummary,
    /// Whether the recorder's `finish` returned.
    pub finished: bool,
    /// Where the run stopped being readable, if it did; all counts are of what came before.
    pub damage: Option<Damage>,
}

impl RunSummary {
    /// Bytes on disk of one visit, the mean over the visit blocks; `None` without visits.
    pub fn bytes_per_visit(&self) -> Option<f64> {
        (self.visits > 0).then(|| self.visit_bytes as f64 / self.visits as f64)
    }
}

/// A probe set, or the rows of curvature in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeSummary {
    /// Its name.
    pub name: String,
    /// Probe visits, or rows of curvature.
    pub visits: u64,
    /// Different examples among them.
    pub examples: u64,
    /// The steps before which it was taken, ascending.
    pub times: Vec<u64>,
}

/// The examples that were replayed at a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepSummary {
    /// The step before which the checkpoint was taken.
    pub step: u64,
    /// Rows, those that a later replay repeated among them.
    pub rows: u64,
    /// How the model ran.
    pub modes: Vec<Mode>,
}

/// How a layer's gradients are held, as the visits show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerForm {
    /// As two factors of these stored lengths.
    Factored {
        /// Of the input factor.
        inputs: usize,
        /// Of the output-gradient factor.
        outputs: usize,
    },
    /// In the one vector of this length that all folded layers share.
    Folded {
        /// Its length.
        width: usize,
    },
    /// In no visit.
    Absent,
}

impl std::fmt::Display for LayerForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LayerForm::Factored { inputs, outputs } => write!(f, "factored {inputs} x {outputs}"),
            LayerForm::Folded { width } => write!(f, "folded {width}"),
            LayerForm::Absent => f.write_str("not recorded"),
        }
    }
}

/// A recorded layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerSummary {
    /// The name that it was tapped under.
    pub name: String,
    /// What it is: `linear`, `conv2d`, ...
    pub kind: String,
    /// How many numbers its whole gradient has.
    pub parameters: u64,
    /// How its gradients are held.
    pub form: LayerForm,
}

#[derive(Default)]
struct Set {
    name: String,
    probes: Counted,
    curvature: Counted,
}

#[derive(Default)]
struct Counted {
    visits: u64,
    ids: BTreeSet<u64>,
    times: BTreeSet<u64>,
}

impl Counted {
    fn add(&mut self, other: Self) {
        self.visits += other.visits;
        self.ids.extend(other.ids);
        self.times.extend(other.times);
    }

    fn summary(self, name: &str) -> ProbeSummary {
        ProbeSummary {
            name: name.to_owned(),
            visits: self.visits,
            examples: self.ids.len() as u64,
            times: self.times.into_iter().collect(),
        }
    }
}

/// Sets of one name are one set. They come in the order of their first numbers.
fn unite_by_name(sets: BTreeMap<u32, Set>) -> Vec<Set> {
    let mut united: Vec<Set> = Vec::new();
    for set in sets.into_values() {
        // A set whose name is lost has none to share.
        match united.iter_mut().find(|other| other.name == set.name && !set.name.is_empty()) {
            Some(other) => {
                other.probes.add(set.probes);
                other.curvature.add(set.curvature);
            }
            None => united.push(set),
        }
    }
    united
}

/// Asks what a run holds: counts, layers, probes, bytes.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SummaryQuestion {
    progress: Progress,
}

progress_options!(SummaryQuestion);

impl SummaryQuestion {
    /// What the whole run holds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what a summary needs of the whole run: no sketches.
    ///
    /// # Errors
    /// [`AnalysisError::Read`] if the file system refuses. Damage is not an error: the summary is of what came before.
    ///
    /// # Cost
    /// Memory: about 80 bytes per example.
    pub fn compute(&self, run: &Run) -> Result<RunSummary, AnalysisError> {
        let manifest = run.manifest();
        let mut summary = RunSummary {
            untapped: manifest.untapped.iter().map(|variable| variable.name.clone()).collect(),
            ..RunSummary::default()
        };
        let mut examples: HashSet<u64> = HashSet::new();
        let mut sets: BTreeMap<u32, Set> = BTreeMap::new();
        let mut sweeps: BTreeMap<u64, (u64, BTreeSet<Option<Mode>>)> = BTreeMap::new();
        let mut groups: BTreeMap<ColumnGroup, u64> = BTreeMap::new();
        let mut forms = vec![LayerForm::Absent; manifest.layers.len()];
        let mut folded_width = None;
        let fold = |one: BlockRead| {
            summary.bytes += one.block.bytes();
            let end = matches!(one.read, Read::End);
            match one.read {
                Read::Visits { examples: ids, epochs, steps, not_finite, detached } => {
                    summary.detached += detached;
                    summary.visits += ids.len() as u64;
                    summary.visit_bytes += one.block.bytes();
                    summary.epochs = Some(widen(summary.epochs.take(), epochs.0, epochs.1));
                    summary.steps = Some(widen(summary.steps.take(), steps.0, steps.1));
                    examples.extend(ids);
                    summary.not_finite += not_finite.len() as u64;
                    summary.first_not_finite = not_finite.into_iter().chain(summary.first_not_finite).min();
                    for size in one.block.sizes() {
                        *groups.entry(ColumnGroup::from_code(size.column)).or_default() += size.stored_bytes;
                    }
                    for layer in one.block.layers(Column::Input) {
                        let Some(form) = forms.get_mut(usize::from(layer)) else { continue };
                        let width = |column| one.block.width(ColumnKey { column, layer });
                        if let (Some(inputs), Some(outputs)) = (width(Column::Input), width(Column::Delta)) {
                            *form = LayerForm::Factored { inputs, outputs };
                        }
                    }
                    folded_width = one.block.width(Column::Folded).or(folded_width);
                }
                Read::Probes { are_curvature, sets: numbers, ids, steps } => {
                    for ((number, id), step) in numbers.into_iter().zip(ids).zip(steps) {
                        let set = sets.entry(number).or_default();
                        let taken = if are_curvature { &mut set.curvature } else { &mut set.probes };
                        taken.visits += 1;
                        taken.ids.insert(id);
                        taken.times.insert(step);
                    }
                }
                Read::Steps { count, learning_rates, rules, momenta, decays, wall_clock } => {
                    summary.optimizers.extend(rules.into_iter().filter_map(UpdateRule::from_code));
                    summary.recorded_steps += count as u64;
                    for rate in learning_rates.into_iter().filter(|rate| rate.is_finite()) {
                        summary.learning_rates = Some(widen(summary.learning_rates.take(), rate, rate));
                    }
                    summary.steps_without_momentum += widen_told(&mut summary.momentum, count, momenta);
                    summary.steps_without_weight_decay += widen_told(&mut summary.weight_decay, count, decays);
                    for time in wall_clock {
                        summary.wall_clock_ms = Some(widen(summary.wall_clock_ms.take(), time, time));
                    }
                }
                Read::Set { number, name } => sets.entry(number).or_default().name = name,
                Read::Gaps { counts, first_step } => {
                    summary.dropped = summary.dropped.saturating_add(counts.dropped);
                    summary.abandoned = summary.abandoned.saturating_add(counts.abandoned);
                    summary.unknown_steps = summary.unknown_steps.saturating_add(counts.unknown_steps);
                    // Nothing is missing where visits were only abandoned.
                    if counts.dropped > 0 || counts.unknown_steps > 0 || counts.abandoned == 0 {
                        summary.first_gap = Some(summary.first_gap.map_or(first_step, |first| first.min(first_step)));
                    }
                }
                Read::Sweeps { step, rows, modes } => {
                    let sweep = sweeps.entry(step).or_default();
                    sweep.0 += rows;
                    sweep.1.extend(modes);
                }
                Read::Cards { examples, probes, refused } => {
                    summary.cards += examples;
                    summary.probe_cards += probes;
                    summary.refused_cards = summary.refused_cards.saturating_add(refused);
                }
                Read::Events(events) => events.into_iter().for_each(|event| summary.events.add(event)),
                Read::End | Read::Other => {}
            }
            // A run that was finished and then resumed is finished again only by another end. A replay takes none away.
            summary.finished = end || summary.finished && !one.block.reopens_run();
            Ok(())
        };
        summary.damage = fold_each(run, &self.progress, |_| true, BlockRead::read, fold)?.0;
        (summary.label_changes, summary.epochs_back) = (LabelChanges::find(run, u64::MAX)?, EpochsBack::find(run)?);
        let rates = LayerRates::read(run)?;
        let last = summary.steps.as_ref().map_or(0, |steps| *steps.end());
        let named = manifest.layers.iter().zip(0u16..);
        let in_part = named.clone().filter(|(_, number)| rates.is_in_part(*number, &(last..=last)));
        summary.partly_trained_layers = in_part.map(|(layer, _)| layer.name.clone()).collect();
        let (untrained, trained): (Vec<_>, Vec<_>) = named.partition(|(_, number)| rates.factor(*number, last) == 0.0);
        summary.untrained_layers = untrained.iter().map(|(layer, _)| layer.name.clone()).collect();
        // A layer that no step changes is no part of what is recorded of the training.
        let trained: Vec<usize> = trained.into_iter().map(|(_, number)| usize::from(number)).collect();
        let counting = GradientCoverage::of(manifest, Some(&trained));
        (summary.recorded_parameters, summary.coverage) = (counting.parameters, counting.share());
        summary.examples = examples.len() as u64;
        summary.visit_bytes_by_group = groups.into_iter().collect();
        summary.sweeps = sweeps
            .into_iter()
            .map(|(step, (rows, modes))| SweepSummary { step, rows, modes: modes.into_iter().flatten().collect() })
            .collect();
        for set in unite_by_name(sets) {
            // A name without any row is a probe set that was never taken.
            if set.probes.visits > 0 || set.curvature.visits == 0 {
                summary.probes.push(set.probes.summary(&set.name));
            }
            if set.curvature.visits > 0 {
                summary.curvature.push(set.curvature.summary(&set.name));
            }
        }
        summary.layers = manifest
            .layers
            .iter()
            .zip(forms)
            .map(|(layer, form)| LayerSummary {
                name: layer.name.clone(),
                kind: layer.kind.clone(),
                parameters: layer.parameters,
                form: match (form, folded_width) {
                    (LayerForm::Absent, Some(width)) => LayerForm::Folded { width },
                    (form, _) => form,
                },
            })
            .collect();
        Ok(summary)
    }
}

/// Widens `range` by what the optimizer told for `count` steps. Returns for how many steps it told nothing; NaN stands
/// for these.
fn widen_told(range: &mut Option<RangeInclusive<f32>>, count: usize, values: Vec<f32>) -> u64 {
    let mut untold = count;
    for value in values.into_iter().filter(|value| !value.is_nan()) {
        *range = Some(widen(range.take(), value, value));
        untold = untold.saturating_sub(1);
    }
    untold as u64
}

fn widen<T: PartialOrd + Copy>(range: Option<RangeInclusive<T>>, first: T, last: T) -> RangeInclusive<T> {
    match range {
        None => first..=last,
        Some(range) => {
            let start = if first < *range.start() { first } else { *range.start() };
            let end = if last > *range.end() { last } else { *range.end() };
            start..=end
        }
    }
}
