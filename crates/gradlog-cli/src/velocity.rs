//! `gradlog velocity`: how fast does the geometry of some examples still turn?

use super::arguments::{OutputArguments, WindowArguments};
use super::choice::choice;
use super::error::CliError;
use super::output::{say_coverage, Console, Target};
use super::{ids, Outcome};
use crate::report::{printable, Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{OverRuns, Score, Velocity, VelocityGroup, VelocityGroups};
use gradlog_format::run::Run;
use std::io::{self, Write};
use std::path::PathBuf;

/// What the Gram matrices are of.
const KERNEL: &str = "Gram matrix of the recorded loss gradients, not the neural tangent kernel";

/// Measure the kernel velocity of groups of probes between successive probe times (Paul et al. 2021)
///
/// 0 means that the geometry of the group's gradients stands still, 1 that nothing of it is left. It is that of the loss
/// gradients, not the neural tangent kernel. Rows are `group,from_step,to_step,examples,velocity` and, with --by, `mean_score`.
/// Without --groups and --by the whole set is one group.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run
    run: PathBuf,
    /// Name of the probe set
    #[arg(long, value_name = "SET")]
    set: String,
    /// A file of lines `id,group`, or of ids that are one group
    #[arg(long, value_name = "FILE", conflicts_with = "by")]
    groups: Option<PathBuf>,
    /// Group the set's examples by this score of their visits, hardest first: for a set of training examples
    #[arg(long, value_name = "NAME", value_parser = choice::<Score>())]
    by: Option<Score>,
    /// How many examples a group has, with --by
    #[arg(long, value_name = "N", default_value_t = 100, requires = "by", value_parser = size)]
    group_size: usize,
    /// Which visits the score of --by counts
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

fn size(text: &str) -> Result<usize, String> {
    match text.trim().parse::<usize>() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err(format!("`{text}` is not a number of examples")),
    }
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let run = Run::open(&arguments.run)?;
    let given = match &arguments.groups {
        Some(path) => named(ids::read(path)?),
        None => Vec::new(),
    };
    let bar = console.bar(&run, if arguments.by.is_some() { 2 } else { 1 }, "reading");
    let progress = |bytes| bar.inc(bytes);
    let velocity = match arguments.by {
        Some(score) => {
            let window = arguments.window.on(&[&run])?;
            score.compute_over(&[&run], &window, OverRuns::Mean, &progress).and_then(|table| {
                let groups = VelocityGroups::Ranked { table: &table, size: arguments.group_size };
                Velocity::of(&run, &arguments.set, groups, &progress)
            })
        }
        None if arguments.groups.is_some() => {
            Velocity::of(&run, &arguments.set, VelocityGroups::Given(&given), &progress)
        }
        None => Velocity::of(&run, &arguments.set, VelocityGroups::Whole, &progress),
    };
    bar.finish_and_clear();
    let velocity = velocity?;
    let (groups, times, set) = (velocity.groups.len(), velocity.times, printable(&velocity.set));
    console.say(format_args!("{groups} groups of `{set}` at {times} probe times; {KERNEL}"));
    say_coverage(console, &run);
    for (count, what) in [
        (
            velocity.left_out.examples,
            "examples left out: without a usable record in the set, without a score, or left over",
        ),
        (velocity.left_out.probe_records, "probe records left out: not finite, without weight or in another form"),
    ] {
        if count > 0 {
            console.say(format_args!("note: {count} {what}"));
        }
    }
    let out = arguments.output.out.as_deref();
    let target = Target::open(out, console.out)?;
    write(&velocity, arguments.output.format(), target).map_err(|source| Target::failed(out, source))?;
    console.say_damage(velocity.damage.as_ref());
    Ok(if velocity.damage.is_some() { Outcome::Loss } else { Outcome::Done })
}

/// Groups in the order of their first line.
fn named(rows: Vec<(u64, String)>) -> Vec<VelocityGroup> {
    let mut groups: Vec<VelocityGroup> = Vec::new();
    for (id, name) in rows {
        let name = if name.is_empty() { "given".into() } else { name };
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.ids.push(id),
            None => groups.push(VelocityGroup { name, ids: vec![id] }),
        }
    }
    groups
}

fn write(velocity: &Velocity, format: Format, target: Target<'_>) -> io::Result<()> {
    let scores = velocity.groups.iter().any(|group| group.mean_score.is_some());
    let mut columns = vec!["group", "from_step", "to_step", "examples", "velocity"];
    columns.extend(scores.then_some("mean_score"));
    let head = [
        ("measure", Value::from("kernel velocity")),
        ("kernel", KERNEL.into()),
        ("set", velocity.set.as_str().into()),
        ("probe_times", velocity.times.into()),
        ("groups", (velocity.groups.len() as u64).into()),
        ("left_out", velocity.left_out.examples.into()),
        ("records_left_out", velocity.left_out.probe_records.into()),
        ("damage", velocity.damage.as_ref().map(ToString::to_string).into()),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    for group in &velocity.groups {
        for step in &group.steps {
            let mut values: Vec<Value> = vec![group.name.as_str().into(), step.from.into(), step.to.into()];
            values.extend([Value::from(step.examples), step.velocity.into()]);
            values.extend(scores.then(|| group.mean_score.into()));
            rows.row(&values)?;
        }
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
