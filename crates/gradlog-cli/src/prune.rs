//! `gradlog prune`: which part of the training set to keep?

use super::arguments::{share, OutputArguments, WindowArguments};
use super::choice::choice;
use super::error::CliError;
use super::output::{Console, Target};
use super::over_runs::{self, OverRunsArguments};
use super::Outcome;
use crate::report::{Format, Rows, Value};
use clap::Args;
use gradlog_analysis::{KeepList, KeepRule, RunsTable, Score};
use std::io::{self, Write};
use std::path::PathBuf;

/// Write a keep-list: the part of the training set that a score says to keep (Paul et al. 2021)
///
/// Sorts the examples by difficulty, leaves out the hardest share that --skip-hardest says, and keeps the next --keep:
/// the sliding window. Which end of a score is hard is the end that `gradlog scores` prints first. As a table (and in a
/// file named .txt) the list is one id a line, ascending; CSV and JSON hold rows `example,rank,score,runs` and `label` where it
/// was recorded, the hardest first, `rank` counted from 0 over all scored examples. Examples that no run visited inside
/// the window are unknown here; those whose every visit was NaN or infinite are counted and not kept.
#[derive(Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// By which score
    #[arg(long, value_name = "NAME", value_parser = choice::<Score>())]
    score: Score,
    /// Share of the examples that is kept, such as 0.5
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    keep: f64,
    /// Share of the examples that is left out at the hard end
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value = "0", value_parser = share, conflicts_with = "random")]
    skip_hardest: f64,
    /// Let each recorded label keep its share
    #[arg(long)]
    balance: bool,
    /// Keep as many drawn at random with this seed: the control for an experiment
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    #[command(flatten)]
    over_runs: OverRunsArguments,
    #[command(flatten)]
    window: WindowArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, console: &mut Console<'_>) -> Result<Outcome, CliError> {
    let rule = KeepRule {
        keep: arguments.keep,
        skip_hardest: arguments.skip_hardest,
        balance: arguments.balance,
        random: arguments.random,
    };
    let table = over_runs::compute(console, &arguments.runs, arguments.score, &arguments.window, &arguments.over_runs)?;
    let list = table.keep(&rule)?;
    if list.scored == 0 {
        over_runs::say_damage(console, &table);
        return Err(CliError::NothingToKeep);
    }
    say(console, &list);
    let out = arguments.output.out.as_deref();
    let target = Target::open(out, console.out)?;
    write(&list, &table, arguments.output.format(), target).map_err(|source| Target::failed(out, source))?;
    Ok(over_runs::say_damage(console, &table))
}

fn say(console: &mut Console<'_>, list: &KeepList) {
    let (kept, scored) = (list.kept.len(), list.scored);
    let how = match list.rule.random {
        Some(seed) => format!("drawn at random with seed {seed}"),
        None => format!("after the hardest {} %, where hard is {}", 100.0 * list.rule.skip_hardest, list.score.hard()),
    };
    console.say(format_args!("keeps {kept} of {scored} examples, {how}"));
    if list.rule.balance {
        let counts: Vec<String> = list
            .labels
            .iter()
            .map(|label| format!("{}: {}/{}", label.label.unwrap_or_default(), label.kept, label.examples))
            .collect();
        console.say(format_args!("kept of each label: {}", counts.join(", ")));
    }
    if !list.unscored.is_empty() {
        let first: Vec<String> = list.unscored.iter().take(5).map(u64::to_string).collect();
        console.say(format_args!(
            "note: {} examples have no usable visit and are not kept ({}{})",
            list.unscored.len(),
            first.join(", "),
            if list.unscored.len() > 5 { ", ..." } else { "" }
        ));
    }
}

fn write(list: &KeepList, table: &RunsTable, format: Format, mut target: Target<'_>) -> io::Result<()> {
    if format == Format::Table {
        let mut ids: Vec<u64> = list.kept.iter().map(|kept| kept.example).collect();
        ids.sort_unstable();
        for id in ids {
            writeln!(target, "{id}")?;
        }
        target.flush()?;
        return target.finish();
    }
    let labels = list.kept.iter().any(|kept| kept.label.is_some());
    let mut columns = vec!["example", "rank", "score", "runs"];
    columns.extend(labels.then_some("label"));
    let head = [
        ("score", Value::from(list.score.name())),
        ("hard", list.score.hard().to_string().into()),
        ("keep", list.rule.keep.into()),
        ("skip_hardest", list.rule.skip_hardest.into()),
        ("balance", list.rule.balance.into()),
        ("random", list.rule.random.into()),
        ("basis", table.basis().into()),
        ("runs", (table.runs.len() as u64).into()),
        ("scored", list.scored.into()),
        ("unscored", (list.unscored.len() as u64).into()),
        ("partial", list.partial.into()),
        ("kept", (list.kept.len() as u64).into()),
        ("damage", over_runs::damage(table)),
    ];
    let mut rows = Rows::begin(format, target, &head, &columns)?;
    for kept in &list.kept {
        let mut values: Vec<Value> = vec![kept.example.into(), kept.rank.into(), kept.score.into(), kept.runs.into()];
        values.extend(labels.then(|| kept.label.into()));
        rows.row(&values)?;
    }
    let mut target = rows.end()?;
    target.flush()?;
    target.finish()
}
