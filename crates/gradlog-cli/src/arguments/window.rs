//! Which rows count: ranges of epochs and steps, visits or sweeps.

use clap::Args;
use gradlog_analysis::Window;
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

/// The window of what was typed behind the names of these arguments.
pub(crate) fn read_window(epochs: Option<&str>, steps: Option<&str>, at: Option<&str>) -> Result<Window, String> {
    let named = |name: &'static str| move |error: String| format!("{name}: {error}");
    let arguments = WindowArguments {
        epochs: epochs.map(parse_epochs).transpose().map_err(named("epochs"))?,
        steps: steps.map(parse_steps).transpose().map_err(named("steps"))?,
        at: at.map_or(Ok(Counted::Visits), parse_rows).map_err(named("at"))?,
    };
    Ok(arguments.window())
}

impl WindowArguments {
    /// Whether anything but the whole training was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.window() != Window::everything()
    }

    /// Whether sweeps are to count instead of visits.
    pub(crate) fn is_on_sweeps(&self) -> bool {
        self.at != Counted::Visits
    }

    /// The window. The library refuses one that lies outside of the runs.
    pub(crate) fn window(&self) -> Window {
        let mut window = match self.at {
            Counted::Visits => Window::everything(),
            Counted::Sweeps => Window::sweeps(),
            Counted::Sweep(step) => Window::sweep_at(step),
        };
        if let Some(epochs) = &self.epochs {
            window = window.with_epochs(epochs.clone());
        }
        match (&self.steps, self.at) {
            (None, _) => window,
            // Outside the steps that were asked for there is nothing.
            (Some(steps), Counted::Sweep(step)) if !steps.contains(&step) => window.with_steps(step..step),
            (Some(_), Counted::Sweep(_)) => window,
            (Some(steps), _) => window.with_steps(steps.clone()),
        }
    }
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
