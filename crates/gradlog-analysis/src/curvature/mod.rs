//! Influence by way of curvature: influence functions, EK-FAC, DataInf, TRAK's estimator and the adjoint, from the log
//! alone.
//!
//! TracIn adds up what each step did to a probe at that moment. The methods here also ask what the rest of the training
//! made of it: an inverse curvature stands for training to a minimum (`Method::InfluenceFunction`,
//! `Method::Ekfac`, `Method::DataInf`, `Method::Trak`), or the recorded steps are unrolled one by one
//! (`Method::Adjoint`). All work on flat vectors ([`crate::Shape`]), but EK-FAC, which works on the two sides of each
//! gradient. All give an [`Influence`](crate::Influence), and in all of them **positive means helped**.
//!
//! One file for each method. `relatif.rs` has what influence functions can be divided by, `probes.rs` finds the probes'
//! gradients, `set.rs` finds the rows that make the curvature, `gram.rs` holds and inverts it, `scores.rs` gathers
//! scores by example.
//!
//! The Cargo feature `curvature` switches this folder and the crate `faer` on.

mod adjoint;
mod backwards;
mod datainf;
mod detail;
mod ekfac;
mod gram;
mod influence_function;
mod plan;
mod probes;
mod question;
mod relatif;
mod scores;
mod set;
mod story;
mod subject;
#[cfg(test)]
mod tests;
mod trak;
mod weights;

pub use plan::EstimatePlan;
pub use question::EstimateQuestion;
