//! One worker's part: its coefficients, its refusals, and resuming it.

use super::{config, model, RATE};
use crate::common::*;
use gradlog::{Config, RecordError, Recorder, Reduction, Worker};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Run, VerifyReport};
use std::path::Path;

fn worker(rank: u32, workers: u32) -> Option<Worker> {
    Some(Worker { rank, workers, reduction: Reduction::Mean })
}

#[test]
fn the_coefficient_is_that_in_the_step_that_all_make() {
    for (reduction, divisor) in [(Reduction::Mean, 4.0), (Reduction::Sum, 1.0)] {
        let dir = tempfile::tempdir().unwrap();
        let model = model();
        let worker = Worker { rank: 1, workers: 4, reduction };
        let mut recorder = Recorder::create(dir.path(), &model.taps, config(Some(worker))).unwrap();
        model.record_probes(&mut recorder, "test", &[0, 1]);
        model.record_pass(&mut recorder, &[1, 2, 3, 4, 5], Some(&[1.0, 2.0, 1.0, 1.0, 1.0]), RATE);
        recorder.finish().unwrap();
        let own = |c: f32| c / 5.0 / divisor;
        let found = f32s(dir.path(), BlockKind::Visits, Column::Coefficient);
        let expected = [1.0, 2.0, 1.0, 1.0, 1.0].map(own);
        assert!(relative_error(&found, &expected) < 1e-6, "{found:?}");
        // A probe makes no step.
        assert_eq!(f32s(dir.path(), BlockKind::Probes, Column::Coefficient), [0.5, 0.5]);
        // The gradients are the examples' own all the same.
        let first = model.loss_gradient(&model.examples, 1);
        let norm = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm)[0];
        assert!((f64::from(norm) / dot(&first, &first) - 1.0).abs() < 1e-4);
    }
}

#[test]
fn a_part_that_does_not_fit_is_refused_when_it_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let says = |dir: &Path, config: Config, words: &str| {
        let error = Recorder::create(dir, &super::model().taps, config).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
        error
    };
    let run = dir.path().join("run");
    says(&run, config(worker(3, 3)), "worker 3 of 3");
    says(&run, config(worker(0, 0)), "worker 0 of 0");
    assert!(!run.exists(), "nothing was made");
    let first = Recorder::create(&run, &model.taps, config(worker(0, 3))).unwrap();
    says(&run, config(worker(0, 3)), "is being written by another recorder");
    let error = says(&run, config(worker(1, 2)), "the number of workers is 3");
    assert!(matches!(error, RecordError::Worker(_)));
    says(&run, Config { seed: 5, ..config(worker(1, 3)) }, "the seed is 0 in the part of worker 0 and 5");
    says(&run, config(None), "holds the parts of several workers");
    first.finish().unwrap();
    says(&run, config(worker(0, 3)), "holds a run already");
    let whole = dir.path().join("whole");
    Recorder::create(&whole, &model.taps, config(None)).unwrap().finish().unwrap();
    says(&whole, config(worker(0, 3)), "holds a run of one recorder");
}

/// Two workers of which each has recorded so many steps.
struct Two {
    dir: tempfile::TempDir,
    models: [Network; 2],
}

impl Two {
    fn new(counts: [u64; 2]) -> Self {
        let two = Self { dir: tempfile::tempdir().unwrap(), models: [model(), model()] };
        for (rank, count) in counts.into_iter().enumerate() {
            let mut recorder =
                Recorder::create(two.dir.path(), &two.models[rank].taps, config(worker(rank as u32, 2))).unwrap();
            two.record_steps(&mut recorder, rank, count);
            recorder.finish().unwrap();
        }
        two
    }

    fn record_steps(&self, recorder: &mut Recorder, rank: usize, count: u64) {
        for i in 0..count {
            self.models[rank].record_pass(recorder, &[i, i + 1], None, RATE);
        }
    }

    fn resume(&self, rank: usize, workers: u32) -> Result<Recorder, RecordError> {
        Recorder::resume(self.dir.path(), &self.models[rank].taps, config(worker(rank as u32, workers)))
    }

    fn resume_at(&self, rank: usize, step: u64) -> Recorder {
        let config = config(worker(rank as u32, 2));
        Recorder::resume_at(self.dir.path(), &self.models[rank].taps, config, step).unwrap()
    }

    /// Both resume and record `count` steps. The first has recorded its steps before the second resumes.
    fn resume_both(&self, count: u64, resume: impl Fn(usize) -> Recorder) -> VerifyReport {
        let mut first = resume(0);
        self.record_steps(&mut first, 0, count);
        first.flush().unwrap();
        let mut second = resume(1);
        self.record_steps(&mut second, 1, count);
        first.finish().unwrap();
        second.finish().unwrap();
        Run::open(self.dir.path()).unwrap().verify().unwrap()
    }
}

#[test]
fn workers_that_ended_at_different_steps_do_not_resume() {
    let two = Two::new([6, 4]);
    let error = two.resume(1, 2).err().unwrap();
    assert!(matches!(error, RecordError::Resume(_)) && error.to_string().contains("worker 0 has 6"), "{error}");
    let error = two.resume(1, 3).err().unwrap();
    assert!(error.to_string().contains("the number of workers is 2"), "{error}");
}

#[test]
fn workers_resume_at_a_checkpoint_that_both_have() {
    let two = Two::new([6, 4]);
    let report = two.resume_both(2, |rank| two.resume_at(rank, 3));
    assert_eq!((report.visits, report.steps, report.superseded, report.finished), (20, 5, 8, true));
}

#[test]
fn workers_that_ended_at_one_step_resume_there() {
    let two = Two::new([5, 5]);
    let report = two.resume_both(3, |rank| two.resume(rank, 2).unwrap());
    assert_eq!((report.visits, report.steps, report.superseded), (32, 8, 0));
}
