//! Self-influence: TracIn of an example with itself, over its visits (Pruthi et al. 2020, arXiv 2002.08484, §4.1).
//!
//! `Σ_t η_t·clip_t·c_t·‖g(w_t)‖²`, where `η_t` is the step's learning rate, `clip_t` what the whole gradient was
//! multiplied by, and `c_t` the example's weight in the loss, `1/B` under a mean. The norms are those of the gradients
//! themselves, not of their sketches, unless the visit says that it was estimated. The paper sums over checkpoints;
//! this sums over the steps that the example took part in, which is what its §3.1 starts from.
//!
//! On a window of sweeps it is the paper's `Σ_i η_i·‖g(w_i)‖²` over checkpoints: clip factor and weight are then 1.
//!
//! A visit without weight (`c = 0`) moved nothing and rightly adds zero.
//!
//! **Adam.** `Σ_t η_eff(t)·clip_t·c_t·‖D^{1/2} g(w_t)‖²` with `D = 1/(√v̂ + ε)` of a step before, and the rate at which
//! a gradient acts through the first moment ([`InfluenceQuestion`](crate::InfluenceQuestion)). It is TracIn of an
//! example with itself in the metric of Adam. The norms come from the recorder.

use crate::rows::rule::{RowRule, UnseenGradient};
use crate::scores::per_example::{Mean, PerExample};
use gradlog_format::log::Column;

#[derive(Default)]
pub(super) struct SelfInfluence {
    terms: Mean,
}

/// In the metric of Adam.
#[derive(Default)]
pub(super) struct AdamSelfInfluence(SelfInfluence);

const fn rule(numbers: &'static [Column]) -> RowRule {
    RowRule { unseen: UnseenGradient::ZeroByCoefficient, ..RowRule::outputs(numbers) }
}

impl PerExample for AdamSelfInfluence {
    const RULE: RowRule = rule(&[
        Column::PreconditionedSquaredNorm,
        // Here the rate at which a gradient acts.
        Column::LearningRate,
        Column::Clip,
        Column::Coefficient,
    ]);

    fn add(&mut self, values: &[f32]) {
        self.0.add(values);
    }

    fn visits(&self) -> u64 {
        self.0.visits()
    }

    fn score(&self) -> f64 {
        self.0.score()
    }
}

impl PerExample for SelfInfluence {
    const RULE: RowRule = rule(&[Column::SquaredNorm, Column::LearningRate, Column::Clip, Column::Coefficient]);

    fn add(&mut self, values: &[f32]) {
        let factors = values[1..].iter().map(|value| f64::from(*value));
        self.terms.add(factors.fold(Column::decode_squared_norm(values[0]), |product, factor| product * factor));
    }

    fn visits(&self) -> u64 {
        self.terms.count()
    }

    fn score(&self) -> f64 {
        self.terms.sum()
    }
}
