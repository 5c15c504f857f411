//! Whose gradients make the curvature: visits, or what was recorded as rows of a probe set, or probes that serve as
//! such.

use super::subject::Subject;
use crate::influence::plan::index::{Index, Metric, Record};
use crate::influence::Probes;
use crate::rows::gradient::Gradients;
use crate::vectors::walk::{Tile, TILE_ROWS};
use crate::Progress;
use crate::{AnalysisError, Curvature, InfluenceQuestion};
use gradlog_format::run::Damage;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// The rows whose mean of `g gᵀ` is the curvature, for methods with one curvature for all probes.
pub(super) enum CurvatureSource {
    /// The visits inside the window, by their weights.
    Visits,
    /// The rows of a set.
    Set(Box<CurvatureSet>),
}

impl CurvatureSource {
    /// Finds the rows that the question chose.
    ///
    /// # Errors
    /// As [`CurvatureSet::read`].
    pub(super) fn find(subject: &Subject<'_>) -> Result<Self, AnalysisError> {
        match &subject.asked.curvature {
            Curvature::Set(name) => Ok(Self::Set(Box::new(CurvatureSet::read(subject, name, &Progress::default())?))),
            Curvature::Visits | Curvature::Nothing => Ok(Self::Visits),
        }
    }

    /// Hands over all rows that count, tile by tile, with what each weighs in the mean. Says where they stopped being
    /// readable.
    ///
    /// # Errors
    /// [`AnalysisError::Missing`] if there is no usable visit; [`AnalysisError::Read`] if the file system refuses.
    pub(super) fn walk(
        &self,
        subject: &Subject<'_>,
        progress: &Progress,
        mut each: impl FnMut(Tile<'_>, &[f64]) + Send,
    ) -> Result<Option<Damage>, AnalysisError> {
        match self {
            Self::Set(set) => {
                set.each_tile(subject, each)?;
                Ok(set.index.damage.clone())
            }
            Self::Visits => {
                let walked = subject.walk().walk_tiles(progress, |visits, _: &[()], tile| {
                    if let Some(tile) = tile {
                        each(tile, &subject.weights.of_rows(visits));
                    }
                    Ok(())
                })?;
                walked.check("influence")?;
                Ok(walked.damage)
            }
        }
    }
}

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

    /// The rows of all times inside the window of steps, or all there are if none lies inside.
    fn each_tile(&self, subject: &Subject<'_>, mut each: impl FnMut(Tile<'_>, &[f64])) -> Result<(), AnalysisError> {
        let inside = |row: &&CurvatureRow| subject.asked.question.window.has_step(row.time);
        let mut by_block: BTreeMap<usize, Vec<&CurvatureRow>> = BTreeMap::new();
        let any = self.rows.iter().any(|row| inside(&row));
        for row in self.rows.iter().filter(|row| !any || inside(row)) {
            by_block.entry(row.record.block).or_default().push(row);
        }
        for (number, rows) in by_block {
            let gradients = Gradients::read(&self.index.blocks[number], &subject.flattener.layout)?;
            for rows in rows.chunks(TILE_ROWS) {
                let weights: Vec<f64> = rows.iter().map(|row| row.weight).collect();
                let rows: Vec<usize> = rows.iter().map(|row| row.record.row).collect();
                each(Tile { gradients: &gradients, rows: &rows }, &weights);
            }
        }
        Ok(())
    }
}
