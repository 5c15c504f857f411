//! Lists of examples that are made of scores: probably wrong labels, what to keep, a map of the training set.

mod cartography;
mod keep;
mod suspects;
mod threshold;

pub use cartography::{DataMap, DataMapRow, MapQuestion};
pub use keep::{KeepList, KeepRule, Kept, KeptOfLabel};
pub use suspects::{Rival, SignalValue, Suspect, SuspectQuestion, Suspects};
pub use threshold::{Flagged, FlaggedRow, ThresholdIds, ThresholdQuestion, ThresholdRun, ThresholdSamples};
