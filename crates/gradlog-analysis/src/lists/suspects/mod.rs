//! One list of suspects: examples whose label is probably wrong, from several signals at once, with the reasons for each.
//!
//! Five scores rank the examples: AUM, mean loss, mean EL2N, self-influence and forgetting, as far as the run holds what
//! they are made of. With `r_s(z)` the share of examples that score `s` finds less suspicious than `z`,
//!
//! ```text
//! m(z) = median over s of r_s(z)
//! suspicion(z) = ln(m / (1 − m)) + ½·ln((1/(C−1)) / P(k | y))
//! P(k | y) = (n_yk + M/(C−1)) / (n_y + M)
//! ```
//!
//! The median is the robust way to put rankings together: a signal that fails on this run moves it little, where a mean
//! is dragged along (Dwork et al. 2001, "Rank aggregation methods for the web", §3, take the median rank). The second term
//! looks at the rival `k`, the label that the model predicted most often instead of the recorded `y`. A wrong label that
//! is drawn at random has any rival, an honest hard example has the usual one (a shirt that looks like a coat). `n_yk` is
//! how often that confusion is seen: the sum, over examples of label `y` with rival `k`, of the share of visits that
//! predicted `k`, times `1 − m`; `n_y` its sum over `k`, `C` the number of labels, and `M = 200` examples of prior weight keep
//! small training sets from taking noise for a habit. The factor ½ and `M` were chosen on one run of the shipped digits
//! and one of Fashion-MNIST, each with a tenth of the labels flipped, and checked on runs with other seeds.
//!
//! The order is what counts; the number is a log-odds only if ranks were probabilities.

mod reasons;
#[cfg(test)]
mod tests;
mod votes;

use crate::rows::driver::Progress;
use crate::scores::over_runs::{different, in_run, RunsRow};
use crate::scores::per_example::suspicious_first;
use crate::{AnalysisError, Order, OverRuns, Score, Window};
use gradlog_format::run::{Damage, Run};
use std::collections::{BTreeSet, HashMap};
use votes::Votes;

/// The scores that the list is made of, with their names in a sentence.
const SIGNALS: [(Score, &str); 5] = [
    (Score::Aum, "AUM"),
    (Score::Loss, "mean loss"),
    (Score::El2n, "mean EL2N"),
    (Score::SelfInfluence, "self-influence"),
    (Score::Forgetting, "forgetting"),
];

/// Prior weight of a label's confusions, in examples.
const PRIOR_EXAMPLES: f64 = 200.0;

/// The same for the word that is said of a confusion, which need not be as careful as the order.
const PRIOR_EXAMPLES_OF_WORDS: f64 = 10.0;

/// How much the log-odds of the confusion count.
const CONFUSION_WEIGHT: f64 = 0.5;

/// Training examples, the most probably mislabelled first.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Suspects {
    /// The signals that were put together.
    pub signals: Vec<Score>,
    /// The signals that these runs cannot give, and why.
    pub without: Vec<(Score, String)>,
    /// Runs that were read.
    pub runs: u64,
    /// One row per example, the most suspicious first; ties by id, examples without any signal (NaN) last.
    pub rows: Vec<Suspect>,
    /// Examples whose recorded labels differ between runs: they have no rival.
    pub labels_differ: u64,
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
    /// Runs that it stands on, the most of any signal.
    pub runs: u64,
    /// Visits that it stands on, the most of any signal.
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
    /// The share of examples that it finds less suspicious, 0 to 1, half of the example itself included; NaN with the score.
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
    pub of: u64,
}

/// What is gathered of an example before the list is made.
struct Gathered {
    values: Vec<SignalValue>,
    runs: u64,
    visits: u64,
    label: Option<u32>,
    labels_differ: bool,
    never_learned: u64,
}

/// Ranks the training examples of one or several runs by how probably their label is wrong.
///
/// # Errors
/// Those of [`Score::compute_over`], but for signals that the runs do not hold: these are left out and named, unless none
/// is left.
///
/// # Cost
/// Six passes over the small columns of each run; memory about 600 bytes per example.
pub fn suspects(runs: &[&Run], window: &Window, progress: Progress<'_>) -> Result<Suspects, AnalysisError> {
    window.only_visits("the list of suspects")?;
    different(runs)?;
    let mut signals = Vec::new();
    let mut without = Vec::new();
    let mut gathered: HashMap<u64, Gathered> = HashMap::new();
    let mut damage = None;
    let mut failure = None;
    for (score, _) in SIGNALS {
        let table = match score.compute_over(runs, window, OverRuns::Mean, progress) {
            Ok(table) => table,
            Err(error) if error.is_about_what_was_recorded() => {
                without.push((score, error.to_string()));
                failure = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        damage = damage.or_else(|| table.runs.iter().find_map(|part| part.damage.clone()));
        let scored = table.rows.iter().filter(|row| !row.score.is_nan()).count() as f64;
        for (place, row) in table.rows.iter().enumerate() {
            let entry = gathered.entry(row.example).or_insert_with(|| Gathered::of(row));
            entry.add(signals.len(), row, 1.0 - (place as f64 + 0.5) / scored);
            if score == Score::Forgetting {
                entry.never_learned = reasons::never_learned(row);
            }
        }
        signals.push(score);
    }
    if let (true, Some(error)) = (signals.is_empty(), failure) {
        return Err(error);
    }
    let mut votes = Votes::default();
    for (number, run) in runs.iter().enumerate() {
        let met = votes.read(run, window, progress).map_err(in_run(runs, number))?;
        damage = damage.or(met);
    }
    let mut rows: Vec<Suspect> = assemble(&signals, gathered, &votes);
    rows.sort_by(|a, b| {
        suspicious_first(Order::HighestFirst, a.suspicion, b.suspicion).then(a.example.cmp(&b.example))
    });
    let labels_differ = rows.iter().filter(|row| row.label.is_none() && votes.has(row.example)).count() as u64;
    Ok(Suspects { signals, without, runs: runs.len() as u64, rows, labels_differ, damage })
}

impl Gathered {
    fn of(row: &RunsRow) -> Self {
        let (label, labels_differ) = (row.label, row.labels_differ);
        Self { values: Vec::new(), runs: 0, visits: 0, label, labels_differ, never_learned: 0 }
    }

    fn add(&mut self, signal: usize, row: &RunsRow, rank: f64) {
        self.values.resize(signal, NOTHING);
        let rank = if row.score.is_nan() { f64::NAN } else { rank };
        self.values.push(SignalValue { value: row.score, rank });
        self.runs = self.runs.max(row.runs);
        self.visits = self.visits.max(row.visits);
        self.labels_differ |= row.labels_differ;
        self.label = self.label.or(row.label).filter(|_| !self.labels_differ);
    }

    /// The median rank, NaN without any.
    fn median(&self) -> f64 {
        let mut ranks: Vec<f64> = self.values.iter().map(|v| v.rank).filter(|rank| !rank.is_nan()).collect();
        ranks.sort_by(f64::total_cmp);
        match ranks.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => ranks[n / 2],
            n => 0.5 * (ranks[n / 2 - 1] + ranks[n / 2]),
        }
    }
}

const NOTHING: SignalValue = SignalValue { value: f64::NAN, rank: f64::NAN };

fn assemble(signals: &[Score], gathered: HashMap<u64, Gathered>, votes: &Votes) -> Vec<Suspect> {
    let mut entries: Vec<(u64, Gathered)> = gathered.into_iter().collect();
    // Sums over examples are taken in one order, so that the list is the same each time.
    entries.sort_by_key(|(example, _)| *example);
    let rivals: Vec<Option<Rival>> =
        entries.iter().map(|(example, entry)| votes.rival(*example, entry.label?)).collect();
    let confusions = Confusions::of(&entries, &rivals, votes);
    let describe = |((example, mut entry), rival): ((u64, Gathered), Option<Rival>)| {
        entry.values.resize(signals.len(), NOTHING);
        let median = entry.median();
        let pair = rival.zip(entry.label);
        let surprise = |prior| pair.map_or(0.0, |(rival, label)| confusions.surprise(label, rival.label, prior));
        let mut suspect = Suspect {
            example,
            suspicion: (median / (1.0 - median)).ln() + CONFUSION_WEIGHT * surprise(PRIOR_EXAMPLES),
            runs: entry.runs,
            visits: entry.visits,
            label: entry.label,
            proposed: entry.label.and_then(|label| votes.majority(example).filter(|majority| *majority != label)),
            rival,
            values: entry.values,
            reasons: Vec::new(),
        };
        let habit = surprise(PRIOR_EXAMPLES_OF_WORDS);
        suspect.reasons = reasons::reasons(signals, &suspect, entry.never_learned, habit, entry.labels_differ);
        suspect
    };
    entries.into_iter().zip(rivals).map(describe).collect()
}

/// How often each label is taken for each other one by examples that are not themselves suspicious.
struct Confusions {
    labels: f64,
    pairs: HashMap<(u32, u32), f64>,
    of_label: HashMap<u32, f64>,
}

impl Confusions {
    fn of(entries: &[(u64, Gathered)], rivals: &[Option<Rival>], votes: &Votes) -> Self {
        let recorded = entries.iter().filter_map(|(_, entry)| entry.label);
        let labels: BTreeSet<u32> = recorded.chain(votes.classes()).collect();
        let mut this = Self { labels: labels.len() as f64, pairs: HashMap::new(), of_label: HashMap::new() };
        for ((_, entry), rival) in entries.iter().zip(rivals) {
            let median = entry.median();
            let (Some(label), Some(rival), false) = (entry.label, rival, median.is_nan()) else { continue };
            let weight = rival.visits as f64 / rival.of as f64 * (1.0 - median);
            *this.pairs.entry((label, rival.label)).or_default() += weight;
            *this.of_label.entry(label).or_default() += weight;
        }
        this
    }

    /// `ln((1/(C−1)) / P(rival | label))` with `prior` examples of weight: positive where the confusion is rarer than chance.
    fn surprise(&self, label: u32, rival: u32, prior: f64) -> f64 {
        let chance = 1.0 / (self.labels - 1.0).max(1.0);
        let pair = self.pairs.get(&(label, rival)).copied().unwrap_or(0.0);
        let all = self.of_label.get(&label).copied().unwrap_or(0.0);
        (chance / ((pair + prior * chance) / (all + prior))).ln()
    }
}
