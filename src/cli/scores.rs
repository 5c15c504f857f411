//! `gradlog scores`: which examples stand out?

use super::arguments::{OutputArguments, WindowArguments};
use super::error::CliError;
use super::output::{Console, Target};
use super::Outcome;
use crate::analysis::{Basis, Extra, Score, ScoreTable};
use crate::report::{Format, Rows, Value};
use crate::run::Run;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

/// Rows of a table without `--top`.
const TABLE_ROWS: usize = 20;

/// Score every training example by its own visits, the most suspicious first
///
/// Rows are `example,visits,score` (with `--at sweep`: `example,checkpoints,score`), then what the score says beside it, then `not_finite` (visits left out because of a
/// NaN or an infinity) and, where they were recorded, `label` and `prediction` of the last visit. An example without a
/// usable visit has score NaN and comes last.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Which score
    #[arg(long, value_name = "NAME")]
    score: Score,
    /// Only the N most suspicious; by default 20 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let bar = console.bar(&run, 1, "reading");
    let table = arguments.score.compute_with(&run, &arguments.window.window(), &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let table = table?;
    say(console, &run, &table);

    let format = arguments.output.format();
    let top = match (arguments.top, format) {
        (Some(top), _) => usize::try_from(top).unwrap_or(usize::MAX),
        (None, Format::Table) => TABLE_ROWS,
        (None, _) => usize::MAX,
    };
    let out = arguments.output.out.as_deref();
    let target = Target::open(out, console.out)?;
    write(&table, format, top, target).map_err(|source| Target::failed(out, source))?;
    if arguments.top.is_none() && table.rows.len() > top {
        let more = table.rows.len() - top;
        console.say(format_args!("{more} more: see them with --top N, or all with --format csv"));
    }
    console.say_damage(table.damage.as_ref());
    Ok(if table.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn say(console: &mut Console<'_>, run: &Run, table: &ScoreTable) {
    let score = table.score;
    let (visits, examples) = (table.visits, table.rows.len());
    match &table.basis {
        Basis::Sweeps { repeated, .. } => {
            let basis = &table.basis;
            console.say(format_args!("{score} of {examples} examples, {basis}: {visits} rows, {}", score.order()));
            if *repeated > 0 {
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
    for (count, what) in [
        (table.not_finite, "visits left out: a number was NaN or infinite"),
        (table.unseen, "visits left out: the example had no weight in the loss, so its gradient was not seen"),
        (table.missing, "visits left out: recorded without what this score is made of"),
        (table.estimated_norms, "visits with a gradient norm that is estimated, not exact"),
    ] {
        if count > 0 {
            console.say(format_args!("note: {count} {what}"));
        }
    }
}

fn write(table: &ScoreTable, format: Format, top: usize, target: Target<'_>) -> io::Result<()> {
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
        ("not_finite", table.not_finite.into()),
        ("unseen", table.unseen.into()),
        ("missing", table.missing.into()),
        ("estimated_norms", table.estimated_norms.into()),
        ("damage", table.damage.as_ref().map(ToString::to_string).into()),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    for row in table.rows.iter().take(top) {
        let mut values: Vec<Value> = vec![row.example.into(), row.visits.into(), row.score.into()];
        values.extend(row.extras.iter().map(|extra| match *extra {
            Extra::Count(count) => Value::Integer(count),
            Extra::Number(number) => Value::Number(number),
            Extra::Flag(flag) => Value::Flag(flag),
            Extra::Nothing => Value::Nothing,
        }));
        values.push(row.not_finite.into());
        values.extend(labels.then(|| row.label.into()));
        values.extend(predictions.then(|| row.prediction.into()));
        rows.row(&values)?;
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
