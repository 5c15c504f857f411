//! What a recorded run says about its training examples. Everything is computed from the log alone: no model, no data,
//! no retraining.
//!
//! A question is a value: `XQuestion::new(what is required)`, options, then `.compute(&run)`, or `.compute_over(&[&a,
//! &b])` where several runs are accepted.
//!
//! ```
//! use gradlog_analysis::{ExampleQuestion, InfluenceQuestion, Run, Score, ScoreQuestion};
//!
//! # let written = {
//! #     let mut run = gradlog_testing::Synthetic::new(gradlog_format::sketch::Encoding::Q8);
//! #     run.set(0, "test");
//! #     run.probes(&[gradlog_testing::Draws(3).visit(3, 0, 0)]);
//! #     run.visits(&gradlog_testing::visits(&mut gradlog_testing::Draws(1), 30, 3, 8));
//! #     run.end();
//! #     run.finish()
//! # };
//! # let folder = written.path();
//! let run = Run::open(folder)?;
//!
//! // Which examples stand out? The most suspicious come first.
//! let table = ScoreQuestion::new(Score::Forgetting).compute(&run)?;
//! let first = &table.rows[0];
//! println!("example {}: {} events, learned: {:?}", first.example, first.score, first.extra("first_learned"));
//!
//! // How did this example go?
//! for visit in ExampleQuestion::new(first.example).compute(&run)?.visits {
//!     println!("step {}: loss {:?}, predicted {:?}", visit.step, visit.loss, visit.prediction);
//! }
//!
//! // Which examples taught the model its answer to test example 3? Positive helped.
//! let influence = InfluenceQuestion::new("test").id(3).epochs(1..).compute(&run)?;
//! let strongest = influence.proponents(0, 1)[0];
//! println!("example {}: {}", influence.rows[strongest].example, influence.score(strongest, 0));
//! # Ok::<(), gradlog_analysis::AnalysisError>(())
//! ```
//!
//! | you want to know | question | answer |
//! |---|---|---|
//! | what is in the run | [`SummaryQuestion`] | [`RunSummary`] |
//! | how one example went, visit by visit | [`ExampleQuestion`] | [`ExampleHistory`] |
//! | the same of many examples, or of the probes of a set | [`HistoryQuestion`] | [`Histories`] |
//! | how the training went, by epoch | [`CurveQuestion`] | [`Curves`] |
//! | which examples stand out by one score | [`ScoreQuestion`] | [`ScoreTable`]; [`RunsTable`] over runs |
//! | which labels are probably wrong, and why | [`SuspectQuestion`] | [`Suspects`] |
//! | the same by threshold samples | [`ThresholdQuestion`] | [`Flagged`] |
//! | which are easy, ambiguous, hard to learn | [`MapQuestion`] | [`DataMap`] |
//! | which examples to keep | [`RunsTable::keep`] with a [`KeepRule`] | [`KeepList`] |
//! | which examples taught the model an answer | [`InfluenceQuestion`] | [`Influence`] |
//! | the same by influence functions and other methods | [`EstimateQuestion`] | one [`Influence`] a damping |
//! | scores or influence of a share of the examples, one of several jobs | [`ExampleShare`] | [`PartialAnswer`] |
//! | whether influence comes from near or far | [`DistanceQuestion`] | [`FeatureDistance`] |
//! | which examples teach the same | [`VectorQuestion`], then [`UnitVectors`] | [`Neighbor`], [`Pair`], [`Clusters`] |
//! | how fast a group's gradient kernel changes | [`VelocityQuestion`] | [`Velocity`] |
//! | whether retraining agrees with a score | [`audit`] | [`audit::Measured`] |
//!
//! All questions follow the same rules:
//!
//! - `window`, `epochs` and `steps` narrow the visits that count. Blocks outside are not read. A window on visits that
//!   lies outside of the run is an error ([`AnalysisError::OutsideRun`]).
//! - Blocks are decoded in parallel, a bounded number at a time, and folded in the order in which they were written.
//!   Results do not depend on the number of threads, and memory does not grow with the run, only with its examples.
//! - Damage ends the reading. What came before it is used, and the result carries the [`Damage`].
//! - A visit with a NaN or an infinity is left out. Every answer counts what it left out and says why: [`LeftOut`]. An
//!   example with no usable visit scores NaN and comes last.
//! - Scores are taken at the visits: in training mode, at the weights just before the step, on the data as augmented.
//!   Where a replay swept the training set at checkpoints, `sweeps` takes these instead. The two are never mixed. What
//!   needs a training's sequence or steps refuses sweeps ([`AnalysisError::OnlyVisits`]).
//! - A sum over sweeps leaves out the sweep at step 0, whose weights are untrained, unless `steps` names it.
//! - Every answer carries a [`Basis`], whose `Display` is one line: rows and mode, optimizer, layers, left out.
//! - A run without visits is an error ([`AnalysisError::NoVisits`]), not an empty answer.
//! - A score of one run is one draw. Papers that average over seeds (GraNd, EL2N, forgetting) want several runs:
//!   [`ScoreQuestion::compute_over`].
//! - Positive influence means helped, everywhere.
//! - `progress` is called with the bytes that were read; several questions can share one [`Progress`].

// Imports between files go one way: there is no circle. `rows` is
// below `scores`, that is below `lists` and `influence`, and `curvature` is above `influence` and `vectors`.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

#[macro_use]
mod names;
#[macro_use]
mod options;

pub mod audit;
mod compaction;
mod correlation;
#[cfg(feature = "curvature")]
mod curvature;
mod curves;
mod error;
mod example;
mod histories;
mod influence;
mod lists;
mod partial;
mod rows;
mod scores;
mod significant;
mod similarity;
mod summary;
#[cfg(test)]
mod tests;
mod vectors;
mod velocity;

pub use compaction::Compaction;
pub use correlation::{pearson, spearman};
#[cfg(feature = "curvature")]
pub use curvature::{EstimatePlan, EstimateQuestion};
pub use curves::{CurvePoint, CurveQuestion, Curves, ProbeCurve, ProbePoint};
pub use error::AnalysisError;
pub use example::{ExampleHistory, ExampleQuestion, ExampleVisit};
pub use gradlog_format as format;
pub use gradlog_format::log::{Mode, PredictionScore};
pub use gradlog_format::run::{CompactReport, Damage, ReadError, Run};
pub use histories::{Histories, History, HistoryQuestion};
pub use influence::{
    Agreement, Comparison, Concentration, Curvature, Damping, DistanceQuestion, EstimateDetails, FeatureDistance,
    Influence, InfluencePlan, InfluenceQuestion, InfluenceRow, KroneckerDetails, Method, Normalization,
    OptimizerChoice, Part, Probe, ProbeTime, Ranked, Split, SplitBy, Strongest, Total,
};
pub use lists::{
    DataMap, DataMapRow, Flagged, FlaggedRow, KeepList, KeepRule, Kept, KeptOfLabel, MapQuestion, Rival, SignalValue,
    Suspect, SuspectQuestion, Suspects, ThresholdIds, ThresholdQuestion, ThresholdRun, ThresholdSamples,
};
pub use partial::{AskedRun, MergeError, MergedAnswer, PartFileError, PartialAnswer, WholeAnswer};
pub use rows::{
    Basis, BasisRows, EpochsBack, ExampleShare, GradientCoverage, LabelChanges, LeftOut, OptimizerModel, Progress,
    Source, UntrainedLayers, Window,
};
pub use scores::{
    Extra, Extras, Order, OverRuns, Presentations, RunPart, RunsRow, RunsTable, Score, ScoreQuestion, ScoreRow,
    ScoreTable,
};
#[doc(hidden)]
pub use significant::significant;
pub use similarity::{Cluster, Clusters, Neighbor, Pair, UnitVectors};
pub use summary::{
    ColumnGroup, EventSummary, LayerForm, LayerSummary, ProbeSummary, RunSummary, SummaryQuestion, SweepSummary,
};
pub use vectors::{Combine, FlatVectors, VectorBlock, VectorQuestion};
pub use velocity::{
    GroupVelocity, Velocity, VelocityGroup, VelocityGroups, VelocityKernel, VelocityQuestion, VelocityStep,
};

/// What a program may send to another thread, or share with it. A type that stops being so fails to compile here.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Run>();
    assert_send_sync::<AnalysisError>();
    assert_send_sync::<ReadError>();
    assert_send_sync::<Progress>();
    assert_send_sync::<SummaryQuestion>();
    assert_send_sync::<ExampleQuestion>();
    assert_send_sync::<HistoryQuestion>();
    assert_send_sync::<CurveQuestion>();
    assert_send_sync::<ScoreQuestion>();
    assert_send_sync::<SuspectQuestion>();
    assert_send_sync::<ThresholdQuestion>();
    assert_send_sync::<MapQuestion>();
    assert_send_sync::<InfluenceQuestion>();
    assert_send_sync::<InfluencePlan<'static>>();
    assert_send_sync::<Influence>();
    assert_send_sync::<DistanceQuestion<'static>>();
    assert_send_sync::<VectorQuestion>();
    assert_send_sync::<UnitVectors>();
    assert_send_sync::<VelocityQuestion<'static>>();
    #[cfg(feature = "curvature")]
    assert_send_sync::<EstimateQuestion>();
    #[cfg(feature = "curvature")]
    assert_send_sync::<EstimatePlan<'static>>();
};
