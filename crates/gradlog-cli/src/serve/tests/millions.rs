//! How long answers take over a run of ten million examples, or over a run that is given.

use super::{with_server, Client};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Synthetic, Visit, Written};
use std::path::PathBuf;
use std::time::Instant;

/// One visit of each of many examples, with ten probes.
fn made_up(examples: u64) -> Written {
    let mut run = Synthetic::new(Encoding::Q4);
    let mut draws = Draws(1);
    run.set(0, "test");
    run.probes(&(0..10).map(|id| draws.visit(id, 0, 0)).collect::<Vec<Visit>>());
    for first in (0..examples).step_by(4096) {
        let rows = (first..(first + 4096).min(examples)).map(|id| {
            let mut visit = draws.visit(id, first / 100, 0);
            visit.label = (id % 10) as u32;
            visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 10 };
            visit
        });
        run.visits(&rows.collect::<Vec<Visit>>());
    }
    run.end();
    run.finish()
}

/// Processor time of this process, in seconds.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}

fn time(client: &Client, what: &str, path: &str) {
    let (start, before) = (Instant::now(), processor());
    let reply = client.get(path);
    let (took, bytes) = (start.elapsed().as_secs_f64(), reply.body.len());
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| memory.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let spent = processor() - before;
    println!(
        "{took:8.3} s, {spent:8.2} s of processors, {} {what} ({bytes} bytes); {} {}",
        reply.status,
        line("VmRSS"),
        line("VmHWM")
    );
}

/// Set `GRADLOG_RUN` to a run and `GRADLOG_PROBE` to its set and a probe, as in `test:3`, or `GRADLOG_EXAMPLES` to how
/// many are made up.
#[test]
#[ignore = "takes minutes and gigabytes: run it by hand"]
fn answers_over_millions_of_visits() {
    let given = std::env::var_os("GRADLOG_RUN").map(PathBuf::from);
    let examples = std::env::var("GRADLOG_EXAMPLES").map_or(10_000_000, |text| text.parse().unwrap());
    let written = given.is_none().then(|| made_up(examples));
    let path = given.unwrap_or_else(|| written.as_ref().unwrap().path().to_owned());
    let probe = std::env::var("GRADLOG_PROBE").unwrap_or_else(|_| "test:3".into());
    let (set, id) = probe.split_once(':').unwrap();
    let bytes: u64 = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!("{:.2} GB", bytes as f64 / 1e9);
    with_server(&[&path], &[], |client| {
        let influence = |more: &str| format!("influence?probe={set}&id={id}&top=12{more}");
        for (what, path) in [
            ("the state", "state"),
            ("the head", "head"),
            ("a probe, TracIn", &influence("")),
            ("the same again", &influence("")),
            ("by epoch", &influence("&by=epoch")),
            ("its nearest", &format!("influence?probe={set}&id={id}&nearest=12")),
            ("a probe, cosine", &influence("&normalize=cosine")),
            ("influence function", &influence("&method=if")),
            ("datainf", &influence("&method=datainf")),
            ("ekfac", &influence("&method=ekfac")),
            ("trak", &influence("&method=trak")),
            ("the adjoint", &influence("&method=adjoint")),
            ("the visits of an example", "histories?ids=7"),
            (
                "of 100 examples",
                &format!("histories?ids={}", (0..100).map(|n| (n * 31).to_string()).collect::<Vec<_>>().join(",")),
            ),
            ("a score, and its first page", "rows?score=loss&order=down&count=100"),
            ("the next page", "rows?score=loss&order=down&count=100&first=100"),
            ("the last page", "rows?score=loss&order=down&count=100&first=4900"),
            ("sorted otherwise", "rows?score=loss&sort=label&count=100"),
            ("filtered by label", "rows?score=loss&label=3&order=down&count=100"),
            ("filtered by id", "rows?score=loss&text=777&order=down&count=100"),
            ("another score", "rows?score=grand&order=down&count=100"),
            ("labels of examples", "examples?ids=1,2,3"),
            ("the curves", "curves"),
            ("the map", "map"),
            ("the suspects", "suspects"),
            ("the groups", "groups"),
        ] {
            time(client, what, path);
        }
    });
}
