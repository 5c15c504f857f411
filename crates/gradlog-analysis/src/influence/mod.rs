//! TracIn: which training examples taught the model its answer to a probe (Pruthi et al. 2020, arXiv 2002.08484, §3).
//!
//! For a training example `z` and a probe `z'`
//!
//! ```text
//! TracIn(z, z') = Σ_t η_t·clip_t·c_t·⟨g_z(w_t), g_z'(w_c(t))⟩
//! ```
//!
//! over the visits `t` of `z` inside the window: `η_t` the learning rate of the step, `clip_t` the factor that the
//! whole gradient was multiplied by, `c_t` the weight of `z` in the loss (`1/B` under a mean, with the true `B` of a
//! short batch), and `c(t)` the probe time that stands for step `t`. **Positive means that the step lowered the probe's
//! loss: a proponent.** Negative: an opponent. It treats the optimizer as plain SGD: momentum and Adam are not
//! modelled.
//!
//! With a probe pass before each step, `c(t) = t` and this is the paper's idealised form to first order; with a probe
//! pass once in a while it is TracInCP restricted to the visits. [`Influence::variant`] says which it was.
//!
//! On a window of sweeps ([`Window::sweeps`]) it is TracInCP instead, of every swept example at every checkpoint at
//! which the probe has a record too:
//!
//! ```text
//! TracInCP(z, z') = Σ_i η_i·⟨g_z(w_i), g_z'(w_i)⟩
//! ```
//!
//! with `η_i` the learning rate of the step before checkpoint `i`, and neither clip factor nor weight in a batch.
//!
//! A probe's gradient is that of its loss, or of a score of its prediction (`Pass::prediction_score`); positive then
//! means that the step raised the score.
//!
//! Scores can be normalized ([`Normalization`]), be those of some layers alone ([`InfluenceQuestion::layers`]) or of a
//! group of probes [`InfluenceQuestion::mean`], and be taken apart by layer or by epoch ([`InfluencePlan::split`]).
//!
//! Gradients are the recorded sketches: factored layers give `(⟨a,a'⟩ + bias)·⟨δ,δ'⟩`, folded ones `⟨s,s'⟩`. What a
//! sketch leaves open is said by a standard deviation beside each score, on request ([`InfluenceQuestion::errors`]).
//!
//! `question.rs` is what is asked and `answer.rs` what comes back. `plan/` looks the question up in the run: which
//! probes, which layers, how many passes. `stream/` reads the visits by the plan and knows it; the plan knows nothing
//! of the stream. `products/` multiplies visits with probes.

mod agreement;
mod answer;
mod concentration;
mod distance;
mod method;
pub(crate) mod plan;
mod products;
mod question;
mod stream;
#[cfg(test)]
mod tests;

pub use agreement::Agreement;
pub use answer::{Influence, InfluenceRow, Probe, Total};
pub use concentration::Concentration;
pub use distance::{Comparison, DistanceQuestion, FeatureDistance};
pub use method::{Curvature, Damping, EstimateDetails, KroneckerDetails, Method};
pub use plan::InfluencePlan;
#[cfg(any(test, feature = "curvature"))]
pub(crate) use question::Probes;
pub use question::{InfluenceQuestion, Normalization, OptimizerChoice, ProbeTime};
pub use stream::{Part, Ranked, Split, SplitBy, Strongest};
