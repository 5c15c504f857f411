//! What was recorded, run by run, in the words of `gradlog info`.

use crate::error::CliError;
use crate::frame::{missing_workers, Asked};
use crate::page::limits::{DETAILED_PROBES_MAX, EVENTS_MAX, SUSPECTS_MAX};
use crate::report::printable;
use crate::verbs::info::Contents;
use gradlog_analysis::{EventSummary, RunSummary};
use gradlog_format::run::{EventRecord, ReadError, Run};
use serde_json::{json, Value};

/// What is in the runs.
pub(crate) struct Head {
    pub part: Value,
    pub first: RunSummary,
    pub damage: Vec<gradlog_format::run::Damage>,
}

impl Head {
    /// The part, with what else a reader should know.
    ///
    /// # Errors
    /// What of the workers cannot be read.
    pub(crate) fn finish(&self, asked: &Asked<'_>, notes: &[String]) -> Result<Value, CliError> {
        let mut part = self.part.clone();
        part["notes"] = json!(notes);
        part["workers"] = json!(missing_workers(asked.run())?);
        part["limits"] = json!({ "suspects": SUSPECTS_MAX, "detailed_probes": DETAILED_PROBES_MAX });
        Ok(part)
    }

    /// The name of the first run.
    pub(crate) fn name(&self) -> &str {
        self.part["runs"][0]["name"].as_str().unwrap_or("a run")
    }
}

/// Reads what the runs hold.
pub(crate) fn head_part(asked: &Asked<'_>) -> Result<Head, CliError> {
    let (mut runs, mut damage, mut first) = (Vec::new(), Vec::new(), None);
    for run in &asked.runs {
        let contents = Contents::read(run, &asked.progress())?;
        let summary = contents.summary();
        let facts: Vec<[String; 2]> =
            contents.facts().into_iter().map(|(name, what)| [name.to_owned(), what]).collect();
        let layers: Vec<Value> = summary
            .layers
            .iter()
            .map(|layer| json!([layer.name, layer.kind, layer.parameters, layer.form.to_string()]))
            .collect();
        let notes = &run.manifest().notes;
        runs.push(json!({
            "name": run_name(run),
            "path": printable(&run.dir().display().to_string()),
            "id": hex(&run.manifest().run_id),
            "created_ms": run.manifest().created_ms,
            "facts": facts,
            "notes": notes,
            "layers": layers,
            "visits": summary.visits,
            "examples": summary.examples,
            "epochs": summary.epochs.as_ref().map(|epochs| [*epochs.start(), *epochs.end()]),
            "steps": summary.recorded_steps,
            "coverage": summary.coverage,
            "dropped": summary.dropped,
            "first_gap": summary.first_gap,
            "not_finite": summary.not_finite,
            "finished": summary.finished,
            "damage": summary.damage.as_ref().map(ToString::to_string),
            "events": events_part(run, &summary.events)?,
        }));
        damage.extend(summary.damage.clone());
        first = first.or_else(|| Some(summary.clone()));
    }
    Ok(Head { part: json!({ "runs": runs }), first: first.unwrap_or_default(), damage })
}

/// What the guard noticed: how much of each kind, and the first and the last events.
fn events_part(run: &Run, summary: &EventSummary) -> Result<Value, CliError> {
    if summary.counts.is_empty() {
        return Ok(Value::Null);
    }
    let manifest = run.manifest();
    let events = match run.events() {
        // What the summary counted comes before the damage, which the page tells.
        Err(ReadError::Damaged(_)) => Vec::new(),
        other => other?,
    };
    let shown = EVENTS_MAX.min(events.len());
    let ends = [&events[..shown - shown / 2], &events[events.len() - shown / 2..]];
    let row = |event: &EventRecord| {
        let layer = event.layer.and_then(|number| manifest.layers.get(number as usize));
        // An id does not fit into a number of JavaScript.
        json!([
            event.step,
            event.epoch,
            event.kind.name(),
            event.example.map(|id| id.to_string()),
            layer.map(|layer| &layer.name),
            event.sentence(manifest)
        ])
    };
    let counts: Vec<Value> = summary.counts.iter().map(|(kind, count)| json!([kind.name(), count])).collect();
    let rows: Vec<Value> = ends.into_iter().flatten().map(row).collect();
    Ok(json!({ "counts": counts, "rows": rows, "first": shown - shown / 2, "left_out": events.len() - shown }))
}

/// The folder of a run, or of the folder around it where it is only called `run`.
pub(crate) fn run_name(run: &Run) -> String {
    let part = |path: Option<&std::path::Path>| {
        path.and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned())
    };
    let folder = std::fs::canonicalize(run.dir()).unwrap_or_else(|_| run.dir().to_owned());
    let name = part(Some(&folder)).unwrap_or_else(|| "run".into());
    match (name.as_str(), part(folder.parent())) {
        ("run", Some(parent)) => format!("{parent}/{name}"),
        _ => name,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
