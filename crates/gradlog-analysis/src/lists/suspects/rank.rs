//! From signals to the list of suspects.

use super::confusions::Confusions;
use super::gathered::{Gathered, NOTHING};
use super::list::{Rival, Suspect, Suspects};
use super::reasons::{self, SIGNALS};
use super::votes::Votes;
use crate::rows::basis::Uses;
use crate::scores::order::suspicious_first;
use crate::scores::over_runs::{name_run, refuse_same_run};
use crate::Progress;
use crate::{
    AnalysisError, Basis, BasisRows, Extra, LeftOut, OptimizerChoice, Order, OverRuns, RunsRow, Score, Window,
};
use gradlog_format::run::Run;
use std::collections::HashMap;

/// Prior weight of a label's confusions, in examples.
const PRIOR_EXAMPLES: f64 = 200.0;

/// The same for the word that is said of a confusion, which need not be as careful as the order.
const PRIOR_EXAMPLES_OF_WORDS: f64 = 10.0;

/// How much the log-odds of the confusion count.
const CONFUSION_WEIGHT: f64 = 0.5;

/// Ranks the training examples of one or several runs by how probably their label is wrong.
pub(super) fn rank_suspects(
    runs: &[&Run],
    (window, optimizer): (&Window, OptimizerChoice),
    progress: &Progress,
) -> Result<Suspects, AnalysisError> {
    refuse_same_run(runs)?;
    let mut signals = Vec::new();
    let mut missing_signals = Vec::new();
    let mut gathered: HashMap<u64, Gathered> = HashMap::new();
    let (mut damage, mut left_out) = (None, LeftOut::default());
    let mut failure = None;
    let mut in_metric = false;
    for (score, _) in SIGNALS {
        let table = match score.compute_over_runs(runs, (window, optimizer), OverRuns::Mean, progress) {
            Ok(table) => table,
            Err(error) if error.is_about_what_was_recorded() => {
                missing_signals.push((score, error.with_sources()));
                failure = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        left_out.take_larger(&table.left_out());
        in_metric |= table.runs.iter().any(|part| part.basis.is_in_metric());
        damage = damage.or_else(|| table.runs.iter().find_map(|part| part.damage.clone()));
        let scored = table.rows.iter().filter(|row| !row.score.is_nan()).count() as f64;
        for (place, row) in middle_places(&table.rows).into_iter().zip(&table.rows) {
            let entry = gathered.entry(row.example).or_insert_with(|| Gathered::new(row));
            entry.add(signals.len(), row, 1.0 - (place + 0.5) / scored);
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
        let found = votes.read(run, window, progress).map_err(name_run(runs, number))?;
        damage = damage.or(found);
    }
    left_out.take_larger(votes.left_out());
    let mut rows: Vec<Suspect> = assemble(&signals, gathered, &votes);
    rows.sort_by(|a, b| {
        suspicious_first(Order::HighestFirst, a.suspicion, b.suspicion).then(a.example.cmp(&b.example))
    });
    let uses = if signals.contains(&Score::SelfInfluence) { Uses::Steps } else { Uses::Outputs };
    let basis = |run: &&Run| {
        let basis = Basis::of(run, window, BasisRows::Visits, uses)?;
        Ok(if in_metric { basis.with_norms_in_metric() } else { basis })
    };
    let mut bases = runs.iter().map(basis).collect::<Result<Vec<Basis>, AnalysisError>>()?;
    // Signals and runs look at the same visits, so their counts cannot be told apart by run.
    if let Some(first) = bases.first_mut() {
        first.left_out = left_out.clone();
    }
    let labels_differ = rows.iter().filter(|row| row.label.is_none() && votes.has(row.example)).count() as u64;
    let runs = runs.len() as u64;
    Ok(Suspects { signals, missing_signals, bases, runs, rows, labels_differ, left_out, damage })
}

/// The place of each row, from 0: of equal ones the middle of their places, so that no id decides.
fn middle_places(rows: &[RunsRow]) -> Vec<f64> {
    // Forgetting has what else its order goes by beside it. Adding zero makes -0 and 0 the same.
    let key = |row: &RunsRow| {
        let loss = match row.extra("mean_loss") {
            Some(Extra::Number(loss)) => loss,
            _ => f64::NAN,
        };
        ((row.score + 0.0).to_bits(), reasons::never_learned(row), loss.to_bits())
    };
    let mut places = Vec::with_capacity(rows.len());
    for equal in rows.chunk_by(|a, b| key(a) == key(b)) {
        let middle = places.len() as f64 + (equal.len() - 1) as f64 / 2.0;
        places.extend(equal.iter().map(|_| middle));
    }
    places
}

fn assemble(signals: &[Score], gathered: HashMap<u64, Gathered>, votes: &Votes) -> Vec<Suspect> {
    let mut entries: Vec<(u64, Gathered)> = gathered.into_iter().collect();
    // Sums over examples are taken in one order, so that the list is the same each time.
    entries.sort_by_key(|(example, _)| *example);
    let rivals: Vec<Option<Rival>> =
        entries.iter().map(|(example, entry)| votes.rival(*example, entry.label?)).collect();
    let confusions = Confusions::count(&entries, &rivals, votes);
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
