//! What table functions are called with: words, numbers, and options such as `'epochs=2..5'`.

use crate::SqlError;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;
use gradlog_analysis::{ProbeTime, Window};
use std::str::FromStr;

/// The arguments of a call, read one by one.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    function: &'static str,
    left: &'a [Expr],
}

impl<'a> Arguments<'a> {
    pub fn new(function: &'static str, arguments: &'a [Expr]) -> Self {
        Self { function, left: arguments }
    }

    /// The next argument, which is a text.
    pub fn text(&mut self, what: &str) -> Result<&'a str, SqlError> {
        let Some((first, rest)) = self.left.split_first() else {
            return Err(SqlError::argument(self.function, format!("there is no {what}")));
        };
        self.left = rest;
        text(first).ok_or_else(|| SqlError::argument(self.function, format!("{what} must be a text, not {first}")))
    }

    /// The next argument, if it is a number; NULL stands for none.
    pub fn number(&mut self, what: &str) -> Result<Option<u64>, SqlError> {
        let Some((first, rest)) = self.left.split_first() else { return Ok(None) };
        let number = match first {
            Expr::Literal(value, _) if value.is_null() => None,
            Expr::Literal(ScalarValue::Int64(Some(number)), _) if *number >= 0 => Some(*number as u64),
            Expr::Literal(ScalarValue::UInt64(Some(number)), _) => Some(*number),
            _ if text(first).is_some() => return Ok(None),
            other => {
                let what = format!("{what} must be a whole number, not {other}");
                return Err(SqlError::argument(self.function, what));
            }
        };
        self.left = rest;
        Ok(number)
    }

    /// All that is left: options.
    pub fn options(self) -> Result<Options, SqlError> {
        let mut all = Vec::new();
        for argument in self.left {
            let pair = text(argument).and_then(|option| option.split_once('='));
            let Some((name, value)) = pair else {
                let what = format!("{argument} is no option: write them as 'epochs=2..5'");
                return Err(SqlError::argument(self.function, what));
            };
            let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
            if all.iter().any(|(known, _)| *known == name) {
                return Err(SqlError::argument(self.function, format!("`{name}` is there twice")));
            }
            all.push((name, value));
        }
        Ok(Options { function: self.function, all })
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text), _) => {
            text.as_deref()
        }
        _ => None,
    }
}

/// Options by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    function: &'static str,
    all: Vec<(String, String)>,
}

impl Options {
    #[cfg(feature = "cluster")]
    pub fn of_pairs(function: &'static str, all: Vec<(String, String)>) -> Self {
        Self { function, all }
    }

    #[cfg(feature = "cluster")]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.all
    }

    /// Refuses options with other names.
    pub fn only(&self, names: &[&str]) -> Result<(), SqlError> {
        match self.all.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let what = format!("there is no option `{name}`; there are {}", names.join(", "));
                Err(SqlError::argument(self.function, what))
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A value by its name.
    pub fn named<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, SqlError> {
        let read = |value: &str| {
            value.parse().map_err(|error: T::Err| SqlError::argument(self.function, format!("{name}: {error}")))
        };
        self.get(name).map(read).transpose()
    }

    /// Numbers with commas between them.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<u64>>, SqlError> {
        let read = |text: &str| {
            let number = |word: &str| word.trim().parse().ok();
            let numbers: Option<Vec<u64>> = text.split(',').map(number).collect();
            let wrong = || format!("{name}: `{text}` is no list of ids: write them as '{name}=3,17'");
            numbers.ok_or_else(|| SqlError::argument(self.function, wrong()))
        };
        self.get(name).map(read).transpose()
    }

    /// Which rows count: the options `epochs`, `steps` and `at`, written as for the command.
    pub fn window(&self) -> Result<Window, SqlError> {
        gradlog_cli::shared::parse_window(self.get("epochs"), self.get("steps"), self.get("at"))
            .map_err(|what| SqlError::argument(self.function, what))
    }

    pub fn probe_time(&self) -> Result<ProbeTime, SqlError> {
        match self.get("probe-time") {
            None | Some("earlier") => Ok(ProbeTime::Earlier),
            Some("nearest") => Ok(ProbeTime::Nearest),
            Some(other) => {
                Err(SqlError::argument(self.function, format!("probe-time: `{other}` is neither earlier nor nearest")))
            }
        }
    }
}

impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.all.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
    }
}
