//! One list of suspects: examples whose label is probably wrong, from several signals at once, with the reasons for
//! each.
//!
//! Five scores rank the examples: AUM, mean loss, mean EL2N, self-influence and forgetting, as far as the run holds
//! what they are made of. With `r_s(z)` the share of examples that score `s` finds less suspicious than `z`,
//!
//! ```text
//! m(z) = median over s of r_s(z)
//! suspicion(z) = ln(m / (1 − m)) + ½·ln((1/(C−1)) / P(k | y))
//! P(k | y) = (n_yk + M/(C−1)) / (n_y + M)
//! ```
//!
//! The median is the robust way to put rankings together: a signal that fails on this run moves it little, where a mean
//! is dragged along (Dwork et al. 2001, "Rank aggregation methods for the web", §3, take the median rank). The second
//! term looks at the rival `k`, the label that the model predicted most often instead of the recorded `y`. A wrong
//! label that is drawn at random has any rival, an honest hard example has the usual one (a shirt that looks like a
//! coat). `n_yk` is how often that confusion is seen: the sum, over examples of label `y` with rival `k`, of the share
//! of visits that predicted `k`, times `1 − m`; `n_y` its sum over `k`, `C` the number of labels, and `M = 200`
//! examples of prior weight keep small training sets from taking noise for a habit. The factor ½ and `M` were chosen on
//! one run of the shipped digits and one of Fashion-MNIST, each with a tenth of the labels flipped, and checked on runs
//! with other seeds.
//!
//! The order is what counts; the number is a log-odds only if ranks were probabilities.

mod confusions;
mod gathered;
mod list;
mod question;
mod rank;
mod reasons;
#[cfg(test)]
mod tests;
mod votes;

pub use list::{Rival, SignalValue, Suspect, Suspects};
pub use question::SuspectQuestion;
