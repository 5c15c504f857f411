//! `gradlog cluster`: which kinds of example are there, as the gradients see them?

use super::arguments::{OutputArguments, VectorArguments, WindowArguments};
use super::error::CliError;
use super::export::say_vectors;
use super::output::{say_coverage, Console, Target};
use super::Outcome;
use crate::report::{Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{clusters, vectors, Combine, UnitVectors};
use gradlog_format::run::Run;
use std::io::Write;
use std::path::PathBuf;

/// Rounds of k-means that are allowed.
const ROUNDS: usize = 100;

/// Gather examples into clusters of gradients that point the same way
///
/// A table has one row for each cluster: its number, size, cohesion (mean cosine with its centre), commonest label, the share
/// that has it, and the example nearest to the centre. CSV and JSON have one row for each example: `example,cluster,cosine`
/// and, where they were recorded, `label`. An example stands for the mean of its gradients over its visits. Clusters of one
/// label but apart are kinds within a class; a cluster of mixed labels is where wrong labels hide.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// How many clusters
    #[arg(long, value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    clusters: u64,
    /// Where the draws begin; the same seed gives the same clusters
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    vectors: VectorArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let question = arguments.vectors.question(arguments.window.on(&[&run])?, Combine::Mean);
    let bar = console.bar(&run, 1, "reading");
    let found = vectors(&run, &question, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let found = found?;
    say_vectors(console, &found);
    say_coverage(console, &run);
    let (variant, damage) = (found.variant(), found.damage.clone());
    let unit = UnitVectors::new(found);
    let found = clusters(&unit, arguments.clusters as usize, ROUNDS, arguments.seed); // at most 2^16
    console.say(format_args!(
        "{} clusters of {} examples after {} rounds{}",
        found.clusters.len(),
        unit.len(),
        found.rounds,
        if found.settled { "" } else { ", when some examples still moved" }
    ));
    if !unit.without_direction.is_empty() {
        console.say(format_args!("note: {} examples left out: their gradient is 0", unit.without_direction.len()));
    }
    let out = arguments.output.out.as_deref();
    let failed = |source| Target::failed(out, source);
    let head = [
        ("variant", Value::from(variant)),
        ("examples", (unit.len() as u64).into()),
        ("clusters", (found.clusters.len() as u64).into()),
        ("rounds", (found.rounds as u64).into()),
        ("settled", found.settled.into()),
        ("without_direction", (unit.without_direction.len() as u64).into()),
        ("damage", damage.as_ref().map(ToString::to_string).into()),
    ];
    let format = arguments.output.format();
    let target = Target::open(out, console.out)?;
    let rows = if format == Format::Table {
        let columns = ["cluster", "size", "cohesion", "label", "share", "example"];
        let mut rows = Rows::begin(format, target, &head, &columns).map_err(failed)?;
        for (number, cluster) in found.clusters.iter().enumerate() {
            let share = cluster.label.map(|(_, count)| count as f64 / cluster.size as f64);
            let values = [
                Value::from(number as u64),
                (cluster.size as u64).into(),
                cluster.cohesion.into(),
                cluster.label.map(|(label, _)| label).into(),
                share.into(),
                unit.examples[cluster.example].into(),
            ];
            rows.row(&values).map_err(failed)?;
        }
        rows
    } else {
        let labels = unit.labels.iter().any(Option::is_some);
        let mut columns = vec!["example", "cluster", "cosine"];
        columns.extend(labels.then_some("label"));
        let mut rows = Rows::begin(format, target, &head, &columns).map_err(failed)?;
        for (position, example) in unit.examples.iter().enumerate() {
            let cosine = f64::from(found.cosines[position]);
            let mut values = vec![Value::from(*example), (found.of[position] as u64).into(), cosine.into()];
            values.extend(labels.then(|| unit.labels[position].into()));
            rows.row(&values).map_err(failed)?;
        }
        rows
    };
    let mut target = rows.end().map_err(failed)?;
    target.flush().and_then(|()| target.finish()).map_err(failed)?;
    console.say_damage(damage.as_ref());
    Ok(if damage.is_some() { Outcome::Loss } else { Outcome::Done })
}
