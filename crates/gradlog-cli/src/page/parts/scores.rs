//! Every score: its histogram, and a table of the examples.

use crate::error::CliError;
use crate::frame::Asked;
use crate::page::arrays;
use crate::page::chosen::Chosen;
use crate::page::limits::{BINS, TABLE_ROWS_MAX};
use gradlog_analysis::{Score, ScoreQuestion};
use serde_json::{json, Value};
use std::collections::HashMap;

/// How many of the first of each score are named.
const NAMED: usize = 100;

/// The scores of all examples over all runs.
pub(crate) struct Scores {
    pub part: Value,
    /// The recorded label of each example that has one.
    pub labels: HashMap<u64, u32>,
    /// All examples, ascending.
    pub ids: Vec<u64>,
    /// How many examples have different labels in different runs, and the first of these.
    pub labels_differ: (u64, Vec<u64>),
}

/// Computes every score that the runs can give.
pub(crate) fn scores_part(asked: &Asked<'_>, chosen: &mut Chosen) -> Result<Scores, CliError> {
    let (mut labels, mut predictions) = (HashMap::new(), HashMap::new());
    let mut ids: Vec<u64> = Vec::new();
    let mut labels_differ = (0, Vec::new());
    let (mut about, mut missing, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    for score in Score::ALL {
        let question = ScoreQuestion::new(score).share_progress(&asked.progress());
        let table = match question.compute_over(&asked.runs) {
            Ok(table) => table,
            Err(error) if super::is_about_the_run(&error) => {
                missing.push(json!({ "score": score.name(), "why": error.to_string() }));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if ids.is_empty() {
            ids = table.rows.iter().map(|row| row.example).collect();
            ids.sort_unstable();
        }
        if table.labels_differ > labels_differ.0 {
            let mut differing: Vec<u64> =
                table.rows.iter().filter(|row| row.labels_differ).map(|row| row.example).collect();
            differing.sort_unstable();
            differing.truncate(5);
            labels_differ = (table.labels_differ, differing);
        }
        for row in &table.rows {
            labels.extend(row.label.map(|label| (row.example, label)));
            predictions.extend(row.prediction.map(|prediction| (row.example, prediction)));
        }
        chosen.name(table.rows.iter().take(NAMED).map(|row| row.example));
        about.push(describe_score(score, &table.basis_words(), table.rows.iter().map(|row| row.score)));
        let values: HashMap<u64, f32> = table.rows.iter().map(|row| (row.example, row.score as f32)).collect();
        tables.push((score, values));
    }
    let shown: Vec<u64> = match ids.len() > TABLE_ROWS_MAX {
        true => chosen.ids().iter().copied().take(TABLE_ROWS_MAX).collect(),
        false => ids.clone(),
    };
    let columns: serde_json::Map<String, Value> = tables
        .iter()
        .map(|(score, values)| {
            let column = shown.iter().map(|id| values.get(id).copied().unwrap_or(f32::NAN));
            (score.name().to_owned(), arrays::f32s(column))
        })
        .collect();
    let part = json!({
        "examples": ids.len(),
        "scores": about,
        "missing_scores": missing,
        "ids": arrays::ids(shown.iter().copied()),
        "shown": shown.len(),
        "label": arrays::labels(shown.iter().map(|id| labels.get(id).copied())),
        "prediction": arrays::labels(shown.iter().map(|id| predictions.get(id).copied())),
        "columns": columns,
    });
    Ok(Scores { part, labels, ids, labels_differ })
}

/// What a score is, what it rests on, and how it is distributed.
pub(crate) fn describe_score(score: Score, basis: &str, values: impl Iterator<Item = f64>) -> Value {
    let (values, others): (Vec<f64>, Vec<f64>) = values.partition(|value| value.is_finite());
    let infinite = others.iter().filter(|value| value.is_infinite()).count();
    json!({
        "score": score.name(),
        "about": score.description(),
        "lowest_first": score.order() == gradlog_analysis::Order::LowestFirst,
        "basis": basis,
        "histogram": histogram(&values),
        "infinite": infinite,
    })
}

/// Counts in equal bins between the smallest and the largest value; by the logarithm, if all are positive and the
/// largest is more than 30 times the median.
fn histogram(values: &[f64]) -> Value {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Value::Null };
    let middle = sorted[sorted.len() / 2];
    let is_logarithmic = least > 0.0 && most / middle > 30.0;
    let scale = |value: f64| if is_logarithmic { value.log10() } else { value };
    let (from, to) = (scale(least), scale(most));
    let width = (to - from) / BINS as f64;
    let mut counts = vec![0u64; BINS];
    for value in &sorted {
        let place = if width > 0.0 { ((scale(*value) - from) / width) as usize } else { 0 };
        counts[place.min(BINS - 1)] += 1;
    }
    json!({ "from": from, "to": to, "logarithmic": is_logarithmic, "counts": counts, "median": middle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bin() {
        let counts = |values: &[f64]| -> Vec<u64> {
            histogram(values)["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect()
        };
        let even: Vec<f64> = (0..600).map(f64::from).collect();
        assert!(counts(&even).iter().all(|count| (9..=11).contains(count)));
        assert_eq!(counts(&[2.0, 2.0])[0], 2);
        assert!(histogram(&[]).is_null());
        let wide = histogram(&[0.001, 0.01, 0.02, 100.0]);
        assert_eq!((wide["logarithmic"].as_bool(), wide["from"].as_f64()), (Some(true), Some(-3.0)));
        assert_eq!(wide["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 4);
    }
}
