//! Curvature that was recorded as rows of a probe set, and probes that serve as such.

use super::subject::Subject;
use crate::influence::plan::index::{Index, Metric, Record};
use crate::influence::Probes;
use crate::Progress;
use crate::{AnalysisError, InfluenceQuestion};
use std::sync::atomic::Ordering;

/// The rows of a set that is to be curvature: those that were recorded as such, and its probes.
pub(super) struct CurvatureSet {
    pub index: Index,
    pub rows: Vec<CurvatureRow>,
}

/// A row of the matrix `Σ w g gᵀ / Σ w`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CurvatureRow {
    pub time: u64,
    pub record: Record,
    pub weight: f64,
}

impl CurvatureSet {
    /// Reads the set `name`. Each probe has the weight 1.
    ///
    /// # Errors
    /// [`AnalysisError::OtherLayers`] if it was recorded in another form than the probes of the subject; those of an
    /// index.
    pub(super) fn read(subject: &Subject<'_>, name: &str, progress: &Progress) -> Result<Self, AnalysisError> {
        let question = InfluenceQuestion { set: name.into(), probes: Probes::All, ..subject.asked.question.clone() };
        let mut weighted = Vec::new();
        let mut ids = Vec::new();
        let mut take = |id, time, record, weight| {
            ids.push(id);
            weighted.push(CurvatureRow { time, record, weight });
        };
        let index = Index::read(subject.run, &question, Metric::Plain, Some(&mut take), progress)?;
        if index.layout != subject.index.layout {
            let layers = &subject.run.manifest().layers;
            let (visits, probes) = (index.layout.describe(layers), subject.index.layout.describe(layers));
            return Err(AnalysisError::OtherLayers { visits, probes });
        }
        // Rows of training examples weigh as these do in the objective. Other ids have no weights.
        let of_examples: Option<Vec<f64>> = ids.iter().map(|id| subject.weights.of_example(*id)).collect();
        if let Some(of_examples) = of_examples.filter(|all| !all.is_empty()) {
            let pairs = weighted.iter_mut().zip(of_examples);
            pairs.for_each(|(row, weight)| row.weight *= weight.max(0.0));
            subject.set_is_weighted.store(index.records.is_empty(), Ordering::Relaxed);
        }
        let probe = |(&time, &record): (&u64, &Record)| CurvatureRow { time, record, weight: 1.0 };
        let rows = index.records.values().flatten().map(probe).chain(weighted).collect();
        Ok(Self { index, rows })
    }
}
