//! Influence functions (Koh and Liang 2017, §2.1): probes through the damped inverse, and their dot products with visits.

use super::gram::{Gram, Inverse};
use super::probes::{load, nearest, ProbeRows};
use super::relatif::SelfInfluence;
use super::scores::{dots, Scores};
use super::{Curvature, Estimate, EstimatePlan};
use crate::influence::{Index, Influence, Normalisation, Record};
use crate::rows::driver::{fold_each, Progress};
use crate::vectors::Flattener;
use crate::{rows::column, AnalysisError, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Damage};

/// Rows of a curvature set that are made flat at a time.
const SET_ROWS: usize = 512;

/// What is the same for all probes.
pub(super) struct Solver {
    inverse: Inverse,
    /// If the scores are divided by it.
    own: Option<SelfInfluence>,
    /// Where what the curvature is made of stopped being readable.
    damage: Option<Damage>,
}

/// Gathers and inverts the curvature, and what goes with `examples` alone.
pub(super) fn prepare(
    plan: &EstimatePlan<'_>,
    examples: &[u64],
    progress: Progress<'_>,
) -> Result<Solver, AnalysisError> {
    let (inverse, damage) = invert(plan, progress)?;
    let own = match plan.asked.question.normalise {
        Normalisation::Relatif => Some(SelfInfluence::of(plan, &inverse, examples, progress)?),
        _ => None,
    };
    Ok(Solver { inverse, own, damage })
}

fn invert(plan: &EstimatePlan<'_>, progress: Progress<'_>) -> Result<(Inverse, Option<Damage>), AnalysisError> {
    let mut gram = Gram::new(&plan.flattener.blocks);
    let damage = match &plan.asked.curvature {
        Curvature::Set(name) => add_set(plan, name, &mut gram)?,
        Curvature::Visits | Curvature::Nothing => {
            let walked = plan.walk().forwards(progress, |visits, flat| {
                if flat.rows > 0 {
                    gram.add(flat, &vec![1.0; visits.len()]);
                }
                Ok(())
            })?;
            walked.check("influence")?;
            walked.damage
        }
    };
    Ok((gram.invert(&plan.asked.dampings)?, damage))
}

/// Adds the rows of a probe set: all times inside the window of steps, or all there are if none lies inside.
fn add_set(plan: &EstimatePlan<'_>, name: &str, gram: &mut Gram) -> Result<Option<Damage>, AnalysisError> {
    let index = Index::of_curvature(plan.run, name, &plan.asked.question, &|_| {})?;
    let flattener = same_layout(plan, &index)?;
    let inside = |time: &u64| plan.asked.question.window.steps.as_ref().is_none_or(|steps| steps.contains(time));
    let all = index.curvature_rows();
    let mut rows: Vec<_> = all.iter().filter(|row| inside(&row.time)).copied().collect();
    if rows.is_empty() {
        rows = all;
    }
    for rows in rows.chunks(SET_ROWS) {
        let records: Vec<Record> = rows.iter().map(|row| row.record).collect();
        let (flat, _, _) = load(&index, flattener, &records)?;
        gram.add_weighted(&flat, &rows.iter().map(|row| row.weight).collect::<Vec<f64>>());
    }
    Ok(index.damage)
}

/// The plan's flattener, if it fits the curvature set.
pub(super) fn same_layout<'a>(plan: &'a EstimatePlan<'_>, index: &Index) -> Result<&'a Flattener, AnalysisError> {
    if index.layout == plan.index.layout {
        return Ok(&plan.flattener);
    }
    let layers = &plan.run.manifest().layers;
    Err(AnalysisError::OtherLayers {
        visits: index.layout.describe(layers),
        probes: plan.index.layout.describe(layers),
    })
}

/// The step after the last visit of the window.
pub(super) fn end_of(plan: &EstimatePlan<'_>, window: &Window, progress: Progress<'_>) -> Result<u64, AnalysisError> {
    let keep = |block: &Block| block.kind() == Some(BlockKind::Visits) && window.touches(block);
    let read = |block: &Block| {
        let inside = window.rows(block)?;
        let steps = column::u64s(block, Column::Step)?;
        let inside = |row: usize| inside.as_ref().is_none_or(|inside| inside[row]);
        Ok(steps.iter().enumerate().filter(|(row, _)| inside(*row)).map(|(_, step)| *step).max())
    };
    let mut end = 0;
    // Who walks the visits meets the same damage.
    let _ = fold_each(plan.run, progress, keep, read, |last: Option<u64>| {
        end = end.max(last.map_or(0, |last| last.saturating_add(1)));
        Ok(())
    })?;
    Ok(end)
}

pub(super) fn pass(
    plan: &EstimatePlan<'_>,
    solver: &Solver,
    ids: &[u64],
    progress: Progress<'_>,
) -> Result<Vec<Influence>, AnalysisError> {
    let end = end_of(plan, &plan.asked.question.window, progress)?;
    let probes = ProbeRows::load(&plan.index, &plan.flattener, ids, |records| nearest(records, end))?;
    let solved = solver.inverse.solve(&probes.flat);
    let columns = ids.len() * plan.asked.dampings.len();
    let (mut scores, walked) = mean_scores(plan, &solved, columns, progress)?;
    if let Some(own) = &solver.own {
        // The columns are the probes, damping after damping.
        scores.map(|example, column, score| score / own.divisor(example, column / ids.len().max(1)));
    }
    let estimates = plan
        .asked
        .dampings
        .iter()
        .enumerate()
        .map(|(number, damping)| Estimate {
            curvature_rows: solver.inverse.rows,
            damping: Some(*damping),
            lambdas: solver.inverse.lambdas(number),
            ..Estimate::of(plan)
        })
        .collect();
    Ok(scores.finish(plan, ids, walked.left_out, walked.damage.or_else(|| solver.damage.clone()), estimates))
}

/// `(1/n)·⟨ḡ_z, u⟩` of each of the `n` examples `z` with each solution `u`.
pub(super) fn mean_scores(
    plan: &EstimatePlan<'_>,
    solutions: &[Vec<f32>],
    columns: usize,
    progress: Progress<'_>,
) -> Result<(Scores, crate::vectors::Walked), AnalysisError> {
    let mut scores = Scores::new(columns);
    let walked = plan.walk().forwards(progress, |visits, flat| {
        let dots = dots(flat, solutions, columns);
        let mut rows = dots.chunks(columns.max(1));
        for visit in visits {
            let slot = scores.slot(visit, false);
            if let (true, Some(dots)) = (visit.usable, rows.next()) {
                scores.add(slot, 1.0, dots);
            }
        }
        Ok(())
    })?;
    walked.check("influence")?;
    let examples = scores.examples() as f64;
    scores.scale(|_, visits| 1.0 / (examples * visits.max(1) as f64));
    Ok((scores, walked))
}
