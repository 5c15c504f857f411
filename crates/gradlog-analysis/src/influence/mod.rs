//! TracIn: which training examples taught the model its answer to a probe (Pruthi et al. 2020, arXiv 2002.08484, §3).
//!
//! For a training example `z` and a probe `z'`
//!
//! ```text
//! TracIn(z, z') = Σ_t η_t·clip_t·c_t·⟨g_z(w_t), g_z'(w_c(t))⟩
//! ```
//!
//! over the visits `t` of `z` inside the window: `η_t` the learning rate of the step, `clip_t` the factor that the whole
//! gradient was multiplied by, `c_t` the weight of `z` in the loss (`1/B` under a mean, with the true `B` of a short
//! batch), and `c(t)` the probe time that stands for step `t`. **Positive means that the step lowered the probe's loss:
//! a proponent.** Negative: an opponent. It treats the optimizer as plain SGD: momentum and Adam are not modelled.
//!
//! With a probe pass before each step, `c(t) = t` and this is the paper's idealised form to first order; with a probe
//! pass once in a while it is TracInCP restricted to the visits. [`Influence::variant`] says which it was.
//!
//! On a window of sweeps ([`Window::sweeps`]) it is TracInCP instead, of every swept example at every checkpoint at which the probe
//! has a record too:
//!
//! ```text
//! TracInCP(z, z') = Σ_i η_i·⟨g_z(w_i), g_z'(w_i)⟩
//! ```
//!
//! with `η_i` the learning rate of the step before checkpoint `i`, and neither clip factor nor weight in a batch.
//!
//! A probe's gradient is that of its loss, or of a score of its prediction (`Pass::prediction_score`); positive then means that
//! the step raised the score.
//!
//! Scores can be normalised ([`Normalisation`]), be those of some layers alone ([`Question::layers`]) or of a group of probes
//! ([`Question::group`]), and be taken apart by layer or by epoch ([`InfluencePlan::split`]).
//!
//! Gradients are the recorded sketches: factored layers give `(⟨a,a'⟩ + bias)·⟨δ,δ'⟩`, folded ones `⟨s,s'⟩`. What a sketch
//! leaves open is said by a standard deviation beside each score, on request ([`InfluencePlan::with_errors`]).

mod agreement;
mod block_visits;
mod concentration;
mod counts;
mod distance;
mod group;
pub(super) mod index;
mod norms;
mod pass;
mod products;
mod question;
mod split;
mod strongest;
mod sums;
#[cfg(test)]
mod tests;
mod variance;

use crate::rows::driver::Progress;
use crate::scores::per_example::suspicious_first;
use crate::{AnalysisError, Basis, Estimate, Order};
pub use agreement::Agreement;
pub use concentration::Concentration;
pub use distance::{influence_by_distance, Comparison, FeatureDistance};
use gradlog_format::log::{Mode, PredictionScore};
use gradlog_format::run::{Damage, Run};
pub(super) use index::{CurvatureRow, Index, Record};
pub use pass::InfluencePlan;
pub use question::{Normalisation, ProbeTime, Probes, Question};
pub use split::{Part, Split, SplitBy};
use std::collections::HashMap;
pub use strongest::{Ranked, Strongest};

/// A probe that influence was measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InfluenceRow {
    /// Its id.
    pub example: u64,
    /// Visits that its scores stand on. Where the probes were taken at different times, the largest of the counts.
    pub visits: u64,
    /// Its label at its last visit inside the window, if labels were recorded.
    pub label: Option<u32>,
    /// The predicted class at that visit, if predictions were recorded.
    pub prediction: Option<u32>,
}

/// Influence of every training example on some probes: TracIn, or another [`Method`](crate::Method). Positive helped,
/// negative hurt.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Influence {
    /// Name of the probe set.
    pub set: String,
    /// Which probe time stands for a step. Of no account on sweeps.
    pub time: ProbeTime,
    /// Whether it stands on visits of the training or on sweeps at checkpoints, and which. "Visits" below are then rows of sweeps.
    pub basis: Basis,
    /// What the scores were divided by.
    pub normalise: Normalisation,
    /// The layers whose gradients count, where not all do; those that are folded together as one, by the name `folded`.
    pub layers: Vec<String>,
    /// Ids of the probes that the one column is the mean of; empty where each probe has a column of its own.
    pub group: Vec<u64>,
    /// How the model ran when the probes were taken by a replay; empty for probes taken during the training.
    pub probe_modes: Vec<Mode>,
    /// The probes: columns of the scores. Of a group there is one, with the first id, the most times, and what all have in common.
    pub probes: Vec<Probe>,
    /// The training examples: rows of the scores, in the order of their first visit.
    pub rows: Vec<InfluenceRow>,
    /// `[rows, probes]`, row by row; NaN where an example has no usable visit.
    pub scores: Vec<f64>,
    /// One standard deviation of each score's sketch error, `[rows, probes]` as the scores are; empty unless they were asked
    /// for with [`InfluencePlan::with_errors`]. An upper bound where an example has several visits. It covers projection and
    /// rounding of the gradients and nothing else: not layers that were not recorded, not that the probes were taken at other
    /// steps, not TracIn's first order.
    pub errors: Vec<f64>,
    /// Visits that the scores stand on. Where the probes were taken at different times, this and the counts below are
    /// those of the first of them.
    pub visits: u64,
    /// Of these, visits at a step before which the probes were taken: `c(t) = t`.
    pub visits_at_probe_times: u64,
    /// Times at which the probes were taken.
    pub probe_times: u64,
    /// Visits left out because they came before the first probe time; of sweeps, because the probe has no record at the checkpoint.
    pub before_first_probe: u64,
    /// Visits left out because a number of theirs was NaN or infinite.
    pub not_finite: u64,
    /// Visits left out because they were recorded without gradients.
    pub without_gradient: u64,
    /// Visits left out because their layers were recorded in another form than the probes'.
    pub other_layers: u64,
    /// Probe records left out because they were not finite, had no weight in the loss, or another form than the first.
    pub probe_records_left_out: u64,
    /// Probe records replaced by a later one of the same id at the same time: the last counts.
    pub probe_records_repeated: u64,
    /// By which method, if it is not TracIn, and what that stands on.
    pub estimate: Option<Estimate>,
    /// Where the run stopped being readable, if it did; the scores then stand on what came before.
    pub damage: Option<Damage>,
}

impl Influence {
    /// An answer without probes, rows and counts.
    pub(super) fn new(set: String, time: ProbeTime) -> Self {
        Self {
            set,
            time,
            basis: Basis::default(),
            normalise: Normalisation::None,
            layers: Vec::new(),
            group: Vec::new(),
            probe_modes: Vec::new(),
            probes: Vec::new(),
            rows: Vec::new(),
            scores: Vec::new(),
            visits: 0,
            visits_at_probe_times: 0,
            probe_times: 0,
            before_first_probe: 0,
            not_finite: 0,
            without_gradient: 0,
            other_layers: 0,
            probe_records_left_out: 0,
            probe_records_repeated: 0,
            errors: Vec::new(),
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

    /// One standard deviation of a score's sketch error, both by position, if errors were asked for.
    ///
    /// # Panics
    /// If there is no such row or probe.
    pub fn error(&self, row: usize, probe: usize) -> Option<f64> {
        assert!(probe < self.probes.len() && row < self.rows.len(), "no such row or probe");
        self.errors.get(row * self.probes.len() + probe).copied()
    }

    /// Positions of all rows for a probe, the strongest proponent first and the strongest opponent last; ties by example
    /// id, rows without a score (NaN) at the very end.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn ranking(&self, probe: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by(|&a, &b| {
            suspicious_first(Order::HighestFirst, self.score(a, probe), self.score(b, probe))
                .then_with(|| self.rows[a].example.cmp(&self.rows[b].example))
        });
        order
    }

    /// Positions of up to `count` rows that helped most, the strongest first. Only positive scores.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn proponents(&self, probe: usize, count: usize) -> Vec<usize> {
        let mut order = self.ranking(probe);
        order.retain(|&row| self.score(row, probe) > 0.0);
        order.truncate(count);
        order
    }

    /// Positions of up to `count` rows that hurt most, the strongest first. Only negative scores.
    ///
    /// # Panics
    /// If there is no such probe.
    pub fn opponents(&self, probe: usize, count: usize) -> Vec<usize> {
        let mut order = self.ranking(probe);
        order.retain(|&row| self.score(row, probe) < 0.0);
        order.reverse();
        order.truncate(count);
        order
    }

    /// Which variant of TracIn this is, or which other method, in words.
    pub fn variant(&self) -> String {
        let mut words = self.formula();
        match self.normalise {
            Normalisation::None => {}
            Normalisation::Cosine => words.push_str("; cosine: each gradient at unit length"),
            Normalisation::Relatif => words.push_str("; RelatIF: divided by the root of self-influence"),
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
            return "no visit has a probe time".into();
        }
        if let Basis::Sweeps { .. } = &self.basis {
            let basis = &self.basis;
            return format!("{basis}{modes}: TracInCP (Pruthi et al. 2020), steps taken as plain SGD");
        }
        if self.visits == self.visits_at_probe_times {
            return format!(
                "one probe pass per step{modes}: idealised TracIn (Pruthi et al. 2020 s3.1, first order, steps taken as plain SGD)"
            );
        }
        let rule = match self.time {
            ProbeTime::Earlier => "nearest earlier",
            ProbeTime::Nearest => "nearest",
        };
        let times = if self.probe_times == 1 { "1 time".into() } else { format!("{} times", self.probe_times) };
        format!("probes at {times}, {rule}{modes}: TracInCP on visited gradients, steps taken as plain SGD")
    }

    /// Adds the columns of `other`, which answers the same question on other probes.
    pub(super) fn merge(&mut self, other: Influence) {
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
                    if !self.errors.is_empty() {
                        self.errors.extend(std::iter::repeat_n(f64::NAN, old));
                    }
                    source.push(Some(from));
                }
            }
        }
        let beside = |mine: &[f64], others: &[f64]| {
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
        self.scores = beside(&self.scores, &other.scores);
        if !self.errors.is_empty() {
            self.errors = beside(&self.errors, &other.errors);
        }
        self.probes.extend(other.probes);
        self.probe_times = self.probe_times.max(other.probe_times);
        self.damage = self.damage.take().or(other.damage);
    }
}

/// TracIn of every training example on the probes of `question`.
///
/// # Errors
/// [`AnalysisError::NoSuchSet`] or [`AnalysisError::NoSuchProbe`], with what there is; [`AnalysisError::Missing`] if the
/// visits hold no gradients; [`AnalysisError::NoProbeGradient`] if the probes hold none; [`AnalysisError::OtherLayers`] if
/// the two have none in common; [`AnalysisError::Read`] if the file system refuses. Damage is not an error, unless what was
/// asked for is missing in front of it ([`AnalysisError::Cut`]).
///
/// # Cost
/// One pass over the visits for each few thousand probes, `visits × probes × (numbers of a sketch)` multiplications, of
/// integers where both sides are stored as integers. Memory: 8 bytes for each pair of an example and a probe, at most
/// [`InfluencePlan::PROBE_BYTES_MAX`] of unpacked probes, and a few blocks. For more pairs than fit in memory take the passes
/// of an [`InfluencePlan`] one by one, or only their [strongest](InfluencePlan::strongest).
pub fn influence(run: &Run, question: &Question) -> Result<Influence, AnalysisError> {
    let progress: Progress<'_> = &|_| {};
    let plan = InfluencePlan::new(run, question, progress)?;
    let mut whole = plan.pass(0, progress)?;
    for number in 1..plan.passes() {
        whole.merge(plan.pass(number, progress)?);
    }
    Ok(whole)
}
