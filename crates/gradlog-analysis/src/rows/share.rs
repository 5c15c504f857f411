//! A share of the examples: what one of several machines answers for.
//!
//! A sum over the visits of an example needs all of its visits, so visits cannot be shared out. Examples can.

use crate::AnalysisError;
use gradlog_format::log::example_bucket;
use std::fmt;
use std::str::FromStr;

/// Share `number` of `of` shares of the examples, counted from 1. Each example is in one share, by a hash of its id:
/// example `z` is in share `1 + hash(z) mod of` (FORMAT.md, "Buckets").
///
/// ```
/// use gradlog_analysis::ExampleShare;
///
/// let share: ExampleShare = "2/3".parse()?;
/// assert_eq!(share, ExampleShare::new(2, 3)?);
/// let shares = [1, 2, 3].map(|number| ExampleShare::new(number, 3).unwrap());
/// assert_eq!(shares.iter().filter(|share| share.holds(17)).count(), 1);
/// # Ok::<(), gradlog_analysis::AnalysisError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ExampleShare {
    number: u32,
    of: u32,
}

impl ExampleShare {
    /// The most shares that there can be.
    pub const SHARES_MAX: u32 = 1 << 20;

    /// Share `number` of `of`, counted from 1.
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] unless `1 ≤ number ≤ of ≤ SHARES_MAX`.
    pub fn new(number: u32, of: u32) -> Result<Self, AnalysisError> {
        if of == 0 || of > Self::SHARES_MAX || number == 0 || number > of {
            let range = format!("1/N to N/N, with N at most {}", Self::SHARES_MAX);
            let (what, given) = ("the share of the examples", format!("{number}/{of}"));
            return Err(AnalysisError::OutOfRange { what, given, range });
        }
        Ok(Self { number, of })
    }

    /// Which it is, from 1.
    pub fn number(self) -> u32 {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> u32 {
        self.of
    }

    /// Whether an example belongs to it.
    #[inline]
    pub fn holds(self, example: u64) -> bool {
        example_bucket(example, self.of) == self.number - 1
    }

    /// Whether it is as [`ExampleShare::new`] makes it: what was read from a file may not be.
    pub(crate) fn is_sound(self) -> bool {
        Self::new(self.number, self.of).is_ok()
    }
}

impl fmt::Display for ExampleShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// Reads `I/N`.
impl FromStr for ExampleShare {
    type Err = AnalysisError;

    fn from_str(text: &str) -> Result<Self, AnalysisError> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let (number, of) = numbers.ok_or_else(|| AnalysisError::OutOfRange {
            what: "the share of the examples",
            given: format!("`{text}`"),
            range: "two numbers, as 1/8".into(),
        })?;
        Self::new(number, of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_numbered_from_one() {
        for bad in ["0/3", "4/3", "1/0", "1", "a/b", "-1/2", "1/2/3", "1/1048577"] {
            assert!(bad.parse::<ExampleShare>().is_err(), "{bad}");
        }
        let shares: Vec<ExampleShare> = (1..=5).map(|number| ExampleShare::new(number, 5).unwrap()).collect();
        assert_eq!(shares[4].to_string(), "5/5");
        for example in (0..200).chain([u64::MAX]) {
            assert_eq!(shares.iter().filter(|share| share.holds(example)).count(), 1, "{example}");
        }
    }
}
