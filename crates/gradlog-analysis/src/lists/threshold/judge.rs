//! From the AUM of each run to its cut, and from the cuts to verdicts.

use super::answer::{Flagged, FlaggedRow, ThresholdRun};
use super::question::ThresholdQuestion;
use super::samples::ThresholdIds;
use crate::scores::order::suspicious_first;
use crate::scores::over_runs::{most_voted, name_run, refuse_same_run};
use crate::{AnalysisError, LeftOut, OptimizerChoice, Order, Score, ScoreTable};
use gradlog_format::run::Run;
use std::collections::{BTreeMap, HashSet};

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

/// Judges every example of the runs against each run's threshold samples.
pub(super) fn judge_examples(runs: &[&Run], asked: &ThresholdQuestion) -> Result<Flagged, AnalysisError> {
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
        let table = Score::Aum
            .compute_table(run, (window, OptimizerChoice::default()), progress)
            .map_err(name_run(runs, number))?;
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
