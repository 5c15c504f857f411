//! What an answer leaves out, counted by reason, in the words that every verb prints.

use gradlog_analysis::{Basis, Estimate, FlatVectors, Influence, RunPart, ScoreTable, Velocity};

/// Counts by reason.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    counts: Vec<(u64, &'static str)>,
}

const NOT_FINITE: &str = "visits left out: a number was NaN or infinite";
const UNSEEN: &str = "visits left out: the example had no weight in the loss, or all its targets were ignored";
const MISSING: &str = "visits left out: recorded without what this score is made of";
const ESTIMATED_NORMS: &str = "visits with a gradient norm that is estimated, not exact";
const REPEATED: &str = "rows replaced by a later one of the same example and checkpoint";
const WITHOUT_GRADIENT: &str = "visits left out: recorded without gradients";
const OTHER_LAYERS: &str = "visits left out: their layers were recorded in another form";
const BEFORE_FIRST_PROBE: &str = "visits left out: before the first probe time (--probe-time nearest takes them in)";
const WITHOUT_PROBE: &str = "rows left out: the probe has no record at their checkpoint";
const AFTER_PROBES: &str = "visits left out: at or after the last time of the probes";
const STEPS_WITHOUT_RECORD: &str = "steps without a record of momentum and weight decay, taken for 0";
const DROPPED: &str = "visits dropped while recording: what they did is not unrolled";
const PROBE_RECORDS: &str =
    "probe records left out: not finite, without weight, in another form, or of another loss or class";
const PROBE_RECORDS_REPEATED: &str = "probe records replaced by a later one of the same id and step";
const WITHOUT_DIRECTION: &str = "examples left out: their gradient is 0";
const EXAMPLES_OF_SET: &str = "examples left out: without a usable record in the set, without a score, or left over";
const UNUSABLE: &str = "examples left out: without a usable visit";
const UNJUDGED: &str =
    "examples are judged by no run: threshold samples in each that visited them, or without a usable visit";

impl LeftOut {
    /// A sentence for each reason that has a count.
    pub(crate) fn notes(&self) -> Vec<String> {
        let counted = self.counts.iter().filter(|(count, _)| *count > 0);
        counted.map(|(count, reason)| format!("{count} {reason}")).collect()
    }

    fn new(counts: impl IntoIterator<Item = (u64, &'static str)>) -> Self {
        Self { counts: counts.into_iter().collect() }
    }

    /// Adds examples whose gradient has no direction.
    pub(crate) fn with_no_direction(mut self, examples: &[u64]) -> Self {
        self.counts.push((examples.len() as u64, WITHOUT_DIRECTION));
        self
    }

    /// Examples without a usable visit.
    pub(crate) fn unusable_examples(count: u64) -> Self {
        Self::new([(count, UNUSABLE)])
    }

    /// Examples that no run judges.
    pub(crate) fn unjudged_examples(count: u64) -> Self {
        Self::new([(count, UNJUDGED)])
    }
}

fn repeated_rows(basis: &Basis) -> (u64, &'static str) {
    match basis {
        Basis::Sweeps { repeated, .. } => (*repeated, REPEATED),
        _ => (0, REPEATED),
    }
}

impl From<&ScoreTable> for LeftOut {
    fn from(table: &ScoreTable) -> Self {
        Self::new([
            repeated_rows(&table.basis),
            (table.not_finite, NOT_FINITE),
            (table.unseen, UNSEEN),
            (table.missing, MISSING),
            (table.estimated_norms, ESTIMATED_NORMS),
        ])
    }
}

impl From<&RunPart> for LeftOut {
    fn from(part: &RunPart) -> Self {
        Self::new([
            repeated_rows(&part.basis),
            (part.not_finite, NOT_FINITE),
            (part.unseen, UNSEEN),
            (part.missing, MISSING),
            (part.estimated_norms, ESTIMATED_NORMS),
        ])
    }
}

impl From<&FlatVectors> for LeftOut {
    fn from(found: &FlatVectors) -> Self {
        Self::new([
            (found.not_finite, NOT_FINITE),
            (found.unseen, UNSEEN),
            (found.without_gradient, WITHOUT_GRADIENT),
            (found.other_layers, OTHER_LAYERS),
        ])
    }
}

impl From<&Velocity> for LeftOut {
    fn from(velocity: &Velocity) -> Self {
        Self::new([(velocity.left_out, EXAMPLES_OF_SET), (velocity.records_left_out, PROBE_RECORDS)])
    }
}

impl From<&Influence> for LeftOut {
    fn from(influence: &Influence) -> Self {
        let early = if influence.basis.is_sweeps() { WITHOUT_PROBE } else { BEFORE_FIRST_PROBE };
        let estimate = influence.estimate.as_ref();
        let estimated = |count: fn(&Estimate) -> u64| estimate.map_or(0, count);
        Self::new([
            repeated_rows(&influence.basis),
            (estimated(|estimate| estimate.after_probes), AFTER_PROBES),
            (estimated(|estimate| estimate.steps_without_record), STEPS_WITHOUT_RECORD),
            (estimated(|estimate| estimate.dropped), DROPPED),
            (influence.before_first_probe, early),
            (influence.not_finite, NOT_FINITE),
            (influence.without_gradient, WITHOUT_GRADIENT),
            (influence.other_layers, OTHER_LAYERS),
            (influence.probe_records_left_out, PROBE_RECORDS),
            (influence.probe_records_repeated, PROBE_RECORDS_REPEATED),
        ])
    }
}
