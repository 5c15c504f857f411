//! The edges of FORMAT.md that only questions meet: several records of one probe, sets of one name, absent columns.

use crate::{AnalysisError, InfluenceQuestion, Score, ScoreQuestion, SummaryQuestion, Window};
use gradlog_format::log::Column;
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Synthetic, Visit};
use std::sync::Arc;
use tempfile::TempDir;

fn drawn(seed: u64, example: u64, step: u64) -> Visit {
    Draws(seed).visit(example, step, 0)
}

/// The influence on one probe of a run of one recorder that has this one record of it.
fn expected(probe: &Visit, visits: &[Visit]) -> Vec<f64> {
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(std::slice::from_ref(probe));
    run.visits(visits);
    scores(&run.finish().run())
}

fn scores(run: &Run) -> Vec<f64> {
    let found = InfluenceQuestion::new("test").id(7).compute(run).unwrap();
    (0..found.rows.len()).map(|row| found.score(row, 0)).collect()
}

#[test]
fn the_last_record_of_a_probe_counts_and_of_several_workers_that_of_the_highest_rank() {
    let records = [1, 2, 3].map(|seed| drawn(seed, 7, 4));
    let visits = [4, 5].map(|step| drawn(9, 1, step));
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&records[..2]);
    run.probes(&records[2..]);
    run.visits(&visits);
    assert_eq!(scores(&run.finish().run()), expected(&records[2], &visits));
    // Visits before it decide which worker's probes are read first.
    for early in [vec![0, 1], vec![0, 1, 2, 3]] {
        let dir = Arc::new(TempDir::new().unwrap());
        let before: Vec<Visit> = early.iter().map(|step| drawn(8, 2, *step)).collect();
        for rank in 0..2u32 {
            let mut part = Synthetic::part(dir.clone(), Some((rank, 2)), Encoding::F32);
            part.set(0, "test");
            let blocks = if rank == 0 { before.chunks(1) } else { before.chunks(before.len()) };
            blocks.for_each(|rows| part.visits(rows));
            part.probes(&records[rank as usize..=rank as usize]);
            part.visits(&visits[rank as usize..=rank as usize]);
            part.end();
            part.finish();
        }
        // The visits before have no probe yet, and their example has no score.
        let found: Vec<f64> = scores(&Run::open(dir.path()).unwrap()).into_iter().filter(|s| !s.is_nan()).collect();
        assert_eq!(found, expected(&records[1], &visits), "{early:?}");
    }
}

#[test]
fn a_sweep_of_several_workers_counts_that_of_the_highest_rank() {
    let dir = Arc::new(TempDir::new().unwrap());
    for rank in 0..2u32 {
        let mut part = Synthetic::part(dir.clone(), Some((rank, 2)), Encoding::F32);
        // That of the first worker is read last.
        if rank == 0 {
            part.visits(&[drawn(8, 2, 0)]);
            part.visits(&[drawn(8, 2, 5)]);
        }
        part.sweeps(&[Visit { loss: 1.0 + rank as f32, ..drawn(3, 1, 0) }]);
        part.visits(&[drawn(8, 2, 6)]);
        part.end();
        part.finish();
    }
    let table = ScoreQuestion::new(Score::Loss).window(Window::sweep_at(0)).compute(&Run::open(dir.path()).unwrap());
    let table = table.unwrap();
    assert_eq!((table.rows[0].score, table.left_out.replaced), (2.0, 1));
}

#[test]
fn sets_of_one_name_are_one_set_to_every_question() {
    let visits = [4, 5].map(|step| drawn(9, 1, step));
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.set(1, "other");
    run.set(2, "test");
    run.probes(&[drawn(1, 7, 4)]);
    run.probes(&[Visit { set: 2, ..drawn(2, 7, 5) }, Visit { set: 2, ..drawn(2, 8, 5) }]);
    run.visits(&visits);
    let written = run.finish();
    let summary = SummaryQuestion::new().compute(&written.run()).unwrap();
    let names: Vec<&str> = summary.probes.iter().map(|set| set.name.as_str()).collect();
    assert_eq!(names, ["test", "other"]);
    let test = &summary.probes[0];
    assert_eq!((test.visits, test.examples, test.times.as_slice()), (3, 2, &[4, 5][..]));
    let found = InfluenceQuestion::new("test").compute(&written.run()).unwrap();
    assert_eq!(found.probes.iter().map(|probe| (probe.id, probe.times)).collect::<Vec<_>>(), [(7, 2), (8, 1)]);
    assert_eq!(written.run().probe_sets().unwrap(), ["test", "other", "test"], "by number");
}

#[test]
fn a_column_that_is_absent_is_named_and_clip_is_one_without() {
    let all = [0, 1].map(|step| Visit { clip: 1.0, ..drawn(9, 1, step) });
    let of = |without: &[Column], score: Score| {
        let mut run = Synthetic::new(Encoding::F32);
        run.without = without.to_vec();
        run.visits(&all);
        ScoreQuestion::new(score).compute(&run.finish().run())
    };
    let whole = of(&[], Score::SelfInfluence).unwrap();
    assert_eq!(of(&[Column::Clip], Score::SelfInfluence).unwrap().rows, whole.rows);
    for (column, words) in [
        (Column::LearningRate, "no learning rates of its visits"),
        (Column::Coefficient, "no weights of its visits in the loss"),
        (Column::SquaredNorm, "no gradients"),
    ] {
        let error = of(&[column], Score::SelfInfluence).unwrap_err();
        assert!(matches!(error, AnalysisError::Missing { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(of(&[Column::LearningRate, Column::Coefficient], Score::Grand).is_ok(), "it needs neither");
    assert!(of(&[Column::Loss], Score::Loss).unwrap_err().to_string().contains("no losses"));
}
