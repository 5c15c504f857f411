//! Influence functions (Koh and Liang 2017, §2.1): probes through the damped inverse, and their dot products with
//! visits.

use super::detail::Outputs;
use super::gram::{Gram, Inverse};
use super::probes::{nearest, ProbeRows};
use super::relatif::SelfInfluence;
use super::scores::{dots, Scores, Walking};
use super::set::CurvatureSource;
use super::subject::Subject;
use crate::rows::driver::fold_each;
use crate::vectors::walk::{Tile, Walked};
use crate::Progress;
use crate::{rows::column, AnalysisError, EstimateDetails, Influence, Normalization, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage};

/// What is the same for all probes.
pub(super) struct Solver {
    inverse: Inverse,
    /// If the scores are divided by it.
    own: Option<SelfInfluence>,
    /// Where what the curvature is made of stopped being readable.
    damage: Option<Damage>,
}

/// Gathers and inverts the curvature, and what goes with `examples` alone.
pub(super) fn prepare(subject: &Subject<'_>, examples: &[u64], progress: &Progress) -> Result<Solver, AnalysisError> {
    let (inverse, damage) = invert(subject, progress)?;
    let own = match subject.asked.question.normalization {
        Normalization::Relatif => Some(SelfInfluence::compute(subject, &inverse, examples, progress)?),
        _ => None,
    };
    Ok(Solver { inverse, own, damage })
}

fn invert(subject: &Subject<'_>, progress: &Progress) -> Result<(Inverse, Option<Damage>), AnalysisError> {
    let mut gram = Gram::new(&subject.flattener);
    let damage = CurvatureSource::find(subject)?.walk(subject, progress, |tile, weights| {
        gram.add_weighted(&subject.flattener.flatten(tile.gradients, tile.rows), weights);
    })?;
    Ok((gram.invert(&subject.asked.dampings)?, damage))
}

/// The step after the last visit of the window.
pub(super) fn find_end(subject: &Subject<'_>, window: &Window, progress: &Progress) -> Result<u64, AnalysisError> {
    let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && window.touches(block);
    let read = |block: &Block| {
        let steps = column::u64s(block, Column::Step)?;
        Ok(window.rows_inside(block)?.select(steps).into_iter().max())
    };
    let mut end = 0;
    // Who walks the visits meets the same damage.
    let _ = fold_each(subject.run, progress, keep, read, |last: Option<u64>| {
        end = end.max(last.map_or(0, |last| last.saturating_add(1)));
        Ok(())
    })?;
    Ok(end)
}

pub(super) fn pass(
    subject: &Subject<'_>,
    solver: &Solver,
    ids: &[u64],
    progress: &Progress,
) -> Result<Vec<Influence>, AnalysisError> {
    let end = find_end(subject, &subject.asked.question.window, progress)?;
    let probes = ProbeRows::load(&subject.index, &subject.flattener, ids, |records| nearest(records, end))?;
    let solved = solver.inverse.solve(&probes.flat);
    let columns = ids.len() * subject.asked.dampings.len();
    let (mut scores, walked) = mean_scores(subject, columns, progress, |tile| {
        dots(&subject.flattener.flatten(tile.gradients, tile.rows), &solved, columns)
    })?;
    if let Some(own) = &solver.own {
        // The columns are the probes, damping after damping.
        scores.map(|example, column, score| score / own.divisor(example, column / ids.len().max(1)));
    }
    let estimates = subject
        .asked
        .dampings
        .iter()
        .enumerate()
        .map(|(number, damping)| EstimateDetails {
            curvature_rows: solver.inverse.rows,
            damping: Some(*damping),
            lambdas: solver.inverse.lambdas(number),
            ..subject.estimate()
        })
        .collect();
    scores.finish(subject, ids, walked.left_out, walked.damage.or_else(|| solver.damage.clone()), estimates)
}

/// `Σ_v κ_v·⟨g_v, u⟩ / Σ κ`, over the visits of each example `z` and over all, with each solution `u`: `(w_z/N)·⟨ḡ_z,
/// u⟩` ([`Weights`](super::weights::Weights)). `dots` has the products of the rows of a tile, `[rows, columns]`.
pub(super) fn mean_scores(
    subject: &Subject<'_>,
    columns: usize,
    progress: &Progress,
    dots: impl Fn(Tile<'_>) -> Vec<f64> + Sync,
) -> Result<(Scores, Walked), AnalysisError> {
    let mut scores = Scores::new(columns);
    let mut total = 0.0;
    let walked = subject.walk().walk_tiles(progress, |visits, outputs: &[Outputs], tile| {
        let dots = tile.map_or_else(Vec::new, &dots);
        let mut rows = dots.chunks(columns.max(1));
        for (visit, outputs) in visits.iter().zip(outputs) {
            let slot = scores.slot(visit, outputs.prediction, Walking::Forwards);
            if let (true, Some(dots)) = (visit.usable, rows.next()) {
                let weight = subject.weights.of(visit);
                total += weight.abs();
                scores.add(slot, weight, dots);
            }
        }
        Ok(())
    })?;
    walked.check("influence")?;
    scores.scale(|_, _| if total > 0.0 { 1.0 / total } else { 0.0 });
    Ok((scores, walked))
}
