//! What a reader should know of an answer besides its numbers: what it leaves out, in the library's words, and what it
//! estimates.

use gradlog_analysis::{
    DataMap, ExampleHistory, Flagged, FlatVectors, Influence, LeftOut, RunPart, ScoreTable, Suspects, Velocity,
};

/// Sentences about one answer.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<String>);

impl Notes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }

    /// These sentences.
    pub(crate) fn of_words(words: Vec<String>) -> Self {
        Self(words)
    }

    /// Adds a sentence if `count` is not 0.
    fn add_count(mut self, count: u64, what: &str) -> Self {
        if count > 0 {
            self.0.push(format!("{count} {what}"));
        }
        self
    }

    /// Adds examples whose gradient has no direction.
    pub(crate) fn add_directionless(self, examples: &[u64]) -> Self {
        self.add_count(examples.len() as u64, "examples left out: their gradient is 0.")
    }
}

const ESTIMATED_NORMS: &str = "visits have a gradient norm that is estimated, not exact.";

impl From<&LeftOut> for Notes {
    fn from(left_out: &LeftOut) -> Self {
        Self(left_out.notes())
    }
}

impl From<&ScoreTable> for Notes {
    fn from(table: &ScoreTable) -> Self {
        Self::from(&table.left_out).add_count(table.estimated_norms, ESTIMATED_NORMS)
    }
}

impl From<&RunPart> for Notes {
    fn from(part: &RunPart) -> Self {
        Self::from(&part.left_out).add_count(part.estimated_norms, ESTIMATED_NORMS)
    }
}

impl From<&FlatVectors> for Notes {
    fn from(found: &FlatVectors) -> Self {
        Self::from(&found.left_out)
    }
}

impl From<&Velocity> for Notes {
    fn from(velocity: &Velocity) -> Self {
        let other = "probes have another label than the training example of the same id: are they the same examples?";
        Self::from(&velocity.left_out).add_count(velocity.labels_differ, other)
    }
}

impl From<&Suspects> for Notes {
    fn from(suspects: &Suspects) -> Self {
        Self::from(&suspects.left_out)
    }
}

impl From<&DataMap> for Notes {
    fn from(map: &DataMap) -> Self {
        Self::from(&map.left_out)
    }
}

impl From<&Flagged> for Notes {
    fn from(flagged: &Flagged) -> Self {
        Self::from(&flagged.left_out)
    }
}

impl From<&ExampleHistory> for Notes {
    fn from(history: &ExampleHistory) -> Self {
        Self::from(&history.left_out)
    }
}

impl From<&Influence> for Notes {
    fn from(influence: &Influence) -> Self {
        let notes = Self::from(&influence.left_out);
        let Some(estimate) = &influence.estimate else { return notes };
        notes
            .add_count(estimate.steps_without_record, "steps have no record of momentum and weight decay, taken for 0.")
            .add_count(estimate.dropped, "visits were dropped while recording: their effect is not unrolled.")
    }
}
