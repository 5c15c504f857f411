//! One score from several runs: means and sums over training runs that differ in their seeds.
//!
//! A score of one run is one draw: Paul et al. 2021 (arXiv 2107.07075, §2) define EL2N and GraNd as expectations over
//! initializations and orders and take ten runs, Toneva et al. 2019 (arXiv 1812.05159, §4) sum forgetting over five.
//! With `s_r` the score of an example in run `r`, and `R` the runs that have one:
//!
//! - mean: `(1/R) Σ_r s_r`. For forgetting this is the definition of Paul et al.: an example that one run never learned
//!   has an infinite mean, and among those the one that more runs never learned comes first.
//! - sum: `Σ_r s_r`. For forgetting this is the definition of Toneva et al.: a run that never learned the example adds
//!   as many as it had presentations.
//!
//! The spread is the sample standard deviation over runs, `sqrt(Σ_r (s_r − mean)² / (R − 1))`; that of the mean itself
//! is smaller by `√R`. Ties are broken by the mean rank over runs, which carries the score's own tie-break, then by id.

use crate::scores::order::{suspicious_first, Order};
use crate::scores::per_example::Mean;
use crate::scores::score::Score;
use crate::scores::table::{Extra, Extras, ScoreRow, ScoreTable};
use crate::scores::variability::Spread;
use crate::{AnalysisError, Basis, LeftOut, OptimizerChoice, Progress, Window};
use gradlog_format::run::{Damage, Run};
use std::collections::HashMap;

/// How the scores that an example has in several runs become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum OverRuns {
    /// Their mean (Paul et al. 2021). Forgetting: infinite if any run never learned the example.
    #[default]
    Mean,
    /// Their sum (Toneva et al. 2019). Forgetting: a run that never learned the example adds its presentations. An
    /// example that some runs have not visited has fewer terms.
    Sum,
}

impl OverRuns {
    /// Both.
    pub const ALL: [OverRuns; 2] = [OverRuns::Mean, OverRuns::Sum];

    /// `mean`, `sum`.
    pub fn name(self) -> &'static str {
        match self {
            OverRuns::Mean => "mean",
            OverRuns::Sum => "sum",
        }
    }
}

named!(OverRuns, "the way to join runs");

/// One score of all examples over several runs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunsTable {
    /// Which score it is.
    pub score: Score,
    /// How the runs were put together.
    pub over_runs: OverRuns,
    /// What each run gave, in the order in which they were handed in.
    pub runs: Vec<RunPart>,
    /// Examples without a score in at least one of the runs.
    pub partial: u64,
    /// Examples whose recorded labels differ between runs.
    pub labels_differ: u64,
    /// One row per example of any run, the most suspicious first; examples without a score last.
    pub rows: Vec<RunsRow>,
}

/// What one of several runs gave. The counts are those of [`ScoreTable`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunPart {
    /// What its scores rest on. If it is sweeps, "visits" below are rows of these.
    pub basis: Basis,
    /// Examples with a score.
    pub scored: u64,
    /// Examples of the other runs that this one has no visit of.
    pub absent: u64,
    /// Visits that its scores are made of.
    pub visits: u64,
    /// What was left out, by the reason.
    pub left_out: LeftOut,
    /// Visits whose gradient norm is an estimate.
    pub estimated_norms: u64,
    /// Where the run stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// The score of one example over several runs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunsRow {
    /// Id of the example.
    pub example: u64,
    /// Runs that the score is made of.
    pub runs: u64,
    /// Visits that it is made of, in all of them.
    pub visits: u64,
    /// The score, NaN if no run has one.
    pub score: f64,
    /// Sample standard deviation over the runs; NaN with fewer than two, or where one of them is infinite.
    pub spread: f64,
    /// What the score says beside its number: of a number the mean over runs, of a yes or no the number of runs that
    /// say yes.
    pub extras: Extras,
    /// Visits left out because one of their numbers was NaN or infinite, in all runs.
    pub not_finite: u64,
    /// The label, if all runs that recorded one agree.
    pub label: Option<u32>,
    /// Whether the runs recorded different labels.
    pub labels_differ: bool,
    /// The class predicted at the last visit in most runs; of several, the lowest.
    pub prediction: Option<u32>,
}

#[derive(Default)]
struct Gathered {
    known: u64,
    runs: u64,
    visits: u64,
    not_finite: u64,
    infinite: u64,
    scores: Vec<f64>,
    terms: Vec<f64>,
    ranks: Vec<f64>,
    extras: Vec<Gathering>,
    label: Option<u32>,
    labels_differ: bool,
    predictions: Vec<(u32, u64)>,
}

/// What is gathered of one value beside the score.
#[derive(Clone, Copy)]
enum Gathering {
    Nothing,
    Yes(u64),
    Number(Mean),
}

impl Gathering {
    fn add(&mut self, extra: Extra) {
        let number = match extra {
            Extra::Nothing => return,
            Extra::Flag(yes) => {
                let before = if let Gathering::Yes(count) = *self { count } else { 0 };
                *self = Gathering::Yes(before + u64::from(yes));
                return;
            }
            Extra::Count(count) => count as f64,
            Extra::Number(number) => number,
        };
        let mut mean = if let Gathering::Number(mean) = *self { mean } else { Mean::default() };
        mean.add(number);
        *self = Gathering::Number(mean);
    }

    fn extra(self) -> Extra {
        match self {
            Gathering::Nothing => Extra::Nothing,
            Gathering::Yes(count) => Extra::Count(count),
            Gathering::Number(mean) => Extra::Number(mean.mean()),
        }
    }
}

/// Sorted, so that a sum over runs is the same to the last bit in whichever order they are handed in: it decides ties.
fn sort_ascending(values: &mut [f64]) -> &[f64] {
    values.sort_by(f64::total_cmp);
    values
}

impl Gathered {
    fn mean_rank(&mut self) -> f64 {
        sort_ascending(&mut self.ranks).iter().sum::<f64>() / self.runs as f64
    }

    fn add(&mut self, row: ScoreRow, rank: f64, term: f64) {
        self.known += 1;
        self.visits += row.visits;
        self.not_finite += row.not_finite;
        self.labels_differ |= matches!((self.label, row.label), (Some(a), Some(b)) if a != b);
        self.label = self.label.or(row.label);
        if let Some(prediction) = row.prediction {
            match self.predictions.iter_mut().find(|(class, _)| *class == prediction) {
                Some((_, votes)) => *votes += 1,
                None => self.predictions.push((prediction, 1)),
            }
        }
        if row.score.is_nan() {
            return;
        }
        self.runs += 1;
        self.scores.push(row.score);
        self.terms.push(term);
        self.ranks.push(rank);
        self.infinite += u64::from(row.score.is_infinite());
        self.extras.resize(row.extras.values().len(), Gathering::Nothing);
        for (gathering, extra) in self.extras.iter_mut().zip(row.extras.values()) {
            gathering.add(*extra);
        }
    }

    fn row(mut self, example: u64, over_runs: OverRuns, names: &'static [&'static str]) -> RunsRow {
        let mut spread = Spread::default();
        sort_ascending(&mut self.scores).iter().for_each(|score| spread.add(*score));
        let score = match over_runs {
            _ if self.runs == 0 => f64::NAN,
            OverRuns::Sum => sort_ascending(&mut self.terms).iter().sum(),
            OverRuns::Mean if self.infinite > 0 => f64::INFINITY,
            OverRuns::Mean => spread.mean(),
        };
        let known_spread = self.runs > 1 && self.infinite == 0;
        self.extras.resize(names.len(), Gathering::Nothing);
        RunsRow {
            example,
            runs: self.runs,
            visits: self.visits,
            score,
            spread: if known_spread { spread.sample_deviation() } else { f64::NAN },
            extras: Extras::new(names, self.extras.iter().map(|gathering| gathering.extra()).collect()),
            not_finite: self.not_finite,
            label: self.label.filter(|_| !self.labels_differ),
            labels_differ: self.labels_differ,
            prediction: most_voted(&self.predictions),
        }
    }
}

/// The class with most votes; of several, the lowest.
pub(crate) fn most_voted(votes: &[(u32, u64)]) -> Option<u32> {
    votes.iter().max_by_key(|(class, votes)| (*votes, std::cmp::Reverse(*class))).map(|(class, _)| *class)
}

/// Names the run in which something failed, where there are several.
pub(crate) fn name_run(runs: &[&Run], number: usize) -> impl Fn(AnalysisError) -> AnalysisError {
    let name = (runs.len() > 1).then(|| runs[number].dir().display().to_string());
    move |source| match &name {
        Some(run) => AnalysisError::InRun { run: run.clone(), source: Box::new(source) },
        None => source,
    }
}

/// Refuses a run that is handed in twice: it would count as two draws and is one.
pub(crate) fn refuse_same_run(runs: &[&Run]) -> Result<(), AnalysisError> {
    for (number, run) in runs.iter().enumerate() {
        if let Some(first) = runs[..number].iter().find(|first| first.manifest().run_id == run.manifest().run_id) {
            let name = |run: &Run| run.dir().display().to_string();
            return Err(AnalysisError::SameRun { first: name(first), second: name(run) });
        }
    }
    Ok(())
}

/// The tables of several runs while they become one.
pub(crate) struct RunTables {
    score: Score,
    over_runs: OverRuns,
    /// Whether they are about a share of the examples, in which runs may have nothing in common.
    of_share: bool,
    gathered: HashMap<u64, Gathered>,
    parts: Vec<RunPart>,
    /// Of each run, its folder and its examples.
    own: Vec<(String, Vec<u64>)>,
}

impl RunTables {
    pub(crate) fn new(score: Score, over_runs: OverRuns, of_share: bool) -> Self {
        Self { score, over_runs, of_share, gathered: HashMap::new(), parts: Vec::new(), own: Vec::new() }
    }

    /// Adds the table of the next run, which has this name.
    pub(crate) fn add(&mut self, run: String, table: ScoreTable) {
        self.own.push((run, table.rows.iter().map(|row| row.example).collect()));
        self.parts.push(RunPart::from_table(&table));
        let count = table.rows.len().max(1) as f64;
        for (rank, row) in table.rows.into_iter().enumerate() {
            let term = if self.over_runs == OverRuns::Sum { self.score.term_in_sum(&row) } else { row.score };
            self.gathered.entry(row.example).or_default().add(row, rank as f64 / count, term);
        }
    }

    /// The score over all runs. [`ScoreQuestion`](crate::ScoreQuestion) has the errors.
    pub(crate) fn finish(self) -> Result<RunsTable, AnalysisError> {
        let Self { score, over_runs, of_share, gathered, mut parts, own } = self;
        for (part, (run, own)) in parts.iter_mut().zip(own) {
            part.absent = (gathered.len() - own.len()) as u64;
            // `known` is 1 where no other run has the example.
            let alone = !own.is_empty() && own.iter().all(|example| gathered[example].known == 1);
            if alone && gathered.len() > own.len() && !of_share {
                return Err(AnalysisError::NothingInCommon { run });
            }
        }
        let extras = score.extras();
        let mut keyed: Vec<(u64, f64, RunsRow)> = gathered
            .into_iter()
            .map(|(example, mut entry)| (entry.infinite, entry.mean_rank(), entry.row(example, over_runs, extras)))
            .collect();
        let order = score.order();
        keyed.sort_by(|(never_a, rank_a, a), (never_b, rank_b, b)| {
            suspicious_first(order, a.score, b.score)
                .then(never_b.cmp(never_a))
                .then_with(|| suspicious_first(Order::LowestFirst, *rank_a, *rank_b))
                .then(a.example.cmp(&b.example))
        });
        let rows: Vec<RunsRow> = keyed.into_iter().map(|(_, _, row)| row).collect();
        let count = |what: &dyn Fn(&RunsRow) -> bool| rows.iter().filter(|row| what(row)).count() as u64;
        Ok(RunsTable {
            score,
            over_runs,
            partial: count(&|row| row.runs < parts.len() as u64),
            labels_differ: count(&|row| row.labels_differ),
            runs: parts,
            rows,
        })
    }
}

impl Score {
    /// The table of each of several runs, one after another.
    pub(crate) fn each_table(
        self,
        runs: &[&Run],
        (window, optimizer): (&Window, OptimizerChoice),
        progress: &Progress,
        mut take: impl FnMut(String, ScoreTable),
    ) -> Result<(), AnalysisError> {
        refuse_same_run(runs)?;
        let optimizer = self.common_choice(runs, window, optimizer)?;
        for (number, run) in runs.iter().enumerate() {
            let table = self.compute_table(run, (window, optimizer), progress).map_err(name_run(runs, number))?;
            take(run.dir().display().to_string(), table);
        }
        Ok(())
    }

    /// Computes the score of every example over several runs. [`ScoreQuestion`](crate::ScoreQuestion) has the errors
    /// and the cost.
    pub(crate) fn compute_over_runs(
        self,
        runs: &[&Run],
        (window, optimizer): (&Window, OptimizerChoice),
        over_runs: OverRuns,
        progress: &Progress,
    ) -> Result<RunsTable, AnalysisError> {
        let mut tables = RunTables::new(self, over_runs, window.share.is_some());
        self.each_table(runs, (window, optimizer), progress, |run, table| tables.add(run, table))?;
        tables.finish()
    }
}

impl RunPart {
    fn from_table(table: &ScoreTable) -> Self {
        Self {
            basis: table.basis.clone(),
            scored: table.rows.iter().filter(|row| !row.score.is_nan()).count() as u64,
            absent: 0,
            visits: table.visits,
            left_out: table.left_out.clone(),
            estimated_norms: table.estimated_norms,
            damage: table.damage.clone(),
        }
    }
}

impl RunsRow {
    /// What the score says beside its number, by its name in [`Score::extras`]; `None` for a name that the score does
    /// not have.
    pub fn extra(&self, name: &str) -> Option<Extra> {
        self.extras.find(name)
    }
}

impl RunsTable {
    /// The row of an example; `None` if no run visited it inside the window. It goes through the rows.
    pub fn row(&self, example: u64) -> Option<&RunsRow> {
        self.rows.iter().find(|row| row.example == example)
    }

    /// What the scores rest on, over all runs, in one line.
    pub fn basis_words(&self) -> String {
        Basis::describe_all(self.runs.iter().map(|part| &part.basis))
    }

    /// Whether they are made of sweeps: of several runs all are, or no run is.
    pub fn is_on_sweeps(&self) -> bool {
        self.runs.iter().any(|part| part.basis.is_sweeps())
    }

    /// What all runs left out.
    pub fn left_out(&self) -> LeftOut {
        let mut sum = LeftOut::default();
        self.runs.iter().for_each(|part| sum.add(&part.left_out));
        sum
    }

    /// Visits that the scores are made of, in all runs.
    pub fn visits(&self) -> u64 {
        self.runs.iter().map(|part| part.visits).sum()
    }
}

#[cfg(test)]
mod tests;
