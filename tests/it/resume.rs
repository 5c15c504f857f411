//! Going on with a run: after the end, after a crash, from an earlier checkpoint, and not with another model.

use crate::common::*;
use candle_core::{Device, Module, Tensor};
use candle_nn::Linear;
use gradlog::taps::{Tapped, Taps};
use gradlog::{Config, RecordError, Recorder};
use gradlog_analysis::{InfluenceQuestion, Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use gradlog_format::sketch::SketchConfig;
use std::path::Path;

fn model(outputs: usize) -> (Taps, Tapped<Linear>) {
    let OneLayer { taps, layer, .. } = one_layer(outputs);
    (taps, layer)
}

/// One step over two examples whose ids say when they were recorded.
fn record_step(recorder: &mut Recorder, layer: &Tapped<Linear>, id: u64) {
    let y = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let mut probe = recorder.probe("test", &[7]).unwrap();
    let loss = probe.cross_entropy(&layer.forward(&noise(3, &[1, 4])).unwrap(), &y.narrow(0, 0, 1).unwrap()).unwrap();
    loss.backward().unwrap();
    probe.commit().unwrap();
    let mut pass = recorder.pass(&[id, id + 1000]).unwrap();
    let loss = pass.cross_entropy(&layer.forward(&noise(id, &[2, 4])).unwrap(), &y).unwrap();
    loss.backward().unwrap();
    pass.commit(0.1).unwrap();
}

/// Examples below 1000 with the step of each, in the order of the log.
fn examples_by_step(dir: &Path) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for block in blocks(dir, BlockKind::Visits) {
        let (ids, steps) = (block.u64s(Column::Example).unwrap(), block.u64s(Column::Step).unwrap());
        assert_eq!((ids.len(), steps.len()), (block.rows(), block.rows()));
        found.extend(ids.into_iter().zip(steps).filter(|(id, _)| *id < 1000));
    }
    found
}

#[test]
fn a_finished_run_goes_on_at_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    (0..3).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    let mut recorder = Recorder::resume(dir.path(), &taps, Config::default()).unwrap();
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_none());
    (3..5).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    assert_eq!(examples_by_step(dir.path()), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert!(report.finished && report.damage.is_none());
    assert_eq!((report.visits, report.superseded, report.steps), (10, 0, 5));
    assert_eq!(run.probe_sets().unwrap(), ["test"], "the set keeps its number");
    assert_eq!(InfluenceQuestion::new("test").id(7).compute(&run).unwrap().visits, 10);
}

#[test]
fn what_came_after_the_checkpoint_is_superseded_not_counted_twice_and_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    (0..6).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    let before = std::fs::read(dir.path().join("segment-00000.glog")).unwrap();
    // Back to the checkpoint before step 4, and then, after a second crash, to the one before step 2.
    let mut recorder = Recorder::resume_at(dir.path(), &taps, Config::default(), 4).unwrap();
    (14..17).for_each(|id| record_step(&mut recorder, &layer, id));
    drop(recorder);
    assert_eq!(examples_by_step(dir.path()), [(0, 0), (1, 1), (2, 2), (3, 3), (14, 4), (15, 5), (16, 6)]);
    let mut recorder = Recorder::resume_at(dir.path(), &taps, Config::default(), 2).unwrap();
    (22..24).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    assert_eq!(examples_by_step(dir.path()), [(0, 0), (1, 1), (22, 2), (23, 3)]);
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert_eq!((report.visits, report.superseded, report.steps), (8, 14, 4));
    assert!(report.damage.is_none());
    assert_eq!(std::fs::read(dir.path().join("segment-00000.glog")).unwrap(), before, "nothing is deleted");
    // What was written in all sessions, superseded or not.
    let last = run.scan().last().unwrap();
    assert_eq!((last.kind(), last.u64s(Column::Visits).unwrap()), (Some(BlockKind::End), vec![22]));
    let table = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    assert_eq!((table.visits, table.rows.len()), (8, 8));
    assert_eq!(InfluenceQuestion::new("test").id(7).compute(&run).unwrap().visits, 8);
    // The probe before step 2 was taken at the weights that the training came back to, and stays beside the new one.
    let probes = u64s(dir.path(), BlockKind::Probes, Column::Step);
    assert_eq!(probes, [0, 1, 2, 2, 3]);
}

#[test]
fn a_run_whose_recorder_died_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    (0..3).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.flush().unwrap();
    // What a killed process leaves: a segment with a tail of zeros, and one that was made and never written to.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    recorder.finish().unwrap();
    std::fs::write(copy.path().join("segment-00001.glog"), vec![0u8; 1 << 16]).unwrap();
    let mut recorder = Recorder::resume(copy.path(), &taps, Config::default()).unwrap();
    (3..5).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    assert_eq!(examples_by_step(copy.path()), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
}

#[test]
fn a_run_goes_on_behind_what_is_not_superseded() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    // One block holds all six steps.
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    (0..6).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    let mut recorder = Recorder::resume_at(dir.path(), &taps, Config::default(), 2).unwrap();
    record_step(&mut recorder, &layer, 12);
    recorder.finish().unwrap();
    let mut recorder = Recorder::resume(dir.path(), &taps, Config::default()).unwrap();
    record_step(&mut recorder, &layer, 13);
    recorder.finish().unwrap();
    assert_eq!(examples_by_step(dir.path()), [(0, 0), (1, 1), (12, 2), (13, 3)]);
}

#[test]
fn a_run_with_a_hole_of_zeros_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    for id in 0..4 {
        record_step(&mut recorder, &layer, id);
        recorder.flush().unwrap();
    }
    recorder.finish().unwrap();
    // A page that was lost in a power cut reads as zeros: here the header of a block in the middle.
    let path = dir.path().join("segment-00000.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    let headers: Vec<usize> =
        (0..bytes.len() / 8).map(|i| 8 * i).filter(|&i| bytes[i..].starts_with(b"GBLK")).collect();
    let hole = headers[headers.len() / 2];
    bytes[hole..hole + 64].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let error = Recorder::resume(dir.path(), &taps, Config::default()).err().unwrap().to_string();
    assert!(error.contains("zeros") && error.contains("gradlog recover"), "{error}");
}

#[test]
fn another_model_another_scheme_a_damaged_run_and_no_run_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    let says = |taps: &Taps, config: Config, words: &str| {
        let error = Recorder::resume(dir.path(), taps, config).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
        error
    };
    let differs = |taps: &Taps, config: Config, words: &str| {
        assert!(matches!(says(taps, config, words), RecordError::Differs { .. }), "{words}");
    };
    let none = says(&taps, Config::default(), "there is no run in");
    assert!(matches!(none, RecordError::NoRun { path } if path == dir.path()));
    let nowhere = dir.path().join("nowhere");
    let none = Recorder::resume_at(&nowhere, &taps, Config::default(), 1).err().unwrap();
    assert!(matches!(none, RecordError::NoRun { path } if path == nowhere));
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    (0..3).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    differs(&model(5).0, Config::default(), "layer `fc` had weight [");
    differs(&Taps::new(), Config::default(), "it has 1 layers, now there are 0");
    differs(&taps, Config { seed: 5, ..Config::default() }, "the seed was 0, now it is 5");
    let seed = Recorder::resume(dir.path(), &taps, Config { seed: 5, ..Config::default() }).err().unwrap();
    assert!(!seed.to_string().contains("layer `fc`"), "the layer is the same: {seed}");
    differs(&taps, Config { sketch: SketchConfig::exact(), ..Config::default() }, "the sketches were");
    let path = dir.path().join("segment-00000.glog");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(says(&taps, Config::default(), "gradlog recover"), RecordError::Resume(_)));
    // A run that lost its manifest is damaged, not absent.
    std::fs::remove_file(dir.path().join("manifest")).unwrap();
    assert!(matches!(says(&taps, Config::default(), "no file `manifest`"), RecordError::Resume(_)));
}

/// The training ran on without its log, and its checkpoint is later than the log's end.
#[test]
fn steps_behind_the_end_of_the_log_are_called_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, layer) = model(3);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    recorder.set_epoch(4);
    (0..3).for_each(|id| record_step(&mut recorder, &layer, id));
    recorder.finish().unwrap();
    let mut recorder = Recorder::resume_at(dir.path(), &taps, Config::default(), 10).unwrap();
    record_step(&mut recorder, &layer, 10);
    recorder.finish().unwrap();
    assert_eq!(examples_by_step(dir.path()), [(0, 0), (1, 1), (2, 2), (10, 10)]);
    let run = Run::open(dir.path()).unwrap();
    let report = run.verify().unwrap();
    assert_eq!((report.unknown_steps, report.dropped, report.damage), (7, 0, None));
    let gaps = blocks(dir.path(), BlockKind::Gaps);
    assert_eq!((gaps[0].steps(), gaps[0].epochs()), ((3, 3), (4, 4)));
    let summary = gradlog_analysis::SummaryQuestion::new().compute(&run).unwrap();
    assert_eq!((summary.unknown_steps, summary.first_gap), (7, Some(3)));
    let said = gradlog(&["verify", dir.path().to_str().unwrap()]);
    assert!(said.err.contains("knows nothing of 7 steps"), "{}", said.err);
    // Resumed at the end, or before it, there is nothing unknown.
    let recorder = Recorder::resume_at(dir.path(), &taps, Config::default(), 11).unwrap();
    recorder.finish().unwrap();
    assert_eq!(run.verify().unwrap().unknown_steps, 7);
    // Steps behind the last number cannot be counted.
    let error = Recorder::resume_at(dir.path(), &taps, Config::default(), u64::MAX).err().unwrap().to_string();
    assert!(error.contains("2^62"), "{error}");
    Recorder::resume_at(dir.path(), &taps, Config::default(), 2).unwrap().finish().unwrap();
    assert_eq!(Run::open(dir.path()).unwrap().verify().unwrap().unknown_steps, 0, "superseded");
}
