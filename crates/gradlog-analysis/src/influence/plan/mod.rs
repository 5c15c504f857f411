//! What is asked: the probes of a question, found in the run and cut into passes over the visits.
//!
//! Nothing here reads a visit's gradient: that is the stream's.

mod counts;
pub(crate) mod index;
mod influence_plan;
mod probe_rows;
mod times;

pub(in crate::influence) use counts::Counts;
pub use influence_plan::InfluencePlan;
pub(in crate::influence) use influence_plan::Pass;
