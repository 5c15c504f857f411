//! Keep-lists: which part of the training set to keep, by a score (Paul et al. 2021, arXiv 2107.07075, §3 and §4).
//!
//! Sort the `N` examples that have a score by difficulty, hardest first ([`Score::hard`] says which end that is). Leave
//! out the first `round(skip·N)` and keep the next `round(keep·N)`: with `skip = 0` the hardest, with a larger one a
//! window that slides towards the easy end. The paper finds that on noisy data a small `skip` is better than none. With
//! balance each label has a window of its own, so that classes keep their shares. The control is as many examples drawn
//! at random, of each label if balanced.

use crate::scores::order::suspicious_first;
use crate::scores::over_runs::{RunsRow, RunsTable};
use crate::{AnalysisError, Basis, Score};
use gradlog_format::sketch::draw;
use std::collections::BTreeMap;

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct KeepRule {
    /// Share of the scored examples that is kept, above 0 and at most 1.
    pub keep: f64,
    /// Share that is left out at the hard end, from 0; with `keep` at most 1. 0 for the random control.
    pub skip_hardest: f64,
    /// Whether each recorded label keeps its share.
    pub balance: bool,
    /// The seed of a random draw: the control. `None` for a choice by difficulty.
    pub random: Option<u64>,
}

impl KeepRule {
    /// The hardest `keep` of all examples.
    pub fn hardest(keep: f64) -> Self {
        Self { keep, skip_hardest: 0.0, balance: false, random: None }
    }

    /// As many examples, drawn at random with this seed: the control.
    pub fn random(keep: f64, seed: u64) -> Self {
        Self { keep, skip_hardest: 0.0, balance: false, random: Some(seed) }
    }

    /// Leaves this share of the examples out at the hard end, and keeps the next. A random draw refuses it.
    #[must_use]
    pub fn skip_hardest(mut self, share: f64) -> Self {
        self.skip_hardest = share;
        self
    }

    /// Lets each recorded label keep its share.
    #[must_use]
    pub fn balance(mut self) -> Self {
        self.balance = true;
        self
    }

    /// Checks that the shares make sense.
    ///
    /// # Errors
    /// [`AnalysisError::Rule`] if they do not, or if a random draw skips the hardest.
    pub fn check(&self) -> Result<(), AnalysisError> {
        let bad = |what: String| Err(AnalysisError::Rule { what });
        if !(self.keep > 0.0 && self.keep <= 1.0) {
            return bad(format!("keeps a share of {}: give one above 0 and at most 1", self.keep));
        }
        if !(self.skip_hardest >= 0.0 && self.skip_hardest + self.keep <= 1.0 + 1e-9) {
            let (skip, keep) = (self.skip_hardest, self.keep);
            return bad(format!(
                "skips {skip} and keeps {keep}: the two are shares of the same examples, at most 1 together"
            ));
        }
        if self.random.is_some() && self.skip_hardest > 0.0 {
            let skip = self.skip_hardest;
            return bad(format!("skips {skip} and draws at random: a random draw has no hard end to skip"));
        }
        Ok(())
    }
}

/// An example that is kept.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Kept {
    /// Its id.
    pub example: u64,
    /// Its place among all scored examples, 0 for the hardest.
    pub rank: u64,
    /// Its score.
    pub score: f64,
    /// On how many runs that stands.
    pub runs: u64,
    /// Its recorded label.
    pub label: Option<u32>,
}

/// How much of one label is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptOfLabel {
    /// The label; `None` for examples without one, or whose labels differ between runs.
    pub label: Option<u32>,
    /// Scored examples with it.
    pub examples: u64,
    /// How many are kept.
    pub kept: u64,
}

/// Which examples to keep.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeepList {
    /// By which score.
    pub score: Score,
    /// By which rule.
    pub rule: KeepRule,
    /// What the scores rest on, of each run.
    pub bases: Vec<Basis>,
    /// Those to keep, the hardest first.
    pub kept: Vec<Kept>,
    /// Examples that have a score.
    pub scored: u64,
    /// Examples that were visited and have none, since each visit had a NaN or an infinity: they are not kept.
    pub unscored: Vec<u64>,
    /// Of the scored, those that are made of fewer runs than there are.
    pub partial: u64,
    /// What each label keeps, ascending.
    pub labels: Vec<KeptOfLabel>,
}

impl RunsTable {
    /// The rows with a score, the hardest first; equally hard ones in the order of the table.
    pub fn hardest_first(&self) -> impl Iterator<Item = &RunsRow> {
        let mut order: Vec<&RunsRow> = self.rows.iter().filter(|row| !row.score.is_nan()).collect();
        let hard = self.score.hard();
        order.sort_by(|a, b| suspicious_first(hard, a.score, b.score));
        order.into_iter()
    }

    /// The examples to keep by this score. An example that no run visited is not known here and in no list.
    ///
    /// Equally hard examples come in the order of the table, so the list is the same each time.
    ///
    /// # Errors
    /// [`AnalysisError::Rule`] if the shares make no sense, or if a random draw skips the hardest;
    /// [`AnalysisError::NoLabel`] if balance is asked for and an example has no label, or different ones in different
    /// runs.
    pub fn keep(&self, rule: &KeepRule) -> Result<KeepList, AnalysisError> {
        rule.check()?;
        let order: Vec<&RunsRow> = self.hardest_first().collect();
        let mut unscored: Vec<u64> = self.rows.iter().filter(|row| row.score.is_nan()).map(|row| row.example).collect();
        unscored.sort_unstable();

        // Places in `order`, by label.
        let mut labels: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
        for (place, row) in order.iter().enumerate() {
            labels.entry(row.label).or_default().push(place);
        }
        let chosen = if rule.balance {
            if let Some(places) = labels.get(&None) {
                let row = order[places[0]];
                return Err(AnalysisError::NoLabel { example: row.example, differ: row.labels_differ });
            }
            let sizes: Vec<usize> = labels.values().map(Vec::len).collect();
            let (keep, skip) = (apportion(rule.keep, &sizes), apportion(rule.skip_hardest, &sizes));
            let groups = labels.values().zip(keep).zip(skip);
            groups.flat_map(|((places, keep), skip)| choose(rule, &order, places, keep, skip)).collect()
        } else {
            let places: Vec<usize> = (0..order.len()).collect();
            let size = [order.len()];
            let (keep, skip) = (apportion(rule.keep, &size)[0], apportion(rule.skip_hardest, &size)[0]);
            choose(rule, &order, &places, keep, skip)
        };
        let mut is_kept = vec![false; order.len()];
        chosen.iter().for_each(|&place| is_kept[place] = true);
        let kept_of = |places: &[usize]| places.iter().filter(|&&place| is_kept[place]).count() as u64;
        let labels = labels
            .iter()
            .map(|(&label, places)| KeptOfLabel { label, examples: places.len() as u64, kept: kept_of(places) })
            .collect();
        let kept = (0..order.len()).filter(|&place| is_kept[place]).map(|place| {
            let row = order[place];
            let (example, score, runs, label) = (row.example, row.score, row.runs, row.label);
            Kept { example, rank: place as u64, score, runs, label }
        });
        Ok(KeepList {
            score: self.score,
            rule: *rule,
            bases: self.runs.iter().map(|part| part.basis.clone()).collect(),
            kept: kept.collect(),
            scored: order.len() as u64,
            unscored,
            partial: order.iter().filter(|row| row.runs < self.runs.len() as u64).count() as u64,
            labels,
        })
    }
}

/// Of some places in the order of difficulty, those to keep.
fn choose(rule: &KeepRule, order: &[&RunsRow], places: &[usize], keep: usize, skip: usize) -> Vec<usize> {
    let Some(seed) = rule.random else {
        // Rounding may ask for one more than there are.
        let skip = skip.min(places.len() - keep);
        return places[skip..skip + keep].to_vec();
    };
    let mut drawn = places.to_vec();
    // The draw belongs to the id, so that the list does not depend on the score nor on the order of the rows.
    drawn.sort_by_key(|&place| {
        let example = order[place].example;
        (draw(seed, example), example)
    });
    drawn.truncate(keep);
    drawn
}

/// `share` of each size, rounded so that the sum is `share` of all rounded, by the largest remainders (Hamilton).
/// Of equal remainders the earlier gets the one more. No part is larger than its size.
fn apportion(share: f64, sizes: &[usize]) -> Vec<usize> {
    let total = (share * sizes.iter().sum::<usize>() as f64).round() as usize;
    let exact: Vec<f64> = sizes.iter().map(|&size| share.min(1.0) * size as f64).collect();
    let mut parts: Vec<usize> = exact.iter().map(|part| part.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..sizes.len()).collect();
    by_remainder.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let mut left = total.saturating_sub(parts.iter().sum());
    for part in by_remainder {
        if left > 0 && parts[part] < sizes[part] {
            parts[part] += 1;
            left -= 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests;
