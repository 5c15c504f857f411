//! `gradlog similar`: which examples teach the model the same thing as this one, and which are almost the same?

use super::arguments::{OutputArguments, VectorArguments, WindowArguments};
use super::error::CliError;
use super::export::say_vectors;
use super::output::{say_coverage, Console, Target};
use super::Outcome;
use crate::report::{Rows, Value};
use clap::Args;
use gradlog_analysis::{near_duplicates, neighbours, vectors, AnalysisError, Combine, UnitVectors};
use gradlog_format::run::Run;
use std::io::Write;
use std::path::PathBuf;

/// Find examples whose gradients point the same way
///
/// With --example the nearest to that one: rows `example,cosine` and, where they were recorded, `label`. With --duplicates
/// all pairs whose cosine is at least so much, the most alike first: rows `first,second,cosine`. An example stands for the
/// mean of its gradients over its visits. The cosine is 1 for gradients of one direction; where gradients are folded to N
/// numbers it is off by about one in the square root of N.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Id of the example
    #[arg(long, value_name = "ID", required_unless_present = "duplicates", conflicts_with = "duplicates")]
    example: Option<u64>,
    /// Pairs of examples with at least this cosine
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    duplicates: Option<f32>,
    /// How many neighbours or pairs, at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    top: u64,
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
    if !unit.without_direction.is_empty() {
        console.say(format_args!("note: {} examples left out: their gradient is 0", unit.without_direction.len()));
    }
    let top = arguments.top as usize; // at most 2^24
    let out = arguments.output.out.as_deref();
    let failed = |source| Target::failed(out, source);
    let mut head = vec![("variant", Value::from(variant)), ("examples", (unit.len() as u64).into())];
    head.push(("without_direction", (unit.without_direction.len() as u64).into()));
    head.push(("damage", damage.as_ref().map(ToString::to_string).into()));
    let format = arguments.output.format();

    let rows = if let Some(example) = arguments.example {
        let Some(position) = unit.position(example) else {
            return Err(AnalysisError::NoSuchExample { id: example }.into());
        };
        head.insert(0, ("example", example.into()));
        let labels = unit.labels.iter().any(Option::is_some);
        let columns = if labels { &["example", "cosine", "label"][..] } else { &["example", "cosine"] };
        let mut rows = Rows::begin(format, Target::open(out, console.out)?, &head, columns).map_err(failed)?;
        for found in neighbours(&unit, position, top) {
            let mut values = vec![Value::from(found.example), f64::from(found.cosine).into()];
            values.extend(labels.then(|| unit.labels[found.position].into()));
            rows.row(&values).map_err(failed)?;
        }
        rows
    } else {
        let threshold = arguments.duplicates.unwrap_or(1.0);
        head.insert(0, ("threshold", f64::from(threshold).into()));
        let pairs = near_duplicates(&unit, threshold, top);
        if pairs.len() == top {
            console.say(format_args!("these are the {top} most alike: there may be more, see them with --top N"));
        }
        let columns = &["first", "second", "cosine"];
        let mut rows = Rows::begin(format, Target::open(out, console.out)?, &head, columns).map_err(failed)?;
        for pair in pairs {
            rows.row(&[pair.first.into(), pair.second.into(), f64::from(pair.cosine).into()]).map_err(failed)?;
        }
        rows
    };
    let mut target = rows.end().map_err(failed)?;
    target.flush().and_then(|()| target.finish()).map_err(failed)?;
    console.say_damage(damage.as_ref());
    Ok(if damage.is_some() { Outcome::Loss } else { Outcome::Done })
}
