//! Why a question has no answer.

use gradlog_format::log::Manifest;
use gradlog_format::run::{Damage, ReadError};
use std::ops::RangeInclusive;

/// How a training program in Rust gets gradients into a run that has none.
pub(crate) const NO_GRADIENTS: &str =
    "it was recorded with outputs only: wrap the model's layers with `Taps::tap`, or record its last layer";

/// How to get gradients into a run that has none. Who wrote the run decides what helps.
pub(crate) fn no_gradients(manifest: &Manifest) -> &'static str {
    match is_written_elsewhere(manifest) {
        true => "it was written without them: give `gradients` with each step, one row for each example",
        false => NO_GRADIENTS,
    }
}

/// What a run without the learning rates of its steps lacks.
pub(crate) const RATES: &str = "learning rates of its visits";
/// How to get them into it. Every recorder in Rust writes them.
pub(crate) const NO_RATES: &str = "give `learning_rate` with each step where the run is written";

/// Whether a run was written from Python, by a model that was trained with something else than candle.
pub(crate) fn is_written_elsewhere(manifest: &Manifest) -> bool {
    manifest.version.ends_with("(Python)")
}

/// Why a score could not be computed. Each says what is missing and how to record it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalysisError {
    /// The run cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The run was not compacted.
    #[error(transparent)]
    Compact(#[from] gradlog_format::run::CompactError),
    /// The caller ended the reading ([`Progress::stop_when`](crate::Progress::stop_when)).
    #[error("the reading was stopped")]
    Stopped,
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
    /// No run that was handed in has any visit.
    #[error(
        "there are no visits at all: the recorder ended before it wrote the first, or has not written it yet; record \
         training passes with `recorder.pass`, and ask once `flush` or `finish` has returned"
    )]
    NoVisits,
    /// The window on visits lies outside of the run.
    #[error("no visit lies inside {asked}: there are visits of {there}")]
    OutsideRun {
        /// The window, in words.
        asked: String,
        /// Which epochs and steps there are.
        there: String,
    },
    /// The run has no visit of this example inside the window.
    #[error("{}", not_visited(*id, known.as_ref(), *count))]
    NotVisited {
        /// The id that was asked for.
        id: u64,
        /// The least and the greatest id of the examples that have visits; `None` if no example has any.
        known: Option<RangeInclusive<u64>>,
        /// How many examples have visits.
        count: u64,
    },
    /// No example was swept inside the window.
    #[error("no example was swept there; {}", known_sweeps(known))]
    NoSuchSweep {
        /// The checkpoints at which there are sweeps, by step.
        known: Vec<u64>,
    },
    /// Forgetting counts transitions from visit to visit.
    #[error("{score} is not defined on sweeps: it counts what changes from one visit of the training to the next")]
    NotOnSweeps {
        /// The score that was asked for.
        score: &'static str,
    },
    /// What was asked for needs what sweeps have not: the steps that visits took part in, or their sequence.
    #[error("{what} needs the visits of the training and is not defined on sweeps: give a window on visits")]
    OnlyVisits {
        /// What was asked for.
        what: &'static str,
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
    /// The probes were recorded, but none of their gradients can be used.
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
    /// No layer has this name, or its gradient cannot be told from those of other layers.
    #[error("{}", no_such_layer(name, known, folded))]
    NoSuchLayer {
        /// The name that was asked for.
        name: String,
        /// The names that can be asked for.
        known: Vec<String>,
        /// The layers that share one vector with it, if that is why.
        folded: Vec<String>,
    },
    /// Of several runs, one failed.
    #[error("run {run} cannot be used")]
    InRun {
        /// Its folder.
        run: String,
        /// What went wrong with it.
        source: Box<AnalysisError>,
    },
    /// A run was handed in twice.
    #[error(
        "{first} and {second} are the same run: several runs are to be different trainings, which differ in their seed"
    )]
    SameRun {
        /// Folder of the first.
        first: String,
        /// Folder of the second.
        second: String,
    },
    /// A run is about other examples than the others.
    #[error(
        "run {run} shares no example with the others: scores over runs need runs of the same training set, with the same \
         ids (and a window in which each has visits)"
    )]
    NothingInCommon {
        /// Its folder.
        run: String,
    },
    /// A probe set does not hold the training examples whose scores group it.
    #[error(
        "probe set `{set}` does not hold the training examples: {differ} of {compared} probes have another label than the \
         training example of the same id, such as {id}; record training examples as probes under their own ids"
    )]
    OtherExamples {
        /// The set.
        set: String,
        /// Probes whose label differs.
        differ: u64,
        /// Probes with a label whose id is that of a training example with a label.
        compared: u64,
        /// The first id with different labels.
        id: u64,
    },
    /// A run has no threshold samples, so that there is no cut.
    #[error(
        "run {run} has no threshold sample with an AUM: no visited example is {known}; train with an extra class, give it to \
         the examples that `ThresholdSamples::draw` draws, and record those labels"
    )]
    NoThreshold {
        /// Its folder.
        run: String,
        /// How they were looked for.
        known: String,
    },
    /// A rule makes no sense.
    #[error("the rule {what}")]
    Rule {
        /// What it says, and what it may say.
        what: String,
    },
    /// Labels are needed and an example has none.
    #[error(
        "example {example} has {}; balance by label needs one recorded label for each example: record with \
         `pass.cross_entropy`, or do without balance",
        if *differ { "different labels in different runs" } else { "no recorded label" }
    )]
    NoLabel {
        /// The example.
        example: u64,
        /// Whether the runs disagree.
        differ: bool,
    },
    /// No vector of this example could be made.
    #[error("the run has no gradient of example {id} inside the window that could be used")]
    NoSuchExample {
        /// The id that was asked for.
        id: u64,
    },
    /// A setting lies outside what makes sense.
    #[error("{what} is {given}, but must be {range}")]
    OutOfRange {
        /// Which setting.
        what: &'static str,
        /// What was given.
        given: String,
        /// What is allowed.
        range: String,
    },
    /// The answer would take more memory than it may.
    #[error("{what} would take more than {:.1} GB of memory; {how}", *limit as f64 / 1e9)]
    TooLarge {
        /// What takes it.
        what: String,
        /// The limit in bytes.
        limit: u64,
        /// What to do instead.
        how: &'static str,
    },
    /// A matrix of curvature has no inverse that numbers can hold.
    #[error("the curvature of {block} with damping {damping:e} cannot be inverted: {why}; take a larger damping")]
    Singular {
        /// Which block of the gradient.
        block: String,
        /// The damping that was added.
        damping: f64,
        /// What went wrong.
        why: String,
    },
    /// An adjoint has no end.
    #[error(
        "the adjoint grew past all numbers at step {step}: with this curvature the recorded steps multiply a small change \
         again and again; ask without curvature, with that of another probe set, or for longer vectors, whose curvature is truer"
    )]
    Diverged {
        /// The step at which it did.
        step: u64,
    },
    /// What was asked for is not in the part of a damaged run that can be read.
    #[error("the run is damaged, and what was asked for may lie behind the damage ({damage})")]
    Cut {
        /// What is not there.
        source: Box<AnalysisError>,
        /// Where the run stops being readable.
        damage: Damage,
    },
}

impl AnalysisError {
    /// A plan has fewer passes.
    pub(crate) fn no_such_pass(number: usize, passes: usize) -> Self {
        Self::OutOfRange { what: "the pass", given: number.to_string(), range: format!("below {passes}") }
    }

    /// The error and what caused it, for a result that holds it as text.
    pub(crate) fn with_sources(&self) -> String {
        match self {
            AnalysisError::InRun { source, .. } | AnalysisError::Cut { source, .. } => {
                format!("{self}: {}", source.with_sources())
            }
            other => other.to_string(),
        }
    }

    /// Whether the run simply does not hold what was asked for, in a form in which it can be used.
    pub(crate) fn is_about_what_was_recorded(&self) -> bool {
        match self {
            AnalysisError::Missing { .. } | AnalysisError::SeveralPredictions { .. } => true,
            AnalysisError::InRun { source, .. } => source.is_about_what_was_recorded(),
            _ => false,
        }
    }
}

/// How many names of probe sets an error lists.
const NAMES_MAX: usize = 20;

fn known_sets(known: &[String]) -> String {
    if known.is_empty() {
        return "it has none: probes are recorded with `recorder.probe(\"NAME\", &ids)`".into();
    }
    let names: Vec<String> = known.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let more = match known.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("it has {}{more}", names.join(", "))
}

fn no_such_layer(name: &str, known: &[String], folded: &[String]) -> String {
    let list = |names: &[String]| {
        let named: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
        let more = if names.len() > NAMES_MAX { ", ..." } else { "" };
        format!("{}{more}", named.join(", "))
    };
    match (known, folded) {
        ([], _) => format!("there is no layer `{name}`: no gradients were recorded"),
        (known, []) => format!("no gradient of a layer `{name}` was recorded; there are {}", list(known)),
        (known, folded) => format!(
            "the gradient of layer `{name}` was folded into one vector with those of other layers: name all of them ({}), or \
             ask for {}",
            list(folded),
            list(known)
        ),
    }
}

fn not_visited(id: u64, known: Option<&RangeInclusive<u64>>, count: u64) -> String {
    let examples = if count == 1 { "1 example" } else { &format!("{count} examples") };
    match known {
        None => format!("example {id} has no visit: there are no visits at all"),
        Some(known) => {
            format!(
                "example {id} has no visit: there are visits of {examples}, with ids {} to {}",
                known.start(),
                known.end()
            )
        }
    }
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
