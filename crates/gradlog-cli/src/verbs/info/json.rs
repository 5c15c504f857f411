//! One object. Ranges are pairs `[first, last]`, both included.

use super::{file_state, mode_names, worker_state, Contents};
use crate::report;
use gradlog_analysis::{LayerForm, ProbeSummary};
use gradlog_format::log::FindingKind;
use gradlog_format::run::{EventRecord, WorkerState};
use serde_json::json;
use std::io::{self, Write};
use std::ops::RangeInclusive;

impl Contents<'_> {
    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let Contents { manifest, summary, workers, checkpoints, checks, couplings } = self;
        let part = |worker: &WorkerState| json!({"rank": worker.rank, "last_step": worker.last_step, "state": worker_state(worker)});
        let workers = workers.as_ref().map(|workers| {
            let parts: Vec<_> = workers.parts.iter().map(part).collect();
            json!({"count": workers.count, "reduction": workers.reduction.to_string(), "parts": parts, "notes": workers.notes()})
        });
        let worker = manifest.worker.map(|worker| json!({"rank": worker.rank, "workers": worker.workers}));
        let layers: Vec<_> = summary
            .layers
            .iter()
            .map(|layer| {
                let (form, inputs, outputs, width) = match layer.form {
                    LayerForm::Factored { inputs, outputs } => ("factored", Some(inputs), Some(outputs), None),
                    LayerForm::Folded { width } => ("folded", None, None, Some(width)),
                    _ => ("absent", None, None, None),
                };
                json!({"name": layer.name, "kind": layer.kind, "parameters": layer.parameters, "form": form,
                       "inputs": inputs, "outputs": outputs, "width": width})
            })
            .collect();
        let sets = |sets: &[ProbeSummary], each: &str| -> Vec<serde_json::Value> {
            let one = |set: &ProbeSummary| json!({"name": set.name, each: set.visits, "examples": set.examples, "times": set.times});
            sets.iter().map(one).collect()
        };
        let checkpoints: Vec<_> = checkpoints
            .iter()
            .map(|checkpoint| {
                json!({"step": checkpoint.step, "epoch": checkpoint.epoch, "learning_rate": checkpoint.learning_rate,
                       "bytes": checkpoint.bytes, "path": checkpoint.path.display().to_string(), "file": file_state(checkpoint)})
            })
            .collect();
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                let findings: Vec<_> =
                    FindingKind::from_bits(check.findings).into_iter().map(FindingKind::name).collect();
                json!({"step": check.step, "epoch": check.epoch, "examples": check.examples, "agrees": check.agrees(),
                       "findings": findings, "text": check.text})
            })
            .collect();
        let couplings: Vec<_> = couplings.iter().map(ToString::to_string).collect();
        let sweeps: Vec<_> = summary
            .sweeps
            .iter()
            .map(|sweep| json!({"step": sweep.step, "rows": sweep.rows, "modes": mode_names(&sweep.modes)}))
            .collect();
        let groups: serde_json::Map<String, serde_json::Value> =
            summary.visit_bytes_by_group.iter().map(|(group, bytes)| (group.name().to_owned(), json!(bytes))).collect();
        let mut object = json!({
            "version": manifest.version,
            "created_ms": manifest.created_ms,
            "finished": summary.finished,
            "damage": summary.damage.as_ref().map(ToString::to_string),
            "visits": summary.visits,
            "examples": summary.examples,
            "epochs": range_value(&summary.epochs),
            "steps": range_value(&summary.steps),
            "recorded_steps": summary.recorded_steps,
            "learning_rates": range_value(&summary.learning_rates),
            "momentum": range_value(&summary.momentum),
            "weight_decay": range_value(&summary.weight_decay),
            "not_finite": summary.not_finite,
            "first_not_finite": summary.first_not_finite,
            "wall_clock_ms": range_value(&summary.wall_clock_ms),
            "dropped": summary.dropped,
            "first_gap": summary.first_gap,
            "abandoned": summary.abandoned,
            "unknown_steps": summary.unknown_steps,
            "bytes": summary.bytes,
            "visit_bytes": summary.visit_bytes,
            "bytes_per_visit": summary.bytes_per_visit(),
            "visit_bytes_by_group": groups,
            "recorded_parameters": summary.recorded_parameters,
            "model_parameters": manifest.model_parameters,
            "coverage": summary.coverage,
            "untrained_layers": summary.untrained_layers,
            "untapped": summary.untapped,
            "layers": layers,
            "probes": sets(&summary.probes, "visits"),
            "curvature": sets(&summary.curvature, "rows"),
            "gradients": self.gradient_words(),
            "couplings": couplings,
            "checks": checks,
            "checkpoints": checkpoints,
            "sweeps": sweeps,
            "notes": manifest.notes,
            "workers": workers,
            "worker": worker,
        });
        // A macro call has a limit.
        object["optimizers"] = summary.optimizers.iter().map(ToString::to_string).collect();
        object["examples_with_several_labels"] = summary.label_changes.map_or(0, |found| found.several).into();
        object["epochs_backwards_at_step"] = summary.epochs_back.map(|found| found.step).into();
        object["partly_trained_layers"] = json!(summary.partly_trained_layers);
        let counts: serde_json::Map<String, serde_json::Value> =
            summary.events.counts.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
        let event = |event: &EventRecord| {
            // JSON has no NaN and no infinity.
            let finite = |value: f32| Some(value).filter(|value| value.is_finite());
            let layer = event.layer.and_then(|number| manifest.layers.get(number as usize));
            json!({"step": event.step, "epoch": event.epoch, "kind": event.kind.name(), "action": event.action.name(),
                   "example": event.example, "layer": layer.map(|layer| &layer.name), "count": event.count,
                   "value": finite(event.value), "limit": finite(event.limit), "reference": finite(event.reference),
                   "text": event.sentence(manifest)})
        };
        let (first, last): (Vec<_>, Vec<_>) =
            (summary.events.first.iter().map(event).collect(), summary.events.last.iter().map(event).collect());
        object["described_examples"] = summary.cards.into();
        object["described_probes"] = summary.probe_cards.into();
        object["refused_cards"] = summary.refused_cards.into();
        object["events"] =
            json!({"counts": counts, "first": first, "rows_between": summary.events.between, "last": last});
        writeln!(out, "{}", report::pretty(&object)?)
    }
}

fn range_value<T: Copy + Into<serde_json::Value>>(range: &Option<RangeInclusive<T>>) -> serde_json::Value {
    range.as_ref().map_or(serde_json::Value::Null, |range| json!([(*range.start()).into(), (*range.end()).into()]))
}
