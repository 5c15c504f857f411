//! Scores: one number an example, one file a score.
//!
//! `score.rs` is the table of them, `per_example.rs` computes any of them over a run, `over_runs.rs` over several.

mod aum;
mod confidence;
mod correctness;
mod el2n;
mod forgetting;
mod grand;
mod loss;
pub(crate) mod over_runs;
pub(crate) mod per_example;
mod score;
mod self_influence;
mod variability;

pub use over_runs::{OverRuns, RunPart, RunsRow, RunsTable};
pub use per_example::{Extra, ScoreRow, ScoreTable};
pub use score::{Order, Score};
