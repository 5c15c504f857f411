//! The answer: the influence of training examples on probes.

use super::method::EstimateDetails;
use super::question::{Normalization, ProbeTime};
use crate::scores::order::{first_of, suspicious_first, Order};
use crate::{Basis, LeftOut};
use gradlog_format::log::{Mode, PredictionScore};
use gradlog_format::run::Damage;
use rayon::slice::ParallelSliceMut;
use std::cmp::Ordering;
use std::collections::HashMap;

/// A probe that influence was measured on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Probe {
    /// Its id.
    pub id: u64,
    /// At how many times its gradient is usable.
    pub times: u64,
    /// Its label at the last of them, if labels were recorded.
    pub label: Option<u32>,
    /// The predicted class at the last of them, if predictions were recorded.
    pub prediction: Option<u32>,
    /// Which score of which class the gradient is of; `None` where it is of the loss.
    pub scored: Option<(PredictionScore, u32)>,
}

/// A training example that influence was measured for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct InfluenceRow {
    /// Its id.
    pub example: u64,
    /// Visits that its scores are made of. Where the probes were taken at different times, the largest of the counts.
    pub visits: u64,
    /// Its label at its last visit inside the window, if labels were recorded.
    pub label: Option<u32>,
    /// The predicted class at that visit, if predictions were recorded.
    pub prediction: Option<u32>,
}

/// The sum of a probe's scores over all training examples. For TracIn it is, to first order, by how much the training
/// lowered the probe's loss.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Total {
    /// The sum.
    pub score: f64,
    /// One standard deviation of its sketch error: an upper bound, as for single scores. Rounding of visits at random
    /// cancels in the sum. Projections and the probe's own rounding are taken not to.
    pub sketch_error: f64,
}

/// Influence of every training example on some probes: TracIn, or another [`Method`](crate::Method). Positive helped,
/// negative hurt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Influence {
    /// Name of the probe set.
    pub set: String,
    /// Which probe time stands for a step. It plays no part on sweeps.
    pub time: ProbeTime,
    /// What it rests on. If it is sweeps, "visits" below are rows of these.
    pub basis: Basis,
    /// What the scores were divided by.
    pub normalization: Normalization,
    /// The layers whose gradients count, where not all do; those that are folded together as one, by the name
    /// `folded`.
    pub layers: Vec<String>,
    /// Ids of the probes that the one column is the mean of; empty where each probe has a column of its own.
    pub group: Vec<u64>,
    /// How the model ran when the probes were taken by a replay; empty for probes taken during the training.
    pub probe_modes: Vec<Mode>,
    /// The probes: columns of the scores. Of a group there is one, with the first id, the most times, and what all
    /// have in common.
    pub probes: Vec<Probe>,
    /// The training examples: rows of the scores, in the order of their first visit.
    pub rows: Vec<InfluenceRow>,
    /// `[rows, probes]`, row by row; NaN where an example has no usable visit.
    pub scores: Vec<f64>,
    /// One standard deviation of each score's sketch error, `[rows, probes]` as the scores are; empty unless they were
    /// asked for with [`InfluenceQuestion::sketch_errors`](crate::InfluenceQuestion::sketch_errors). An upper bound
    /// where an example has several visits. It covers projection and rounding of the gradients and nothing else: not
    /// layers that were not recorded, not that the probes were taken at other steps, not TracIn's first order.
    pub sketch_errors: Vec<f64>,
    /// For each probe, the sum of its scores over all examples; empty unless errors were asked for, and where scores
    /// are divided by something of each example.
    pub totals: Vec<Total>,
    /// Visits that the scores are made of. Where the probes were taken at different times, this and the counts below
    /// are those of the first of them, and so are the counts of what was left out.
    pub visits: u64,
    /// Of these, visits at a step before which the probes were taken: `c(t) = t`.
    pub visits_at_probe_times: u64,
    /// Times at which the probes were taken.
    pub probe_times: u64,
    /// What was left out, by the reason.
    pub left_out: LeftOut,
    /// By which method, if it is not TracIn, and what that is made of.
    pub estimate: Option<EstimateDetails>,
    /// Where the run stopped being readable, if it did; the scores are then those of what came before.
    pub damage: Option<Damage>,
}

impl Influence {
    /// An answer without probes, rows and counts.
    pub(crate) fn new(set: String, time: ProbeTime) -> Self {
        Self {
            set,
            time,
            basis: Basis::default(),
            normalization: Normalization::None,
            layers: Vec::new(),
            group: Vec::new(),
            probe_modes: Vec::new(),
            probes: Vec::new(),
            rows: Vec::new(),
            scores: Vec::new(),
            visits: 0,
            visits_at_probe_times: 0,
            probe_times: 0,
            left_out: LeftOut::default(),
            sketch_errors: Vec::new(),
            totals: Vec::new(),
            estimate: None,
            damage: None,
        }
    }

    /// The score of a row on a probe, both by position.
    ///
    /// # Panics
    /// If there is no such row or probe.
    pub fn score(&self, row: usize, probe: usize) -> f64 {
        assert!(probe < self.probes.len(), "no such probe");
        self.scores[row * self.probes.len() + probe]
    }

    /// The position of the row of a training example; `None` if it has no visit inside the window. It goes through the
    /// rows.
    pub fn row_position(&self, example: u64) -> Option<usize> {
        self.rows.iter().position(|row| row.example == example)
    }

    /// The position of the probe with this id, if the answer has it. It goes through the probes.
    pub fn probe_position(&self, id: u64) -> Option<usize> {
        self.probes.iter().position(|probe| probe.id == id)
    }

    /// The score of a training example on a probe, both by id; `None` for an unknown id. A NaN means that no visit
    /// is usable.
    pub fn score_of(&self, example: u64, probe: u64) -> Option<f64> {
        let (row, probe) = (self.row_position(example)?, self.probe_position(probe)?);
        self.scores.get(row * self.probes.len() + probe).copied()
    }

    /// One standard deviation of a score's sketch error, both by position, if errors were asked for.
    ///
    /// # Panics
    /// If there is no such row or probe.
    pub fn sketch_error(&self, row: usize, probe: usize) -> Option<f64> {
        assert!(probe < self.probes.len() && row < self.rows.len(), "no such row or probe");
        self.sketch_errors.get(row * self.probes.len() + probe).copied()
    }

    /// Positions of all rows for a probe, the strongest proponent first and the strongest opponent last; ties by
    /// example id, rows without a score (NaN) at the very end.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn ranking(&self, probe: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.par_sort_unstable_by(|&a, &b| self.before(probe, a, b));
        order
    }

    /// Positions of up to `count` rows that helped most, the strongest first. Only positive scores.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn proponents(&self, probe: usize, count: usize) -> Vec<usize> {
        let positive = (0..self.rows.len()).filter(|&row| self.score(row, probe) > 0.0).collect();
        first_of(positive, count, |&a, &b| self.before(probe, a, b))
    }

    /// Positions of up to `count` rows that hurt most, the strongest first. Only negative scores.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn opponents(&self, probe: usize, count: usize) -> Vec<usize> {
        let negative = (0..self.rows.len()).filter(|&row| self.score(row, probe) < 0.0).collect();
        first_of(negative, count, |&a, &b| self.before(probe, b, a))
    }

    /// Which of two rows comes first in [`ranking`](Self::ranking).
    fn before(&self, probe: usize, a: usize, b: usize) -> Ordering {
        suspicious_first(Order::HighestFirst, self.score(a, probe), self.score(b, probe))
            .then_with(|| self.rows[a].example.cmp(&self.rows[b].example))
    }

    /// Which variant of TracIn this is, or which other method, in words.
    pub fn variant(&self) -> String {
        let mut words = self.formula();
        match self.normalization {
            Normalization::None => {}
            Normalization::Cosine => words.push_str("; cosine: each gradient at unit length"),
            Normalization::Relatif => {
                words.push_str("; RelatIF: divided by the root of self-influence");
                if self.basis.optimizer.as_ref().is_some_and(|model| model.models_moments) {
                    words.push_str(" in the metric of plain SGD");
                }
            }
        }
        if !self.layers.is_empty() {
            words.push_str(&format!("; of these layers alone: {}", self.layers.join(", ")));
        }
        words
    }

    fn formula(&self) -> String {
        let modes = match self.probe_modes.as_slice() {
            [] => String::new(),
            [mode] => format!(", probes in {mode}"),
            _ => ", probes partly in training and partly in evaluation mode".into(),
        };
        if let Some(estimate) = &self.estimate {
            return format!("{estimate}{modes}");
        }
        if self.visits == 0 {
            return "no visit counts".into();
        }
        let steps = match &self.basis.optimizer {
            Some(model) if model.models_moments => format!("steps of {model}"),
            _ => "steps taken as plain SGD".into(),
        };
        if self.basis.is_sweeps() {
            let rows = &self.basis.rows;
            return format!("{rows}{modes}: TracInCP (Pruthi et al. 2020), {steps}");
        }
        if self.visits == self.visits_at_probe_times {
            return format!(
                "one probe pass per step{modes}: idealised TracIn (Pruthi et al. 2020 s3.1, first order, {steps})"
            );
        }
        let rule = match self.time {
            ProbeTime::Earlier => "nearest earlier",
            ProbeTime::Nearest => "nearest",
        };
        let times = if self.probe_times == 1 { "1 time".into() } else { format!("{} times", self.probe_times) };
        format!("probes at {times}, {rule}{modes}: TracInCP on visited gradients, {steps}")
    }

    /// Adds the columns of `other`, which answers the same question on other probes.
    pub(crate) fn merge(&mut self, other: Influence) {
        let positions: HashMap<u64, usize> = self.rows.iter().enumerate().map(|(i, r)| (r.example, i)).collect();
        let (old, new) = (self.probes.len(), other.probes.len());
        let mut source: Vec<Option<usize>> = vec![None; self.rows.len()];
        for (from, row) in other.rows.into_iter().enumerate() {
            match positions.get(&row.example) {
                Some(&to) => {
                    source[to] = Some(from);
                    self.rows[to].visits = self.rows[to].visits.max(row.visits);
                }
                None => {
                    self.rows.push(row);
                    self.scores.extend(std::iter::repeat_n(f64::NAN, old));
                    if !self.sketch_errors.is_empty() {
                        self.sketch_errors.extend(std::iter::repeat_n(f64::NAN, old));
                    }
                    source.push(Some(from));
                }
            }
        }
        let join = |mine: &[f64], others: &[f64]| {
            let mut all = Vec::with_capacity(source.len() * (old + new));
            for (row, from) in source.iter().enumerate() {
                all.extend_from_slice(&mine[row * old..(row + 1) * old]);
                match from {
                    Some(from) => all.extend_from_slice(&others[from * new..(from + 1) * new]),
                    None => all.extend(std::iter::repeat_n(f64::NAN, new)),
                }
            }
            all
        };
        self.scores = join(&self.scores, &other.scores);
        if !self.sketch_errors.is_empty() {
            self.sketch_errors = join(&self.sketch_errors, &other.sketch_errors);
        }
        self.totals.extend(other.totals);
        self.probes.extend(other.probes);
        self.probe_times = self.probe_times.max(other.probe_times);
        self.damage = self.damage.take().or(other.damage);
    }
}
