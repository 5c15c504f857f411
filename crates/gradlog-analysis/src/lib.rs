//! Scores: what a recorded run says of its training examples. One file per score, pure over [`gradlog_format::run`].
//!
//! Owns formulas, signs and orders. Knows neither files nor candle nor tables. Everything is computed from the log alone:
//! no model, no data, no retraining. Three questions can be asked:
//!
//! - *Which examples stand out?* [`Score`]: self-influence, GraNd, EL2N, forgetting, AUM, confidence, variability,
//!   correctness, loss. One number per example, the most suspicious first.
//! - *Which examples taught the model this answer?* [`influence()`]: TracIn of every example on recorded probes.
//!   Positive means helped, everywhere. Normalised, of some layers, by layer or epoch, of a group of probes. [`estimate()`] answers the same by other methods: influence functions, DataInf,
//!   TRAK's estimator and the adjoint of the recorded steps. [`Influence::concentration`] and [`influence_by_distance`] say
//!   how few carry it, and whether from near or far; [`Influence::agreement`] sets two answers side by side.
//! - *Which examples teach the same?* [`vectors()`] makes plain vectors of the gradients, and [`neighbours`],
//!   [`near_duplicates`] and [`clusters`] work on their directions.
//!
//! What is common to all:
//!
//! - A [`Window`] of epochs or steps narrows the visits that count. Blocks outside it are not read.
//! - Blocks are decoded in parallel, a bounded number at a time, and folded in the order in which they were written, so
//!   results do not depend on the number of threads and memory does not grow with the run, only with its examples.
//! - Damage ends the reading; what came before it is used, and the result carries the [`Damage`](gradlog_format::run::Damage).
//! - A visit with a NaN or an infinity is left out. Every answer counts what it left out and says why: [`LeftOut`]. An example
//!   with no usable visit scores NaN and comes last.
//! - Scores are taken at the visits: in training mode, at the weights just before the step, on the data as augmented; or,
//!   where a replay swept the training set at checkpoints as most papers do, on these ([`Window::sweeps`]). The two are never
//!   mixed, and each result says by its [`Basis`] which it is made of.
//!   What says nothing without a training's sequence or its steps refuses sweeps ([`AnalysisError::OnlyVisits`]).
//! - A score of one run is one draw. Papers that average over seeds (GraNd, EL2N, forgetting) want several runs:
//!   [`Score::compute_over`]. What is then kept of the training set is a [`KeepList`].

// Imports between files go one way: there is no circle, not even of a type that returns what borrows it. `rows` is below
// `scores`, that is below `lists` and `influence`, and `curvature` is above `influence` and `vectors`.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod audit;
mod correlation;
#[cfg(feature = "curvature")]
mod curvature;
mod error;
mod influence;
mod lists;
mod rows;
mod scores;
mod significant;
mod similarity;
mod summary;
#[cfg(test)]
mod tests;
mod vectors;
mod velocity;

pub use correlation::{pearson, spearman};
#[cfg(feature = "curvature")]
pub use curvature::{estimate, EstimatePlan, EstimateQuestion};
pub use error::AnalysisError;
pub use gradlog_format::run::Run;
pub use influence::{
    influence, influence_by_distance, Agreement, Comparison, Concentration, Curvature, Damping, Estimate,
    FeatureDistance, Influence, InfluencePlan, InfluenceRow, Method, Normalisation, Part, Probe, ProbeTime, Probes,
    Question, Ranked, Split, SplitBy, Strongest,
};
pub use lists::{
    suspects, Flagged, FlaggedRow, KeepList, KeepRule, Kept, KeptOfLabel, Map, MapRow, Rival, SignalValue, Suspect,
    Suspects, ThresholdIds, ThresholdRun, ThresholdSamples,
};
pub use rows::{Basis, LeftOut, Progress, Source, Window};
pub use scores::{Extra, Order, OverRuns, RunPart, RunsRow, RunsTable, Score, ScoreRow, ScoreTable};
pub use significant::significant;
pub use similarity::{clusters, near_duplicates, neighbours, Cluster, Clusters, Neighbour, Pair, UnitVectors};
pub use summary::{ColumnGroup, LayerForm, LayerSummary, ProbeSummary, Summary, SweepSummary};
pub use vectors::{vectors, Combine, FlatVectors, Shape, VectorBlock, VectorQuestion};
pub use velocity::{GroupVelocity, Velocity, VelocityGroup, VelocityGroups, VelocityStep};
