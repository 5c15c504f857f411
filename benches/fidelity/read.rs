//! What a recorded run says of its visits: scores, norms and bytes.

use anyhow::{ensure, Result};
use gradlog_analysis::InfluenceQuestion;
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::collections::HashMap;

/// What a recorded run says.
pub struct Recorded {
    /// `[visits, probes]`, in the order of the visits, times the learning rate and `1/B`, which are the same for all.
    pub scores: Vec<f64>,
    pub norms: Vec<f64>,
    /// Bytes a visit in visit blocks: all columns, headers, padding.
    pub bytes: f64,
    /// Of these, all but the columns of the sketches.
    pub rest: f64,
    /// Of the scores, in their order, one stated standard deviation.
    pub deviations: Vec<f64>,
}

/// Reads the visits and the probes `test` of these ids.
pub fn read(run: &Run, visits: &[usize], probes: &[usize]) -> Result<Recorded> {
    // Vectors, their scales, numbers kept apart, and what rounding left open.
    let sketch = |column: Column| (Column::Input as u16..=Column::FoldedRounding as u16).contains(&(column as u16));
    let (mut bytes, mut sketches, mut norms) = (0, 0, HashMap::new());
    for block in run.scan().filter(|block| block.kind() == Some(BlockKind::Visits)) {
        bytes += block.bytes();
        for size in block.sizes() {
            if Column::from_code(size.column).is_some_and(sketch) {
                sketches += size.stored_bytes;
            }
        }
        let ids = block.u64s(Column::Example)?;
        norms.extend(ids.into_iter().zip(block.f32s(Column::SquaredNorm)?));
    }
    let all = InfluenceQuestion::new("test").sketch_errors().compute(run)?;
    ensure!(all.rows.len() == visits.len() && all.probes.len() == probes.len(), "the run lost visits or probes");
    let place: HashMap<u64, usize> = all.rows.iter().enumerate().map(|(place, row)| (row.example, place)).collect();
    let column: HashMap<u64, usize> = all.probes.iter().enumerate().map(|(place, probe)| (probe.id, place)).collect();
    let at = |visit: &usize, probe: &usize| (place[&(*visit as u64)], column[&(*probe as u64)]);
    let pairs = || visits.iter().flat_map(|visit| probes.iter().map(move |probe| at(visit, probe)));
    let count = visits.len() as f64;
    Ok(Recorded {
        scores: pairs().map(|(row, probe)| all.score(row, probe)).collect(),
        deviations: pairs().map(|(row, probe)| all.sketch_error(row, probe).unwrap_or(f64::NAN)).collect(),
        norms: visits.iter().map(|visit| f64::from(norms[&(*visit as u64)])).collect(),
        bytes: bytes as f64 / count,
        rest: (bytes - sketches) as f64 / count,
    })
}
