//! The data map: confidence by variability, thinned out where there are too many points.

use crate::error::CliError;
use crate::frame::Asked;
use crate::page::arrays;
use crate::page::limits::MAP_POINTS_MAX;
use gradlog_analysis::{Basis, DataMap, DataMapRow, MapQuestion};
use serde_json::{json, Value};

/// Variability is a standard deviation of numbers from 0 to 1.
const VARIABILITY_MAX: f64 = 0.5;

/// The map over all runs.
pub(crate) fn map_part(asked: &Asked<'_>) -> Result<Value, CliError> {
    let found = MapQuestion::new().share_progress(&asked.progress()).compute_over(&asked.runs)?;
    Ok(lay_out(&found))
}

fn lay_out(map: &DataMap) -> Value {
    let kept = thin_out(&map.rows, MAP_POINTS_MAX);
    let thinned = (kept.len() < map.rows.len()).then(|| {
        let (hard, step) = split_places(map.rows.len(), MAP_POINTS_MAX);
        format!("the {hard} of the lowest confidence, and of the others one in {step}")
    });
    let regions = |row: &&DataMapRow| u8::from(row.easy) | u8::from(row.ambiguous) << 1 | u8::from(row.hard) << 2;
    json!({
        "basis": Basis::describe_all(&map.bases),
        "examples": map.rows.len(),
        "shown": kept.len(),
        "thinned": thinned,
        "share": map.share,
        "regions": map.counts(),
        "variability_max": VARIABILITY_MAX,
        "ids": arrays::ids(kept.iter().map(|row| row.example)),
        "confidence": arrays::u16s(kept.iter().map(|row| arrays::on_grid(row.confidence, 1.0))),
        "variability": arrays::u16s(kept.iter().map(|row| arrays::on_grid(row.variability, VARIABILITY_MAX))),
        "correctness": arrays::u8s(kept.iter().map(|row| match row.correctness.is_nan() {
            true => u8::MAX,
            false => (row.correctness * 100.0).round() as u8,
        })),
        "region": arrays::u8s(kept.iter().map(regions)),
        "label": arrays::labels(kept.iter().map(|row| row.label)),
    })
}

/// How many of the hardest are all drawn, and every which of the others. Few are all drawn, because they look denser
/// than they are.
fn split_places(rows: usize, most: usize) -> (usize, usize) {
    let hard = most / 20;
    (hard, rows.saturating_sub(hard).div_ceil((most - hard).max(1)).max(1))
}

/// Rows come with the lowest confidence first. Rows without a number have no place on a map.
fn thin_out(rows: &[DataMapRow], most: usize) -> Vec<&DataMapRow> {
    let on_map = |row: &&DataMapRow| row.confidence.is_finite() && row.variability.is_finite();
    if rows.len() <= most {
        return rows.iter().filter(on_map).collect();
    }
    let (hard, step) = split_places(rows.len(), most);
    let (hard, others) = rows.split_at(hard);
    hard.iter().chain(others.iter().step_by(step)).filter(on_map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradlog_testing::{run_of, visits, Draws};

    #[test]
    fn the_hardest_stay_and_the_others_are_thinned_out_evenly() {
        let all = visits(&mut Draws(3), 40, 2, 5);
        let map = MapQuestion::new().compute(&run_of(&all, 20).run()).unwrap();
        let ids = |most: usize| -> Vec<u64> { thin_out(&map.rows, most).iter().map(|row| row.example).collect() };
        assert_eq!(ids(40).len(), 40);
        let kept = ids(20);
        assert_eq!(kept[0], map.rows[0].example);
        assert_eq!(kept[1..], map.rows[1..].iter().step_by(3).map(|row| row.example).collect::<Vec<_>>()[..]);
        assert!(lay_out(&map)["thinned"].is_null());
    }
}
