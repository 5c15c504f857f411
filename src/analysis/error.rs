//! Why a question has no answer.

use crate::run::{Damage, ReadError};

/// How to get gradients into a run that has none.
pub(super) const NO_GRADIENTS: &str =
    "it was recorded with outputs only: wrap the model's layers with `Taps::tap`, or record its last layer";

/// Why a score could not be computed. Each says what is missing and how to record it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalysisError {
    /// The run cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No visit has what the score is made of.
    #[error("{score} cannot be computed: this run has no {what}; {how}")]
    Missing {
        /// The score that was asked for.
        score: &'static str,
        /// What the run does not hold.
        what: &'static str,
        /// How to record it.
        how: &'static str,
    },
    /// Forgetting is defined for one prediction a presentation.
    #[error(
        "forgetting cannot be computed: example {example} has {positions} predictions at one visit, and a presentation \
         that is partly right is neither learned nor forgotten; use `correctness`, the mean share of right predictions"
    )]
    SeveralPredictions {
        /// An example with several.
        example: u64,
        /// How many it has.
        positions: u32,
    },
    /// No example was swept inside the window.
    #[error("no example was swept there; {}", known_sweeps(known))]
    NoSuchSweep {
        /// The checkpoints at which there are sweeps, by step.
        known: Vec<u64>,
    },
    /// Forgetting counts transitions from visit to visit.
    #[error(
        "{score} is not defined on sweeps: it counts what changes from one visit of the training to the next; leave out `--at`"
    )]
    NotOnSweeps {
        /// The score that was asked for.
        score: &'static str,
    },
    /// There is no probe set of this name.
    #[error("this run has no probe set `{name}`; {}", known_sets(known))]
    NoSuchSet {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The probe set does not hold this example.
    #[error("probe set `{set}` does not hold example {id}; {}", known_ids(near, *count))]
    NoSuchProbe {
        /// The set.
        set: String,
        /// The id that was asked for.
        id: u64,
        /// The ids of the set that are nearest to it.
        near: Vec<u64>,
        /// How many ids the set has.
        count: usize,
    },
    /// The probes were recorded, but no gradient of theirs can be used.
    #[error("no gradient of {which} can be used: {why}")]
    NoProbeGradient {
        /// Which probes.
        which: String,
        /// What is wrong with them.
        why: String,
    },
    /// Visits and probes hold different layers, or hold them in different forms, so that they have no dot product.
    #[error(
        "the visits and the probes were recorded with different layers: the visits have {visits}, the probes {probes}; \
         record both at the same depth and with as many positions per example"
    )]
    OtherLayers {
        /// The layers of the first visits that differ.
        visits: String,
        /// The layers of the probes.
        probes: String,
    },
    /// What was asked for is not in the part of a damaged run that can be read.
    #[error("{source}; but the run is damaged, and what you ask for may lie behind that: {damage}")]
    Cut {
        /// What is not there.
        source: Box<AnalysisError>,
        /// Where the run stops being readable.
        damage: Damage,
    },
}

fn known_sets(known: &[String]) -> String {
    if known.is_empty() {
        return "it has none: probes are recorded with `recorder.probe(\"NAME\", &ids)`".into();
    }
    let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    format!("it has {}", names.join(", "))
}

fn known_sweeps(known: &[u64]) -> String {
    match known {
        [] => "this run has no sweeps: `Replay::sweep` makes them from its checkpoints".into(),
        known => {
            let steps: Vec<String> = known.iter().take(20).map(u64::to_string).collect();
            let more = if known.len() > 20 { ", ..." } else { "" };
            format!("this run has sweeps at the checkpoints of steps {}{more}", steps.join(", "))
        }
    }
}

fn known_ids(near: &[u64], count: usize) -> String {
    match near {
        [] => "it holds none".into(),
        near => {
            let ids: Vec<String> = near.iter().map(u64::to_string).collect();
            format!("of its {count} the nearest are {}", ids.join(", "))
        }
    }
}
