//! A score of one run or of several: one table, its basis and what it leaves out.

use crate::choice::{choice, Choice};
use crate::frame::{first_damage, Sheet};
use crate::notes::Notes;
use crate::report::{self, Value};
use clap::Args;
use gradlog_analysis::{LeftOut, OverRuns, RunsTable, Score, ScoreTable};
use gradlog_arrow::{AnswerTable, ScoredExample};
use gradlog_format::run::Damage;

/// How several runs become one score.
#[derive(Debug, Args)]
pub(super) struct OverRunsArguments {
    /// Of several runs, how their scores become one
    #[arg(long, value_name = "HOW", default_value = "mean", value_parser = choice::<OverRuns>())]
    pub over_runs: OverRuns,
}

impl Choice for OverRuns {
    fn all() -> &'static [Self] {
        &OverRuns::ALL
    }

    fn word(&self) -> &'static str {
        self.name()
    }

    fn help(&self) -> &'static str {
        match self {
            OverRuns::Mean => "their mean (Paul et al. 2021); forgetting: infinite if any run never learned it",
            _ => "their sum (Toneva et al. 2019); forgetting: a run that never learned it adds its presentations",
        }
    }
}

/// A score, without its rows.
pub(super) struct Standing {
    pub score: Score,
    /// What it rests on, in the library's line.
    pub basis: String,
    /// Of one run, which rows that is.
    rows: String,
    pub examples: usize,
    /// Several runs: how they became one, and where they differ.
    over: Option<Over>,
    is_on_sweeps: bool,
    parts: Vec<Part>,
}

struct Over {
    how: OverRuns,
    partial: u64,
    labels_differ: u64,
    /// The first examples whose labels differ.
    first_differing: Vec<u64>,
}

/// What one run gave.
struct Part {
    visits: u64,
    absent: u64,
    left_out: LeftOut,
    estimated_norms: u64,
    notes: Notes,
    damage: Option<Damage>,
}

impl From<&ScoreTable> for Standing {
    fn from(table: &ScoreTable) -> Self {
        let part = Part {
            visits: table.visits,
            absent: 0,
            left_out: table.left_out.clone(),
            estimated_norms: table.estimated_norms,
            notes: table.into(),
            damage: table.damage.clone(),
        };
        Self {
            score: table.score,
            basis: table.basis.to_string(),
            rows: table.basis.rows.to_string(),
            examples: table.rows.len(),
            over: None,
            is_on_sweeps: table.basis.is_sweeps(),
            parts: vec![part],
        }
    }
}

/// The warning that the runs recorded different labels for `count` examples, of which these are the first.
pub(super) fn differing_labels(count: u64, first: &[u64]) -> Option<String> {
    if count == 0 {
        return None;
    }
    let more = if count > first.len() as u64 { ", ..." } else { "" };
    let first: Vec<String> = first.iter().map(u64::to_string).collect();
    Some(format!(
        "warning: the runs recorded different labels for {} ({}{more}): their scores are about different labels",
        report::count(usize::try_from(count).unwrap_or(usize::MAX), "example"),
        first.join(", "),
    ))
}

impl From<&RunsTable> for Standing {
    fn from(table: &RunsTable) -> Self {
        let part = |part: &gradlog_analysis::RunPart| Part {
            visits: part.visits,
            absent: part.absent,
            left_out: part.left_out.clone(),
            estimated_norms: part.estimated_norms,
            notes: part.into(),
            damage: part.damage.clone(),
        };
        let differing = table.rows.iter().filter(|row| row.labels_differ).take(5);
        let over = Over {
            how: table.over_runs,
            partial: table.partial,
            labels_differ: table.labels_differ,
            first_differing: differing.map(|row| row.example).collect(),
        };
        Self {
            score: table.score,
            basis: table.basis_words(),
            rows: table.runs.first().map_or_else(String::new, |part| part.basis.rows.to_string()),
            examples: table.rows.len(),
            over: Some(over),
            is_on_sweeps: table.is_on_sweeps(),
            parts: table.runs.iter().map(part).collect(),
        }
    }
}

impl Standing {
    fn sum(&self, count: fn(&Part) -> u64) -> u64 {
        self.parts.iter().map(count).sum()
    }

    /// What the score is computed from, and where runs differ. Where there are several runs, words about one begin with
    /// its name.
    pub(super) fn words(&self, names: &[String]) -> Vec<String> {
        let Self { score, rows, examples, .. } = self;
        let (visits, order, runs) = (self.sum(|part| part.visits), score.order(), self.parts.len());
        let mut lines = Vec::new();
        match (&self.over, self.is_on_sweeps) {
            (Some(over), on_sweeps) if runs > 1 => {
                let counted = if on_sweeps { "rows" } else { "visits" };
                let how = over.how;
                lines.push(format!(
                    "{score} of {examples} examples over {visits} {counted} in {runs} runs ({how} over runs), {order}"
                ));
            }
            (_, true) => lines.push(format!("{score} of {examples} examples, {rows}: {visits} rows, {order}")),
            (_, false) => {
                let rows = rows.replacen("visits", &format!("{visits} visits"), 1);
                lines.push(format!("{score} of {examples} examples over {rows}, {order}"));
            }
        }
        for (prefix, part) in names.iter().zip(&self.parts).filter(|(_, part)| part.absent > 0) {
            let has = *examples as u64 - part.absent;
            lines.push(format!("note: {prefix}has {has} of the {examples} examples"));
        }
        let Some(over) = &self.over else { return lines };
        if runs > 1 && over.partial > 0 {
            let partial = over.partial;
            lines.push(format!("note: {partial} examples have a score in fewer than {runs} runs: column `runs`"));
        }
        lines.extend(differing_labels(over.labels_differ, &over.first_differing));
        lines
    }

    /// What each run leaves out.
    pub(super) fn take_left_out(&mut self, names: &[String]) -> Vec<(String, Notes)> {
        let parts = names.iter().zip(&mut self.parts);
        parts.map(|(name, part)| (name.clone(), std::mem::take(&mut part.notes))).collect()
    }

    /// Where the runs are damaged.
    pub(super) fn damage(&self) -> Vec<Damage> {
        self.parts.iter().filter_map(|part| part.damage.clone()).collect()
    }

    /// The rows under their columns; `workers` is what one run says of those that recorded it.
    pub(super) fn sheet<'a>(&self, rows: Vec<ScoredExample>, workers: Option<String>) -> Sheet<'a> {
        let table = AnswerTable::of_scores(self.score, rows, self.over.is_some(), self.is_on_sweeps);
        Sheet { head: self.head(workers), table }
    }

    fn head(&self, workers: Option<String>) -> Vec<(&'static str, Value)> {
        let mut head =
            vec![("score", Value::from(self.score.name())), ("order", self.score.order().to_string().into())];
        if let Some(over) = &self.over {
            head.extend([("over_runs", over.how.to_string().into()), ("runs", (self.parts.len() as u64).into())]);
        }
        head.extend([("examples", (self.examples as u64).into()), ("visits", self.sum(|part| part.visits).into())]);
        if let Some(over) = &self.over {
            head.extend([("partial", over.partial.into()), ("labels_differ", over.labels_differ.into())]);
        }
        head.extend([
            ("not_finite", self.sum(|part| part.left_out.not_finite).into()),
            ("unseen", self.sum(|part| part.left_out.unseen).into()),
            ("missing", self.sum(|part| part.left_out.missing).into()),
            ("estimated_norms", self.sum(|part| part.estimated_norms).into()),
        ]);
        head.extend(self.over.is_none().then(|| ("workers", workers.into())));
        head.push(("damage", first_damage(self.parts.iter().filter_map(|part| part.damage.as_ref()))));
        head
    }
}
