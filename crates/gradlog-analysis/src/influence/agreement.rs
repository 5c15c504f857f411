//! How far two answers to one question agree: with another damping, another method, another run.

use super::answer::Influence;
use crate::{spearman, AnalysisError};
use std::collections::{HashMap, HashSet};

/// What stays of a ranking from one answer to another.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Agreement {
    /// Spearman's rank correlation over the examples that have a score in both; NaN if one side is constant.
    pub spearman: f64,
    /// How many of the strongest proponents of the first were compared: fewer than asked for where fewer helped.
    pub proponents: usize,
    /// How many of these are among as many of the second.
    pub proponents_kept: usize,
    /// The same of the strongest opponents.
    pub opponents: usize,
    /// See `opponents`.
    pub opponents_kept: usize,
}

impl Influence {
    /// Sets this answer on a probe, by position, beside `other`, with up to `count` of the strongest of both ends.
    /// Probes and examples are found by their ids.
    ///
    /// # Errors
    /// [`AnalysisError::OutOfRange`] if there is no such probe, or `other` is not about it.
    pub fn agreement(&self, other: &Influence, probe: usize, count: usize) -> Result<Agreement, AnalysisError> {
        let Some(id) = self.probes.get(probe).map(|probe| probe.id) else {
            let (what, range) = ("the position of a probe", format!("below {}", self.probes.len()));
            return Err(AnalysisError::OutOfRange { what, given: probe.to_string(), range });
        };
        let Some(there) = other.probes.iter().position(|probe| probe.id == id) else {
            let (what, range) = ("the answer to compare with", format!("about probe {id}"));
            return Err(AnalysisError::OutOfRange { what, given: "about other probes".into(), range });
        };
        let theirs: HashMap<u64, f64> =
            other.rows.iter().enumerate().map(|(row, about)| (about.example, other.score(row, there))).collect();
        let both = self.rows.iter().enumerate().filter_map(|(row, about)| {
            let pair = (self.score(row, probe), *theirs.get(&about.example)?);
            (pair.0.is_finite() && pair.1.is_finite()).then_some(pair)
        });
        let (mine, theirs): (Vec<f64>, Vec<f64>) = both.unzip();
        let kept = |mine: Vec<usize>, theirs: Vec<usize>| {
            let theirs: HashSet<u64> = theirs.into_iter().map(|row| other.rows[row].example).collect();
            (mine.len(), mine.into_iter().filter(|row| theirs.contains(&self.rows[*row].example)).count())
        };
        let (proponents, proponents_kept) = kept(self.proponents(probe, count), other.proponents(there, count));
        let (opponents, opponents_kept) = kept(self.opponents(probe, count), other.opponents(there, count));
        Ok(Agreement { spearman: spearman(&mine, &theirs), proponents, proponents_kept, opponents, opponents_kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::influence::{InfluenceRow, Probe, ProbeTime};

    /// Scores of examples on the probe 6, and the opposite on the probe 5.
    fn with(scores: &[(u64, f64)]) -> Influence {
        let mut influence = Influence::new("test".into(), ProbeTime::Earlier);
        let probe = |id| Probe { id, times: 1, label: None, prediction: None, scored: None };
        influence.probes = [5, 6].map(probe).to_vec();
        let row =
            |(example, _): &(u64, f64)| InfluenceRow { example: *example, visits: 1, label: None, prediction: None };
        influence.rows = scores.iter().map(row).collect();
        influence.scores = scores.iter().flat_map(|(_, score)| [-score, *score]).collect();
        influence
    }

    #[test]
    fn of_ranks_and_of_the_strongest() {
        let one = with(&[(0, 4.0), (1, 3.0), (2, 2.0), (3, -1.0), (4, -5.0), (5, f64::NAN), (7, 9.0)]);
        // In another order, with another example for 7; of 0 to 4 the ranks are 4 2 3 1 0 where they were 4 3 2 1 0.
        let mut other = with(&[(4, -6.0), (3, -2.0), (2, 3.5), (1, 3.0), (0, 8.0), (5, 1.0), (8, 99.0)]);
        other.probes.swap(0, 1);
        other.scores.chunks_mut(2).for_each(|pair| pair.swap(0, 1));
        let found = one.agreement(&other, 1, 2).unwrap();
        // 1 − 6·2/(5·24) = 0.9.
        assert!((found.spearman - 0.9).abs() < 1e-12, "{found:?}");
        // The strongest are 7 and 0 here, 8 and 0 there.
        assert_eq!((found.proponents, found.proponents_kept, found.opponents, found.opponents_kept), (2, 1, 2, 2));
        // The third are 1 here and 2 there; 1 is the fourth.
        assert_eq!(one.agreement(&other, 1, 3).unwrap().proponents_kept, 1);
        // On the other probe only two helped.
        let found = one.agreement(&other, 0, 9).unwrap();
        assert_eq!((found.proponents, found.proponents_kept, found.opponents_kept), (2, 2, 3));
        assert!(matches!(one.agreement(&other, 2, 9), Err(AnalysisError::OutOfRange { .. })));
        other.probes[1].id = 99;
        assert!(matches!(one.agreement(&other, 0, 2), Err(AnalysisError::OutOfRange { .. })));
    }
}
