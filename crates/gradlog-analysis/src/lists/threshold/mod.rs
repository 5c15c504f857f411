//! Threshold samples: where AUM draws the line (Pleiss et al. 2020, arXiv 2001.10528, §3.2).
//!
//! AUM ranks examples; threshold samples say where in the ranking wrong labels end. Of `N` examples in `c` classes,
//! `N/(c+1)` are given a label that nobody has, the extra class `c`, and the model is trained with `c + 1` outputs.
//! They are mislabeled for certain, so the 99th percentile of their AUM is the cut: an example below it behaves like
//! one with a wrong label. A threshold sample cannot be judged in its own run, so one trains twice with two disjoint
//! sets.
//!
//! An example is flagged if it lies below the cut in every run that judges it, as in the authors' code (`runner.py`
//! removes what has a mean verdict of one). The percentile interpolates between order statistics, as numpy does. The
//! authors leave out the first epoch and stop before the first drop of the learning rate: give a window.

mod answer;
mod judge;
mod question;
mod samples;
#[cfg(test)]
mod tests;

pub use answer::{Flagged, FlaggedRow, ThresholdRun};
pub use question::ThresholdQuestion;
pub use samples::{ThresholdIds, ThresholdSamples};
