//! Loss, accuracy, learned and forgotten, of each run and each probe set.

use crate::error::CliError;
use crate::frame::Asked;
use gradlog_analysis::{CurveQuestion, Curves};
use serde_json::{json, Value};

/// The curves of all runs.
pub(crate) fn curves_part(asked: &Asked<'_>) -> Result<Value, CliError> {
    let mut runs = Vec::new();
    for run in &asked.runs {
        let found = CurveQuestion::new().share_progress(&asked.progress()).compute(run)?;
        runs.push(curves_of_run(&found));
    }
    Ok(json!({ "runs": runs }))
}

fn curves_of_run(found: &Curves) -> Value {
    let points: Vec<Value> = found
        .points
        .iter()
        .map(|point| {
            json!({
                "epoch": point.epoch,
                "steps": [point.steps.start(), point.steps.end()],
                "visits": point.visits,
                "loss": point.loss,
                "correct": point.correct,
                "learned": point.learned,
                "forgotten": point.forgotten,
            })
        })
        .collect();
    let probes: Vec<Value> = found
        .probes
        .iter()
        .map(|set| {
            let points: Vec<Value> = set
                .points
                .iter()
                .map(|point| {
                    json!({
                        "step": point.step, "epoch": point.epoch, "probes": point.probes,
                        "loss": point.loss, "correct": point.correct,
                    })
                })
                .collect();
            json!({ "set": set.set, "points": points })
        })
        .collect();
    json!({ "by_epoch": found.by_epoch, "points": points, "probes": probes, "basis": found.basis.to_string() })
}
