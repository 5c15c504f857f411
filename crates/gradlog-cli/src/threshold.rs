//! `gradlog threshold`: which labels does AUM find wrong, by threshold samples?

use super::arguments::{OutputArguments, WindowArguments};
use super::error::CliError;
use super::output::{Console, Target};
use super::over_runs::open;
use super::{ids, Outcome};
use crate::report::{printable, Format, Rows, Value};
use clap::Args;
use gradlog_analysis::significant;
use gradlog_analysis::{Basis, Flagged, ThresholdIds};
use gradlog_format::run::Run;
use std::io::{self, Write};
use std::path::PathBuf;

/// Flag mislabelled examples by AUM and threshold samples (Pleiss et al. 2020)
///
/// The runs were trained with an extra class that some examples were given on purpose, each run with other ones
/// (`ThresholdSamples::pick` of the library draws them). The 99th percentile of their AUM is the run's cut; an example below it in
/// every run that judges it is flagged. Rows are `example,flagged,judged,below,visits,aum,above_cut` (means over the runs that
/// judge it, `above_cut` is AUM minus cut) and, where they were recorded, `label` and `prediction`, the most suspicious first.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folders of the runs: one, or better two with disjoint threshold samples
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The extra class: threshold samples are the examples that were recorded with this label
    #[arg(long, value_name = "LABEL", required_unless_present = "samples", conflicts_with = "samples")]
    class: Option<u32>,
    /// A file of ids, one a line, of a run's threshold samples; once for each run, in their order
    #[arg(long, value_name = "FILE")]
    samples: Vec<PathBuf>,
    /// Which percentile of the threshold samples' AUM is the cut
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = Flagged::PERCENTILE, value_parser = percentile)]
    percentile: f64,
    /// Only the flagged ones
    #[arg(long)]
    flagged: bool,
    /// Only the N most suspicious; by default 20 in a table, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(percentile) if (0.0..=100.0).contains(&percentile) => Ok(percentile),
        _ => Err(format!("`{text}` is not a percentile between 0 and 100")),
    }
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let opened = open(&arguments.runs)?;
    let runs: Vec<&Run> = opened.iter().collect();
    let samples = match arguments.class {
        Some(class) => ThresholdIds::Class(class),
        None => {
            let set = |path: &PathBuf| Ok(ids::read(path)?.into_iter().map(|(id, _)| id).collect());
            ThresholdIds::Sets(arguments.samples.iter().map(set).collect::<Result<_, CliError>>()?)
        }
    };
    let window = arguments.window.on(&runs)?;
    let bar = console.bar_over(&runs, 1, "reading");
    let verdict = Flagged::of(&runs, &samples, arguments.percentile, &window, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let verdict = verdict?;
    for (run, part) in runs.iter().zip(&verdict.runs) {
        console.say(format_args!(
            "{}: {} threshold samples, cut at AUM {}, {} examples judged",
            printable(&run.dir().display().to_string()),
            part.samples,
            significant(part.cut),
            part.judged
        ));
    }
    if verdict.runs.iter().any(|part| part.basis.is_sweeps()) {
        console.say(format_args!("on {}; \"visits\" are rows of these", basis(&verdict)));
    }
    console.say(format_args!("{} of {} examples are flagged", verdict.flagged(), verdict.rows.len()));
    if !verdict.unjudged.is_empty() {
        console.say(format_args!(
            "note: {} examples are judged by no run: threshold samples in each that visited them, or without a usable visit",
            verdict.unjudged.len()
        ));
    }
    let format = arguments.output.format();
    let top = arguments.output.rows(arguments.top);
    let out = arguments.output.out.as_deref();
    let target = Target::open(out, console.out)?;
    let count =
        write(&verdict, arguments.flagged, format, top, target).map_err(|source| Target::failed(out, source))?;
    console.say_more(arguments.top, count, top);
    let mut outcome = Outcome::Done;
    for part in verdict.runs.iter().filter(|part| part.damage.is_some()) {
        console.say_damage(part.damage.as_ref());
        outcome = Outcome::Loss;
    }
    Ok(outcome)
}

fn basis(verdict: &Flagged) -> String {
    Basis::of_all(verdict.runs.iter().map(|part| &part.basis))
}

/// Returns how many rows there are to write.
fn write(verdict: &Flagged, only: bool, format: Format, top: usize, target: Target<'_>) -> io::Result<usize> {
    let labels = verdict.rows.iter().any(|row| row.label.is_some());
    let predictions = verdict.rows.iter().any(|row| row.prediction.is_some());
    let mut columns = vec!["example", "flagged", "judged", "below", "visits", "aum", "above_cut"];
    columns.extend(labels.then_some("label"));
    columns.extend(predictions.then_some("prediction"));
    let cuts: Vec<String> = verdict.runs.iter().map(|part| part.cut.to_string()).collect();
    let samples: Vec<String> = verdict.runs.iter().map(|part| part.samples.to_string()).collect();
    let damage = verdict.runs.iter().find_map(|part| part.damage.as_ref());
    let head = [
        ("score", Value::from("aum")),
        ("basis", basis(verdict).into()),
        ("percentile", verdict.percentile.into()),
        ("runs", (verdict.runs.len() as u64).into()),
        ("cuts", cuts.join(", ").into()),
        ("threshold_samples", samples.join(", ").into()),
        ("examples", (verdict.rows.len() as u64).into()),
        ("flagged", verdict.flagged().into()),
        ("unjudged", (verdict.unjudged.len() as u64).into()),
        ("damage", damage.map(ToString::to_string).into()),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    let wanted = || verdict.rows.iter().filter(|row| row.flagged || !only);
    for row in wanted().take(top) {
        let mut values: Vec<Value> = vec![row.example.into(), row.flagged.into(), row.judged.into(), row.below.into()];
        values.extend([Value::from(row.visits), row.aum.into(), row.above_cut.into()]);
        values.extend(labels.then(|| row.label.into()));
        values.extend(predictions.then(|| row.prediction.into()));
        rows.row(&values)?;
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()?;
    Ok(wanted().count())
}
