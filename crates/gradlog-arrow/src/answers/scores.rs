//! Tables of scores, of one run or of several.

use super::{AnswerTable, Value};
use gradlog_analysis::{Extra, Extras, RunsRow, Score, ScoreRow};

/// A row of a score.
#[derive(Debug, Clone)]
pub struct ScoredExample {
    example: u64,
    runs: u64,
    visits: u64,
    /// The score.
    pub score: f64,
    spread: f64,
    extras: Extras,
    not_finite: u64,
    label: Option<u32>,
    prediction: Option<u32>,
}

impl From<ScoreRow> for ScoredExample {
    fn from(row: ScoreRow) -> Self {
        let ScoreRow { example, visits, score, not_finite, extras, label, prediction, .. } = row;
        Self { example, runs: 1, visits, score, spread: f64::NAN, extras, not_finite, label, prediction }
    }
}

impl From<RunsRow> for ScoredExample {
    fn from(row: RunsRow) -> Self {
        let RunsRow { example, runs, visits, score, spread, extras, not_finite, label, prediction, .. } = row;
        Self { example, runs, visits, score, spread, extras, not_finite, label, prediction }
    }
}

impl AnswerTable<'_> {
    /// Scores of examples: `example`, `runs` (of several), `visits` or `checkpoints`, `score`, `spread` (of several),
    /// what else the score counts, `not_finite`, and `label` and `prediction` where they were recorded.
    pub fn of_scores(score: Score, rows: Vec<ScoredExample>, several: bool, is_on_sweeps: bool) -> Self {
        let labels = rows.iter().any(|row| row.label.is_some());
        let predictions = rows.iter().any(|row| row.prediction.is_some());
        let mut columns = vec!["example"];
        columns.extend(several.then_some("runs"));
        // Rows of a sweep are no visits, and are not called so.
        columns.push(if is_on_sweeps { "checkpoints" } else { "visits" });
        columns.push("score");
        columns.extend(several.then_some("spread"));
        columns.extend(score.extras());
        columns.push("not_finite");
        columns.extend(labels.then_some("label"));
        columns.extend(predictions.then_some("prediction"));
        let values = move |row: ScoredExample| {
            let mut values: Vec<Value> = vec![row.example.into()];
            values.extend(several.then(|| row.runs.into()));
            values.extend([row.visits.into(), row.score.into()]);
            values.extend(several.then(|| row.spread.into()));
            values.extend(row.extras.values().iter().map(extra_value));
            values.push(row.not_finite.into());
            values.extend(labels.then(|| row.label.into()));
            values.extend(predictions.then(|| row.prediction.into()));
            values
        };
        Self::new(columns, rows.into_iter().map(values))
    }
}

fn extra_value(extra: &Extra) -> Value {
    match *extra {
        Extra::Count(count) => Value::Integer(count),
        Extra::Number(number) => Value::Number(number),
        Extra::Flag(flag) => Value::Flag(flag),
        _ => Value::Nothing,
    }
}
