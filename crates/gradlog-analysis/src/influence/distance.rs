//! Influence against distance in feature space: does a probe learn from what looks alike, or from elsewhere?
//!
//! The features of an example are the input factor of a layer, by default of the last one that keeps its factors: what
//! the network made of the example before its final step (Koh and Liang 2017, §5.1, set influence against distance so).

use super::answer::Influence;
use super::plan::index::Index;
use super::question::InfluenceQuestion;
use crate::rows::basis::Uses;
use crate::rows::driver::{fold_each, ReadTo};
use crate::rows::reader::{RowReader, WantedGradient};
use crate::rows::rule::{RowRule, UnseenGradient};
use crate::rows::sweep::{Sweeps, Untrained};
use crate::scores::order::first_of;
use crate::vectors::lengths::excess_of_signs;
use crate::{rows::column, spearman, AnalysisError, Basis, LeftOut, Progress, Window};
use gradlog_format::log::{Column, ColumnKey, LayerRecord};
use gradlog_format::run::{Block, Damage, Run, Vectors};
use gradlog_format::sketch::Encoding;
use std::collections::HashMap;

/// Features are the input factor of the gradient, and the zeros of a visit without weight are not its features.
const RULE: RowRule = RowRule::gradients(&[], UnseenGradient::LeftOut);

/// How the influence on a probe goes with distance from it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FeatureDistance {
    /// Id of the probe.
    pub probe: u64,
    /// Name of the layer whose input the features are.
    pub layer: String,
    /// Numbers of a feature vector, as recorded: where a wide input was folded, distances are estimates.
    pub width: usize,
    /// Examples that have a score and features.
    pub examples: u64,
    /// Spearman's rank correlation of `|score|` and distance. Negative: what is near carries more.
    pub size: f64,
    /// Spearman's rank correlation of the score itself and distance. Negative: what is near helps, what is far hurts.
    pub score: f64,
    /// What the distances rest on: the inputs of the one layer.
    pub basis: Basis,
    /// Of each row of the influence, the Euclidean distance of its features at its last visit or sweep inside the
    /// window from the probe's at its last time; NaN if it has none.
    pub distances: Vec<f64>,
    /// What was left out, by the reason: visits without features, and probe records.
    pub left_out: LeftOut,
    /// Where the run stopped being readable, if it did; distances are then of what came before.
    pub damage: Option<Damage>,
}

/// The examples nearest to a probe beside those with the strongest influence on it, as Pruthi et al. 2020 and Koh and
/// Liang 2017 set them side by side: what is near is not what taught.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// Rows of the nearest examples, the nearest first; ties by example id.
    pub nearest: Vec<usize>,
    /// Rows of as many of the strongest proponents and of the strongest opponents.
    pub proponents: Vec<usize>,
    /// See `proponents`.
    pub opponents: Vec<usize>,
    /// How many of the nearest are among these proponents.
    pub also_proponents: usize,
    /// How many of the nearest are among these opponents.
    pub also_opponents: usize,
    /// Share of the proponents that have the probe's label, if labels were recorded.
    pub same_label_proponents: Option<f64>,
    /// The same of the opponents.
    pub same_label_opponents: Option<f64>,
    /// The same of the nearest.
    pub same_label_nearest: Option<f64>,
}

impl FeatureDistance {
    /// Rows of the `count` examples that are nearest to the probe, the nearest first; ties by example id.
    fn nearest(&self, influence: &Influence, count: usize) -> Vec<usize> {
        let rows: Vec<usize> = (0..self.distances.len()).filter(|&row| self.distances[row].is_finite()).collect();
        let example = |row: usize| influence.rows[row].example;
        first_of(rows, count, |&a, &b| {
            self.distances[a].total_cmp(&self.distances[b]).then(example(a).cmp(&example(b)))
        })
    }

    /// Sets the `count` nearest examples beside the `count` strongest of `influence`, which these distances were made
    /// of.
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] if `influence` does not hold the probe or has another number of rows.
    pub fn compare(&self, influence: &Influence, count: usize) -> Result<Comparison, AnalysisError> {
        let own = influence.probes.iter().position(|probe| probe.id == self.probe);
        let probe = own.filter(|_| self.distances.len() == influence.rows.len()).ok_or_else(|| {
            let given = format!("on {} probes with {} rows", influence.probes.len(), influence.rows.len());
            let range = format!("the one that the distances from probe {} were made of", self.probe);
            AnalysisError::OutOfRange { what: "the influence to compare distances with", given, range }
        })?;
        let (nearest, label) = (self.nearest(influence, count), influence.probes[probe].label);
        let (proponents, opponents) = (influence.proponents(probe, count), influence.opponents(probe, count));
        let also = |rows: &[usize]| nearest.iter().filter(|row| rows.contains(row)).count();
        let same_label = |rows: &[usize]| {
            let labels: Option<Vec<u32>> = rows.iter().map(|&row| influence.rows[row].label).collect();
            let (label, labels) = label.zip(labels.filter(|labels| !labels.is_empty()))?;
            Some(labels.iter().filter(|other| **other == label).count() as f64 / labels.len() as f64)
        };
        Ok(Comparison {
            also_proponents: also(&proponents),
            also_opponents: also(&opponents),
            same_label_proponents: same_label(&proponents),
            same_label_opponents: same_label(&opponents),
            same_label_nearest: same_label(&nearest),
            nearest,
            proponents,
            opponents,
        })
    }
}

/// Asks how an influence goes with distance in feature space: does a probe learn from what looks alike, or from
/// elsewhere?
///
/// The features of an example are the input of a layer at its last visit inside the window, and those of the probe the
/// input at its last time. The distance is Euclidean (Koh and Liang 2017, arXiv 1703.04730, §5.1, set influence against
/// it).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DistanceQuestion<'a> {
    influence: &'a Influence,
    layer: Option<String>,
    window: Window,
    progress: Progress,
}

window_options!(DistanceQuestion<'_>);
source_options!(DistanceQuestion<'_>);
progress_options!(DistanceQuestion<'_>);

impl<'a> DistanceQuestion<'a> {
    /// Compares the scores of `influence` with distances in the input of the last layer that keeps its factors: over
    /// all visits, or over all sweeps if the influence is on sweeps.
    pub fn new(influence: &'a Influence) -> Self {
        let window = if influence.basis.is_sweeps() { Window::sweeps() } else { Window::everything() };
        Self { influence, layer: None, window, progress: Progress::default() }
    }

    /// Takes the input of this layer instead.
    #[must_use]
    pub fn layer(mut self, layer: impl Into<String>) -> Self {
        self.layer = Some(layer.into());
        self
    }

    /// An answer for each probe of the influence, in their order.
    ///
    /// # Errors
    /// [`AnalysisError::OnlyVisits`] or [`AnalysisError::OutOfRange`] if one of influence and window is on visits and
    /// the other on sweeps, [`AnalysisError::Missing`] if no such layer has factors, [`AnalysisError::NoSuchProbe`]
    /// and the like if the probes are not in the run, [`AnalysisError::OutsideRun`] for a window without visits,
    /// [`AnalysisError::Read`] if the file system refuses.
    ///
    /// # Cost
    /// One pass over the inputs of one layer. Memory: 8 bytes for each example and probe.
    pub fn compute(&self, run: &Run) -> Result<Vec<FeatureDistance>, AnalysisError> {
        if let Some(share) = self.influence.basis.share {
            let (what, range) = ("the influence to compare distances with", "on all examples".into());
            return Err(AnalysisError::OutOfRange { what, given: format!("on share {share} of them"), range });
        }
        self.window.refuse_beside(&[run])?;
        measure_distances(run, self)
    }
}

fn measure_distances(run: &Run, asked: &DistanceQuestion<'_>) -> Result<Vec<FeatureDistance>, AnalysisError> {
    let DistanceQuestion { influence, layer, window, progress } = asked;
    if !influence.basis.is_sweeps() {
        // Scores of visits have no business with distances at checkpoints.
        window.refuse_sweeps("the distance in feature space from an influence on visits")?;
    } else if !window.is_on_sweeps() {
        let (what, given) = ("the window of distances beside an influence on sweeps", "on visits".into());
        return Err(AnalysisError::OutOfRange { what, given, range: "on sweeps, as the influence is".into() });
    }
    let sweeps = Sweeps::find(run, window, Untrained::Counts)?;
    let question = InfluenceQuestion::new(&influence.set)
        .ids(influence.probes.iter().map(|probe| probe.id))
        .window(window.clone())
        .probe_time(influence.time);
    let index = Index::build(run, &question, progress)?;
    let layers = &run.manifest().layers;
    let wanted = |record: &LayerRecord| layer.as_ref().is_none_or(|name| record.name == *name);
    let found = index.layout.factored.iter().rfind(|f| layers.get(usize::from(f.layer)).is_some_and(wanted));
    let Some(factored) = found else {
        return Err(AnalysisError::Missing {
            score: "distance in feature space",
            what: "inputs of such a layer for these probes",
            how: "name a layer that sees one position per example; of folded layers no inputs are kept",
        });
    };
    let (number, width, origin) = (factored.layer, factored.inputs, factored.input_origin);
    let inputs = |block: &Block| -> Result<Vectors, AnalysisError> {
        Ok(block.vectors(ColumnKey { column: Column::Input, layer: number }, origin)?)
    };
    let mut features: Vec<Vec<f32>> = Vec::new();
    for probe in &influence.probes {
        let mut feature = vec![0f32; width];
        if let Some((_, record)) = index.records.get(&probe.id).and_then(|records| records.last_key_value()) {
            inputs(&index.blocks[record.block])?.decode(record.row, &mut feature);
        }
        features.push(feature);
    }

    let rows: HashMap<u64, usize> = influence.rows.iter().enumerate().map(|(i, row)| (row.example, i)).collect();
    let mut distances = vec![vec![f64::NAN; influence.rows.len()]; features.len()];
    let keep = |block: &Block| window.is_on(block) && window.touches(block);
    let gradient = WantedGradient::Input { layer: number, width, manifest: run.manifest() };
    let reader = RowReader { window, sweeps: &sweeps, rule: RULE, gradient };
    let mut left_out = sweeps.left_out();
    left_out.add(&index.left_out);
    let read = |block: &Block| {
        let mut left_out = LeftOut::default();
        let counting = reader.read(block)?.counting(&mut left_out);
        let mut found = Vec::with_capacity(counting.len());
        if !counting.is_empty() {
            let (examples, inputs) = (column::u64s(block, Column::Example)?, inputs(block)?);
            let mut feature = vec![0f32; width];
            for row in counting {
                inputs.decode(row, &mut feature);
                let excess = match inputs.encoding() {
                    Encoding::Signs => excess_of_signs(width, inputs.row(row).1.to_f32()),
                    _ => 0.0,
                };
                let from_probes: Vec<f64> = features.iter().map(|probe| distance(probe, &feature, excess)).collect();
                found.push((examples[row], from_probes));
            }
        }
        Ok((found, left_out))
    };
    let ReadTo(damage) = fold_each(run, progress, keep, read, |(found, more)| {
        left_out.add(&more);
        for (example, from_probes) in found {
            let Some(&row) = rows.get(&example) else { continue };
            distances.iter_mut().zip(from_probes).for_each(|(distances, distance)| distances[row] = distance);
        }
        Ok(())
    })?;

    let basis = Basis::of(run, window, sweeps.rows(), Uses::Outputs)?.with_left_out(&left_out);
    let name = layers.get(usize::from(number)).map_or_else(String::new, |layer| layer.name.clone());
    let correlate = |(probe, distances): (usize, Vec<f64>)| {
        let both = (0..influence.rows.len()).map(|row| (influence.score(row, probe), distances[row]));
        let (scores, far): (Vec<f64>, Vec<f64>) = both.filter(|(s, d)| s.is_finite() && d.is_finite()).unzip();
        let sizes: Vec<f64> = scores.iter().map(|score| score.abs()).collect();
        FeatureDistance {
            probe: influence.probes[probe].id,
            layer: name.clone(),
            width,
            examples: scores.len() as u64,
            size: spearman(&sizes, &far),
            score: spearman(&scores, &far),
            distances,
            basis: basis.clone(),
            left_out: left_out.clone(),
            damage: damage.clone().or_else(|| index.damage.clone()),
        }
    };
    Ok(distances.into_iter().enumerate().map(correlate).collect())
}

/// `‖a − b‖`, of which the square of `b` is too large by `excess`.
fn distance(a: &[f32], b: &[f32], excess: f64) -> f64 {
    let square = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    (square - excess).max(0.0).sqrt()
}
