//! Tables of lists of examples: suspects, the data map, what is kept, what is flagged.

use super::{AnswerTable, Value};
use gradlog_analysis::{DataMapRow, FlaggedRow, Kept, Score, Suspect};

impl AnswerTable<'_> {
    /// Suspects: `example`, `suspicion`, `runs`, `visits`, `label`, `proposed`, `reasons`, and before the reasons, if
    /// `signals` are given, the value of each.
    pub fn of_suspects(rows: Vec<Suspect>, signals: Option<&[Score]>) -> Self {
        let with_values = signals.is_some();
        let mut columns = vec!["example", "suspicion", "runs", "visits", "label", "proposed"];
        columns.extend(signals.into_iter().flatten().map(|signal| signal.name()));
        columns.push("reasons");
        let values = move |row: Suspect| {
            let mut values: Vec<Value> =
                vec![row.example.into(), row.suspicion.into(), row.runs.into(), row.visits.into()];
            values.extend([Value::from(row.label), row.proposed.into()]);
            if with_values {
                values.extend(row.values.iter().map(|signal| Value::from(signal.value)));
            }
            values.push(row.reasons.join("; ").into());
            values
        };
        Self::new(columns, rows.into_iter().map(values))
    }

    /// A data map: `example`, `runs`, `visits`, `confidence`, `variability`, `correctness`, `easy`, `ambiguous`,
    /// `hard`, and `label` where it was recorded.
    pub fn of_data_map(rows: Vec<DataMapRow>) -> Self {
        let labels = rows.iter().any(|row| row.label.is_some());
        let mut columns =
            vec!["example", "runs", "visits", "confidence", "variability", "correctness", "easy", "ambiguous", "hard"];
        columns.extend(labels.then_some("label"));
        let values = move |row: DataMapRow| {
            let mut values: Vec<Value> = vec![row.example.into(), row.runs.into(), row.visits.into()];
            values.extend([row.confidence, row.variability, row.correctness].map(Value::from));
            values.extend([row.easy, row.ambiguous, row.hard].map(Value::from));
            values.extend(labels.then(|| row.label.into()));
            values
        };
        Self::new(columns, rows.into_iter().map(values))
    }

    /// Examples that are kept: `example`, `rank`, `score`, `runs`, and `label` where it was recorded.
    pub fn of_kept(rows: Vec<Kept>) -> Self {
        let labels = rows.iter().any(|row| row.label.is_some());
        let mut columns = vec!["example", "rank", "score", "runs"];
        columns.extend(labels.then_some("label"));
        let values = move |row: Kept| {
            let mut values: Vec<Value> = vec![row.example.into(), row.rank.into(), row.score.into(), row.runs.into()];
            values.extend(labels.then(|| row.label.into()));
            values
        };
        Self::new(columns, rows.into_iter().map(values))
    }

    /// Examples and whether threshold samples flag them: `example`, `flagged`, `judged`, `below`, `visits`, `aum`,
    /// `above_cut`, and `label` and `prediction` where they were recorded.
    pub fn of_flagged(rows: Vec<FlaggedRow>) -> Self {
        let labels = rows.iter().any(|row| row.label.is_some());
        let predictions = rows.iter().any(|row| row.prediction.is_some());
        let mut columns = vec!["example", "flagged", "judged", "below", "visits", "aum", "above_cut"];
        columns.extend(labels.then_some("label"));
        columns.extend(predictions.then_some("prediction"));
        let values = move |row: FlaggedRow| {
            let mut values: Vec<Value> =
                vec![row.example.into(), row.flagged.into(), row.judged.into(), row.below.into()];
            values.extend([Value::from(row.visits), row.aum.into(), row.above_cut.into()]);
            values.extend(labels.then(|| row.label.into()));
            values.extend(predictions.then(|| row.prediction.into()));
            values
        };
        Self::new(columns, rows.into_iter().map(values))
    }
}
