//! The rows of an answer, in the format that was asked for.

use super::answer::{Answer, Line, Nearest};
use super::damping_sweep::{damping_value, DampingSweep};
use super::words::first_concentration;
use crate::report::{score_bar, Format, Rows, Value};
use gradlog_analysis::{Concentration, Influence, Part, SplitBy};
use std::io::{self, Write};
use std::ops::Range;

/// A table has no more columns of parts than these; neighboring epochs share one.
const TABLE_PARTS: usize = 12;

pub(super) type Sink<'a> = Rows<&'a mut dyn Write>;

/// Which rows are wanted, and how they look.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub format: Format,
    /// Whether every probe of the set has rows of its own.
    pub all: bool,
    /// Whether a number of rows was asked for.
    pub asked: bool,
    pub by: Option<SplitBy>,
    pub nearest: bool,
}

/// Writes the answer, pass by pass.
pub(super) struct Writer {
    format: Format,
    all: bool,
    asked: bool,
    labels: bool,
    predictions: bool,
    on_sweeps: bool,
    cut: bool,
    /// Whether there is a column for errors: a table has none where the method gives none.
    errors: bool,
    by: Option<SplitBy>,
    nearest: bool,
    /// Whether there are answers to several dampings, which each row then says.
    swept: bool,
    /// In a table, the names of the columns of parts, and the parts of each.
    parts: Vec<(String, Range<usize>)>,
    /// Whether each score has a bar: on a terminal, where there are no parts.
    bars: bool,
    /// How wide the terminal is, if there is one.
    terminal: Option<usize>,
    /// The largest score of the probe, of either sign.
    most: f64,
}

impl Writer {
    /// For `answers`, of which there is at least one, and those of later passes.
    pub(super) fn new(shape: Shape, answers: &[Answer], terminal: Option<usize>) -> Self {
        let first = &answers[0];
        let Shape { format, all, asked, by, nearest } = shape;
        Self {
            format,
            all,
            asked,
            labels: first.about.rows.iter().any(|row| row.label.is_some()),
            predictions: first.about.rows.iter().any(|row| row.prediction.is_some()),
            on_sweeps: first.about.basis.is_sweeps(),
            cut: false,
            errors: format != Format::Table || first.about.estimate.is_none(),
            by,
            nearest,
            swept: answers.len() > 1,
            parts: columns_of_parts(first, by),
            bars: terminal.is_some() && !all && by.is_none(),
            terminal,
            most: 0.0,
        }
    }

    pub(super) fn begin<'a>(
        &self,
        answers: &[Answer],
        sweep: Option<&DampingSweep>,
        (workers, basis): (Option<String>, Option<&str>),
        target: &'a mut dyn Write,
    ) -> io::Result<Sink<'a>> {
        let answer = &answers[0];
        let part = &answer.about;
        // What answers differ in is a list where there are several.
        let each = |value: &dyn Fn(&Answer) -> Value| match answers {
            [one] => value(one),
            many => Value::List(many.iter().map(value).collect()),
        };
        let mut head = vec![("score", Value::from("influence")), ("order", "positive helps".into())];
        head.push(("error", "one standard deviation of the sketch's error".into()));
        head.push(("set", part.set.as_str().into()));
        if !part.group.is_empty() {
            head.push(("probes", (part.group.len() as u64).into()));
        }
        if let ([probe], false) = (part.probes.as_slice(), self.all) {
            if part.group.is_empty() {
                head.push(("probe", probe.id.into()));
            }
            head.push(("probe_label", probe.label.into()));
            head.push(("probe_prediction", probe.prediction.into()));
            head.push(("probe_score", probe.scored.map(|(score, _)| score.to_string()).into()));
            head.push(("probe_class", probe.scored.map(|(_, class)| class).into()));
        }
        let estimate = part.estimate.as_ref();
        head.push(("method", estimate.map_or("tracin", |estimate| estimate.method.name()).into()));
        if let Some(estimate) = estimate {
            head.extend([
                ("curvature", Value::from(estimate.curvature.to_string())),
                ("curvature_rows", estimate.curvature_rows.into()),
                ("numbers", (estimate.length as u64).into()),
                ("exact", estimate.exact.into()),
                ("by_layer", estimate.by_layer.into()),
                ("damping", each(&|answer| answer.damping().map(|damping| damping.to_string()).into())),
                ("epochs", estimate.epochs.into()),
                ("steps", estimate.steps.into()),
                ("steps_without_record", estimate.steps_without_record.into()),
                ("momentum", f64::from(estimate.momentum).into()),
                ("weight_decay", f64::from(estimate.weight_decay).into()),
                ("growth", estimate.growth.into()),
                ("after_probes", part.left_out.after_probes.into()),
                ("dropped", estimate.dropped.into()),
            ]);
            if let Some(kronecker) = estimate.kronecker {
                head.extend([
                    ("kronecker_layers", Value::from(kronecker.layers)),
                    ("lossy_layers", kronecker.lossy_layers.into()),
                    ("sign_layers", kronecker.sign_layers.into()),
                    ("folded_layers", kronecker.folded_layers.into()),
                ]);
            }
            head.extend(estimate.soft_threshold.map(|threshold| ("soft_threshold", threshold.into())));
        }
        if let Some(sweep) = sweep {
            head.extend([("spearman_to_next", sweep.spearmans().into()), ("kept_to_next", sweep.kept().into())]);
        }
        if let ([_], false, Some(_)) = (part.probes.as_slice(), self.all, first_concentration(part)) {
            let each_share =
                |share: fn(Concentration) -> f64| each(&|answer| first_concentration(&answer.about).map(share).into());
            head.push(("top_hundredth", each_share(|found| found.top_hundredth)));
            head.push(("carriers", each_share(|found| found.carriers)));
        }
        if let Some(Nearest { distance, comparison }) = &answer.nearest {
            let each_near =
                |value: fn(&Nearest) -> Value| each(&|answer| answer.nearest.as_ref().map_or(Value::Nothing, value));
            head.extend([
                ("features", Value::from(distance.layer.as_str())),
                ("nearest", (comparison.nearest.len() as u64).into()),
                ("nearest_also_proponents", each_near(|found| (found.comparison.also_proponents as u64).into())),
                ("nearest_also_opponents", each_near(|found| (found.comparison.also_opponents as u64).into())),
                ("same_label_proponents", each_near(|found| found.comparison.same_label_proponents.into())),
                ("same_label_opponents", each_near(|found| found.comparison.same_label_opponents.into())),
                ("same_label_nearest", each_near(|found| found.comparison.same_label_nearest.into())),
                ("score_by_distance", each_near(|found| found.distance.score.into())),
                ("size_by_distance", each_near(|found| found.distance.size.into())),
            ]);
        }
        let variant = part.variant();
        head.extend([
            ("normalise", Value::from(part.normalization.name())),
            ("layers", if part.layers.is_empty() { Value::Nothing } else { part.layers.join(", ").into() }),
            ("variant", sweep.map_or(variant.clone(), |sweep| sweep.variant(&variant)).into()),
            ("examples", answer.examples.into()),
            ("visits", part.visits.into()),
            ("probe_times", part.probe_times.into()),
            ("before_first_probe", (part.left_out.before_first_probe + part.left_out.without_probe).into()),
            ("not_finite", not_finite(part).into()),
            ("without_gradient", part.left_out.without_gradient.into()),
            ("other_layers", part.left_out.other_layers.into()),
            ("probe_records_left_out", part.left_out.probe_records.into()),
            ("probe_records_repeated", part.left_out.probe_records_replaced.into()),
            ("workers", workers.into()),
            ("damage", part.damage.as_ref().map(ToString::to_string).into()),
        ]);
        let columns = self.columns();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        Ok(Rows::begin(self.format, target, basis, &head, &columns)?.fit(self.terminal))
    }

    /// Whether a part has a row of its own.
    fn in_rows(&self) -> Option<&'static str> {
        match (self.format, self.by) {
            (Format::Table, _) | (_, None) => None,
            (_, Some(SplitBy::Layer)) => Some("layer"),
            (_, Some(_)) => Some("epoch"),
        }
    }

    fn columns(&self) -> Vec<String> {
        let error = if self.format == Format::Table { "±" } else { "error" };
        let mut columns = vec!["example"];
        columns.extend(self.all.then_some("probe"));
        if let Some(part) = self.in_rows() {
            columns.extend([part, "score", "error", "whole"]);
            return columns.into_iter().map(str::to_owned).collect();
        }
        if !self.all {
            if self.has_role() {
                columns.insert(0, "role");
            }
            columns.push(if self.on_sweeps { "checkpoints" } else { "visits" });
        }
        if self.swept {
            columns.insert(0, "damping");
        }
        columns.push("score");
        columns.extend(self.errors.then_some(error));
        columns.extend(self.nearest.then_some("distance"));
        if !self.all {
            columns.extend(self.labels.then_some("label"));
            columns.extend(self.predictions.then_some("prediction"));
        }
        columns.extend(self.bars.then_some(""));
        columns.into_iter().map(str::to_owned).chain(self.parts.iter().map(|(name, _)| name.clone())).collect()
    }

    fn has_role(&self) -> bool {
        self.format == Format::Table || self.nearest
    }

    pub(super) fn write(&mut self, answers: &[Answer], rows: &mut Sink<'_>) -> io::Result<()> {
        answers.iter().try_for_each(|answer| self.write_one(answer, rows))
    }

    fn write_one(&mut self, answer: &Answer, rows: &mut Sink<'_>) -> io::Result<()> {
        for probe in 0..answer.about.probes.len() {
            let (proponents, opponents) = answer.ends(probe);
            let lines = proponents.iter().chain(opponents.iter().flatten());
            self.most = lines.map(|line| line.score.abs()).fold(0.0, f64::max);
            let Some(mut opponents) = opponents else {
                for line in proponents {
                    self.row(answer, probe, line, "", rows)?;
                }
                continue;
            };
            self.cut |= ((proponents.len() + opponents.len()) as u64) < answer.examples;
            for line in proponents {
                self.row(answer, probe, line, "proponent", rows)?;
            }
            if self.format != Format::Table || self.all {
                // One order from the strongest proponent down; in a table the strongest of both stand first.
                opponents.reverse();
            }
            for line in opponents {
                self.row(answer, probe, line, "opponent", rows)?;
            }
            if let Some(nearest) = &answer.nearest {
                for line in answer.lines(probe, nearest.comparison.nearest.clone()) {
                    self.row(answer, probe, line, "nearest", rows)?;
                }
            }
        }
        Ok(())
    }

    fn row(&self, answer: &Answer, probe: usize, line: Line, role: &str, rows: &mut Sink<'_>) -> io::Result<()> {
        let about = &answer.about.rows[line.row];
        let (score, error): (Value, Value) = (line.score.into(), line.error.into());
        let mut values: Vec<Value> = vec![about.example.into()];
        values.extend(self.all.then(|| answer.about.probes[probe].id.into()));
        if self.in_rows().is_some() {
            return self.part_rows(answer, (line, probe), &values, rows);
        }
        if !self.all {
            if self.has_role() {
                values.insert(0, role.into());
            }
            values.push(about.visits.into());
        }
        if self.swept {
            values.insert(0, answer.damping().map(damping_value).into());
        }
        values.push(score);
        values.extend(self.errors.then_some(error));
        values.extend(answer.nearest.as_ref().map(|nearest| nearest.distance.distances[line.row].into()));
        if !self.all {
            values.extend(self.labels.then(|| about.label.into()));
            values.extend(self.predictions.then(|| about.prediction.into()));
        }
        values.extend(self.bars.then(|| score_bar(line.score, self.most).into()));
        if let Some(parts) = &answer.parts {
            let (scores, _) = parts.find_line(line.row, probe);
            let sum = |range: &Range<usize>| scores.get(range.clone()).map(|scores| scores.iter().sum::<f64>());
            values.extend(self.parts.iter().map(|(_, range)| sum(range).into()));
        }
        rows.row(&values)
    }

    /// A row for each part of a score.
    fn part_rows(
        &self,
        answer: &Answer,
        (line, probe): (Line, usize),
        start: &[Value],
        rows: &mut Sink<'_>,
    ) -> io::Result<()> {
        let Some(parts) = &answer.parts else { return Ok(()) };
        let (scores, errors) = parts.find_line(line.row, probe);
        for (number, (part, score)) in parts.split.parts.iter().zip(scores).enumerate() {
            let part = match part {
                Part::Layer(name) => name.as_str().into(),
                Part::Epoch(epoch) => (*epoch).into(),
                other => other.to_string().into(),
            };
            let error = errors.map(|errors| errors[number]);
            let values = start.iter().cloned();
            let values: Vec<Value> = values.chain([part, (*score).into(), error.into(), line.score.into()]).collect();
            rows.row(&values)?;
        }
        Ok(())
    }

    pub(super) fn hint(&self) -> Option<String> {
        let more = match self.by {
            Some(_) => "more: see them with --top N",
            None => "more: see them with --top N, or all with --format csv",
        };
        (self.cut && !self.asked).then(|| more.into())
    }
}

/// The columns that parts take in a table: a layer each, or neighboring epochs together where they are many.
fn columns_of_parts(answer: &Answer, by: Option<SplitBy>) -> Vec<(String, Range<usize>)> {
    let Some(parts) = &answer.parts else { return Vec::new() };
    let parts = &parts.split.parts;
    let together = match by {
        Some(SplitBy::Epoch) => parts.len().div_ceil(TABLE_PARTS).max(1),
        _ => 1,
    };
    let name = |first: usize, last: usize| match (&parts[first], first == last) {
        (Part::Layer(name), _) => name.clone(),
        (Part::Epoch(epoch), true) => format!("epoch {epoch}"),
        (Part::Epoch(epoch), false) => format!("epochs {epoch}-{}", parts[last]),
        (other, _) => other.to_string(),
    };
    let ranges = (0..parts.len()).step_by(together).map(|first| first..parts.len().min(first + together));
    ranges.map(|range| (name(range.start, range.end - 1), range)).collect()
}

/// Visits left out as not finite. For TracIn the output has always counted those of no weight with them.
fn not_finite(influence: &Influence) -> u64 {
    let left_out = &influence.left_out;
    left_out.not_finite + if influence.estimate.is_none() { left_out.unseen } else { 0 }
}
