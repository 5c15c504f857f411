//! `gradlog scores`: which examples stand out?

use super::arguments::{OutputArguments, WindowArguments};
use super::choice::choice;
use super::error::CliError;
use super::output::{say_workers, workers_note, Console, Target};
use super::over_runs::{self, OverRunsArguments};
use super::Outcome;
use crate::report::{Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{Basis, Extra, Score, ScoreTable};
use gradlog_format::run::{ReadError, Run};
use std::io::{self, Write};
use std::path::PathBuf;

/// Score every training example by its own visits, the most suspicious first
///
/// Rows are `example,visits,score` (with `--at sweep`: `example,checkpoints,score`), then what the score says beside it, then `not_finite` (visits left out because of a
/// NaN or an infinity) and, where they were recorded, `label` and `prediction` of the last visit. An example without a
/// usable visit has score NaN and comes last.
///
/// With several runs, the score is a mean (or sum) over them: rows are `example,runs,visits,score,spread` and the same
/// rest, where `runs` says on how many the row stands and `spread` is the sample standard deviation over them; what stands
/// beside a score is a mean over runs too, or the number of runs of which it is true.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Which score
    #[arg(long, value_name = "NAME", value_parser = choice::<Score>())]
    score: Score,
    /// Only the N most suspicious; by default 20 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    over_runs: OverRunsArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let format = arguments.output.format();
    let top = arguments.output.rows(arguments.top);
    let out = arguments.output.out.as_deref();
    let [only] = arguments.runs.as_slice() else {
        let table =
            over_runs::compute(console, &arguments.runs, arguments.score, &arguments.window, &arguments.over_runs)?;
        let target = Target::open(out, console.out)?;
        over_runs::write(&table, format, top, target).map_err(|source| Target::failed(out, source))?;
        return Ok(over_runs::end(console, &table, arguments.top, top));
    };
    let run = Run::open(only)?;
    let window = arguments.window.on(&[&run])?;
    let bar = console.bar(&run, 1, "reading");
    let table = arguments.score.compute_with(&run, &window, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let table = table?;
    say(console, &run, &table)?;
    let workers = workers_note(&run)?;

    let target = Target::open(out, console.out)?;
    write(&table, workers, format, top, target).map_err(|source| Target::failed(out, source))?;
    console.say_more(arguments.top, table.rows.len(), top);
    console.say_damage(table.damage.as_ref());
    Ok(if table.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn say(console: &mut Console<'_>, run: &Run, table: &ScoreTable) -> Result<(), ReadError> {
    let score = table.score;
    let (visits, examples) = (table.visits, table.rows.len());
    match &table.basis {
        Basis::Sweeps { .. } => {
            let repeated = table.left_out.replaced;
            let basis = &table.basis;
            console.say(format_args!("{score} of {examples} examples, {basis}: {visits} rows, {}", score.order()));
            if repeated > 0 {
                console.say(format_args!(
                    "note: {repeated} rows replaced by a later one of the same example and checkpoint"
                ));
            }
        }
        basis => {
            let mode = basis.to_string().replacen("visits", &format!("{visits} visits"), 1);
            console.say(format_args!("{score} of {examples} examples over {mode}, {}", score.order()));
        }
    }
    if matches!(score, Score::SelfInfluence | Score::Grand) {
        super::output::say_coverage(console, run);
    }
    say_workers(console, run)?;
    let left_out = &table.left_out;
    say_left_out(console, "", [left_out.not_finite, left_out.unseen, left_out.missing, table.estimated_norms]);
    Ok(())
}

/// Says what was left out: not finite, unseen, missing, estimated.
pub(super) fn say_left_out(console: &mut Console<'_>, whose: &str, counts: [u64; 4]) {
    let notes = [
        "visits left out: a number was NaN or infinite",
        "visits left out: the example had no weight in the loss, or all its targets were ignored",
        "visits left out: recorded without what this score is made of",
        "visits with a gradient norm that is estimated, not exact",
    ];
    for (count, what) in counts.into_iter().zip(notes).filter(|(count, _)| *count > 0) {
        console.say(format_args!("note: {whose}{count} {what}"));
    }
}

pub(super) fn extra(extra: &Extra) -> Value {
    match *extra {
        Extra::Count(count) => Value::Integer(count),
        Extra::Number(number) => Value::Number(number),
        Extra::Flag(flag) => Value::Flag(flag),
        Extra::Nothing => Value::Nothing,
    }
}

fn write(
    table: &ScoreTable,
    workers: Option<String>,
    format: Format,
    top: usize,
    target: Target<'_>,
) -> io::Result<()> {
    let labels = table.rows.iter().any(|row| row.label.is_some());
    let predictions = table.rows.iter().any(|row| row.prediction.is_some());
    // Rows of a sweep are no visits, and are not called so.
    let counted = if matches!(table.basis, Basis::Sweeps { .. }) { "checkpoints" } else { "visits" };
    let mut columns = vec!["example", counted, "score"];
    columns.extend(table.score.extras());
    columns.push("not_finite");
    columns.extend(labels.then_some("label"));
    columns.extend(predictions.then_some("prediction"));
    let head = [
        ("score", Value::from(table.score.name())),
        ("order", table.score.order().to_string().into()),
        ("basis", table.basis.to_string().into()),
        ("examples", (table.rows.len() as u64).into()),
        ("visits", table.visits.into()),
        ("not_finite", table.left_out.not_finite.into()),
        ("unseen", table.left_out.unseen.into()),
        ("missing", table.left_out.missing.into()),
        ("estimated_norms", table.estimated_norms.into()),
        ("workers", workers.into()),
        ("damage", table.damage.as_ref().map(ToString::to_string).into()),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    for row in table.rows.iter().take(top) {
        let mut values: Vec<Value> = vec![row.example.into(), row.visits.into(), row.score.into()];
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
