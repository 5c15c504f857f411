//! The verdicts, and what each run gave.

use crate::{Basis, LeftOut};
use gradlog_format::run::Damage;

/// Which examples AUM finds mislabeled.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Flagged {
    /// The percentile of the threshold samples' AUM that is the cut.
    pub percentile: f64,
    /// What each run gave.
    pub runs: Vec<ThresholdRun>,
    /// One row per example that some run judges, the most suspicious first: by the mean of AUM minus cut, ties by id.
    pub rows: Vec<FlaggedRow>,
    /// Examples that no run can judge: threshold samples wherever they have a usable visit, or without any. Ascending.
    pub unjudged: Vec<u64>,
    /// What was left out in all runs, by the reason; its examples are the unjudged.
    pub left_out: LeftOut,
}

/// One run with threshold samples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ThresholdRun {
    /// What its AUM rests on. If it is sweeps, "visits" are rows of these.
    pub basis: Basis,
    /// Its threshold samples with an AUM.
    pub samples: u64,
    /// The examples that it judges.
    pub judged: u64,
    /// The cut.
    pub cut: f64,
    /// What was left out of its AUM, by the reason.
    pub left_out: LeftOut,
    /// Where it stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// The verdict on an example.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FlaggedRow {
    /// Its id.
    pub example: u64,
    /// Runs that judge it.
    pub judged: u64,
    /// Of these, runs in which it lies below the cut.
    pub below: u64,
    /// Whether that is all of them: the verdict.
    pub flagged: bool,
    /// Visits in the runs that judge it.
    pub visits: u64,
    /// Mean AUM over the runs that judge it.
    pub aum: f64,
    /// Mean over these runs of AUM minus the run's cut; negative means below.
    pub above_cut: f64,
    /// Recorded label at the last visit in the last of these runs.
    pub label: Option<u32>,
    /// The class predicted at the last visit in most of these runs; of several, the lowest.
    pub prediction: Option<u32>,
}

impl Flagged {
    /// How many examples are flagged.
    pub fn count_flagged(&self) -> u64 {
        self.rows.iter().filter(|row| row.flagged).count() as u64
    }
}
