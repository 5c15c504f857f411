//! `gradlog map`: which examples are easy, ambiguous, hard to learn?

use super::arguments::{share, OutputArguments, WindowArguments};
use super::error::CliError;
use super::output::{Console, Target};
use super::over_runs::open;
use super::Outcome;
use crate::report::{Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{Basis, Map, MapRow};
use gradlog_format::run::Run;
use std::io::{self, Write};
use std::path::PathBuf;

/// Draw the map of the training set by confidence and variability (Swayamdipta et al. 2020)
///
/// The most confident share of the examples is easy to learn, the least confident hard to learn, the most variable
/// ambiguous; an example may be in two regions. Rows are `example,runs,visits,confidence,variability,correctness,easy,
/// ambiguous,hard` and, where it was recorded, `label`, the least confident first. Over several runs the numbers are means.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Share of the examples that each region takes
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = Map::SHARE, value_parser = share)]
    share: f64,
    /// Only the N least confident; by default 20 in a table, else all
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
    let bar = console.bar_over(&runs, 2, "reading");
    let map = Map::of(&runs, &window, arguments.share, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let map = map?;
    let ([easy, ambiguous, hard], examples) = (map.counts(), map.rows.len());
    console.say(format_args!(
        "{examples} examples over {} visits in {} runs: {easy} easy, {ambiguous} ambiguous, {hard} hard to learn; lowest \
         confidence first",
        map.visits, map.runs
    ));
    if map.bases.iter().any(Basis::is_sweeps) {
        console.say(format_args!("on {}; \"visits\" are rows of these", Basis::of_all(&map.bases)));
    }
    if map.left_out.examples > 0 {
        console.say(format_args!("note: {} examples without a usable visit are not on the map", map.left_out.examples));
    }
    let format = arguments.output.format();
    let top = arguments.output.rows(arguments.top);
    let out = arguments.output.out.as_deref();
    let target = Target::open(out, console.out)?;
    write(&map, format, top, target).map_err(|source| Target::failed(out, source))?;
    console.say_more(arguments.top, map.rows.len(), top);
    console.say_damage(map.damage.as_ref());
    Ok(if map.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

fn write(map: &Map, format: Format, top: usize, target: Target<'_>) -> io::Result<()> {
    let labels = map.rows.iter().any(|row| row.label.is_some());
    let mut columns =
        vec!["example", "runs", "visits", "confidence", "variability", "correctness", "easy", "ambiguous", "hard"];
    columns.extend(labels.then_some("label"));
    let [easy, ambiguous, hard] = map.counts();
    let head = [
        ("map", Value::from("confidence, variability")),
        ("basis", Basis::of_all(&map.bases).into()),
        ("share", map.share.into()),
        ("runs", map.runs.into()),
        ("visits", map.visits.into()),
        ("examples", (map.rows.len() as u64).into()),
        ("unscored", map.left_out.examples.into()),
        ("easy", easy.into()),
        ("ambiguous", ambiguous.into()),
        ("hard", hard.into()),
        ("damage", map.damage.as_ref().map(ToString::to_string).into()),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    let values = |row: &MapRow| -> Vec<Value> {
        let mut values: Vec<Value> = vec![row.example.into(), row.runs.into(), row.visits.into()];
        values.extend([row.confidence, row.variability, row.correctness].map(Value::from));
        values.extend([row.easy, row.ambiguous, row.hard].map(Value::from));
        values.extend(labels.then(|| row.label.into()));
        values
    };
    for row in map.rows.iter().take(top) {
        rows.row(&values(row))?;
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
