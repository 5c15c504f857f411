//! The inverse of an epoch as a matrix over the numbers of flat vectors.

use super::log_odds::{doubt, is_known, scales_of_probes, to_scale};
use super::{Solution, Solved};
use crate::curvature::detail::Outputs;
use crate::curvature::gram::Gram;
use crate::curvature::probes::ProbeRows;
use crate::curvature::subject::Subject;
use crate::vectors::flatten::Flat;
use crate::vectors::walk::Walk;
use crate::{AnalysisError, Progress};

/// Gathers and inverts the matrix of the visits of `walk`, and applies it to the probes.
///
/// # Errors
/// As [`crate::EstimateQuestion::plan`].
pub(super) fn solve(
    subject: &Subject<'_>,
    walk: &Walk<'_>,
    mut probes: ProbeRows,
    progress: &Progress,
) -> Result<Solved, AnalysisError> {
    let dampings = &subject.asked.dampings;
    let mut gram = Gram::new(&subject.flattener);
    let mut without_log_odds = 0;
    let walked = walk.walk_forwards(progress, |visits, outputs: &[Outputs], flat| {
        if flat.rows > 0 {
            let doubts: Vec<f64> = outputs.iter().map(doubt).collect::<Result<_, AnalysisError>>()?;
            without_log_odds += doubts.iter().filter(|doubt| !is_known(**doubt)).count() as u64;
            let scales: Vec<f64> = doubts.into_iter().map(to_scale).collect();
            gram.add(flat, &subject.weights.of_rows(visits), &scales);
        }
        Ok(())
    })?;
    let rows = gram.rows();
    let mut solved =
        Solved { walked, rows, without_log_odds, probes_without_log_odds: 0, lambdas: Vec::new(), solution: None };
    if rows == 0 {
        return Ok(solved);
    }
    let total = gram.weight().max(f64::MIN_POSITIVE);
    let inverse = gram.invert(dampings)?;
    solved.lambdas = (0..dampings.len()).map(|number| inverse.lambdas(number)).collect();
    let scales = scales_of_probes(&probes)?;
    solved.probes_without_log_odds = scales.iter().filter(|scale| **scale == 0.0).count() as u64;
    scale_rows(&mut probes.flat, &scales);
    solved.solution = Some(Solution::Numbers { vectors: inverse.solve(&probes.flat), total });
    Ok(solved)
}

fn scale_rows(flat: &mut Flat, scales: &[f64]) {
    for values in &mut flat.blocks {
        let width = (values.len() / flat.rows.max(1)).max(1);
        for (row, scale) in values.chunks_mut(width).zip(scales) {
            row.iter_mut().for_each(|value| *value *= *scale as f32);
        }
    }
}
