//! Which parts are run, and how they are reported: as libtest would.

use crate::{child, harm, kill, load, no_room};
use anyhow::{bail, Context, Result};
use gradlog::Overflow;
use serde_json::Value;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;

/// Kills of an ordinary test run.
const KILLS: u64 = 24;
/// Visits of an ordinary test run.
const VISITS: u64 = 50_000;

/// What was asked for.
#[derive(Debug, Default)]
struct Arguments {
    kills: Option<u64>,
    visits: Option<u64>,
    seed: Option<u64>,
    json: Option<String>,
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

/// Flags of libtest that come with a value, and mean nothing here.
const VALUED: [&str; 7] =
    ["--test-threads", "--format", "--color", "--logfile", "-Z", "--shuffle-seed", "--report-time"];

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let (name, mut own) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word, None),
            };
            let mut value = || own.take().or_else(|| words.next()).with_context(|| format!("`{name}` needs a value"));
            match name.as_str() {
                "--kills" => arguments.kills = Some(value()?.parse().context("--kills")?),
                "--visits" => arguments.visits = Some(value()?.parse().context("--visits")?),
                "--seed" => arguments.seed = Some(value()?.parse().context("--seed")?),
                "--json" => arguments.json = Some(value()?),
                "--skip" => arguments.skipped.push(value()?),
                "--exact" => arguments.exact = true,
                "--list" => arguments.list = true,
                "--ignored" => arguments.ignored = true,
                flag if VALUED.contains(&flag) => drop(value()?),
                flag if flag.starts_with('-') => {}
                _ => arguments.filters.push(name),
            }
        }
        Ok(arguments)
    }

    /// Whether the part of this name is asked for. A number of kills or visits asks for just the parts that it is of.
    fn wants(&self, name: &str) -> bool {
        let by_number = match (self.kills, self.visits) {
            (None, None) => true,
            (kills, visits) => kills.is_some() && name == "kill" || visits.is_some() && name.starts_with("load"),
        };
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        let by_name = self.filters.is_empty() || self.filters.iter().any(matches);
        by_number && by_name && !self.skipped.iter().any(matches) && !self.ignored
    }
}

/// What a part came to: a line, figures by name, and what did not hold although there are figures.
type Outcome = Result<(String, Option<Value>, Option<String>)>;

/// Runs what the arguments ask for.
pub fn run() -> Result<ExitCode> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let (kills, visits) = (arguments.kills.unwrap_or(KILLS), arguments.visits.unwrap_or(VISITS));
    let seed = arguments.seed.unwrap_or(1);
    let words = |part: fn() -> Result<String>| move || part().map(|words| (words, None, None));
    let soak = |shape: load::Shape| {
        move || {
            let figures = load::run(shape)?;
            Ok((format!("{figures:?}"), Some(figures.json()), None))
        }
    };
    let killed = || {
        let figures = kill::run(kills, seed)?;
        Ok((format!("{figures:?}"), Some(figures.json()), figures.broken))
    };
    let parts: [(&str, &dyn Fn() -> Outcome); 12] = [
        ("kill", &killed),
        ("disk_full", &words(harm::disk_full)),
        ("disk_full_at_create", &words(harm::disk_full_at_create)),
        ("disk_full_at_checkpoint", &words(no_room::checkpoint)),
        ("file_size_limit", &words(harm::file_size_limit)),
        ("read_only_folder", &words(harm::read_only)),
        ("vanished_folder", &words(harm::vanished)),
        ("disk_full_goes_on", &words(harm::disk_full_goes_on)),
        ("vanished_folder_goes_on", &words(harm::vanished_goes_on)),
        ("load_block", &soak(load::Shape::many(visits, Overflow::Block))),
        ("load_drop_newest", &soak(load::Shape::many(visits, Overflow::DropNewest))),
        ("load_large_passes", &soak(load::Shape::large(visits))),
    ];
    let wanted: Vec<_> = parts.iter().filter(|(name, _)| arguments.wants(name)).collect();
    if arguments.list {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nrunning {} tests", wanted.len());
    let (mut failed, mut json) = (0, serde_json::Map::new());
    for (name, part) in &wanted {
        let outcome = catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|_| bail!("it panicked"));
        let broken = match outcome {
            Ok((words, figures, broken)) => {
                match figures {
                    // The figures of the kills are what the file is for; the others stand under their names.
                    Some(Value::Object(figures)) if *name == "kill" => json.extend(figures),
                    Some(figures) => drop(json.insert((*name).into(), figures)),
                    None => {}
                }
                println!("test {name} ... {} ({words})", if broken.is_none() { "ok" } else { "FAILED" });
                broken
            }
            Err(error) => {
                println!("test {name} ... FAILED");
                Some(format!("{error:#}"))
            }
        };
        if let Some(broken) = broken {
            println!("    {broken}");
            failed += 1;
        }
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{:#}\n", Value::Object(json))).with_context(|| path.clone())?;
    }
    let state = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, out) = (wanted.len() - failed, parts.len() - wanted.len());
    println!("\ntest result: {state}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {out} filtered out\n");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) })
}

/// Plays the part of a child.
pub fn play(role: &str) -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = Path::new(arguments.first().context("a child needs a folder")?);
    let seed = || -> Result<u64> { Ok(arguments.get(1).context("a child needs a seed")?.parse()?) };
    match role {
        "train" => child::train(dir, seed()?, false),
        "idle" => child::train(dir, seed()?, true),
        "harm" => harm::child(dir, false),
        "harm-on" => harm::child_that_goes_on(dir, false),
        "harm-on-leave" => harm::child_that_goes_on(dir, true),
        "harm-large" => harm::child(dir, true),
        _ => bail!("no child plays `{role}`"),
    }
}
