//! A run of a million examples, to measure how long its page takes to be written and opened.

use crate::tests::typed;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Synthetic, Visit};

const EXAMPLES: u64 = 1_000_000;

/// Writes the page to the path in `GRADLOG_PAGE`.
#[test]
#[ignore = "takes minutes: run it by hand, with GRADLOG_PAGE=/tmp/million.html"]
fn a_million_examples_fit_into_a_page() {
    let mut run = Synthetic::new(Encoding::Q4);
    let mut draws = Draws(1);
    run.set(0, "test");
    run.probes(&(0..100).map(|id| draws.visit(id, 0, 0)).collect::<Vec<Visit>>());
    for epoch in 0..3u32 {
        for first in (0..EXAMPLES).step_by(4096) {
            let rows = (first..(first + 4096).min(EXAMPLES)).map(|id| {
                let mut visit = draws.visit(id, u64::from(epoch) * 10_000 + first / 100, epoch);
                visit.label = (id % 10) as u32;
                visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 10 };
                visit
            });
            run.visits(&rows.collect::<Vec<Visit>>());
        }
    }
    run.end();
    let written = run.finish();
    let start = std::time::Instant::now();
    let path = std::env::var("GRADLOG_PAGE").unwrap_or_else(|_| "/tmp/million.html".into());
    let (code, _, words) = typed(&["report", written.path().to_str().unwrap(), "--out", &path]);
    println!("{words}written in {:.0} s", start.elapsed().as_secs_f64());
    assert_eq!(code, 0, "{words}");
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < 20_000_000, "{bytes} bytes");
}
