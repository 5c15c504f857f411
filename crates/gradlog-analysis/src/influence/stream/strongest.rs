//! The strongest proponents and opponents of each probe, found while the visits stream by.
//!
//! An example is ranked when its last visit has been added, and its sums are then given up; the whole matrix of
//! examples and probes is never held. What is kept of each probe are two short lists and the least that enters them.

use crate::influence::answer::{Influence, InfluenceRow};
use gradlog_kernels::int8::Work;
use std::cmp::Ordering;

/// The examples that helped and hurt most, for the probes of one pass.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Strongest {
    /// What the scores are made of. Its `rows` are only the examples named below, in the order of their first visit,
    /// and its `scores` and `sketch_errors` are empty.
    pub influence: Influence,
    /// How many different examples have a visit inside the window.
    pub examples: u64,
    /// For each probe, those that helped most, the strongest first; ties by example id. Only positive scores.
    pub proponents: Vec<Vec<Ranked>>,
    /// For each probe, those that hurt most, the strongest first. Only negative scores.
    pub opponents: Vec<Vec<Ranked>>,
}

/// An example's score on a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Ranked {
    /// Position of the example in [`Influence::rows`].
    pub row: usize,
    /// The score.
    pub score: f64,
    /// One standard deviation of the score's sketch error, if it was asked for.
    pub error: Option<f64>,
}

/// The lists of some probes.
pub(super) struct Ranks {
    count: usize,
    /// Of each probe, the least score that may enter its proponents, and the largest that may enter its opponents.
    least: Vec<f64>,
    largest: Vec<f64>,
    proponents: Vec<Vec<Ranked>>,
    opponents: Vec<Vec<Ranked>>,
}

/// Helped most first; ties by example id.
fn order(rows: &[InfluenceRow], a: &Ranked, b: &Ranked) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| rows[a.row].example.cmp(&rows[b.row].example))
}

/// Enters a score into a list that holds at most `count`; the score that it now takes to enter, if the list is full.
fn enter(
    list: &mut Vec<Ranked>,
    count: usize,
    new: Ranked,
    order: impl Fn(&Ranked, &Ranked) -> Ordering,
) -> Option<f64> {
    let place = list.partition_point(|old| order(old, &new) == Ordering::Less);
    if place < count {
        list.truncate(count - 1);
        list.insert(place, new);
    }
    if list.len() < count {
        return None;
    }
    list.last().map(|last| last.score)
}

impl Ranks {
    pub(super) fn new(count: usize, probes: usize) -> Self {
        // The smallest numbers that are positive and negative: a score of zero is neither.
        let (least, largest) = (vec![f64::from_bits(1); probes], vec![-f64::from_bits(1); probes]);
        Self { count, least, largest, proponents: vec![Vec::new(); probes], opponents: vec![Vec::new(); probes] }
    }

    #[inline(never)]
    fn enter(&mut self, rows: &[InfluenceRow], row: usize, probe: usize, score: f64, error: Option<f64>) {
        let new = Ranked { row, score, error };
        if score >= self.least[probe] {
            let bound = enter(&mut self.proponents[probe], self.count, new, |a, b| order(rows, a, b));
            self.least[probe] = bound.unwrap_or(self.least[probe]);
        } else if score <= self.largest[probe] {
            let bound = enter(&mut self.opponents[probe], self.count, new, |a, b| order(rows, b, a));
            self.largest[probe] = bound.unwrap_or(self.largest[probe]);
        }
    }

    pub(super) fn take(self) -> (Vec<Vec<Ranked>>, Vec<Vec<Ranked>>) {
        (self.proponents, self.opponents)
    }
}

/// Enters the final scores of an example where they belong. `errors` is empty or as long as `scores`.
pub(super) struct Ranking<'a> {
    pub ranks: &'a mut Ranks,
    pub rows: &'a [InfluenceRow],
    pub row: usize,
    pub scores: &'a [f64],
    pub errors: &'a [f64],
}

impl Work for Ranking<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const CHUNK: usize = 16;
        let Self { ranks, rows, row, scores, errors } = self;
        for start in (0..scores.len()).step_by(CHUNK) {
            let chunk = start..scores.len().min(start + CHUNK);
            let bounds = ranks.least[chunk.clone()].iter().zip(&ranks.largest[chunk.clone()]);
            // Mostly none enters, and this loop has no branch.
            let enters = scores[chunk.clone()]
                .iter()
                .zip(bounds)
                .fold(false, |enters, (score, (least, largest))| enters | (score >= least) | (score <= largest));
            if enters {
                chunk.for_each(|probe| ranks.enter(rows, row, probe, scores[probe], errors.get(probe).copied()));
            }
        }
    }
}

impl Strongest {
    /// The strongest of an answer with one column.
    pub(super) fn rank_column(mut about: Influence, count: usize) -> Self {
        let ranked = |rows: Vec<usize>| {
            let rank = |row| Ranked { row, score: about.score(row, 0), error: about.sketch_error(row, 0) };
            rows.into_iter().map(rank).collect::<Vec<_>>()
        };
        let (proponents, opponents) = (ranked(about.proponents(0, count)), ranked(about.opponents(0, count)));
        let examples = about.rows.len() as u64;
        (about.scores, about.sketch_errors) = (Vec::new(), Vec::new());
        Self { influence: about, examples, proponents: vec![proponents], opponents: vec![opponents] }.keep_named()
    }

    /// Drops the rows that no list names.
    pub(crate) fn keep_named(mut self) -> Self {
        let mut position = vec![usize::MAX; self.influence.rows.len()];
        let lists = || self.proponents.iter().chain(&self.opponents).flatten();
        lists().for_each(|ranked| position[ranked.row] = 0);
        let mut kept = Vec::new();
        for (old, row) in std::mem::take(&mut self.influence.rows).into_iter().enumerate() {
            if position[old] == 0 {
                position[old] = kept.len();
                kept.push(row);
            }
        }
        self.influence.rows = kept;
        for ranked in self.proponents.iter_mut().chain(&mut self.opponents).flatten() {
            ranked.row = position[ranked.row];
        }
        self
    }
}
