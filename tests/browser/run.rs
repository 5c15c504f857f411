//! A run whose texts would break out of HTML if anything let them.

use anyhow::{Context, Result};
use gradlog_format::log::{CardKind, EventKind};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ends a script, opens another, and holds quotes and control characters.
pub const SET: &str = "</script><script>alert(1)</script>\"'\u{1b}[2J\u{0}";
const NOTE: &str = "<img class=\"evil\" src=x onerror=alert(1)>\u{1b}]0;title\u{7}";

/// Writes the run, its data and its page into a folder; returns the page.
pub fn write_page(folder: &Path) -> Result<PathBuf> {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, SET);
    let probes: Vec<Visit> = (0..6).map(|id| Draws(id).visit(id, 0, 0)).collect();
    run.probes(&probes);
    let mut all = visits(&mut Draws(1), 30, 4, 8);
    for visit in &mut all {
        visit.label = (visit.example % 3) as u32;
        visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 4 };
    }
    all.chunks(16).for_each(|rows| run.visits(rows));
    let later: Vec<Visit> = (0..6).map(|id| Draws(id + 50).visit(id, 9, 2)).collect();
    run.probes(&later);
    run.event((3, EventKind::LargeGradient), 107, 1, 31.4);
    run.event((5, EventKind::NonFiniteGradient), 121, 0, f32::NAN);
    // Two stripes, black above white. The training examples have data of their own.
    let stripes: Vec<u8> = (0..64).map(|at| if at < 32 { 0 } else { 255 }).collect();
    run.cards(Some(0), CardKind::Gray, 8, &[(0, &stripes), (1, &stripes)]);
    run.dropped(5);
    run.end();
    let written = run.finish();
    let mut manifest = written.run().manifest().clone();
    manifest.notes = vec![("note".into(), NOTE.into())];
    for layer in &mut manifest.layers {
        layer.name = format!("{}</script>", layer.name);
    }
    std::fs::write(written.path().join("manifest"), manifest.to_bytes()?)?;
    let data = folder.join("data.csv");
    let rows: String =
        (0..30).map(|n| format!("{},\"</script><b>{NOTE}\"\"\",3\n", 100 + 7 * n).replace('\u{0}', "")).collect();
    std::fs::write(&data, format!("id,{},size\n{rows}", "</th>"))?;
    let page = folder.join("page.html");
    let report = Command::new(env!("CARGO_BIN_EXE_gradlog-in-browser-tests"))
        .args(["report", written.path().to_str().context("a path in UTF-8")?, "--out"])
        .arg(&page)
        .args(["--data", &format!("csv:{}", data.display())])
        .output()?;
    anyhow::ensure!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    Ok(page)
}
