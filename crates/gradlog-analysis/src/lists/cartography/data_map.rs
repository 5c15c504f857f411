//! The map, and what it says of each example.

use crate::{Basis, LeftOut};
use gradlog_format::run::Damage;

/// The data map of a training set.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataMap {
    /// What it rests on, of each run. If it is sweeps, "visits" below are rows of these.
    pub bases: Vec<Basis>,
    /// The share of the examples that each region takes.
    pub share: f64,
    /// Runs that it is made of.
    pub runs: u64,
    /// Visits that it is made of.
    pub visits: u64,
    /// What was left out, by the reason: visits without a usable confidence, in all runs, and examples that have no
    /// others.
    pub left_out: LeftOut,
    /// One row per example, the lowest confidence first; ties by id.
    pub rows: Vec<DataMapRow>,
    /// Where the first damaged run stopped being readable, if one did.
    pub damage: Option<Damage>,
}

/// An example on the map.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DataMapRow {
    /// Its id.
    pub example: u64,
    /// Runs that it is made of.
    pub runs: u64,
    /// Visits that it is made of.
    pub visits: u64,
    /// Mean probability of the label.
    pub confidence: f64,
    /// Population standard deviation of that probability over the visits.
    pub variability: f64,
    /// Share of right predictions; NaN where the run does not hold it.
    pub correctness: f64,
    /// In the region that is easy to learn.
    pub easy: bool,
    /// In the ambiguous region.
    pub ambiguous: bool,
    /// In the region that is hard to learn.
    pub hard: bool,
    /// The recorded label, if all runs agree.
    pub label: Option<u32>,
}

impl DataMap {
    /// Examples in the regions: easy, ambiguous, hard.
    pub fn counts(&self) -> [u64; 3] {
        let count = |region: fn(&DataMapRow) -> bool| self.rows.iter().filter(|row| region(row)).count() as u64;
        [count(|row| row.easy), count(|row| row.ambiguous), count(|row| row.hard)]
    }
}
