//! Resumes runs that another recorder has just written to, and runs whose recorder stopped in the middle of writing.

use super::*;
use crate::taps::Taps;
use crate::Recorder;
use candle_core::{DType, Device, Tensor};
use gradlog_format::log::{segment_path, BlockBuilder, SEGMENT_HEADER_BYTES};
use std::cell::RefCell;

fn step(recorder: &mut Recorder) {
    let mut pass = recorder.pass(&[1, 2]).unwrap();
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    pass.cross_entropy(&logits, &Tensor::new(&[0u32, 1], &Device::Cpu).unwrap()).unwrap();
    pass.commit(0.1).unwrap();
}

/// Records `steps` steps, from the beginning or from where the run ends.
fn record(dir: &Path, steps: u64) {
    let begin = if dir.join("manifest").exists() { Recorder::resume } else { Recorder::create };
    let mut recorder = begin(dir, &Taps::new(), Config::default()).unwrap();
    (0..steps).for_each(|_| step(&mut recorder));
    recorder.finish().unwrap();
}

fn refuse(error: ReadError) -> RecordError {
    RecordError::Resume(error.to_string())
}

/// The steps, the step of each visit, and the number of missing visits, as a reader sees them.
fn read_steps(dir: &Path) -> (Vec<u64>, Vec<u64>, u64) {
    let run = Run::open(dir).unwrap();
    let report = run.verify().unwrap();
    assert!(report.damage.is_none() && report.finished, "{report:?}");
    let steps = |kind| {
        let blocks = run.scan().filter(|block| block.kind() == Some(kind));
        blocks.flat_map(|block| block.u64s(Column::Step).unwrap()).collect()
    };
    (steps(BlockKind::Steps), steps(BlockKind::Visits), report.dropped)
}

thread_local! {
    /// A recorder that ends between reading and locking.
    static ENDING: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

#[test]
fn rows_of_another_recorder_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
    (0..2).for_each(|_| step(&mut other));
    other.flush().unwrap();
    ENDING.set(Some(other));
    // It ends within its segment, so the next segment is still free.
    let overtaken = |dir: &Path, place: ResumePlace, options: WriterOptions| {
        if let Some(mut other) = ENDING.take() {
            (0..3).for_each(|_| step(&mut other));
            other.finish().unwrap();
        }
        LogWriter::resume(dir, place, options)
    };
    let (past, writer) = lock_end(dir.path(), None, &Config::default(), overtaken, refuse).unwrap();
    assert_eq!(past.step, 5);
    drop(writer);
    // Each time, another recorder begins a segment and ends.
    let always = |dir: &Path, place: ResumePlace, options: WriterOptions| {
        record(dir, 1);
        LogWriter::resume(dir, place, options)
    };
    let error = lock_end(dir.path(), None, &Config::default(), always, refuse).err().unwrap();
    assert!(error.to_string().contains("try again"), "{error}");
    record(dir.path(), 1);
    assert_eq!(read_steps(dir.path()).0, (0..9).collect::<Vec<u64>>());
}

/// A run of two steps, and the rows of two more steps whose visits were not written.
fn record_unfinished_steps(dir: &Path) {
    record(dir, 2);
    let (_, place) = read_past(&Run::open(dir).unwrap(), None, 0).unwrap();
    let mut writer = LogWriter::resume(dir, place, Config::default().writer_options()).unwrap();
    let mut steps = BlockBuilder::new(BlockKind::Steps);
    for number in [2, 3] {
        steps.u64s(Column::Step, [number]);
        steps.u32s(Column::Epoch, [0]);
        steps.f32s(Column::LearningRate, [0.1]);
        steps.u32s(Column::BatchSize, [2]);
        steps.advance(1, number, 0);
    }
    writer.append(&mut steps).unwrap();
    writer.finish().unwrap();
}

#[test]
fn steps_without_visits_are_recorded_again() {
    let dir = tempfile::tempdir().unwrap();
    record_unfinished_steps(dir.path());
    record(dir.path(), 3);
    assert_eq!(read_steps(dir.path()), (vec![0, 1, 2, 3, 4], vec![0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 0));
}

#[test]
fn steps_without_visits_are_a_gap_if_the_training_goes_on_after_them() {
    let dir = tempfile::tempdir().unwrap();
    record_unfinished_steps(dir.path());
    let mut recorder = Recorder::resume_at(dir.path(), &Taps::new(), Config::default(), 3).unwrap();
    step(&mut recorder);
    recorder.finish().unwrap();
    assert_eq!(read_steps(dir.path()), (vec![0, 1, 2, 3], vec![0, 0, 1, 1, 3, 3], 2));
}

#[test]
fn a_run_with_a_damaged_column_cannot_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 20);
    let path = segment_path(dir.path(), 0);
    let end_of_visits = {
        let run = Run::open(dir.path()).unwrap();
        let kinds: Vec<_> = run.scan().map(|block| (block.kind(), block.bytes())).collect();
        let last = kinds.iter().position(|(kind, _)| *kind == Some(BlockKind::Visits)).unwrap();
        kinds[..=last].iter().fold(SEGMENT_HEADER_BYTES, |sum, (_, bytes)| sum + *bytes as usize)
    };
    let mut bytes = std::fs::read(&path).unwrap();
    // Up to seven bytes of padding may follow.
    bytes[end_of_visits - 10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Recorder::resume(dir.path(), &Taps::new(), Config::default()).err().unwrap().to_string();
    assert!(error.contains("checksum") && error.contains("gradlog recover"), "{error}");
}
