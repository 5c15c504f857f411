//! Kernel velocity: how fast the geometry of a group of examples still turns (Paul et al. 2021, arXiv 2107.07075, §5.1,
//! after Fort et al. 2020, arXiv 2010.15110).
//!
//! For a group `S` of probes and a probe time `t`, the Gram matrix `K_t(S)_ij = ⟨g_i(w_t), g_j(w_t)⟩` of their
//! gradients, and
//!
//! ```text
//! v_t(S) = 1 − ⟨K_t, K_t'⟩_F / (‖K_t‖_F ‖K_t'‖_F)
//! ```
//!
//! for successive probe times `t` and `t'`: 0 if the geometry stands still, 1 if nothing of it is left.
//!
//! **Which gradients.** By default those that the set holds, of losses as a rule: each logit's gradient is multiplied
//! by its error `p − onehot(y)` ([`VelocityKernel::Recorded`]). As an example is fitted its loss gradient shrinks and
//! may turn without the tangent kernel turning. The papers take the gradients of the logits, which `Recorder::tangents`
//! records: [`VelocityKernel::Tangent`] is the neural tangent kernel of all of them, as in Fort et al.; two smaller
//! kernels take means, over the logits of an example or over the examples of a group. The code of Paul et al. has the
//! latter.
//!
//! Scale does not matter: `v` does not change if all of a Gram matrix is multiplied. Gradients are the recorded
//! sketches. Those of probes are never signs, so their lengths are right.
//!
//! The papers take groups of 100 examples with contiguous rank by EL2N: [`VelocityGroups::Ranked`]. For that the probe
//! set must hold training examples under their own ids.

mod groups;
mod kernel;
#[cfg(test)]
mod tests;

use crate::rows::basis::Uses;
use crate::{AnalysisError, Basis, BasisRows, LeftOut, PredictionScore, Progress, RunsTable, Window};
use gradlog_format::run::{Damage, Run};
use groups::{choose_groups, count_other_labels};
use kernel::Kernel;

/// Of which gradients the kernel is the Gram matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum VelocityKernel {
    /// Of those that the probe set holds, of losses as a rule: `K_ij = ⟨∇ℓ_i, ∇ℓ_j⟩`.
    #[default]
    Recorded,
    /// The neural tangent kernel, of all logits: `K_(ik)(jl) = ⟨∇f_k(x_i), ∇f_l(x_j)⟩`. Like the two below it needs
    /// gradients of logits, from `Recorder::tangents`.
    Tangent,
    /// That of the mean logit of each example: `K_ij = ⟨∇f̄(x_i), ∇f̄(x_j)⟩`, `f̄ = mean_k f_k`.
    MeanLogit,
    /// That of the mean of each logit over the examples of the group: `K_kl = ⟨∇f̄_k, ∇f̄_l⟩`, with
    /// `f̄_k = mean_i f_k(x_i)`.
    /// The gradients that the code of Paul et al. 2021 computes (`get_mean_logit_gradients_fn`).
    MeanExample,
}

impl VelocityKernel {
    /// Every kernel.
    pub const ALL: [VelocityKernel; 4] =
        [VelocityKernel::Recorded, VelocityKernel::Tangent, VelocityKernel::MeanLogit, VelocityKernel::MeanExample];

    /// Its short name, which `FromStr` reads.
    pub fn name(self) -> &'static str {
        match self {
            VelocityKernel::Recorded => "recorded",
            VelocityKernel::Tangent => "tangent",
            VelocityKernel::MeanLogit => "mean-logit",
            VelocityKernel::MeanExample => "mean-example",
        }
    }

    /// One line: what it is.
    pub fn description(self) -> &'static str {
        match self {
            VelocityKernel::Recorded => "Gram matrix of the gradients that the set holds, of losses as a rule",
            VelocityKernel::Tangent => "neural tangent kernel of all logits of all examples",
            VelocityKernel::MeanLogit => "neural tangent kernel of the mean logit of each example",
            VelocityKernel::MeanExample => {
                "neural tangent kernel of the logits, each as the mean over the group's examples"
            }
        }
    }
}

named!(VelocityKernel, "the kernel");

/// A named group of probes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VelocityGroup {
    /// What it is called in the result.
    pub name: String,
    /// Ids of its probes.
    pub ids: Vec<u64>,
}

impl VelocityGroup {
    /// A group of the probes with these ids.
    pub fn new(name: impl Into<String>, ids: impl IntoIterator<Item = u64>) -> Self {
        Self { name: name.into(), ids: ids.into_iter().collect() }
    }
}

/// Which groups of a probe set.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum VelocityGroups<'a> {
    /// The whole set, as one group.
    Whole,
    /// These.
    Given(&'a [VelocityGroup]),
    /// The set's examples in the order of difficulty by a score, hardest first, in groups of `size`; a last group of
    /// fewer than `size` is left out, for a smaller Gram matrix turns more slowly or faster by its size alone.
    Ranked {
        /// The score.
        table: &'a RunsTable,
        /// Examples in each group.
        size: usize,
    },
}

/// Kernel velocity of groups of probes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Velocity {
    /// Name of the probe set.
    pub set: String,
    /// Of which gradients the kernel is.
    pub kernel: VelocityKernel,
    /// For a kernel of recorded gradients, the score that they are of; `None` for losses.
    pub scored: Option<PredictionScore>,
    /// For a kernel of logits, how many of each example there are; else 0.
    pub logits: u64,
    /// Times at which it was recorded.
    pub times: u64,
    /// What it rests on: records of probes.
    pub basis: Basis,
    /// What the scores rest on that groups were made by; empty where no score made them.
    pub score_bases: Vec<Basis>,
    /// Where a score made the groups, probes whose label is not that of the training example of the same id.
    pub labels_differ: u64,
    /// The groups, in order.
    pub groups: Vec<GroupVelocity>,
    /// What was left out, by the reason: probe records, and as examples the ids that were asked for and have no usable
    /// record in the set, or no score, or are in the group left over.
    pub left_out: LeftOut,
    /// Where the run stopped being readable, if it did.
    pub damage: Option<Damage>,
}

/// One group.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GroupVelocity {
    /// Its name.
    pub name: String,
    /// Its examples that have a record.
    pub examples: u64,
    /// Mean score of its examples, where groups were made by one and it is finite.
    pub mean_score: Option<f64>,
    /// One entry for each pair of successive probe times at which at least one of its examples has a record at both.
    pub steps: Vec<VelocityStep>,
}

/// Between two successive probe times.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct VelocityStep {
    /// The optimizer step before which the first Gram matrix was taken.
    pub from: u64,
    /// That of the second.
    pub to: u64,
    /// Examples in both.
    pub examples: u64,
    /// The velocity; NaN if all gradients of one of them are zero.
    pub velocity: f64,
}

/// Asks how fast the gradient kernel of groups of probes changes from one probe time to the next (Paul et al. 2021,
/// arXiv 2107.07075, §5.1).
///
/// With `K_t(S)_ij = ⟨g_i(w_t), g_j(w_t)⟩` the Gram matrix of the gradients of a group `S` at probe time `t`, and
/// `t'` the next probe time,
///
/// ```text
/// v_t(S) = 1 − ⟨K_t, K_t'⟩_F / (‖K_t‖_F ‖K_t'‖_F)
/// ```
///
/// 0 means that the kernel stays the same, 1 that nothing of it is left. By default the gradients are those of the
/// losses, so it is not the neural tangent kernel: that is [`VelocityKernel::Tangent`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VelocityQuestion<'a> {
    set: String,
    groups: VelocityGroups<'a>,
    kernel: VelocityKernel,
    progress: Progress,
}

progress_options!(VelocityQuestion<'_>);

impl<'a> VelocityQuestion<'a> {
    /// The probe set `set` as one group.
    pub fn new(set: impl Into<String>) -> Self {
        Self {
            set: set.into(),
            groups: VelocityGroups::Whole,
            kernel: VelocityKernel::default(),
            progress: Progress::default(),
        }
    }

    /// Takes these groups of the set instead.
    #[must_use]
    pub fn groups(mut self, groups: VelocityGroups<'a>) -> Self {
        self.groups = groups;
        self
    }

    /// Takes this kernel. Those of logits are in the set that `Recorder::tangents` was given.
    #[must_use]
    pub fn kernel(mut self, kernel: VelocityKernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Computes the velocity of the groups.
    ///
    /// # Errors
    /// [`AnalysisError::NoSuchSet`]; [`AnalysisError::Missing`] or [`AnalysisError::NoProbeGradient`] if its probes
    /// hold no gradient, or no gradients of logits where these are asked for; [`AnalysisError::OutOfRange`] if there
    /// are fewer than two probe times, a group has no example in the set or more than 4,096 gradients, or groups of
    /// size 0 are asked for; [`AnalysisError::OtherExamples`] if groups are made by a score and most labels of the
    /// probes are not those of the training examples of the same ids.
    ///
    /// # Cost
    /// Reads each probe block once for each group that it holds examples of, twice where probes come and go. With
    /// logits it looks through the run once for each class. Time `n²·(numbers of a sketch)` for each group of `n`
    /// gradients and probe time; memory two Gram matrices, `16·n²` bytes, and the group's decoded gradients.
    pub fn compute(&self, run: &Run) -> Result<Velocity, AnalysisError> {
        let (set, groups) = (self.set.as_str(), self.groups);
        let kernel = Kernel::read(run, set, self.kernel, &self.progress)?;
        let times = kernel.times();
        if times.len() < 2 {
            let count = times.len();
            let range = format!("at least 2: record probes of `{set}` at the end of each epoch");
            return Err(AnalysisError::OutOfRange {
                what: "the number of probe times",
                given: count.to_string(),
                range,
            });
        }
        let (mut damage_of_table, mut score_bases, mut labels_differ) = (None, Vec::new(), 0);
        if let VelocityGroups::Ranked { table, .. } = groups {
            damage_of_table = table.runs.iter().find_map(|part| part.damage.clone());
            score_bases = table.runs.iter().map(|part| part.basis.clone()).collect();
            labels_differ = count_other_labels(&kernel, set, table)?;
        }
        let rows = BasisRows::Probes { times: times.clone(), modes: kernel.modes() };
        let basis = Basis::of(run, &Window::everything(), rows, Uses::Gradients)?;
        let layout = &kernel.first().layout;
        let basis = basis.of_layers(run.manifest(), &layout.layer_numbers(layout, &run.manifest().layers));
        let (groups, examples) = choose_groups(&kernel, set, groups)?;
        let groups = groups.into_iter().map(|group| kernel.velocity(group, &times)).collect::<Result<_, _>>()?;
        let left_out = LeftOut { examples, ..kernel.left_out() };
        let of_logits = self.kernel != VelocityKernel::Recorded;
        let scored = kernel.first().probes.values().find_map(|probe| probe.scored).map(|(score, _)| score);
        Ok(Velocity {
            set: set.into(),
            kernel: self.kernel,
            scored: scored.filter(|_| !of_logits),
            logits: if of_logits { kernel.rows_an_example() as u64 } else { 0 },
            times: times.len() as u64,
            // Visits that were dropped are no probes.
            basis: Basis { dropped: 0, ..basis.with_left_out(&left_out) },
            score_bases,
            labels_differ,
            groups,
            left_out,
            damage: kernel.damage().or(damage_of_table),
        })
    }
}
