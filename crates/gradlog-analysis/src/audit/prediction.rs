//! What a method predicts of each example and probe, and how far that agrees with what was measured.

use super::statistics::{Bootstrap, Measured};
use super::AuditError;
use crate::{pearson, spearman, Influence};
use gradlog_format::sketch::draw;
use std::collections::HashMap;

/// Scores of examples on probes, positive where the example helps.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    rows: HashMap<u64, usize>,
    probes: usize,
    scores: Vec<f64>,
}

impl Prediction {
    /// `scores` is `[examples, probes]`, row by row.
    ///
    /// # Errors
    /// [`AuditError::Scores`] if there is not one for each pair.
    pub fn new(examples: &[u64], probes: usize, scores: Vec<f64>) -> Result<Self, AuditError> {
        if scores.len() != examples.len() * probes {
            return Err(AuditError::Scores { scores: scores.len(), examples: examples.len(), probes });
        }
        let rows = examples.iter().enumerate().map(|(row, example)| (*example, row)).collect();
        Ok(Self { rows, probes, scores })
    }

    /// What an influence says of these probes, in the order given here, which is that of [`super::Trained`].
    ///
    /// # Errors
    /// [`AuditError::NoSuchProbe`] if it does not have one of them.
    pub fn from_influence(influence: &Influence, probes: &[u64]) -> Result<Self, AuditError> {
        let places: HashMap<u64, usize> =
            influence.probes.iter().enumerate().map(|(at, probe)| (probe.id, at)).collect();
        let place = |id: &u64| places.get(id).copied().ok_or(AuditError::NoSuchProbe { id: *id });
        let columns: Vec<usize> = probes.iter().map(place).collect::<Result<_, _>>()?;
        let examples: Vec<u64> = influence.rows.iter().map(|row| row.example).collect();
        let row = |row| columns.iter().map(move |column| influence.score(row, *column));
        Self::new(&examples, probes.len(), (0..examples.len()).flat_map(row).collect())
    }

    /// The control: numbers that know nothing, even in 0..1.
    pub fn random(examples: &[u64], probes: usize, seed: u64) -> Self {
        let rows = examples.iter().enumerate().map(|(row, example)| (*example, row)).collect();
        let score = |number| (draw(seed, number) >> 11) as f64 / (1u64 << 53) as f64;
        Self { rows, probes, scores: (0..(examples.len() * probes) as u64).map(score).collect() }
    }

    /// How many probes it knows.
    pub fn probes(&self) -> usize {
        self.probes
    }

    /// The score of an example on a probe.
    ///
    /// # Errors
    /// [`AuditError::NoScore`] if there is none, or no number.
    pub fn score(&self, example: u64, probe: usize) -> Result<f64, AuditError> {
        let row = self.rows.get(&example).filter(|_| probe < self.probes);
        let score = row.map_or(f64::NAN, |row| self.scores[row * self.probes + probe]);
        if score.is_finite() {
            return Ok(score);
        }
        Err(AuditError::NoScore { example, probe })
    }

    /// The sum of the scores over each of some groups: `[groups, probes]`, row by row.
    ///
    /// # Errors
    /// [`AuditError::Probes`] unless it knows so many probes, and as [`Prediction::score`].
    pub(super) fn sums<'g>(
        &self,
        groups: impl Iterator<Item = &'g [u64]>,
        expected: usize,
    ) -> Result<Vec<f64>, AuditError> {
        if self.probes != expected {
            return Err(AuditError::Probes { what: "the prediction".into(), given: self.probes, expected });
        }
        let mut sums = Vec::new();
        for group in groups {
            for probe in 0..expected {
                sums.push(group.iter().map(|example| self.score(*example, probe)).sum::<Result<f64, _>>()?);
            }
        }
        Ok(sums)
    }

    /// The mean of several predictions, each divided probe by probe by its standard deviation over the examples: their
    /// units differ. An example counts where all of them have a score; a prediction that is constant counts as 0.
    ///
    /// # Errors
    /// [`AuditError::Empty`] without predictions, [`AuditError::Probes`] if their probes differ in number.
    pub fn combine(predictions: &[&Prediction]) -> Result<Self, AuditError> {
        let Some(first) = predictions.first() else {
            return Err(AuditError::Empty { what: "no prediction is combined", how: "give at least one" });
        };
        let probes = first.probes;
        if let Some(other) = predictions.iter().find(|other| other.probes != probes) {
            return Err(AuditError::Probes { what: "a prediction".into(), given: other.probes, expected: probes });
        }
        let complete = |example: &u64| {
            predictions.iter().all(|other| (0..probes).all(|probe| other.score(*example, probe).is_ok()))
        };
        let mut examples: Vec<u64> = first.rows.keys().copied().filter(complete).collect();
        examples.sort_unstable();
        let mut scores = vec![0f64; examples.len() * probes];
        for prediction in predictions {
            for probe in 0..probes {
                let column: Vec<f64> =
                    examples.iter().map(|example| prediction.score(*example, probe)).collect::<Result<_, _>>()?;
                let count = column.len().max(1) as f64;
                let mean = column.iter().sum::<f64>() / count;
                let deviation = (column.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count).sqrt();
                let unit = if deviation > 0.0 { 1.0 / (deviation * predictions.len() as f64) } else { 0.0 };
                column.iter().enumerate().for_each(|(row, score)| scores[row * probes + probe] += score * unit);
            }
        }
        Self::new(&examples, probes, scores)
    }

    /// The examples that help a probe most, the strongest first; ties by id, examples without a number left out.
    pub fn proponent_ids(&self, probe: usize, count: usize) -> Vec<u64> {
        let mut found: Vec<(f64, u64)> =
            self.rows.keys().filter_map(|example| Some((self.score(*example, probe).ok()?, *example))).collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.iter().take(count).map(|(_, example)| *example).collect()
    }
}

/// What was measured and what was predicted, side by side: `[trainings, probes]`, row by row.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Paired {
    pub(super) probes: usize,
    pub(super) measured: Vec<f64>,
    pub(super) predicted: Vec<f64>,
}

impl Paired {
    /// Of trainings that were measured by some other way than those here: `measured` and `predicted` are `[trainings,
    /// probes]`, row by row.
    ///
    /// # Errors
    /// [`AuditError::Pairs`] if the two are not of one length, or that is no multiple of `probes`.
    pub fn new(probes: usize, measured: Vec<f64>, predicted: Vec<f64>) -> Result<Self, AuditError> {
        if measured.len() != predicted.len() || probes == 0 || !measured.len().is_multiple_of(probes) {
            return Err(AuditError::Pairs { measured: measured.len(), predicted: predicted.len(), probes });
        }
        Ok(Self { probes, measured, predicted })
    }

    fn trainings(&self) -> usize {
        self.measured.len() / self.probes.max(1)
    }

    /// The mean over these probes of the correlation over these trainings. Where one side is constant it counts as 0:
    /// what makes no difference predicts nothing.
    fn correlation(&self, kind: Correlation, trainings: &[usize], probes: &[usize]) -> f64 {
        let probe_correlation = |probe: &usize| {
            let column = |values: &[f64]| trainings.iter().map(|row| values[row * self.probes + probe]).collect();
            let (measured, predicted): (Vec<f64>, Vec<f64>) = (column(&self.measured), column(&self.predicted));
            let correlation = match kind {
                Correlation::Spearman => spearman(&measured, &predicted),
                Correlation::Pearson => pearson(&measured, &predicted),
            };
            if correlation.is_nan() {
                0.0
            } else {
                correlation
            }
        };
        probes.iter().map(probe_correlation).sum::<f64>() / probes.len() as f64
    }
}

/// Which correlation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Correlation {
    /// Of ranks.
    Spearman,
    /// Of values: one large effect can decide it.
    Pearson,
}

/// How predictions correlate with trainings: for each probe the correlation over the trainings, the mean over probes,
/// the mean over `parts`, which are mostly seeds. The interval draws trainings and probes of each part again.
pub fn correlate(parts: &[Paired], kind: Correlation, bootstrap: Bootstrap) -> Measured {
    let sizes: Vec<usize> = parts.iter().flat_map(|part| [part.trainings(), part.probes]).collect();
    bootstrap.measure(&sizes, |drawn| {
        let each = parts.iter().zip(drawn.chunks(2));
        each.map(|(part, drawn)| part.correlation(kind, &drawn[0], &drawn[1])).sum::<f64>() / parts.len() as f64
    })
}
