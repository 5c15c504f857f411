//! How long questions take over logs of growing length.

#[path = "../scoring/mlp.rs"]
mod mlp;
#[path = "../scoring/outputs.rs"]
mod outputs;
#[path = "../scoring/store.rs"]
mod store;

use super::{median, memory};
use anyhow::Result;
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::run::Run;
use serde_json::{json, Value};
use std::path::Path;
use std::time::Instant;

const REPEATS: usize = 3;
/// Each example is visited so often.
const EPOCHS: usize = 20;
/// Visits with gradients, of which 100,000 take 57 MB.
const GRADIENTS: [usize; 4] = [6_000, 20_000, 60_000, 200_000];

/// A row for each log: what is asked, visits, seconds, visits a second, the most memory.
pub fn measure(dir: &Path, largest: usize) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    println!("\nquestion       visits       s   million visits/s   memory MiB");
    let mut visits = 10_000;
    while visits <= largest {
        let path = dir.join(format!("outputs-{visits}"));
        outputs::record(&path, visits / EPOCHS, EPOCHS as u64)?;
        let run = Run::open(&path)?;
        rows.push(time("forgetting", visits, || Ok(ScoreQuestion::new(Score::Forgetting).compute(&run).map(drop)?))?);
        std::fs::remove_dir_all(&path)?;
        visits *= 10;
    }
    for visits in GRADIENTS {
        let path = dir.join(format!("gradients-{visits}"));
        mlp::record(&path, visits, u64::MAX)?;
        let run = Run::open(&path)?;
        for probes in [1, 100] {
            let question = InfluenceQuestion::new("test").ids(0..probes);
            let ask = || {
                let plan = question.plan(&run)?.keep_strongest();
                (0..plan.passes()).try_for_each(|pass| plan.strongest(pass, 10).map(drop))?;
                Ok(())
            };
            rows.push(time(if probes == 1 { "1 probe" } else { "100 probes" }, visits, ask)?);
        }
        std::fs::remove_dir_all(&path)?;
    }
    Ok(rows)
}

fn time(question: &str, visits: usize, ask: impl Fn() -> Result<()>) -> Result<Value> {
    let (mut seconds, mut peak) = (Vec::new(), 0);
    for _ in 0..REPEATS {
        let before = memory::reset_peak();
        let start = Instant::now();
        ask()?;
        seconds.push(start.elapsed().as_secs_f64());
        peak = peak.max(memory::peak().saturating_sub(before));
    }
    let seconds = median(seconds);
    let rate = visits as f64 / seconds;
    let mib = peak as f64 / f64::from(1 << 20);
    println!("{question:<12} {visits:>9} {seconds:>7.3} {:>18.2} {mib:>12.1}", rate / 1e6);
    Ok(json!({ "question": question, "visits": visits, "seconds": seconds, "visits_per_s": rate, "peak_bytes": peak }))
}
