//! `gradlog info`: what is in a run?

use super::error::CliError;
use super::output::{say_workers, Console};
use super::Outcome;
use crate::analysis::{AnalysisError, LayerForm, ProbeSummary, Summary};
use crate::log::{Manifest, Mode};
use crate::report::{self, significant, Format, Rows, Value};
use crate::run::{Checkpoint, ReadError, Run, WorkerState, Workers};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Say what a run holds: layers, coverage, visits, probes, epochs, bytes, what was dropped
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Kind::Table)]
    format: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For the eye
    Table,
    /// One object
    Json,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let bar = console.bar(&run, 1, "reading");
    let summary = Summary::of_with(&run, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let summary = summary?;
    // Where the log is damaged, the summary says so; what is asked for here is beside it.
    let checkpoints = match run.checkpoints() {
        Err(ReadError::Damaged(_)) if summary.damage.is_some() => Vec::new(),
        other => other.map_err(AnalysisError::from)?,
    };
    let workers = run.workers()?;
    match arguments.format {
        Kind::Table => table(console.out, run.manifest(), &summary, workers.as_ref(), &checkpoints),
        Kind::Json => json(console.out, run.manifest(), &summary, workers.as_ref(), &checkpoints),
    }
    .map_err(CliError::Stdout)?;
    say_workers(console, &run)?;
    console.say_damage(summary.damage.as_ref());
    Ok(if summary.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn span<T: std::fmt::Display>(range: &Option<RangeInclusive<T>>) -> String {
    range.as_ref().map_or("-".into(), |range| format!("{} to {}", range.start(), range.end()))
}

fn table(
    out: &mut dyn Write,
    manifest: &Manifest,
    summary: &Summary,
    workers: Option<&Workers>,
    saved: &[Checkpoint],
) -> io::Result<()> {
    let state = match (&summary.damage, summary.finished) {
        (Some(_), _) => "damaged: what follows is of the part before the damage",
        (None, true) => "finished",
        (None, false) if workers.is_some() => "not finished: workers are missing, were killed or still write",
        (None, false) => "not finished: its recorder was killed or still writes",
    };
    let coverage = match summary.coverage {
        Some(share) => format!("{} ({:.1} % of the model)", summary.recorded_parameters, 100.0 * share),
        None => format!("{} (the model was not declared)", summary.recorded_parameters),
    };
    let per_visit = summary.bytes_per_visit();
    let mut pairs = vec![
        ("written by", format!("gradlog {}", manifest.version)),
        ("state", state.into()),
        ("visits", format!("{} of {} examples", summary.visits, summary.examples)),
        ("epochs", span(&summary.epochs)),
        ("steps", format!("{} ({} recorded)", span(&summary.steps), summary.recorded_steps)),
        ("learning rate", span(&summary.learning_rates)),
        ("duration", duration(&summary.wall_clock_ms)),
        (
            "dropped",
            match summary.first_gap {
                Some(step) => format!("{} visits, the first at step {step}", summary.dropped),
                None => format!("{} visits", summary.dropped),
            },
        ),
        ("bytes", summary.bytes.to_string()),
        ("bytes per visit", per_visit.map_or("-".into(), |bytes| format!("{bytes:.1}"))),
        ("parameters", coverage),
        ("sketch", sketch(manifest)),
    ];
    if let Some(workers) = workers {
        let (parts, count) = (workers.parts.len(), workers.count);
        pairs.insert(
            2,
            ("workers", format!("{parts} of {count}, steps under the {} of their gradients", workers.reduction)),
        );
    }
    if !summary.untapped.is_empty() {
        pairs.push(("not recorded", summary.untapped.join(", ")));
    }
    report::pairs(out, &pairs)?;
    for (name, value) in &manifest.notes {
        report::pairs(out, &[("note", format!("{name} = {value}"))])?;
    }

    if let Some(workers) = workers {
        writeln!(out)?;
        let mut rows = Rows::begin(Format::Table, &mut *out, &[], &["worker", "last step", "state"])?;
        for worker in &workers.parts {
            rows.row(&[u64::from(worker.rank).into(), worker.last_step.into(), worker_state(worker).into()])?;
        }
        rows.end()?;
    }
    if !summary.layers.is_empty() {
        writeln!(out)?;
        let mut rows = Rows::begin(Format::Table, &mut *out, &[], &["layer", "kind", "parameters", "form"])?;
        for layer in &summary.layers {
            let form = layer.form.to_string();
            rows.row(&[layer.name.as_str().into(), layer.kind.as_str().into(), layer.parameters.into(), form.into()])?;
        }
        rows.end()?;
    }
    for (what, each, sets) in [("probe set", "visits", &summary.probes), ("curvature set", "rows", &summary.curvature)]
    {
        if sets.is_empty() {
            continue;
        }
        writeln!(out)?;
        let columns = [what, "examples", each, "times", "first step", "last step"];
        let mut rows = Rows::begin(Format::Table, &mut *out, &[], &columns)?;
        for set in sets {
            rows.row(&[
                set.name.as_str().into(),
                set.examples.into(),
                set.visits.into(),
                (set.times.len() as u64).into(),
                set.times.first().copied().into(),
                set.times.last().copied().into(),
            ])?;
        }
        rows.end()?;
    }
    if !saved.is_empty() {
        writeln!(out)?;
        let columns = ["checkpoint", "epoch", "learning rate", "bytes", "file"];
        let mut rows = Rows::begin(Format::Table, &mut *out, &[], &columns)?;
        for checkpoint in saved {
            rows.row(&[
                checkpoint.step.into(),
                u64::from(checkpoint.epoch).into(),
                Value::from(checkpoint.learning_rate.map_or("-".into(), |rate| rate.to_string())),
                checkpoint.bytes.into(),
                Value::from(file(checkpoint)),
            ])?;
        }
        rows.end()?;
    }
    if !summary.sweeps.is_empty() {
        writeln!(out)?;
        let mut rows = Rows::begin(Format::Table, &mut *out, &[], &["sweep at checkpoint", "rows", "mode"])?;
        for sweep in &summary.sweeps {
            rows.row(&[sweep.step.into(), sweep.rows.into(), Value::from(modes(&sweep.modes).join(", "))])?;
        }
        rows.end()?;
    }
    if summary.visits > 0 {
        writeln!(out)?;
        let mut rows = Rows::begin(Format::Table, &mut *out, &[], &["columns of a visit", "bytes per visit"])?;
        for (group, bytes) in &summary.visit_bytes_by_group {
            let each = *bytes as f64 / summary.visits as f64;
            rows.row(&[group.name().into(), Value::Text(format!("{each:.1}"))])?;
        }
        rows.end()?;
    }
    Ok(())
}

/// What of the file can be seen without reading it.
fn file(checkpoint: &Checkpoint) -> String {
    checkpoint.look().map_or_else(|fault| fault.to_string(), |()| "there".into())
}

fn modes(modes: &[Mode]) -> Vec<String> {
    modes.iter().map(Mode::to_string).collect()
}

fn worker_state(worker: &WorkerState) -> &'static str {
    match (worker.recording, worker.finished) {
        (true, _) => "recording",
        (false, true) => "finished",
        (false, false) => "not finished",
    }
}

fn sketch(manifest: &Manifest) -> String {
    if manifest.layers.is_empty() {
        return "none: outputs only".into();
    }
    let sketch = &manifest.sketch;
    let cap = |cap: u32| if cap == u32::MAX { "none".to_owned() } else { cap.to_string() };
    format!(
        "factors {} (whole to: input {}, delta {}), projections {} (factors to {}, folded to {})",
        sketch.encoding,
        cap(sketch.input_cap),
        cap(sketch.delta_cap),
        sketch.projected_encoding,
        sketch.projected,
        sketch.folded_max
    )
}

fn duration(range: &Option<RangeInclusive<u64>>) -> String {
    range.as_ref().map_or("-".into(), |range| {
        format!("{} s", significant(range.end().saturating_sub(*range.start()) as f64 / 1000.0))
    })
}

fn pair<T: Copy + Into<serde_json::Value>>(range: &Option<RangeInclusive<T>>) -> serde_json::Value {
    range.as_ref().map_or(serde_json::Value::Null, |range| json!([(*range.start()).into(), (*range.end()).into()]))
}

/// Ranges are pairs `[first, last]`, both included.
fn json(
    out: &mut dyn Write,
    manifest: &Manifest,
    summary: &Summary,
    workers: Option<&Workers>,
    saved: &[Checkpoint],
) -> io::Result<()> {
    let part = |worker: &WorkerState| json!({"rank": worker.rank, "last_step": worker.last_step, "state": worker_state(worker)});
    let workers = workers.map(|workers| {
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
                LayerForm::Absent => ("absent", None, None, None),
            };
            json!({"name": layer.name, "kind": layer.kind, "parameters": layer.parameters, "form": form,
                   "inputs": inputs, "outputs": outputs, "width": width})
        })
        .collect();
    let sets = |sets: &[ProbeSummary], each: &str| -> Vec<serde_json::Value> {
        let one = |set: &ProbeSummary| json!({"name": set.name, each: set.visits, "examples": set.examples, "times": set.times});
        sets.iter().map(one).collect()
    };
    let checkpoints: Vec<_> = saved
        .iter()
        .map(|checkpoint| {
            json!({"step": checkpoint.step, "epoch": checkpoint.epoch, "learning_rate": checkpoint.learning_rate,
                   "bytes": checkpoint.bytes, "path": checkpoint.path.display().to_string(), "file": file(checkpoint)})
        })
        .collect();
    let sweeps: Vec<_> = summary
        .sweeps
        .iter()
        .map(|sweep| json!({"step": sweep.step, "rows": sweep.rows, "modes": modes(&sweep.modes)}))
        .collect();
    let groups: serde_json::Map<String, serde_json::Value> =
        summary.visit_bytes_by_group.iter().map(|(group, bytes)| (group.name().to_owned(), json!(bytes))).collect();
    let object = json!({
        "version": manifest.version,
        "created_ms": manifest.created_ms,
        "finished": summary.finished,
        "damage": summary.damage.as_ref().map(ToString::to_string),
        "visits": summary.visits,
        "examples": summary.examples,
        "epochs": pair(&summary.epochs),
        "steps": pair(&summary.steps),
        "recorded_steps": summary.recorded_steps,
        "learning_rates": pair(&summary.learning_rates),
        "wall_clock_ms": pair(&summary.wall_clock_ms),
        "dropped": summary.dropped,
        "first_gap": summary.first_gap,
        "bytes": summary.bytes,
        "visit_bytes": summary.visit_bytes,
        "bytes_per_visit": summary.bytes_per_visit(),
        "visit_bytes_by_group": groups,
        "recorded_parameters": summary.recorded_parameters,
        "model_parameters": manifest.model_parameters,
        "coverage": summary.coverage,
        "untapped": summary.untapped,
        "layers": layers,
        "probes": sets(&summary.probes, "visits"),
        "curvature": sets(&summary.curvature, "rows"),
        "checkpoints": checkpoints,
        "sweeps": sweeps,
        "notes": manifest.notes,
        "workers": workers,
        "worker": worker,
    });
    writeln!(out, "{}", report::pretty(&object)?)
}
