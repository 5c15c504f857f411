//! A compacted run against the run that was compacted: the same scores, whatever was recorded.

use super::*;
use crate::{
    ExampleQuestion, ExampleShare, HistoryQuestion, Influence, InfluenceQuestion, MapQuestion, Normalization,
    PartialAnswer, Score, ScoreQuestion, SummaryQuestion, SuspectQuestion, WholeAnswer,
};
use gradlog_format::log::{BlockKind, Column, EventKind, FORMAT_VERSION};
use gradlog_format::run::{CompactError, ReadError};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

fn text(value: &impl Debug) -> String {
    format!("{value:?}")
}

/// A run with everything that a recorder writes, resumed once and replayed.
fn random_run(seed: u64) -> Written {
    let mut draws = Draws(seed);
    let (examples, batch) = (12 + draws.below(60), 4 + draws.below(9) as usize);
    let mut all = visits(&mut draws, examples, 5, batch);
    for visit in &mut all {
        match draws.below(15) {
            0 => visit.loss = f32::NAN,
            1 => visit.flags = Column::FLAG_NOT_FINITE,
            _ => {}
        }
    }
    let mut run = Synthetic::with_seed(Encoding::Q8, seed);
    run.set(0, "test");
    let probe = |id: u64, step: u64| Visit { label: id as u32 % 2, ..Draws(900 + id).visit(id, step, 0) };
    run.probes(&[probe(3, 0), probe(4, 0), probe(5, 0)]);
    let third = all.len() / 3;
    for (number, rows) in all[..2 * third].chunks(7 + draws.below(20) as usize).enumerate() {
        run.without = if number % 3 == 2 { vec![Column::El2n] } else { Vec::new() };
        run.visits(rows);
    }
    run.without = Vec::new();
    run.optimizer(&[(0, 0.1, 0.9, 0.0), (1, 0.1, 0.9, 0.0), (all[third].step, 0.05, 0.9, 0.0)]);
    run.event((3, EventKind::LargeGradient), 107, 0, 20.0);
    run.checkpoint(4, 0);
    run.dropped(3);
    // The second third is given up.
    let at = all[third].step;
    let mut run = run.resume(at);
    run.probes(&[probe(3, at), probe(4, at)]);
    let rest: Vec<Visit> = all.iter().filter(|visit| visit.step >= at).cloned().collect();
    rest.chunks(23).for_each(|rows| run.visits(rows));
    run.end();
    let mut run = run.replay();
    for step in [0, 4, 9] {
        let mut rows: Vec<Visit> = (0..examples).map(|id| draws.visit(100 + 7 * id, step, 0)).collect();
        rows.push(draws.visit(100, step, 0));
        run.sweeps(&rows);
    }
    run.probes(&[probe(3, 4), probe(3, 9)]);
    run.finish()
}

/// The compacted run, whose buffers hold next to nothing.
fn compacted(run: &Run, buckets: u32) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let report = Compaction::new(buckets).memory_bytes(1).write(run, &path).unwrap();
    let there = Run::open(&path).unwrap().verify().unwrap();
    assert_eq!((there.visits, there.superseded), (report.visits, 0));
    assert!(there.damage.is_none(), "{:?}", there.damage);
    (folder, path)
}

#[test]
fn every_score_is_the_same_bit_for_bit() {
    for seed in 0..4 {
        let written = random_run(seed);
        let run = written.run();
        for buckets in [1, 2, 7] {
            let (_folder, path) = compacted(&run, buckets);
            let new = Run::open(&path).unwrap();
            for score in Score::ALL {
                let questions = [
                    ScoreQuestion::new(score),
                    ScoreQuestion::new(score).epochs(1..3).steps(2..),
                    ScoreQuestion::new(score).sweeps(),
                ];
                for question in questions {
                    match (question.compute(&run), question.compute(&new)) {
                        (Ok(here), Ok(there)) => assert_eq!(text(&there), text(&here), "{score} {buckets} {seed}"),
                        (here, there) => assert_eq!(text(&there.err()), text(&here.err())),
                    }
                }
            }
        }
    }
}

#[test]
fn histories_lists_and_summaries_are_the_same() {
    let written = random_run(5);
    let run = written.run();
    let (_folder, path) = compacted(&run, 3);
    let new = Run::open(&path).unwrap();
    for id in [100, 107, 114] {
        let question = ExampleQuestion::new(id);
        assert_eq!(text(&question.compute(&new).unwrap().visits), text(&question.compute(&run).unwrap().visits));
    }
    assert_eq!(text(&MapQuestion::new().compute(&new)), text(&MapQuestion::new().compute(&run)));
    let suspects = |run: &Run| text(&SuspectQuestion::new().compute(run).unwrap());
    assert_eq!(suspects(&new), suspects(&run));
    let histories = |run: &Run| text(&HistoryQuestion::new().examples([100, 107, 114]).compute(run).unwrap());
    assert_eq!(histories(&new), histories(&run));
    let (here, there) = (SummaryQuestion::new().compute(&run).unwrap(), SummaryQuestion::new().compute(&new).unwrap());
    assert_eq!((there.visits, &there.steps, there.recorded_steps), (here.visits, &here.steps, here.recorded_steps));
    assert_eq!((text(&there.probes), text(&there.sweeps)), (text(&here.probes), text(&here.sweeps)));
    assert_eq!(text(&run.events().unwrap()), text(&new.events().unwrap()));
    assert_eq!(new.checkpoints().unwrap().len(), run.checkpoints().unwrap().len());
    let count = |run: &Run, kind: BlockKind| {
        run.scan().filter(|block| block.kind() == Some(kind)).map(|block| block.rows()).sum::<usize>()
    };
    for kind in [BlockKind::Steps, BlockKind::Probes, BlockKind::ProbeSet, BlockKind::Gaps] {
        assert_eq!(count(&new, kind), count(&run, kind), "{kind:?}");
    }
    let curves = |run: &Run| crate::CurveQuestion::new().compute(run).unwrap();
    let (here, there) = (curves(&run), curves(&new));
    assert_eq!(here.points.len(), there.points.len());
    for (here, there) in here.points.iter().zip(&there.points) {
        assert_eq!((here.visits, here.learned, here.forgotten), (there.visits, there.learned, there.forgotten));
        assert!((here.loss - there.loss).abs() < 1e-12 * here.loss.abs());
    }
}

#[test]
fn a_finished_run_stays_finished() {
    let all = visits(&mut Draws(3), 20, 3, 5);
    for finished in [true, false] {
        let mut run = Synthetic::new(Encoding::F32);
        all.chunks(9).for_each(|rows| run.visits(rows));
        if finished {
            run.end();
        }
        let written = run.finish();
        let (_folder, path) = compacted(&written.run(), 3);
        let report = Run::open(&path).unwrap().verify().unwrap();
        assert_eq!((report.finished, report.visits), (finished, all.len() as u64));
    }
}

#[test]
fn several_workers_become_one_run_in_the_order_of_steps_and_ranks() {
    let all = visits(&mut Draws(8), 30, 4, 6);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    for rank in 0..3u64 {
        let mut run = Synthetic::part(folder.clone(), Some((rank as u32, 3)), Encoding::Q8);
        run.set(0, if rank == 1 { "other" } else { "test" });
        run.set(1, "third");
        let probe = |id: u64, step: u64| Visit { set: (rank == 1).into(), ..Draws(900 + id).visit(id, step, 0) };
        run.probes(&[probe(10 * rank + 3, 0), probe(10 * rank + 4, 0)]);
        let steps = all.last().unwrap().step + 1;
        let told: Vec<(u64, u32, f32, u64)> = (0..steps).map(|step| (step, 0, 0.1, step)).collect();
        run.steps(&told);
        // Every worker has rows of every step, some of the same example, in blocks of other lengths.
        let own: Vec<Visit> = all.iter().filter(|visit| (visit.example + visit.step) % 3 != rank).cloned().collect();
        own.chunks(5 + 4 * rank as usize).for_each(|rows| run.visits(rows));
        run.end();
        run.finish();
    }
    let run = Run::open(folder.path()).unwrap();
    for buckets in [1, 5] {
        let (_folder, path) = compacted(&run, buckets);
        let new = Run::open(&path).unwrap();
        assert!(new.parts().is_empty() && new.manifest().worker.is_none());
        for score in Score::ALL {
            let table = |run: &Run| text(&ScoreQuestion::new(score).compute(run).unwrap());
            assert_eq!(table(&new), table(&run), "{score} in {buckets} buckets");
        }
        assert_eq!(new.probe_sets().unwrap(), ["test", "third", "other"]);
        for set in ["test", "third"] {
            let question = InfluenceQuestion::new(set);
            let (here, there) = (question.compute(&run).unwrap(), question.compute(&new).unwrap());
            // Of several workers it adds block after block, whose steps lie between each other: another order of sums.
            assert_eq!((here.visits, here.rows.len()), (there.visits, there.rows.len()));
            for (row, about) in here.rows.iter().enumerate() {
                let at = there.row_position(about.example).unwrap();
                assert_eq!(&there.rows[at], about);
                for probe in 0..here.probes.len() {
                    let (own, other) = (here.score(row, probe), there.score(at, probe));
                    assert!((own - other).abs() <= 1e-12, "{set} {own} {other}");
                }
            }
        }
    }
}

fn by_example(influence: &Influence) -> Vec<(u64, u64, String)> {
    let width = influence.probes.len();
    let mut rows: Vec<(u64, u64, String)> = influence
        .rows
        .iter()
        .enumerate()
        .map(|(at, row)| (row.example, row.visits, text(&(&influence.scores[at * width..(at + 1) * width], row.label))))
        .collect();
    rows.sort();
    rows
}

#[test]
fn influence_is_the_same_bit_for_bit() {
    for seed in 10..13 {
        let written = random_run(seed);
        let run = written.run();
        let (_folder, path) = compacted(&run, 4);
        let new = Run::open(&path).unwrap();
        let test = || InfluenceQuestion::new("test");
        for question in [
            test(),
            test().id(3).sketch_errors(),
            test().mean().normalization(Normalization::Cosine),
            test().normalization(Normalization::Relatif).epochs(1..),
            test().id(3).sweeps(),
        ] {
            let (here, there) = (question.compute(&run).unwrap(), question.compute(&new).unwrap());
            assert_eq!(by_example(&there), by_example(&here));
            assert_eq!(there.basis.to_string(), here.basis.to_string());
        }
    }
}

#[cfg(feature = "curvature")]
#[test]
fn curvature_differs_in_the_last_digits_and_the_adjoint_refuses() {
    use crate::{EstimateQuestion, Method};
    let written = random_run(20);
    let run = written.run();
    let (_folder, path) = compacted(&run, 3);
    let new = Run::open(&path).unwrap();
    for method in [Method::InfluenceFunction, Method::Ekfac, Method::DataInf] {
        let answer = |run: &Run| {
            let question = EstimateQuestion::new(InfluenceQuestion::new("test").id(3), method);
            question.plan(run).and_then(|plan| plan.pass(0)).map(|mut answers| answers.remove(0))
        };
        let (here, there) = match (answer(&run), answer(&new)) {
            (Ok(here), Ok(there)) => (here, there),
            (here, there) => panic!("{method:?}: {:?} {:?}", here.err(), there.err()),
        };
        let most =
            here.scores.iter().filter(|score| score.is_finite()).fold(0.0f64, |most, score| most.max(score.abs()));
        for (row, about) in here.rows.iter().enumerate() {
            let other = there.score_of(about.example, 3).unwrap();
            let own = here.score(row, 0);
            assert!((own - other).abs() <= 1e-6 * most || own.is_nan() && other.is_nan(), "{method:?} {own} {other}");
        }
    }
    let question = EstimateQuestion::new(InfluenceQuestion::new("test").id(3), Method::Adjoint);
    let said = question.plan(&new).err().unwrap().to_string();
    assert!(said.contains("is a compacted run") && said.contains("the adjoint"), "{said}");
}

#[test]
fn parts_read_their_own_buckets_and_merge_to_the_same() {
    let written = random_run(30);
    let run = written.run();
    let (_folder, path) = compacted(&run, 6);
    let rows = |run: &Run| {
        let visits = run.scan().filter(|block| block.kind() == Some(BlockKind::Visits));
        visits.map(|block| block.rows()).sum::<usize>()
    };
    let all = rows(&Run::open(&path).unwrap());
    let question = ScoreQuestion::new(Score::Forgetting);
    for of in [1, 2, 3, 4, 6, 7] {
        let mut read = 0;
        let part = |number: u32, read: &mut usize| {
            let share = ExampleShare::new(number, of).unwrap();
            let own = Run::open(&path).unwrap().with_share(number - 1, of);
            *read += rows(&own);
            let part = PartialAnswer::of_scores(&question.clone().share(share), &[&own], None).unwrap();
            (format!("{number}"), part)
        };
        let parts = (1..=of).map(|number| part(number, &mut read)).collect();
        let WholeAnswer::Scores(table) = PartialAnswer::merge(parts).unwrap().answer else { panic!() };
        assert_eq!(text(&table.rows), text(&question.compute(&run).unwrap().rows));
        if 6 % of == 0 {
            assert_eq!(read, all, "each bucket is read by one part of {of}");
        }
    }
}

#[test]
fn what_is_in_the_way_is_named_and_an_interrupted_one_starts_over() {
    let written = random_run(40);
    let run = written.run();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("new");
    // As a call leaves it that was killed.
    let left = folder.path().join(".new.compacting");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("segment-00003.glog"), [7; 100]).unwrap();
    std::fs::write(left.join("manifest"), [7; 100]).unwrap();
    Compaction::new(4).write(&run, &to).unwrap();
    assert!(!left.exists());
    let refused = |result: Result<CompactReport, AnalysisError>| match result {
        Err(AnalysisError::Compact(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(Compaction::new(4).write(&run, &to)), CompactError::Exists { .. }));
    assert!(matches!(refused(Compaction::new(0).write(&run, folder.path().join("x"))), CompactError::Buckets { .. }));
    let new = Run::open(&to).unwrap();
    let again = refused(Compaction::new(4).write(&new, folder.path().join("x")));
    assert!(matches!(again, CompactError::Read(ReadError::Compacted { .. })), "{again}");
    assert!(new.recover(folder.path().join("x")).unwrap_err().to_string().contains("is a compacted run"));
    std::fs::create_dir(folder.path().join(".y.compacting")).unwrap();
    std::fs::write(folder.path().join(".y.compacting/thesis.txt"), "mine").unwrap();
    let said = refused(Compaction::new(4).write(&run, folder.path().join("y"))).to_string();
    assert!(said.contains("thesis.txt") && said.contains("no compaction made"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "{FORMAT_VERSION}");

    let damaged = random_run(41);
    damaged.damage(3, 200);
    let said = refused(Compaction::new(4).write(&damaged.run(), folder.path().join("z"))).to_string();
    assert!(said.contains("damaged"), "{said}");
    assert!(!folder.path().join("z").exists() && !folder.path().join(".z.compacting").exists());
}

/// Peak memory of this process in MB.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1000
}

/// Prints memory and rates: `VISITS=10000000 EXAMPLES=10000000 BUCKETS=64 cargo test --release -p gradlog-analysis
/// --lib -- --ignored --nocapture compaction_measured`.
#[test]
#[ignore = "minutes, and numbers to look at"]
fn compaction_measured() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (count, examples) = (number("VISITS", 1_000_000), number("EXAMPLES", 100_000));
    let buckets = number("BUCKETS", 64) as u32;
    let mut run = Synthetic::new(Encoding::Q8);
    run.without = vec![
        Column::Input,
        Column::Delta,
        Column::Folded,
        Column::El2n,
        Column::Confidence,
        Column::Positions,
        Column::Margin,
    ];
    let mut draws = Draws(1);
    let mut rows: Vec<Visit> = (0..4096).map(|id| draws.visit(id, 0, 0)).collect();
    for first in (0..count).step_by(rows.len()) {
        for (at, row) in (first..).zip(&mut rows) {
            // A fixed walk that meets every example once an epoch.
            (row.example, row.step, row.epoch) = (at * 7_919 % examples, at / 64, (at / examples) as u32);
            row.loss = (at % 1000) as f32 / 500.0;
        }
        run.visits(&rows);
    }
    run.end();
    let written = run.finish();
    let before = peak_megabytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let began = std::time::Instant::now();
    let report = Compaction::new(buckets).memory_bytes(64 << 20).write(&written.run(), &path).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} visits, {} bytes, compact {seconds:.1} s, peak {before} then {} MB",
        report.visits,
        report.bytes,
        peak_megabytes()
    );
    for _ in 0..2 {
        for (name, path) in [("recorded", written.path()), ("compacted", path.as_path())] {
            let run = Run::open(path).unwrap();
            for score in [Score::Loss, Score::Forgetting] {
                let began = std::time::Instant::now();
                let table = ScoreQuestion::new(score).compute(&run).unwrap();
                let rate = table.visits as f64 / began.elapsed().as_secs_f64() / 1e6;
                println!("{name} {score}: {rate:.1} million visits/s, {} examples", table.rows.len());
            }
        }
    }
}
