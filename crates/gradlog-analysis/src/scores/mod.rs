//! Scores: one number an example, one file a score.
//!
//! `score.rs` has their names and orders, `compute.rs` their formulas. `score_examples.rs` computes any of them over a
//! run, `over_runs.rs` over several.

mod aum;
mod compute;
mod confidence;
mod correctness;
mod el2n;
mod forgetting;
mod grand;
mod loss;
pub(crate) mod order;
pub(crate) mod over_runs;
mod per_example;
mod question;
mod score;
mod score_examples;
mod self_influence;
mod shards;
mod table;
mod variability;

pub use forgetting::Presentations;
pub use order::Order;
pub use over_runs::{OverRuns, RunPart, RunsRow, RunsTable};
pub use question::ScoreQuestion;
pub use score::Score;
pub use table::{Extra, Extras, ScoreRow, ScoreTable};
