//! Arguments that several verbs share, and how they are read.

use super::choice::Choice;
use super::error::CliError;
use crate::report::Format;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use gradlog_analysis::{Combine, Score, VectorQuestion, Window};
use gradlog_format::log::BlockKind;
use gradlog_format::run::Run;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// Rows of a table without `--top`.
const TABLE_ROWS: usize = 20;

/// Which visits count.
#[derive(Debug, Args)]
pub(super) struct WindowArguments {
    /// Count only visits of these epochs: `A..B` (without B), `A..=B`, `A..`, `..B` or `A`
    #[arg(long, value_name = "A..B", value_parser = epochs)]
    epochs: Option<Range<u32>>,
    /// Count only visits of these optimizer steps, written as epochs are
    #[arg(long, value_name = "A..B", value_parser = steps)]
    steps: Option<Range<u64>>,
    /// What counts: `visits` of the training, or `sweep` for the examples that a replay took through the model at checkpoints,
    /// `sweep:STEP` for those at one checkpoint. Steps and epochs are then those of the checkpoints. What needs the steps that
    /// visits took part in, or their sequence, refuses sweeps
    #[arg(long, value_name = "ROWS", default_value = "visits", value_parser = at)]
    at: At,
}

/// Which rows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Visits,
    Sweeps,
    Sweep(u64),
}

impl WindowArguments {
    /// The window on some runs.
    ///
    /// # Errors
    /// [`CliError::Outside`] if they have visits, but none where the window is; [`CliError::Read`] if the file system refuses.
    pub(super) fn on(&self, runs: &[&Run]) -> Result<Window, CliError> {
        let window = self.window();
        if window == Window::everything() || self.at != At::Visits {
            return Ok(window);
        }
        for run in runs {
            if !window.is_beside(run)? {
                return Ok(window);
            }
        }
        let visits = runs.iter().flat_map(|run| run.scan()).filter(|block| block.kind() == Some(BlockKind::Visits));
        let extents = visits.map(|block| Extent { epochs: block.epochs(), steps: block.steps() });
        match extents.reduce(Extent::and) {
            Some(there) => Err(CliError::Outside { window, there }),
            None => Ok(window),
        }
    }

    /// The window, whatever the run has.
    pub(super) fn window(&self) -> Window {
        let (epochs, steps) = (self.epochs.clone(), self.steps.clone());
        match self.at {
            At::Visits => Window { epochs, steps, ..Window::default() },
            At::Sweeps => Window { epochs, steps, ..Window::sweeps() },
            At::Sweep(step) => {
                let one = Window { epochs, ..Window::sweep_at(step) };
                // Outside the steps that were asked for there is nothing.
                let nothing = steps.is_some_and(|steps| !steps.contains(&step));
                if nothing {
                    Window { steps: Some(step..step), ..one }
                } else {
                    one
                }
            }
        }
    }
}

/// First and last epoch and step of some visits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    epochs: (u32, u32),
    steps: (u64, u64),
}

impl Extent {
    fn and(self, other: Self) -> Self {
        Self {
            epochs: (self.epochs.0.min(other.epochs.0), self.epochs.1.max(other.epochs.1)),
            steps: (self.steps.0.min(other.steps.0), self.steps.1.max(other.steps.1)),
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epochs, steps) = (self.epochs, self.steps);
        write!(f, "epochs {} to {} and steps {} to {}", epochs.0, epochs.1, steps.0, steps.1)
    }
}

/// A window in the words of its arguments.
pub(super) fn narrowed(window: &Window) -> String {
    let epochs = window.epochs.as_ref().map(|range| match range.end {
        u32::MAX => format!("--epochs {}..", range.start),
        end => format!("--epochs {}..{end}", range.start),
    });
    let steps = window.steps.as_ref().map(|range| match range.end {
        u64::MAX => format!("--steps {}..", range.start),
        end => format!("--steps {}..{end}", range.start),
    });
    epochs.into_iter().chain(steps).collect::<Vec<_>>().join(" ")
}

/// How gradients are made flat.
#[derive(Debug, Args)]
pub(super) struct VectorArguments {
    /// The most numbers of a vector; a longer gradient is folded
    #[arg(long, value_name = "N", default_value_t = 1024)]
    numbers: usize,
    /// The most gigabytes of memory that the vectors may take
    #[arg(long, value_name = "GB", default_value_t = 4)]
    memory: u32,
}

impl VectorArguments {
    pub(super) fn question(&self, window: Window, combine: Combine) -> VectorQuestion {
        let bytes_max = u64::from(self.memory) * 1_000_000_000;
        VectorQuestion { window, combine, bytes_max, ..VectorQuestion::means(self.numbers) }
    }
}

/// Where the rows go, and how they look.
#[derive(Debug, Args)]
pub(super) struct OutputArguments {
    /// How to write the rows; by default as the name of --out ends (.csv, .json), else a table
    #[arg(long)]
    format: Option<Format>,
    /// Write to this file, which appears when it is whole, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

impl OutputArguments {
    pub(super) fn format(&self) -> Format {
        let by_name = || {
            let extension = self.out.as_ref()?.extension()?.to_str()?.to_ascii_lowercase();
            Format::value_variants().iter().copied().find(|format| format_name(*format) == extension)
        };
        self.format.or_else(by_name).unwrap_or_default()
    }

    /// How many rows to write, of `--top N`.
    pub(super) fn rows(&self, top: Option<u64>) -> usize {
        match (top, self.format()) {
            (Some(top), _) => usize::try_from(top).unwrap_or(usize::MAX),
            (None, Format::Table) => TABLE_ROWS,
            (None, _) => usize::MAX,
        }
    }
}

/// A share between 0 and 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share between 0 and 1")),
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Table => "table",
        Format::Csv => "csv",
        Format::Json => "json",
    }
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Format::Table, Format::Csv, Format::Json]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Format::Table => "aligned columns for the eye, five significant digits",
            Format::Csv => "comma-separated with a header, numbers in full, NaN and inf in words",
            Format::Json => "one object with the rows under `rows`, numbers in full, NaN and inf as null",
        };
        Some(PossibleValue::new(format_name(*self)).help(help))
    }
}

impl Choice for Score {
    fn all() -> &'static [Self] {
        &Score::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        self.about()
    }
}

fn epochs(text: &str) -> Result<Range<u32>, String> {
    let range = range(text, u64::from(u32::MAX))?;
    // `range` keeps both ends within the limit.
    Ok(range.start as u32..range.end as u32)
}

fn steps(text: &str) -> Result<Range<u64>, String> {
    range(text, u64::MAX)
}

/// `visits`, `sweep` or `sweep:STEP`.
fn at(text: &str) -> Result<At, String> {
    match text.split_once(':') {
        None if text == "visits" => Ok(At::Visits),
        None if text == "sweep" => Ok(At::Sweeps),
        Some(("sweep", step)) => match step.parse() {
            Ok(step) if step < u64::MAX => Ok(At::Sweep(step)),
            _ => Err(format!("`{step}` is not the step of a checkpoint")),
        },
        _ => Err("it is `visits`, `sweep` or `sweep:STEP`".into()),
    }
}

/// `A..B`, `A..=B`, `A..`, `..B`, `..=B`, `..` or `A`. An open end is `limit`.
fn range(text: &str, limit: u64) -> Result<Range<u64>, String> {
    let number = |text: &str| -> Result<u64, String> {
        let number = text.trim().parse::<u64>().map_err(|_| format!("`{}` is not a whole number", text.trim()))?;
        if number >= limit {
            return Err(format!("{number} is too large"));
        }
        Ok(number)
    };
    let (start, end) = match text.split_once("..") {
        None => {
            let only = number(text).map_err(|error| match text.split_once('-') {
                Some((first, last)) if number(first).is_ok() && number(last).is_ok() => {
                    format!("a range is written {first}..{last} (without {last}) or {first}..={last}")
                }
                _ => error,
            })?;
            (only, only + 1)
        }
        Some((start, end)) => {
            let start = if start.trim().is_empty() { 0 } else { number(start)? };
            let end = match end.trim().strip_prefix('=') {
                Some(last) => number(last)? + 1,
                None if end.trim().is_empty() => limit,
                None => number(end)?,
            };
            (start, end)
        }
    };
    if start >= end {
        return Err(format!(
            "nothing lies in {text}: the end of `A..B` is not part of it, write `A..=B` if it is to be"
        ));
    }
    Ok(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_they_are_written() {
        for (text, expected) in [
            ("3..5", Some(3..5)),
            ("3..=5", Some(3..6)),
            ("3..", Some(3..100)),
            ("..5", Some(0..5)),
            ("..=5", Some(0..6)),
            ("..", Some(0..100)),
            ("7", Some(7..8)),
            (" 1 .. 2 ", Some(1..2)),
            ("5..5", None),
            ("6..5", None),
            ("..0", None),
            ("100", None),
            ("-1", None),
            ("a..b", None),
            ("", None),
            ("1...2", None),
            ("18446744073709551615..=18446744073709551615", None),
        ] {
            assert_eq!(range(text, 100).ok(), expected, "{text}");
        }
        let hint = range("1-2", 100).unwrap_err();
        assert!(hint.contains("1..2 (without 2) or 1..=2"), "{hint}");
        assert!(range("a-2", 100).unwrap_err().contains("not a whole number"));
        assert_eq!(at("visits"), Ok(At::Visits));
        assert_eq!(at("sweep"), Ok(At::Sweeps));
        assert_eq!(at("sweep:1200"), Ok(At::Sweep(1200)));
        for wrong in ["", "sweep:", "sweep:-1", "sweep:18446744073709551615", "visits:3", "Sweep", "sweeps"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
        assert_eq!(epochs("2..").unwrap(), 2..u32::MAX);
        assert!(epochs("4294967295").is_err());
        assert_eq!(steps("18446744073709551614").unwrap(), u64::MAX - 1..u64::MAX);
    }
}
