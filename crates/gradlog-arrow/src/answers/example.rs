//! The curve of one example.

use super::{AnswerTable, Value};
use gradlog_analysis::ExampleVisit;

/// One column for each number of a visit.
const COLUMNS: [&str; 13] = [
    "step",
    "epoch",
    "loss",
    "margin",
    "el2n",
    "confidence",
    "correct",
    "label",
    "prediction",
    "squared_norm",
    "norm_estimated",
    "learning_rate",
    "coefficient",
];

impl AnswerTable<'_> {
    /// The visits of one example: `step`, `epoch`, `loss`, `margin`, `el2n`, `confidence`, `correct`, `label`,
    /// `prediction`, `squared_norm`, `norm_estimated`, `learning_rate`, `coefficient`. A number is the shortest that
    /// stands for the recorded f32.
    pub fn of_example(visits: Vec<ExampleVisit>) -> Self {
        Self::new(COLUMNS.to_vec(), visits.into_iter().map(visit_values))
    }
}

fn visit_values(visit: ExampleVisit) -> Vec<Value> {
    vec![
        visit.step.into(),
        visit.epoch.into(),
        number_value(visit.loss),
        number_value(visit.margin),
        number_value(visit.el2n),
        number_value(visit.confidence),
        number_value(visit.correct),
        visit.label.into(),
        visit.prediction.into(),
        square_value(visit.squared_norm),
        visit.squared_norm.map(|_| visit.is_norm_estimated).into(),
        number_value(visit.learning_rate),
        number_value(visit.coefficient),
    ]
}

/// A square, which may be smaller than an f32 holds.
fn square_value(square: Option<f64>) -> Value {
    match square {
        Some(small) if small != 0.0 && small < f64::from(f32::MIN_POSITIVE) => Some(small).into(),
        other => number_value(other.map(|square| square as f32)),
    }
}

/// A recorded number with as many digits as an f32 needs: 0.1, and not 0.10000000149011612.
fn number_value(number: Option<f32>) -> Value {
    number.map(|number| number.to_string().parse().unwrap_or(f64::from(number))).into()
}
