//! The visits of single examples: loss, margin, prediction at each.

use crate::error::CliError;
use crate::frame::Asked;
use crate::page::arrays;
use crate::page::limits::VISITS_MAX;
use gradlog_analysis::{Histories, HistoryQuestion};
use serde_json::{json, Value};

/// The curves of the chosen examples in the first run, of as many as the limit on visits allows. `visits_each` is how
/// many an example has on the mean.
pub(crate) fn read_histories(asked: &Asked<'_>, chosen: &[u64], visits_each: f64) -> Result<Value, CliError> {
    let most = (VISITS_MAX as f64 / visits_each.max(1.0)) as usize;
    let wanted = &chosen[..chosen.len().min(most)];
    let question = HistoryQuestion::new().examples(wanted.iter().copied()).share_progress(&asked.progress());
    let found = question.compute(asked.run())?;
    let mut part = history_arrays(&found);
    part["basis"] = json!(found.basis.to_string());
    Ok(part)
}

/// Curves as arrays: those of one example lie between two numbers of `start`.
pub(crate) fn history_arrays(found: &Histories) -> Value {
    let mut start = vec![0u32];
    for history in &found.histories {
        start.push(start.last().copied().unwrap_or(0).saturating_add(history.visits.len() as u32));
    }
    let visits = || found.histories.iter().flat_map(|history| &history.visits);
    let number = |value: Option<f32>| value.unwrap_or(f32::NAN);
    json!({
        "ids": arrays::ids(found.histories.iter().map(|history| history.id)),
        "start": arrays::u32s(start),
        "step": arrays::ids(visits().map(|visit| visit.step)),
        "epoch": arrays::u32s(visits().map(|visit| visit.epoch)),
        "loss": arrays::f32s(visits().map(|visit| number(visit.loss))),
        "margin": arrays::f32s(visits().map(|visit| number(visit.margin))),
        "confidence": arrays::f32s(visits().map(|visit| number(visit.confidence))),
        "correct": arrays::u8s(visits().map(|visit| match visit.correct {
            Some(correct) if correct <= 0.0 => 0,
            Some(correct) if correct >= 1.0 => 100,
            // A share of several predictions, and never taken for that of one.
            Some(correct) if correct.is_finite() => (correct * 100.0).round().clamp(1.0, 99.0) as u8,
            _ => u8::MAX,
        })),
        "prediction": arrays::labels(visits().map(|visit| visit.prediction)),
        "label": arrays::labels(visits().map(|visit| visit.label)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use gradlog_testing::{run_of, visits, Draws};

    #[test]
    fn a_share_of_several_predictions_is_never_that_of_one() {
        let mut all = visits(&mut Draws(1), 3, 1, 4);
        let shares = [0.0, 0.004, 0.5, 1.0];
        all.truncate(shares.len());
        for (visit, share) in all.iter_mut().zip(shares) {
            (visit.correct, visit.positions, visit.example) = (share, 300, 7);
        }
        all[3].correct = f32::NAN;
        let found = HistoryQuestion::new().compute(&run_of(&all, 10).run()).unwrap();
        let part = history_arrays(&found);
        let codes =
            base64::engine::general_purpose::STANDARD.decode(part["correct"]["bytes"].as_str().unwrap()).unwrap();
        assert_eq!(codes, [0, 1, 50, 255]);
    }
}
