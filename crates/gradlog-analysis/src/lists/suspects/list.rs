//! The list of suspects, and what it says of each.

use crate::{Basis, LeftOut, Score};
use gradlog_format::run::Damage;

/// Training examples, the most probably mislabeled first.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Suspects {
    /// The signals that were put together.
    pub signals: Vec<Score>,
    /// The signals that these runs cannot give, and why.
    pub missing_signals: Vec<(Score, String)>,
    /// What it rests on, of each run.
    pub bases: Vec<Basis>,
    /// Runs that were read.
    pub runs: u64,
    /// One row per example, the most suspicious first; ties by id, examples without any signal (NaN) last.
    pub rows: Vec<Suspect>,
    /// Examples whose recorded labels differ between runs: they have no rival.
    pub labels_differ: u64,
    /// What was left out, by the reason: of each the most that any signal left out, in all runs. Signals look at the
    /// same visits.
    pub left_out: LeftOut,
    /// Where the first damaged run stopped being readable, if one did.
    pub damage: Option<Damage>,
}

/// An example and what speaks against its label.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Suspect {
    /// Its id.
    pub example: u64,
    /// See the formula above; NaN if no signal has a number for it.
    pub suspicion: f64,
    /// Runs that it is made of, the most of any signal.
    pub runs: u64,
    /// Visits that it is made of, the most of any signal.
    pub visits: u64,
    /// The recorded label, if all runs agree.
    pub label: Option<u32>,
    /// The label that most visits predicted, if it is another: a proposal.
    pub proposed: Option<u32>,
    /// The other label that the model predicted most often, if it ever predicted another.
    pub rival: Option<Rival>,
    /// Of each of [`Suspects::signals`], what it says of the example.
    pub values: Vec<SignalValue>,
    /// Why it stands here, in words, the strongest first.
    pub reasons: Vec<String>,
}

/// What one signal says of an example.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SignalValue {
    /// The score, the mean over runs; NaN without a usable visit.
    pub value: f64,
    /// The share of examples that it finds less suspicious, 0 to 1, half of the example itself and of those with the
    /// same score included; NaN with the score. Of forgetting, equal scores go by mean loss.
    pub rank: f64,
}

/// The label that is predicted instead of the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rival {
    /// The label.
    pub label: u32,
    /// Visits that predicted it.
    pub visits: u64,
    /// Visits with a prediction.
    pub predicted_visits: u64,
}
