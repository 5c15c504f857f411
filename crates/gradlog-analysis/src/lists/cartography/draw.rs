//! From confidence and correctness to the map and its regions.

use super::data_map::{DataMap, DataMapRow};
use super::question::MapQuestion;
use crate::scores::order::suspicious_first;
use crate::{AnalysisError, Basis, Extra, OptimizerChoice, Order, OverRuns, Score};
use gradlog_format::run::Run;
use std::collections::HashMap;

/// Draws the map of some runs.
pub(super) fn draw_map(runs: &[&Run], asked: &MapQuestion) -> Result<DataMap, AnalysisError> {
    let MapQuestion { share, window, progress, examples } = asked;
    let (share, window) = (*share, &window.with_share(*examples));
    if !(0.0..=1.0).contains(&share) {
        let (given, range) = (share.to_string(), "between 0 and 1".into());
        return Err(AnalysisError::OutOfRange { what: "the share of each region", given, range });
    }
    // Neither score goes by steps.
    let of_visits = (window, OptimizerChoice::default());
    let confidence = Score::Confidence.compute_over_runs(runs, of_visits, OverRuns::Mean, progress)?;
    let correct = match Score::Correctness.compute_over_runs(runs, of_visits, OverRuns::Mean, progress) {
        Ok(table) => Some(table),
        Err(error) if error.is_about_what_was_recorded() => None,
        Err(error) => return Err(error),
    };
    let correctness: HashMap<u64, f64> =
        correct.iter().flat_map(|table| &table.rows).map(|row| (row.example, row.score)).collect();
    let examples = confidence.rows.len();
    let visits = confidence.visits();
    let mut left_out = confidence.left_out();
    let mut bases: Vec<Basis> = confidence.runs.iter().map(|part| part.basis.clone()).collect();
    let parts = confidence.runs.iter().chain(correct.iter().flat_map(|table| &table.runs));
    let damage = parts.into_iter().find_map(|part| part.damage.clone());
    let mut rows: Vec<DataMapRow> = confidence
        .rows
        .into_iter()
        .filter(|row| !row.score.is_nan())
        .map(|row| DataMapRow {
            example: row.example,
            runs: row.runs,
            visits: row.visits,
            confidence: row.score,
            variability: match row.extra("variability") {
                Some(Extra::Number(variability)) => variability,
                _ => f64::NAN,
            },
            correctness: correctness.get(&row.example).copied().unwrap_or(f64::NAN),
            easy: false,
            ambiguous: false,
            hard: false,
            label: row.label,
        })
        .collect();
    rows.sort_by(|a, b| a.confidence.total_cmp(&b.confidence).then(a.example.cmp(&b.example)));
    let count = (share * rows.len() as f64).round() as usize;
    mark(&mut rows, count, Order::HighestFirst, |row| row.confidence, |row| row.easy = true);
    mark(&mut rows, count, Order::LowestFirst, |row| row.confidence, |row| row.hard = true);
    mark(&mut rows, count, Order::HighestFirst, |row| row.variability, |row| row.ambiguous = true);
    let unscored = (examples - rows.len()) as u64;
    left_out.examples += unscored;
    // An example without a score has none in any run.
    if let Some(first) = bases.first_mut() {
        first.left_out.examples += unscored;
    }
    Ok(DataMap { bases, share, runs: runs.len() as u64, visits, left_out, rows, damage })
}

/// Marks the first `count` rows in an order. Equal ones go together: they are marked if more than half of them are
/// among these.
fn mark(rows: &mut [DataMapRow], count: usize, order: Order, value: fn(&DataMapRow) -> f64, mark: fn(&mut DataMapRow)) {
    let mut sorted: Vec<usize> = (0..rows.len()).collect();
    sorted.sort_by(|&a, &b| {
        suspicious_first(order, value(&rows[a]), value(&rows[b])).then(rows[a].example.cmp(&rows[b].example))
    });
    let mut first = 0;
    while let Some(&row) = sorted.get(first) {
        let own = value(&rows[row]);
        // Adding zero makes -0 and 0 the same.
        let is_equal = |other: &&usize| (value(&rows[**other]) + 0.0).to_bits() == (own + 0.0).to_bits();
        let end = first + sorted[first..].iter().take_while(is_equal).count().max(1);
        if (first + end) as f64 / 2.0 < count as f64 {
            sorted[first..end].iter().for_each(|row| mark(&mut rows[*row]));
        }
        first = end;
    }
}
