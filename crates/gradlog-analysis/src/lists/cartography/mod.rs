//! Dataset cartography: the map of a training set by confidence and variability (Swayamdipta et al. 2020, arXiv
//! 2009.10795, §2 and §3).
//!
//! With `p_t` the probability of the label at visit `t`: confidence `μ` is its mean, variability `σ` its population
//! standard deviation, correctness the share of right predictions. The paper's three regions, each a third of the
//! examples:
//!
//! - *easy to learn*: the highest confidence,
//! - *ambiguous*: the highest variability; these help to generalize,
//! - *hard to learn*: the lowest confidence; often mislabeled.
//!
//! The regions may overlap, as in the paper: an ambiguous example may have a low confidence too. The paper takes one
//! number at the end of each epoch, in evaluation mode; here each visit gives one, in training mode, or on a window of
//! sweeps each checkpoint, as in the paper. Over several runs the three numbers are means over runs.

mod data_map;
mod draw;
mod question;
#[cfg(test)]
mod tests;

pub use data_map::{DataMap, DataMapRow};
pub use question::MapQuestion;
