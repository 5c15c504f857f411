//! Which rows count: ranges of epochs and steps, visits or sweeps.

use crate::error::CliError;
use clap::Args;
use gradlog_analysis::Window;
use gradlog_format::log::BlockKind;
use gradlog_format::run::Run;
use std::fmt;
use std::ops::Range;

/// Which visits count.
#[derive(Debug, Args)]
pub(crate) struct WindowArguments {
    /// Count only visits of these epochs: `A..B` (without B), `A..=B`, `A..`, `..B` or `A`
    #[arg(long, value_name = "A..B", value_parser = parse_epochs)]
    epochs: Option<Range<u32>>,
    /// Count only visits of these optimizer steps, written as epochs are
    #[arg(long, value_name = "A..B", value_parser = parse_steps)]
    steps: Option<Range<u64>>,
    /// What counts: the `visits` of the training; or `sweep`, the examples that a replay took through the model at
    /// checkpoints; or `sweep:STEP`, those at one checkpoint. Steps and epochs are then those of the checkpoints. What
    /// needs steps of the training, or their order, refuses sweeps
    #[arg(long, value_name = "ROWS", default_value = "visits", value_parser = parse_rows)]
    at: Counted,
}

/// Which rows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Visits,
    Sweeps,
    Sweep(u64),
}

impl WindowArguments {
    /// Whether anything but the whole training was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.window() != Window::everything()
    }

    /// The window, checked to hold visits of some run.
    ///
    /// # Errors
    /// [`CliError::Outside`] if the runs have visits, but none where the window is; [`CliError::Read`] if the file system refuses.
    pub(crate) fn find_window(&self, runs: &[&Run]) -> Result<Window, CliError> {
        let window = self.window();
        if window == Window::everything() || self.at != Counted::Visits {
            return Ok(window);
        }
        for run in runs {
            if !window.is_beside(run)? {
                return Ok(window);
            }
        }
        let visits = runs.iter().flat_map(|run| run.scan()).filter(|block| block.kind() == Some(BlockKind::Visits));
        let extents = visits.map(|block| Extent { epochs: block.epochs(), steps: block.steps() });
        match extents.reduce(Extent::join) {
            Some(there) => Err(CliError::Outside { asked: window_words(&window), there: there.to_string() }),
            None => Ok(window),
        }
    }

    /// The window, whatever the run has.
    pub(crate) fn window(&self) -> Window {
        let (epochs, steps) = (self.epochs.clone(), self.steps.clone());
        match self.at {
            Counted::Visits => Window { epochs, steps, ..Window::default() },
            Counted::Sweeps => Window { epochs, steps, ..Window::sweeps() },
            Counted::Sweep(step) => {
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
struct Extent {
    epochs: (u32, u32),
    steps: (u64, u64),
}

impl Extent {
    fn join(self, other: Self) -> Self {
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
fn window_words(window: &Window) -> String {
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

fn parse_epochs(text: &str) -> Result<Range<u32>, String> {
    let range = parse_range(text, u64::from(u32::MAX))?;
    // `parse_range` keeps both ends within the limit.
    Ok(range.start as u32..range.end as u32)
}

fn parse_steps(text: &str) -> Result<Range<u64>, String> {
    parse_range(text, u64::MAX)
}

/// `visits`, `sweep` or `sweep:STEP`.
fn parse_rows(text: &str) -> Result<Counted, String> {
    match text.split_once(':') {
        None if text == "visits" => Ok(Counted::Visits),
        None if text == "sweep" => Ok(Counted::Sweeps),
        Some(("sweep", step)) => match step.parse() {
            Ok(step) if step < u64::MAX => Ok(Counted::Sweep(step)),
            _ => Err(format!("`{step}` is not the step of a checkpoint")),
        },
        _ => Err("it is `visits`, `sweep` or `sweep:STEP`".into()),
    }
}

/// `A..B`, `A..=B`, `A..`, `..B`, `..=B`, `..` or `A`. An open end is `limit`.
fn parse_range(text: &str, limit: u64) -> Result<Range<u64>, String> {
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
            assert_eq!(parse_range(text, 100).ok(), expected, "{text}");
        }
        let hint = parse_range("1-2", 100).unwrap_err();
        assert!(hint.contains("1..2 (without 2) or 1..=2"), "{hint}");
        assert!(parse_range("a-2", 100).unwrap_err().contains("not a whole number"));
        assert_eq!(parse_rows("visits"), Ok(Counted::Visits));
        assert_eq!(parse_rows("sweep"), Ok(Counted::Sweeps));
        assert_eq!(parse_rows("sweep:1200"), Ok(Counted::Sweep(1200)));
        for wrong in ["", "sweep:", "sweep:-1", "sweep:18446744073709551615", "visits:3", "Sweep", "sweeps"] {
            assert!(parse_rows(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_epochs("2..").unwrap(), 2..u32::MAX);
        assert!(parse_epochs("4294967295").is_err());
        assert_eq!(parse_steps("18446744073709551614").unwrap(), u64::MAX - 1..u64::MAX);
    }
}
