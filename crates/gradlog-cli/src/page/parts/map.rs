//! The data map: confidence by variability, thinned out where there are too many points.

use crate::error::CliError;
use crate::frame::Asked;
use crate::page::arrays;
use crate::page::limits::{MAP_EXAMPLES_MAX, MAP_POINTS_MAX};
use gradlog_analysis::{Basis, DataMap, DataMapRow, ExampleShare, MapQuestion};
use serde_json::{json, Value};

/// Variability is a standard deviation of numbers from 0 to 1.
const VARIABILITY_MAX: f64 = 0.5;

/// The map over all runs, of which the first has this many examples.
pub(crate) fn map_part(asked: &Asked<'_>, examples: u64) -> Result<Value, CliError> {
    let mut question = MapQuestion::new().share_progress(&asked.progress());
    // The first share: which one it is says nothing of the examples.
    let shares = examples.div_ceil(MAP_EXAMPLES_MAX).clamp(1, u64::from(ExampleShare::SHARES_MAX)) as u32;
    if shares > 1 {
        question = question.examples(ExampleShare::new(1, shares)?);
    }
    let found = question.compute_over(&asked.runs)?;
    Ok(lay_out(&found, (shares > 1).then_some((shares, examples))))
}

/// `share` says of how many shares of how many examples the map is one, if it is not of all.
fn lay_out(map: &DataMap, share: Option<(u32, u64)>) -> Value {
    let kept = thin_out(&map.rows, MAP_POINTS_MAX);
    let thinned = (kept.len() < map.rows.len()).then(|| {
        let (hard, step) = split_places(map.rows.len(), MAP_POINTS_MAX);
        format!("the {hard} of the lowest confidence, and of the others one in {step}")
    });
    let thinned = match share {
        None => thinned,
        Some((shares, _)) => {
            let part = format!("one example in {shares}, chosen by a hash of the id");
            let among = thinned.map_or(String::new(), |thinned| format!(", and among these {thinned}"));
            Some(format!("{part}{among}; regions are those of this part"))
        }
    };
    let regions = |row: &&DataMapRow| u8::from(row.easy) | u8::from(row.ambiguous) << 1 | u8::from(row.hard) << 2;
    json!({
        "basis": Basis::describe_all(&map.bases),
        "examples": share.map_or(map.rows.len() as u64, |(_, examples)| examples),
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
        assert!(lay_out(&map, None)["thinned"].is_null());
        let part = lay_out(&map, Some((5, 200)));
        assert_eq!((part["examples"].as_u64(), part["shown"].as_u64()), (Some(200), Some(40)));
        assert!(part["thinned"].as_str().unwrap().starts_with("one example in 5, chosen by a hash of the id; regions"));
    }
}
