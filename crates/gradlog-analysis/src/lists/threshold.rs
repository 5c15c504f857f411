//! Threshold samples: where AUM draws the line (Pleiss et al. 2020, arXiv 2001.10528, §3.2).
//!
//! AUM ranks examples; threshold samples say where in the ranking wrong labels end. Of `N` examples in `c` classes,
//! `N/(c+1)` are given a label that nobody has, the extra class `c`, and the model is trained with `c + 1` outputs.
//! They are mislabeled for certain, so the 99th percentile of their AUM is the cut: an example below it behaves like
//! one with a wrong label. A threshold sample cannot be judged in its own run, so one trains twice with two disjoint
//! sets.
//!
//! An example is flagged if it lies below the cut in every run that judges it, as in the authors' code (`runner.py`
//! removes what has a mean verdict of one). The percentile interpolates between order statistics, as numpy does. The
//! authors leave out the first epoch and stop before the first drop of the learning rate: give a window.

use crate::scores::order::suspicious_first;
use crate::scores::over_runs::{most_voted, name_run, refuse_same_run};
use crate::{AnalysisError, Basis, LeftOut, Order, Progress, Score, ScoreTable, Window};
use gradlog_format::run::{Damage, Run};
use gradlog_format::sketch::draw;
use std::collections::{BTreeMap, HashSet};

/// Two disjoint sets of threshold samples, for two runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThresholdSamples {
    /// The extra class: the number of classes there are without it.
    pub class: u32,
    /// The samples of the first run and of the second, ascending.
    pub sets: [Vec<u64>; 2],
}

impl ThresholdSamples {
    /// Draws two sets of `N/(classes + 1)` examples each, rounded down.
    ///
    /// ```
    /// use gradlog_analysis::ThresholdSamples;
    ///
    /// let ids: Vec<u64> = (0..110).collect();
    /// let samples = ThresholdSamples::draw(&ids, 10, 7)?;
    /// assert_eq!((samples.class, samples.sets[0].len(), samples.sets[1].len()), (10, 10, 10));
    /// let first = samples.sets[0][0];
    /// assert_eq!((samples.label(0, first, 3), samples.label(1, first, 3)), (Some(10), Some(3)));
    /// # Ok::<(), gradlog_analysis::AnalysisError>(())
    /// ```
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] with fewer than `classes + 1` different examples, or without classes.
    pub fn draw(examples: &[u64], classes: u32, seed: u64) -> Result<Self, AnalysisError> {
        let mut drawn = examples.to_vec();
        drawn.sort_unstable();
        drawn.dedup();
        let count = (drawn.len() as u64 / (u64::from(classes) + 1)) as usize;
        if classes == 0 || count == 0 {
            let (examples, least) = (drawn.len(), u64::from(classes) + 1);
            let (what, given, range) = match classes {
                0 => ("the number of classes", 0, "at least 1".into()),
                _ => ("the number of examples", examples, format!("at least {least} for {classes} classes")),
            };
            return Err(AnalysisError::OutOfRange { what, given: given.to_string(), range });
        }
        drawn.sort_by_key(|&example| (draw(seed, example), example));
        let set = |from: usize| {
            let mut set = drawn[from..from + count].to_vec();
            set.sort_unstable();
            set
        };
        Ok(Self { class: classes, sets: [set(0), set(count)] })
    }

    /// The label to train with in run `run`, 0 or 1: the extra class for its threshold samples, else `label`.
    /// `None` if `run` is neither 0 nor 1.
    pub fn label(&self, run: usize, example: u64, label: u32) -> Option<u32> {
        let set = self.sets.get(run)?;
        Some(if set.binary_search(&example).is_ok() { self.class } else { label })
    }
}

/// How the threshold samples of a run are known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThresholdIds {
    /// By the label that they were recorded with: the extra class.
    Class(u32),
    /// By their ids, a set for each run.
    Sets(Vec<Vec<u64>>),
}

impl From<ThresholdSamples> for ThresholdIds {
    /// A set for each of the two runs, in the order in which they were drawn.
    fn from(samples: ThresholdSamples) -> Self {
        Self::Sets(samples.sets.into())
    }
}

/// Asks which labels AUM finds wrong, by threshold samples (Pleiss et al. 2020, arXiv 2001.10528, §3.2).
///
/// A run's cut is the percentile of its threshold samples' AUM, interpolated between order statistics as numpy does. An
/// example is flagged if its AUM lies below the cut in every run that judges it; a run does not judge its own threshold
/// samples.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ThresholdQuestion {
    samples: ThresholdIds,
    percentile: f64,
    window: Window,
    progress: Progress,
}

window_options!(ThresholdQuestion);
source_options!(ThresholdQuestion);
progress_options!(ThresholdQuestion);

impl ThresholdQuestion {
    /// The paper's percentile.
    pub const PERCENTILE: f64 = 99.0;

    /// With these threshold samples and the paper's percentile, over all visits.
    pub fn new(samples: impl Into<ThresholdIds>) -> Self {
        Self {
            samples: samples.into(),
            percentile: Self::PERCENTILE,
            window: Window::default(),
            progress: Progress::default(),
        }
    }

    /// The percentile of the threshold samples' AUM that is the cut, 0 to 100.
    #[must_use]
    pub fn percentile(mut self, percentile: f64) -> Self {
        self.percentile = percentile;
        self
    }

    /// Judges the examples of one run, but for its own threshold samples.
    ///
    /// # Errors
    /// As [`ThresholdQuestion::compute_over`].
    ///
    /// # Cost
    /// As [`ThresholdQuestion::compute_over`].
    pub fn compute(&self, run: &Run) -> Result<Flagged, AnalysisError> {
        self.compute_over(&[run])
    }

    /// Judges every example of the runs against each run's threshold samples.
    ///
    /// # Errors
    /// Those of [`ScoreQuestion::compute`](crate::ScoreQuestion::compute) with AUM, with the name of the run;
    /// [`AnalysisError::SameRun`]; [`AnalysisError::NoThreshold`] if a run has no threshold sample with an AUM;
    /// [`AnalysisError::OutOfRange`] if the percentile is not between 0 and 100 or there is not one set for each run.
    ///
    /// # Cost
    /// One pass over the margins of each run; memory about 300 bytes per example.
    pub fn compute_over(&self, runs: &[&Run]) -> Result<Flagged, AnalysisError> {
        self.window.refuse_outside(runs)?;
        judge_examples(runs, self)
    }
}

/// Which examples AUM finds mislabeled.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Flagged {
    /// The percentile of the threshold samples' AUM that is the cut.
    pub percentile: f64,
    /// What each run gave.
    pub runs: Vec<ThresholdRun>,
    /// One row per example that some run judges, the most suspicious first: by the mean of AUM minus cut, ties by id.
    pub rows: Vec<FlaggedRow>,
    /// Examples that no run can judge: threshold samples wherever they have a usable visit, or without any. Ascending.
    pub unjudged: Vec<u64>,
    /// What was left out in all runs, by the reason; its examples are the unjudged.
    pub left_out: LeftOut,
}

/// One run with threshold samples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ThresholdRun {
    /// What its AUM rests on. If it is sweeps, "visits" are rows of these.
    pub basis: Basis,
    /// Its threshold samples with an AUM.
    pub samples: u64,
    /// The examples that it judges.
    pub judged: u64,
    /// The cut.
    pub cut: f64,
    /// What was left out of its AUM, by the reason.
    pub left_out: LeftOut,
    /// Where it stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// The verdict on an example.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FlaggedRow {
    /// Its id.
    pub example: u64,
    /// Runs that judge it.
    pub judged: u64,
    /// Of these, runs in which it lies below the cut.
    pub below: u64,
    /// Whether that is all of them: the verdict.
    pub flagged: bool,
    /// Visits in the runs that judge it.
    pub visits: u64,
    /// Mean AUM over the runs that judge it.
    pub aum: f64,
    /// Mean over these runs of AUM minus the run's cut; negative means below.
    pub above_cut: f64,
    /// Recorded label at the last visit in the last of these runs.
    pub label: Option<u32>,
    /// The class predicted at the last visit in most of these runs; of several, the lowest.
    pub prediction: Option<u32>,
}

#[derive(Default)]
struct Judged {
    runs: u64,
    below: u64,
    visits: u64,
    aum: f64,
    above_cut: f64,
    label: Option<u32>,
    predictions: Vec<(u32, u64)>,
}

impl Flagged {
    /// How many examples are flagged.
    pub fn count_flagged(&self) -> u64 {
        self.rows.iter().filter(|row| row.flagged).count() as u64
    }
}

fn judge_examples(runs: &[&Run], asked: &ThresholdQuestion) -> Result<Flagged, AnalysisError> {
    let ThresholdQuestion { samples, percentile, window, progress } = asked;
    let percentile = *percentile;
    refuse_same_run(runs)?;
    if !(0.0..=100.0).contains(&percentile) {
        let (given, range) = (percentile.to_string(), "between 0 and 100".into());
        return Err(AnalysisError::OutOfRange { what: "the percentile", given, range });
    }
    if let ThresholdIds::Sets(sets) = samples {
        if sets.len() != runs.len() {
            let (sets, runs) = (sets.len(), runs.len());
            let (given, range) = (sets.to_string(), format!("{runs}, one for each run, in their order"));
            return Err(AnalysisError::OutOfRange { what: "the number of sets of threshold samples", given, range });
        }
    }
    let mut all: BTreeMap<u64, Judged> = BTreeMap::new();
    let mut parts = Vec::with_capacity(runs.len());
    let mut left_out = LeftOut::default();
    for (number, run) in runs.iter().enumerate() {
        let table = Score::Aum.compute_table(run, window, progress).map_err(name_run(runs, number))?;
        let is_sample: Vec<bool> = match samples {
            ThresholdIds::Class(class) => table.rows.iter().map(|row| row.label == Some(*class)).collect(),
            ThresholdIds::Sets(sets) => {
                let set: HashSet<u64> = sets[number].iter().copied().collect();
                table.rows.iter().map(|row| set.contains(&row.example)).collect()
            }
        };
        left_out.add(&table.left_out);
        let part =
            add_verdicts(&table, &is_sample, percentile, &mut all).ok_or_else(|| AnalysisError::NoThreshold {
                run: run.dir().display().to_string(),
                known: match samples {
                    ThresholdIds::Class(class) => format!("recorded with label {class}"),
                    ThresholdIds::Sets(_) => "of those handed in".into(),
                },
            })?;
        parts.push(part);
    }
    let unjudged: Vec<u64> = all.iter().filter(|(_, entry)| entry.runs == 0).map(|(example, _)| *example).collect();
    let mut rows: Vec<FlaggedRow> = all.into_iter().filter(|(_, entry)| entry.runs > 0).map(make_row).collect();
    rows.sort_by(|a, b| suspicious_first(Order::LowestFirst, a.above_cut, b.above_cut).then(a.example.cmp(&b.example)));
    left_out.examples += unjudged.len() as u64;
    // No run judges them.
    if let Some(first) = parts.first_mut() {
        first.basis.left_out.examples += unjudged.len() as u64;
    }
    Ok(Flagged { percentile, runs: parts, rows, unjudged, left_out })
}

/// Adds the verdicts of one run; `None` if it has no threshold sample with an AUM.
fn add_verdicts(
    table: &ScoreTable,
    is_sample: &[bool],
    percentile: f64,
    all: &mut BTreeMap<u64, Judged>,
) -> Option<ThresholdRun> {
    let usable = || table.rows.iter().zip(is_sample).filter(|(row, _)| !row.score.is_nan());
    let mut samples: Vec<f64> = usable().filter(|(_, sample)| **sample).map(|(row, _)| row.score).collect();
    samples.sort_by(f64::total_cmp);
    let cut = quantile(&samples, percentile / 100.0)?;
    table.rows.iter().for_each(|row| {
        all.entry(row.example).or_default();
    });
    let mut judged = 0;
    for (row, _) in usable().filter(|(_, sample)| !**sample) {
        let entry = all.entry(row.example).or_default();
        judged += 1;
        entry.runs += 1;
        entry.below += u64::from(row.score < cut);
        entry.visits += row.visits;
        entry.aum += row.score;
        entry.above_cut += row.score - cut;
        entry.label = row.label.or(entry.label);
        if let Some(class) = row.prediction {
            match entry.predictions.iter_mut().find(|(known, _)| *known == class) {
                Some((_, votes)) => *votes += 1,
                None => entry.predictions.push((class, 1)),
            }
        }
    }
    let (basis, samples) = (table.basis.clone(), samples.len() as u64);
    let (left_out, damage) = (table.left_out.clone(), table.damage.clone());
    Some(ThresholdRun { basis, samples, judged, cut, left_out, damage })
}

fn make_row((example, entry): (u64, Judged)) -> FlaggedRow {
    let runs = entry.runs as f64;
    FlaggedRow {
        example,
        judged: entry.runs,
        below: entry.below,
        flagged: entry.below == entry.runs,
        visits: entry.visits,
        aum: entry.aum / runs,
        above_cut: entry.above_cut / runs,
        label: entry.label,
        prediction: most_voted(&entry.predictions),
    }
}

/// The quantile `q` of ascending numbers, between two of them on the line that joins them; `None` of none.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q * sorted.len().checked_sub(1)? as f64;
    let below = place.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests;
