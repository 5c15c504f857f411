//! A run whose texts would break out of HTML if anything let them.

use anyhow::{Context, Result};
use gradlog_format::log::{CardKind, EventKind};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ends a script, opens another, and holds quotes and control characters.
pub const SET: &str = "</script><script>alert(1)</script>\"'\u{1b}[2J\u{0}";
const NOTE: &str = "<img class=\"evil\" src=x onerror=alert(1)>\u{1b}]0;title\u{7}";

/// A run and the data of its examples.
pub struct Recorded {
    run: Written,
    data: PathBuf,
}

/// Writes the run and its data.
fn record(folder: &Path) -> Result<Recorded> {
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
    Ok(Recorded { run: written, data })
}

fn gradlog() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gradlog-in-browser-tests"))
}

/// Writes the run, its data and its page into a folder; returns the page.
pub fn write_page(folder: &Path) -> Result<PathBuf> {
    let Recorded { run, data } = record(folder)?;
    let page = folder.join("page.html");
    let report = gradlog()
        .args(["report", run.path().to_str().context("a path in UTF-8")?, "--out"])
        .arg(&page)
        .args(["--data", &format!("csv:{}", data.display())])
        .output()?;
    anyhow::ensure!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    Ok(page)
}

/// A server of a run; it ends with the test.
pub struct Served {
    child: Child,
    pub address: String,
    _recorded: Option<Recorded>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the run in this folder.
pub fn serve(run: &Path, data: Option<&Path>) -> Result<Served> {
    let mut command = gradlog();
    command.arg("serve").arg(run).args(["--listen", "127.0.0.1:0"]);
    if let Some(data) = data {
        command.args(["--data", &format!("csv:{}", data.display())]);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut address = String::new();
    let out = child.stdout.take().context("the output of the server")?;
    std::io::BufReader::new(out).read_line(&mut address)?;
    let address = address.trim().to_owned();
    let served = Served { child, address, _recorded: None };
    anyhow::ensure!(served.address.starts_with("http://127.0.0.1:"), "the server says `{}`", served.address);
    Ok(served)
}

/// Serves the run whose texts would break out of HTML.
pub fn serve_evil(folder: &Path) -> Result<Served> {
    let recorded = record(folder)?;
    let mut served = serve(recorded.run.path(), Some(&recorded.data))?;
    served._recorded = Some(recorded);
    Ok(served)
}

/// A run of 250 examples, so that its table has several pages, with ten probes.
pub fn many() -> Written {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&(0..10).map(|id| Draws(id).visit(id, 0, 0)).collect::<Vec<Visit>>());
    let mut all = visits(&mut Draws(1), 250, 2, 25);
    for visit in &mut all {
        visit.label = (visit.example % 3) as u32;
        visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 4 };
    }
    all.chunks(100).for_each(|rows| run.visits(rows));
    run.end();
    run.finish()
}
