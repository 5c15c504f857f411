//! The table of one score: a row for each example.

use crate::{Basis, LeftOut, Score};
use gradlog_format::run::Damage;

/// One score of all examples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoreTable {
    /// Which score it is.
    pub score: Score,
    /// What it rests on.
    pub basis: Basis,
    /// Visits that it is made of.
    pub visits: u64,
    /// What was left out, by the reason.
    pub left_out: LeftOut,
    /// Visits counted in `visits` whose gradient norm is an estimate from a sketch, not exact.
    pub estimated_norms: u64,
    /// One row per example, the most suspicious first; ties by example id, examples without a usable visit last.
    pub rows: Vec<ScoreRow>,
    /// Where the run stopped being readable, if it did; the score is then that of what came before.
    pub damage: Option<Damage>,
}

/// The score of one example.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoreRow {
    /// Id of the example.
    pub example: u64,
    /// Visits that the score is made of.
    pub visits: u64,
    /// The score, NaN if there was no usable visit.
    pub score: f64,
    /// What the score says beside its number.
    pub extras: Extras,
    /// Visits of the example that were left out because one of their numbers was NaN or infinite.
    pub not_finite: u64,
    /// Label at the example's last visit inside the window that has a label or a prediction.
    pub label: Option<u32>,
    /// Predicted class at the same visit.
    pub prediction: Option<u32>,
}

/// A value that a score gives beside its number.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Extra {
    /// A count.
    Count(u64),
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Nothing to say of this example.
    Nothing,
}

/// What a score says of an example beside its number, each value under its name in [`Score::extras`].
#[derive(Debug, Clone, PartialEq)]
pub struct Extras {
    names: &'static [&'static str],
    values: Vec<Extra>,
}

impl Extras {
    pub(crate) fn new(names: &'static [&'static str], values: Vec<Extra>) -> Self {
        Self { names, values }
    }

    /// The value of a name; `None` for a name that the score does not have.
    pub fn find(&self, name: &str) -> Option<Extra> {
        let place = self.names.iter().position(|known| *known == name)?;
        self.values.get(place).copied()
    }

    /// The names, in the order of [`Score::extras`].
    pub fn names(&self) -> &'static [&'static str] {
        self.names
    }

    /// The values, in the order of the names.
    pub fn values(&self) -> &[Extra] {
        &self.values
    }
}

impl ScoreRow {
    /// What the score says beside its number, by its name in [`Score::extras`]; `None` for a name that the score does
    /// not have.
    pub fn extra(&self, name: &str) -> Option<Extra> {
        self.extras.find(name)
    }
}

impl ScoreTable {
    /// The row of an example; `None` if it has no visit inside the window. It goes through the rows.
    pub fn row(&self, example: u64) -> Option<&ScoreRow> {
        self.rows.iter().find(|row| row.example == example)
    }
}
