//! The table of one score: a row for each example.

use crate::{Basis, LeftOut, Score};
use gradlog_format::run::Damage;

/// One score of all examples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ScoreTable {
    /// Which score it is.
    pub score: Score,
    /// Whether it is made of visits of the training or of sweeps at checkpoints, and which.
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
    /// What the score says beside its number, in the order of [`Score::extras`].
    pub extras: Vec<Extra>,
    /// Visits of the example that were left out because one of their numbers was NaN or infinite.
    pub not_finite: u64,
    /// Label at the example's last visit inside the window that has a label or a prediction.
    pub label: Option<u32>,
    /// Predicted class at the same visit.
    pub prediction: Option<u32>,
}

/// A value that a score gives beside its number.
#[derive(Debug, Clone, Copy, PartialEq)]
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
