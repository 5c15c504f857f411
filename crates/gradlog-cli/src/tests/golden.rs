//! What every verb prints, compared with text files in `tests/golden` beside this file.
//!
//! `VERB.data.txt` has stdout and the exit code of CSV, JSON and tables of bare ids: others read these by program.
//! `VERB.words.txt` has what people read: aligned tables and stderr. After a deliberate change, write the files again
//! with `cargo test --release -p gradlog-cli -- --ignored rewrite_the_golden_files`, and read the difference.
//!
//! A processor with other vector instructions may round sums otherwise. A number may therefore differ in its last
//! digits, unless the environment variable `GRADLOG_GOLDEN` is `exact`.

use super::golden_cases::{PLAIN, REFUSED, ROWS};
use super::typed;
use gradlog_format::log::{CardKind, Column, EventKind, FindingKind};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The runs that the verbs are asked about.
pub(super) struct Runs {
    named: Vec<(&'static str, PathBuf)>,
    /// Folder of files that are read and written.
    pub files: TempDir,
    _written: Vec<Written>,
}

/// Losses are cross entropies, labels belong to ids, and the first four examples have the extra class 10.
fn labeled(mut all: Vec<Visit>) -> Vec<Visit> {
    for visit in &mut all {
        visit.loss = -visit.confidence.ln();
        visit.label = if visit.example < 128 { 10 } else { (visit.example % 3) as u32 };
        visit.prediction = if visit.correct == 1.0 { visit.label } else { (visit.label + 1) % 4 };
    }
    all
}

fn rows_of_set(set: u32, mut rows: Vec<Visit>) -> Vec<Visit> {
    rows.iter_mut().for_each(|row| row.set = set);
    labeled(rows)
}

const EXAMPLES: u64 = 14;

/// Everything that a recorder writes: probes, curvature, sweeps, checkpoints, steps, gaps, an end.
fn full(seed: u64, examples: u64) -> Written {
    let mut draws = Draws(seed);
    let mut all = labeled(visits(&mut draws, examples, 4, 5));
    let steps = all.last().unwrap().step + 1;
    all[9].loss = f32::NAN;
    all[9].margin = f32::NAN;
    all[9].el2n = f32::INFINITY;
    all[9].squared_norm = f32::NAN;
    all[9].parts[0][0] = f32::NAN;
    all[17].coefficient = 0.0;
    let mut run = Synthetic::new(Encoding::Q8);
    for (number, name) in [(0, "test"), (1, "train"), (2, "fisher")] {
        run.set(number, name);
    }
    for step in [1, 5, 9] {
        run.probes(&rows_of_set(0, (3..6).map(|id| draws.visit(id, step, step as u32 / 3)).collect()));
        run.probes(&rows_of_set(1, (0..8).map(|id| draws.visit(100 + 7 * id, step, step as u32 / 3)).collect()));
    }
    let mut curvature = rows_of_set(2, (0..6).map(|id| draws.visit(500 + id, 0, 0)).collect());
    curvature.iter_mut().for_each(|row| row.curvature_weight = Some(0.5 + (row.example % 2) as f32));
    run.probes(&curvature);
    all.chunks(11).for_each(|rows| run.visits(rows));
    let each: Vec<(u64, u32, f32, u64)> =
        (0..steps).map(|step| (step, step as u32 / 3, 0.1, 1000 + 70 * step)).collect();
    run.steps(&each);
    run.optimizer(&(0..steps).map(|step| (step, 0.1, 0.9, 0.0005)).collect::<Vec<_>>());
    for (step, epoch) in [(0, 0), (6, 2)] {
        run.checkpoint(step, epoch);
        let swept = (0..examples).map(|id| draws.visit(100 + 7 * id, step, epoch)).collect();
        run.sweeps(&labeled(swept));
        // The probes once more, at the step of the checkpoint.
        run.probes(&rows_of_set(0, (3..6).map(|id| draws.visit(id, step, epoch)).collect()));
    }
    run.dropped(3);
    run.end();
    run.finish()
}

/// Three workers, of which the last has not finished.
fn workers() -> Written {
    let dir = Arc::new(TempDir::new().unwrap());
    let all = labeled(visits(&mut Draws(5), EXAMPLES, 3, 6));
    let part = |rank: u32| {
        let mut part = Synthetic::part(dir.clone(), Some((rank, 3)), Encoding::Q8);
        part.set(0, "test");
        if rank == 0 {
            part.probes(&rows_of_set(0, (3..5).map(|id| Draws(id).visit(id, 0, 0)).collect()));
            part.check(0, &[FindingKind::UncoveredVariable], "check passed: a verdict\n- no tap covers `x`");
        }
        let own: Vec<Visit> = all.iter().skip(rank as usize).step_by(3).cloned().collect();
        own.chunks(5).for_each(|rows| part.visits(rows));
        if rank < 2 {
            part.end();
        }
        part.finish()
    };
    part(0);
    part(1);
    part(2)
}

/// A run whose recorder ended before the first visit.
fn cut() -> Written {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&rows_of_set(0, vec![Draws(3).visit(3, 0, 0)]));
    run.check(0, &[FindingKind::CoupledLosses], "check failed: a verdict\n- the loss of an example depends on others");
    for id in 0..10 {
        run.event((id / 3, EventKind::LargeGradient), 100 + id, (id % 4) as u32, 14.0 + id as f32);
    }
    run.cards(None, CardKind::Text, 0, &[(100, b"a text"), (101, b"another")]);
    run.cards(Some(0), CardKind::Gray, 1, &[(3, &[0, 255])]);
    run.event((7, EventKind::NonFiniteLoss), 9, Column::NO_LAYER_NUMBER, f32::NAN);
    run.finish()
}

impl Runs {
    pub(super) fn new() -> Self {
        let (a, b, c) = (full(1, EXAMPLES), full(2, EXAMPLES), full(3, EXAMPLES - 3));
        let damaged = full(1, EXAMPLES);
        damaged.damage(12, 70);
        let all = [("A", a), ("B", b), ("C", c), ("DAMAGED", damaged), ("WORKERS", workers()), ("CUT", cut())];
        let files = TempDir::new().unwrap();
        let named = all.iter().map(|(name, written)| (*name, written.path().to_owned())).collect();
        let texts = [
            ("ids.txt", "example\n100\n107\n114\n121\n"),
            ("more.txt", "100\n107\n114\n"),
            ("groups.csv", "example,group\n100,a\n107,b\n114,a\n121,b\n128,a\n5,b\n"),
            ("verdicts.csv", "id,label,proposed,verdict\n100,10,,drop\n107,10,2,relabel\n114,10,,keep\n5,1,,drop\n"),
            ("broken.txt", "100\n1o7\n"),
        ];
        for (name, text) in texts {
            std::fs::write(files.path().join(name), text).unwrap();
        }
        Self { named, files, _written: all.into_iter().map(|(_, written)| written).collect() }
    }

    /// Runs a command line in which `<NAME>` stands for a run and `{name}` for a file: exit code, stdout, stderr.
    pub(super) fn play(&self, line: &str) -> (u8, String, String) {
        let word = |word: &str| {
            let path = |path: &Path| path.to_str().unwrap().to_owned();
            if let Some(name) = word.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
                return path(&self.named.iter().find(|(known, _)| *known == name).unwrap().1);
            }
            match word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) => path(&self.files.path().join(name)),
                None => word.to_owned(),
            }
        };
        let words: Vec<String> = line.split_whitespace().map(word).collect();
        let (code, out, words) = typed(&words.iter().map(String::as_str).collect::<Vec<_>>());
        (code, self.masked(out), self.masked(words))
    }

    fn masked(&self, mut text: String) -> String {
        for (name, path) in &self.named {
            text = text.replace(path.to_str().unwrap(), &format!("<{name}>"));
        }
        text.replace(self.files.path().to_str().unwrap(), "<FILES>").replace(env!("CARGO_PKG_VERSION"), "<VERSION>")
    }
}

/// Both files of a verb: what programs read, what people read.
fn texts(runs: &Runs, verb: &str) -> (String, String) {
    let (mut data, mut words) = (String::new(), String::new());
    let mut record = |line: &str, people: bool, programs: bool| {
        let (code, out, said) = runs.play(line);
        if programs {
            let _ = writeln!(data, "$ gradlog {line}\nexit {code}\n{out}");
        }
        if people {
            let out = if programs { "" } else { out.as_str() };
            let _ = writeln!(words, "$ gradlog {line}\nexit {code}\n{out}---\n{said}");
        }
    };
    for (_, lines) in ROWS.iter().filter(|(name, _)| *name == verb) {
        for line in *lines {
            // A keep-list of bare ids is for programs.
            record(&format!("{verb} {line}"), true, verb == "prune");
            for format in ["csv", "json"] {
                record(&format!("{verb} {line} --format {format}"), false, true);
            }
        }
    }
    for (_, lines) in PLAIN.iter().filter(|(name, _)| *name == verb) {
        for line in *lines {
            record(&format!("{verb} {line}"), true, false);
            if verb == "info" {
                record(&format!("{verb} {line} --format json"), false, true);
            }
        }
    }
    if verb == "refused" {
        REFUSED.iter().for_each(|line| record(line, true, false));
    }
    if verb == "export" {
        for name in ["a.safetensors", "a.npy", "b.bin", "c.npy", "d.npy"] {
            let _ = writeln!(data, "{name}: {}", header(&runs.files.path().join(name)));
        }
    }
    (data, words)
}

/// Size of a file of numbers and, of NumPy's, the text at its beginning.
fn header(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let length = match bytes.starts_with(b"\x93NUMPY") {
        true => 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]])),
        false => 0,
    };
    format!("{} bytes, {}", bytes.len(), bytes[..length].escape_ascii())
}

fn verbs() -> impl Iterator<Item = &'static str> {
    ROWS.iter().chain(&PLAIN).map(|(verb, _)| *verb).chain(["refused"])
}

fn path(verb: &str, kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/tests/golden/{verb}.{kind}.txt"))
}

/// Whether two texts are the same but for the last digits of numbers.
fn same_but_for_rounding(a: &str, b: &str) -> bool {
    let split = |text: &str| -> Vec<String> {
        text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).map(str::to_owned).collect()
    };
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().ok();
    let close = |(a, b): (&String, &String)| {
        let long = a.len().min(b.len()) >= 8 || a.len() == b.len();
        let near = |(a, b): (f64, f64)| long && (a - b).abs() <= 1e-4 * (1e-4 + a.abs().max(b.abs()));
        a == b || number(a).zip(number(b)).is_some_and(near)
    };
    let (a, b) = (split(a), split(b));
    a.len() == b.len() && a.iter().zip(&b).all(close)
}

#[test]
fn every_verb_prints_what_it_printed() {
    let runs = Runs::new();
    let exact = std::env::var_os("GRADLOG_GOLDEN").is_some_and(|value| value == "exact");
    let mut different = Vec::new();
    for verb in verbs() {
        let (data, words) = texts(&runs, verb);
        for (kind, found) in [("data", data), ("words", words)] {
            let path = path(verb, kind);
            let expected = std::fs::read_to_string(&path).unwrap_or_default();
            if found == expected || !exact && same_but_for_rounding(&found, &expected) {
                continue;
            }
            let line = found.lines().zip(expected.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let at = |text: &str| text.lines().nth(line).unwrap_or_default().to_owned();
            different.push(format!("{}:{}\n  was {}\n  is  {}", path.display(), line + 1, at(&expected), at(&found)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
#[ignore = "writes the files that the other test compares with"]
fn rewrite_the_golden_files() {
    let runs = Runs::new();
    for verb in verbs() {
        let (data, words) = texts(&runs, verb);
        for (kind, text) in [("data", data), ("words", words)] {
            if !text.is_empty() {
                let path = path(verb, kind);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
        }
    }
}
