//! `gradlog suspects`: which labels are probably wrong, and why?

use super::arguments::{OutputArguments, WindowArguments};
use super::error::CliError;
use super::output::{Console, Target};
use super::over_runs::open;
use super::Outcome;
use crate::report::{Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{suspects, Score, Suspects};
use gradlog_format::run::Run;
use std::io::{self, Write};
use std::path::PathBuf;

/// List the examples whose label is probably wrong, with the reasons for each
///
/// Puts AUM, mean loss, mean EL2N, self-influence and forgetting together by the median of their ranks, as far as the runs hold
/// them, and takes into account whether the label is often taken for the one that the model predicts instead. Rows are
/// `example,suspicion,runs,visits,label,proposed`, the value of each signal under its name (several runs: the mean), and
/// `reasons`; a table leaves the values out. `proposed` is the label that most visits predicted, if it is another.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Only the N most suspicious; by default 20 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let opened = open(&arguments.runs)?;
    let runs: Vec<&Run> = opened.iter().collect();
    let window = arguments.window.on(&runs)?;
    let bar = console.bar_over(&runs, 6, "reading");
    let list = suspects(&runs, &window, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let list = list?;
    let names: Vec<&str> = list.signals.iter().map(|signal| signal.name()).collect();
    let count = list.rows.len();
    console.say(format_args!("{count} examples in {} runs by the median rank of {}", list.runs, names.join(", ")));
    for (signal, why) in &list.without {
        console.say(format_args!("note: without {signal}: {why}"));
    }
    if list.labels_differ > 0 {
        let differ = list.labels_differ;
        console.say(format_args!("warning: the runs recorded different labels for {differ} examples, or none"));
    }
    let format = arguments.output.format();
    let top = arguments.output.rows(arguments.top);
    let out = arguments.output.out.as_deref();
    let target = Target::open(out, console.out)?;
    write(&list, format, top, target).map_err(|source| Target::failed(out, source))?;
    console.say_more(arguments.top, count, top);
    console.say_damage(list.damage.as_ref());
    Ok(if list.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn write(list: &Suspects, format: Format, top: usize, target: Target<'_>) -> io::Result<()> {
    let all = format != Format::Table;
    let mut columns = vec!["example", "suspicion", "runs", "visits", "label", "proposed"];
    if all {
        columns.extend(list.signals.iter().map(|signal: &Score| signal.name()));
    }
    columns.push("reasons");
    let names: Vec<&str> = list.signals.iter().map(|signal| signal.name()).collect();
    let head = [
        ("list", Value::from("suspects")),
        ("order", "highest first".into()),
        ("signals", names.join(", ").into()),
        ("runs", list.runs.into()),
        ("examples", (list.rows.len() as u64).into()),
        ("labels_differ", list.labels_differ.into()),
        ("damage", list.damage.as_ref().map(ToString::to_string).into()),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    for row in list.rows.iter().take(top) {
        let mut values: Vec<Value> = vec![row.example.into(), row.suspicion.into(), row.runs.into(), row.visits.into()];
        values.extend([Value::from(row.label), row.proposed.into()]);
        if all {
            values.extend(row.values.iter().map(|signal| Value::from(signal.value)));
        }
        values.push(row.reasons.join("; ").into());
        rows.row(&values)?;
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
