//! What the verbs that take several runs share: computing a score over them, and saying on what it stands.

use super::arguments::WindowArguments;
use super::choice::{choice, Choice};
use super::error::CliError;
use super::output::{say_coverage, Console, Target};
use super::scores::{extra, say_left_out};
use super::Outcome;
use crate::report::{printable, Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{OverRuns, RunsTable, Score};
use gradlog_format::run::Run;
use std::io::{self, Write};
use std::path::PathBuf;

/// How several runs become one score.
#[derive(Debug, Args)]
pub(super) struct OverRunsArguments {
    /// Of several runs, how their scores become one
    #[arg(long, value_name = "HOW", default_value = "mean", value_parser = choice::<OverRuns>())]
    over_runs: OverRuns,
}

impl Choice for OverRuns {
    fn all() -> &'static [Self] {
        &[OverRuns::Mean, OverRuns::Sum]
    }

    fn word(&self) -> &'static str {
        match self {
            OverRuns::Mean => "mean",
            OverRuns::Sum => "sum",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            OverRuns::Mean => "their mean (Paul et al. 2021); forgetting: infinite if any run never learned it",
            OverRuns::Sum => {
                "their sum (Toneva et al. 2019); forgetting: a run that never learned it adds its presentations"
            }
        }
    }
}

pub(super) fn open(paths: &[PathBuf]) -> Result<Vec<Run>, CliError> {
    Ok(paths.iter().map(Run::open).collect::<Result<_, _>>()?)
}

/// Computes the score over the runs and says on what it stands, run by run where that differs.
pub(super) fn compute(
    console: &mut Console<'_>,
    paths: &[PathBuf],
    score: Score,
    window: &WindowArguments,
    how: &OverRunsArguments,
) -> Result<RunsTable, CliError> {
    let opened = open(paths)?;
    let runs: Vec<&Run> = opened.iter().collect();
    let window = window.on(&runs)?;
    let bar = console.bar_over(&runs, 1, "reading");
    let table = score.compute_over(&runs, &window, how.over_runs, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let table = table?;
    let (visits, examples, count) = (table.visits(), table.rows.len(), runs.len());
    let over = if count == 1 { "1 run".into() } else { format!("{count} runs ({} over runs)", table.how) };
    let counted = if table.is_on_sweeps() { "rows" } else { "visits" };
    console.say(format_args!("{score} of {examples} examples over {visits} {counted} in {over}, {}", score.order()));
    if table.is_on_sweeps() {
        console.say(format_args!("on {}", table.basis()));
    }
    for (run, part) in runs.iter().zip(&table.runs) {
        let whose =
            if count == 1 { String::new() } else { format!("{}: ", printable(&run.dir().display().to_string())) };
        if matches!(score, Score::SelfInfluence | Score::Grand) {
            say_coverage(console, run);
        }
        if part.absent > 0 {
            let (absent, has) = (part.absent, examples as u64 - part.absent);
            console.say(format_args!("note: {whose}has {has} of the {examples} examples, {absent} are not in it"));
        }
        if let repeated @ 1.. = part.left_out.replaced {
            console.say(format_args!(
                "note: {whose}{repeated} rows replaced by a later one of the same example and checkpoint"
            ));
        }
        let left_out = &part.left_out;
        let counts = [left_out.not_finite, left_out.unseen, left_out.missing, part.estimated_norms];
        say_left_out(console, &whose, counts);
    }
    if count > 1 && table.partial > 0 {
        let partial = table.partial;
        console.say(format_args!("note: {partial} examples stand on fewer than {count} runs: column `runs`"));
    }
    if table.labels_differ > 0 {
        let first: Vec<String> =
            table.rows.iter().filter(|row| row.labels_differ).take(5).map(|row| row.example.to_string()).collect();
        console.say(format_args!(
            "warning: the runs recorded different labels for {} examples ({}{}): their scores are about different labels",
            table.labels_differ,
            first.join(", "),
            if table.labels_differ > 5 { ", ..." } else { "" }
        ));
    }
    Ok(table)
}

/// Hints and damage, at the end.
pub(super) fn end(console: &mut Console<'_>, table: &RunsTable, asked: Option<u64>, top: usize) -> Outcome {
    console.say_more(asked, table.rows.len(), top);
    say_damage(console, table)
}

pub(super) fn say_damage(console: &mut Console<'_>, table: &RunsTable) -> Outcome {
    let mut outcome = Outcome::Done;
    for part in table.runs.iter().filter(|part| part.damage.is_some()) {
        console.say_damage(part.damage.as_ref());
        outcome = Outcome::Loss;
    }
    outcome
}

/// The first damage of several runs, for a report.
pub(super) fn damage(table: &RunsTable) -> Value {
    table.runs.iter().find_map(|part| part.damage.as_ref()).map(ToString::to_string).into()
}

pub(super) fn write(table: &RunsTable, format: Format, top: usize, target: Target<'_>) -> io::Result<()> {
    let labels = table.rows.iter().any(|row| row.label.is_some());
    let predictions = table.rows.iter().any(|row| row.prediction.is_some());
    // Rows of a sweep are no visits, and are not called so.
    let counted = if table.is_on_sweeps() { "checkpoints" } else { "visits" };
    let mut columns = vec!["example", "runs", counted, "score", "spread"];
    columns.extend(table.score.extras());
    columns.push("not_finite");
    columns.extend(labels.then_some("label"));
    columns.extend(predictions.then_some("prediction"));
    let sum = |of: fn(&gradlog_analysis::RunPart) -> u64| Value::from(table.runs.iter().map(of).sum::<u64>());
    let head = [
        ("score", Value::from(table.score.name())),
        ("order", table.score.order().to_string().into()),
        ("basis", table.basis().into()),
        ("over_runs", table.how.to_string().into()),
        ("runs", (table.runs.len() as u64).into()),
        ("examples", (table.rows.len() as u64).into()),
        ("visits", table.visits().into()),
        ("partial", table.partial.into()),
        ("labels_differ", table.labels_differ.into()),
        ("not_finite", sum(|part| part.left_out.not_finite)),
        ("unseen", sum(|part| part.left_out.unseen)),
        ("missing", sum(|part| part.left_out.missing)),
        ("estimated_norms", sum(|part| part.estimated_norms)),
        ("damage", damage(table)),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    for row in table.rows.iter().take(top) {
        let mut values: Vec<Value> =
            vec![row.example.into(), row.runs.into(), row.visits.into(), row.score.into(), row.spread.into()];
        values.extend(row.extras.iter().map(extra));
        values.push(row.not_finite.into());
        values.extend(labels.then(|| row.label.into()));
        values.extend(predictions.then(|| row.prediction.into()));
        rows.row(&values)?;
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
