//! Labels that are probably wrong, and why.

use crate::error::CliError;
use crate::frame::Asked;
use crate::page::chosen::Chosen;
use crate::page::limits::SUSPECTS_MAX;
use gradlog_analysis::{Basis, Suspect, SuspectQuestion};
use serde_json::{json, Value};
use std::collections::BTreeMap;

/// The suspects over all runs; names them.
pub(crate) fn suspects_part(asked: &Asked<'_>, chosen: &mut Chosen) -> Result<Value, CliError> {
    let found = SuspectQuestion::new().share_progress(&asked.progress()).compute_over(&asked.runs)?;
    let shown = &found.rows[..found.rows.len().min(SUSPECTS_MAX)];
    chosen.name(shown.iter().map(|row| row.example));
    let mut pairs: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for row in &found.rows {
        if let (Some(label), Some(proposed)) = (row.label, row.proposed) {
            *pairs.entry((label, proposed)).or_default() += 1;
        }
    }
    let missing: Vec<Value> =
        found.missing_signals.iter().map(|(score, why)| json!({ "score": score.name(), "why": why })).collect();
    Ok(json!({
        "basis": Basis::describe_all(&found.bases),
        "examples": found.rows.len(),
        "signals": found.signals.iter().map(|score| score.name()).collect::<Vec<_>>(),
        "missing_signals": missing,
        "labels_differ": found.labels_differ,
        "confused": pairs.into_iter().map(|((label, proposed), count)| json!([label, proposed, count])).collect::<Vec<_>>(),
        "rows": shown.iter().map(suspect_row).collect::<Vec<_>>(),
    }))
}

fn suspect_row(row: &Suspect) -> Value {
    let rounded = |value: f64| if value.is_finite() { json!((value * 1e4).round() / 1e4) } else { Value::Null };
    json!({
        "id": row.example.to_string(),
        "suspicion": rounded(row.suspicion),
        "label": row.label,
        "proposed": row.proposed,
        "visits": row.visits,
        "reasons": row.reasons,
        "values": row.values.iter().map(|signal| rounded(signal.value)).collect::<Vec<_>>(),
        "ranks": row.values.iter().map(|signal| rounded(signal.rank)).collect::<Vec<_>>(),
    })
}
