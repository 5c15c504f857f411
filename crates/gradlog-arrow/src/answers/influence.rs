//! Influence of training examples on probes.

use super::{AnswerTable, Value};
use gradlog_analysis::Influence;

impl AnswerTable<'static> {
    /// Scores of one method, the strongest proponent first. Of one probe: `example`, `visits` or `checkpoints`,
    /// `score`, `error`, and `label` and `prediction` where they were recorded. Of several, probe after probe:
    /// `example`, `probe`, `score`, `error`. With `top`, each probe has at most `top` proponents and `top` opponents.
    pub fn of_influence(found: &Influence, top: Option<usize>) -> Self {
        let several = found.probes.len() > 1;
        let labels = !several && found.rows.iter().any(|row| row.label.is_some());
        let predictions = !several && found.rows.iter().any(|row| row.prediction.is_some());
        let mut columns = vec!["example"];
        columns.push(match (several, found.basis.is_sweeps()) {
            (true, _) => "probe",
            (false, true) => "checkpoints",
            (false, false) => "visits",
        });
        columns.extend(["score", "error"]);
        columns.extend(labels.then_some("label"));
        columns.extend(predictions.then_some("prediction"));
        let mut rows: Vec<Vec<Value>> = Vec::new();
        for (number, probe) in found.probes.iter().enumerate() {
            for row in ends(found, number, top) {
                let about = &found.rows[row];
                let mut values: Vec<Value> = vec![about.example.into()];
                values.push(if several { probe.id.into() } else { about.visits.into() });
                values.extend([found.score(row, number).into(), found.sketch_error(row, number).into()]);
                values.extend(labels.then(|| about.label.into()));
                values.extend(predictions.then(|| about.prediction.into()));
                rows.push(values);
            }
        }
        Self::new(columns, rows)
    }
}

/// The rows of a probe, from the strongest proponent to the strongest opponent. With `top`, at most `top` of each.
fn ends(found: &Influence, probe: usize, top: Option<usize>) -> Vec<usize> {
    let Some(top) = top else { return found.ranking(probe) };
    let mut rows = found.proponents(probe, top);
    let mut opponents = found.opponents(probe, top);
    opponents.retain(|row| !rows.contains(row));
    opponents.reverse();
    rows.extend(opponents);
    rows
}
