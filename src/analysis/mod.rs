//! Scores: what a recorded run says of its training examples. One file per score, pure over [`crate::run`].
//!
//! Owns formulas, signs and orders. Knows neither files nor candle nor tables. Everything is computed from the log alone:
//! no model, no data, no retraining. Two questions can be asked:
//!
//! - *Which examples stand out?* [`Score`]: self-influence, GraNd, EL2N, forgetting, AUM, confidence, variability,
//!   correctness, loss. One number per example, the most suspicious first.
//! - *Which examples taught the model this answer?* [`influence()`]: TracIn of every example on recorded probes.
//!   Positive means helped, everywhere.
//!
//! What is common to all:
//!
//! - A [`Window`] of epochs or steps narrows the visits that count. Blocks outside it are not read.
//! - Blocks are decoded in parallel, a bounded number at a time, and folded in the order in which they were written, so
//!   results do not depend on the number of threads and memory does not grow with the run, only with its examples.
//! - Damage ends the reading; what came before it is used, and the result carries the [`Damage`](crate::run::Damage).
//! - A visit with a NaN or an infinity is left out and counted. An example with no usable visit scores NaN and comes last.
//! - Scores are taken at the visits: in training mode, at the weights just before the step, on the data as augmented; or,
//!   where a replay swept the training set at checkpoints as most papers do, on these ([`Window::sweeps`]). The two are never
//!   mixed, and each result says by its [`Basis`] which it stands on.
//! - A result stands on one run. Papers that average over seeds (GraNd, EL2N) want several: average the results.

mod aum;
mod column;
mod confidence;
mod correctness;
mod driver;
mod el2n;
mod error;
mod forgetting;
mod gradient;
mod grand;
mod influence;
mod loss;
mod per_example;
mod score;
mod self_influence;
mod summary;
mod sweep;
#[cfg(test)]
pub(crate) mod synthetic;
#[cfg(test)]
mod tests;
mod variability;
mod window;

pub use driver::Progress;
pub use error::AnalysisError;
pub use influence::{influence, Influence, InfluencePlan, InfluenceRow, Probe, ProbeTime, Probes, Question};
pub use per_example::{Extra, ScoreRow, ScoreTable};
pub use score::{Order, Score};
pub use summary::{ColumnGroup, LayerForm, LayerSummary, ProbeSummary, Summary, SweepSummary};
pub use sweep::Basis;
pub use window::{Source, Window};
