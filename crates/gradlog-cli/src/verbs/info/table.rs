//! For the eye: pairs of name and value, and a table for each kind of thing that there is.

use super::{file_state, mode_names, worker_state, Contents};
use crate::report::{self, Format, Rows, Value};
use gradlog_analysis::{significant, ColumnGroup, LayerSummary, ProbeSummary, RunSummary, SweepSummary};
use gradlog_format::log::Manifest;
use gradlog_format::run::{Checkpoint, WorkerState};
use std::io::{self, Write};
use std::ops::RangeInclusive;

/// More checks than this are not shown, only the last ones.
const CHECKS_MAX: usize = 3;

impl Contents<'_> {
    /// Names and what they are: what stands before the tables.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let Contents { manifest, summary, workers, checks, couplings, .. } = self;
        let state = match (&summary.damage, summary.finished) {
            (Some(_), _) => "damaged: what follows is of the part before the damage",
            (None, true) => "finished",
            (None, false) if workers.is_some() => "not finished: workers are missing, were killed, ended without `finish` or still write",
            (None, false) => "not finished: its recorder was killed, was dropped without `finish` or still writes, or `recover` found no end",
        };
        let coverage = match summary.coverage {
            // A part is never rounded to the whole.
            Some(share) if share < 1.0 => {
                format!("{} ({:.1} % of the model)", summary.recorded_parameters, (100.0 * share).min(99.9))
            }
            Some(_) => format!("{} (100.0 % of the model)", summary.recorded_parameters),
            None => format!("{} (the model was not declared)", summary.recorded_parameters),
        };
        let per_visit = summary.bytes_per_visit();
        let mut pairs = vec![
            ("written by", format!("gradlog {}", manifest.version)),
            ("state", state.into()),
            ("visits", format!("{} of {} examples", summary.visits, summary.examples)),
            ("epochs", epoch_words(summary)),
            ("steps", format!("{} ({} recorded)", range_words(&summary.steps), summary.recorded_steps)),
            ("learning rate", range_words(&summary.learning_rates)),
            ("optimizer", optimizer_words(summary)),
            ("momentum", told_words(&summary.momentum, summary.steps_without_momentum)),
            ("weight decay", told_words(&summary.weight_decay, summary.steps_without_weight_decay)),
            ("duration", duration_words(&summary.wall_clock_ms)),
            (
                "dropped",
                match summary.first_gap {
                    Some(step) => format!("{} visits, the first at step {step}", summary.dropped),
                    None => format!("{} visits", summary.dropped),
                },
            ),
            (
                "not finite",
                match summary.first_not_finite {
                    Some(step) => format!("{} visits, the first at step {step}", summary.not_finite),
                    None => "0 visits".into(),
                },
            ),
            ("bytes", format!("{}, of which visits take {}", summary.bytes, summary.visit_bytes)),
            ("bytes per visit", per_visit.map_or("-".into(), |bytes| format!("{bytes:.1}"))),
            ("parameters", coverage),
            ("sketch", sketch_words(manifest)),
            ("gradients", self.gradient_words()),
        ];
        let place = |name: &str| pairs.iter().position(|(label, _)| *label == name).map_or(0, |place| place + 1);
        let behind = place("dropped");
        if summary.unknown_steps > 0 {
            pairs.insert(
                behind,
                ("unknown steps", format!("{}, of which the log knows nothing", summary.unknown_steps)),
            );
        }
        if summary.abandoned > 0 {
            pairs.insert(behind, ("abandoned", format!("{} visits of steps that were not taken", summary.abandoned)));
        }
        pairs.extend(summary.label_changes.iter().map(|found| ("labels", found.to_string())));
        pairs.extend(summary.epochs_back.iter().map(|found| ("epochs", found.to_string())));
        pairs.extend(couplings.iter().map(|coupling| ("coupling", coupling.to_string())));
        for check in checks.iter().rev().take(CHECKS_MAX).rev() {
            let mut lines = check.text.lines();
            pairs.push(("check", format!("step {}: {}", check.step, lines.next().unwrap_or_default())));
            pairs.extend(lines.map(|line| ("", line.to_owned())));
        }
        if summary.cards + summary.probe_cards + summary.refused_cards > 0 {
            let (examples, probes) = (summary.cards, summary.probe_cards);
            let refused = match summary.refused_cards {
                0 => String::new(),
                1 => "; 1 card was refused".to_owned(),
                refused => format!("; {refused} cards were refused"),
            };
            let number = |count: u64, word: &str| report::count(usize::try_from(count).unwrap_or(usize::MAX), word);
            let (examples, probes) = (number(examples, "example"), number(probes, "probe"));
            pairs.push(("described", format!("{examples} and {probes}{refused}")));
        }
        if let Some(workers) = workers {
            let (parts, count) = (workers.parts.len(), workers.count);
            pairs.insert(
                2,
                ("workers", format!("{parts} of {count}, steps under the {} of their gradients", workers.reduction)),
            );
        }
        if summary.detached > 0 {
            let what = format!("a layer had no gradient in {} visits, where it counts as zero", summary.detached);
            pairs.push(("detached", what));
        }
        if !summary.untrained_layers.is_empty() {
            pairs.push(("not trained", summary.untrained_layers.join(", ")));
        }
        if !summary.partly_trained_layers.is_empty() {
            let names = summary.partly_trained_layers.join(", ");
            pairs.push((
                "trained in part",
                format!("{names}: steps change some of its parameters, and it counts whole"),
            ));
        }
        if !summary.untapped.is_empty() {
            pairs.push(("not recorded", summary.untapped.join(", ")));
        }
        pairs
    }

    /// What the guard noticed: counts, and the first and the last events.
    fn event_facts(&self) -> Vec<(&'static str, String)> {
        let (manifest, events) = (self.manifest, &self.summary.events);
        let counts = events.counts.iter().map(|(kind, count)| ("events", format!("{count} of kind {}", kind.name())));
        let mut pairs: Vec<_> = counts.collect();
        pairs.extend(events.first.iter().map(|event| ("", event.sentence(manifest))));
        if events.between > 0 {
            pairs.push(("", format!("({} rows more)", events.between)));
        }
        pairs.extend(events.last.iter().map(|event| ("", event.sentence(manifest))));
        pairs
    }

    pub(super) fn write_tables(&self, out: &mut dyn Write) -> io::Result<()> {
        let Contents { manifest, summary, workers, checkpoints, .. } = self;
        report::write_pairs(out, &[self.facts(), self.event_facts()].concat())?;
        for (name, value) in &manifest.notes {
            report::write_pairs(out, &[("note", format!("{name} = {value}"))])?;
        }

        let worker_row = |worker: &WorkerState| {
            vec![u64::from(worker.rank).into(), worker.last_step.into(), worker_state(worker).into()]
        };
        let parts = workers.iter().flat_map(|workers| &workers.parts);
        write_section(out, &["worker", "last step", "state"], parts.map(worker_row))?;
        let layer_row = |layer: &LayerSummary| {
            let form = layer.form.to_string();
            vec![layer.name.as_str().into(), layer.kind.as_str().into(), layer.parameters.into(), form.into()]
        };
        write_section(out, &["layer", "kind", "parameters", "form"], summary.layers.iter().map(layer_row))?;
        let set_row = |set: &ProbeSummary| {
            let (first, last) = (set.times.first().copied(), set.times.last().copied());
            let times = set.times.len() as u64;
            vec![
                set.name.as_str().into(),
                set.examples.into(),
                set.visits.into(),
                times.into(),
                first.into(),
                last.into(),
            ]
        };
        let columns = ["probe set", "examples", "visits", "times", "first step", "last step"];
        write_section(out, &columns, summary.probes.iter().map(set_row))?;
        let columns = ["curvature set", "examples", "rows", "times", "first step", "last step"];
        write_section(out, &columns, summary.curvature.iter().map(set_row))?;
        let checkpoint_row = |checkpoint: &Checkpoint| {
            let rate = checkpoint.learning_rate.map_or("-".into(), |rate| rate.to_string());
            let (step, epoch) = (checkpoint.step.into(), u64::from(checkpoint.epoch).into());
            vec![step, epoch, rate.into(), checkpoint.bytes.into(), file_state(checkpoint).into()]
        };
        write_section(
            out,
            &["checkpoint", "epoch", "learning rate", "bytes", "file"],
            checkpoints.iter().map(checkpoint_row),
        )?;
        let sweep_row = |sweep: &SweepSummary| {
            vec![sweep.step.into(), sweep.rows.into(), mode_names(&sweep.modes).join(", ").into()]
        };
        write_section(out, &["sweep at checkpoint", "rows", "mode"], summary.sweeps.iter().map(sweep_row))?;
        let group_row = |(group, bytes): &(ColumnGroup, u64)| {
            let each = *bytes as f64 / summary.visits as f64;
            vec![group.name().into(), format!("{each:.1}").into()]
        };
        let groups = summary.visit_bytes_by_group.iter().filter(|_| summary.visits > 0);
        write_section(out, &["columns of a visit", "bytes per visit"], groups.map(group_row))
    }
}

/// A table behind an empty line, or nothing where there are no rows.
fn write_section(out: &mut dyn Write, columns: &[&str], rows: impl Iterator<Item = Vec<Value>>) -> io::Result<()> {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Rows::begin(Format::Table, out, None, &[], columns)?;
    rows.try_for_each(|row| table.row(&row))?;
    table.end().map(|_| ())
}

/// The epochs. A run that visits examples again in epoch 0 was probably not told its epochs.
fn epoch_words(summary: &RunSummary) -> String {
    let words = range_words(&summary.epochs);
    match summary.epochs == Some(0..=0) && summary.visits > summary.examples {
        true => format!("{words}, though examples were visited again: call `recorder.set_epoch(epoch)` in the loop"),
        false => words,
    }
}

fn range_words<T: std::fmt::Display>(range: &Option<RangeInclusive<T>>) -> String {
    range.as_ref().map_or("-".into(), |range| format!("{} to {}", range.start(), range.end()))
}

/// The rules of the steps.
fn optimizer_words(summary: &RunSummary) -> String {
    let rules: Vec<String> = summary.optimizers.iter().map(ToString::to_string).collect();
    if rules.is_empty() {
        "not told".into()
    } else {
        rules.join(", ")
    }
}

/// What the optimizer told of its steps, and of how many it did not.
fn told_words(range: &Option<RangeInclusive<f32>>, untold: u64) -> String {
    match (range, untold) {
        (_, 0) => range_words(range),
        (None, _) => "not told".into(),
        (Some(_), untold) => format!("{}, not told for {untold} steps", range_words(range)),
    }
}

fn sketch_words(manifest: &Manifest) -> String {
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

fn duration_words(range: &Option<RangeInclusive<u64>>) -> String {
    range.as_ref().map_or("-".into(), |range| {
        format!("{} s", significant(range.end().saturating_sub(*range.start()) as f64 / 1000.0))
    })
}
