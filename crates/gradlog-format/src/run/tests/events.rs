//! Events, which were added to version 1: a run of its own in `tests/data/v1-events`, made once by hand (`cargo test -p
//! gradlog-format --lib -- --ignored make_the_fixture_of_events`).

use super::*;
use crate::log::{EventAction, EventKind};
use std::path::PathBuf;

/// Step, kind, action, example, layer, value, limit, reference, count.
type Row = (u64, u8, u8, u64, u32, f32, f32, f32, u64);

const NONE: u64 = u64::MAX;
const NO_LAYER: u32 = u32::MAX;
const ROWS: [Row; 7] = [
    (0, 1, 0, 7, NO_LAYER, f32::NAN, f32::NAN, f32::NAN, 1),
    (2, 3, 0, 40312, 1, 14.5, 10.0, 1.0, 1),
    (2, 3, 0, NONE, NO_LAYER, 14.5, 10.0, 1.0, 12),
    (3, 4, 2, NONE, NO_LAYER, 2.5, 1.5, 0.5, 1),
    (3, 2, 1, 9, 0, f32::INFINITY, f32::NAN, f32::NAN, 1),
    // A kind and an action of a newer version.
    (4, 200, 0, 3, 0, 1.0, 1.0, 1.0, 1),
    (4, 3, 200, 3, 0, 1.0, 1.0, 1.0, 1),
];

fn block(rows: &[Row], without: Option<Column>) -> BlockBuilder {
    let mut b = BlockBuilder::new(BlockKind::Events);
    let has = |column: Column| without != Some(column);
    for (step, kind, action, example, layer, value, limit, reference, count) in rows.iter().copied() {
        for (column, number) in [(Column::Step, step), (Column::Example, example), (Column::Count, count)] {
            if has(column) {
                b.u64s(column, [number]);
            }
        }
        for (column, number) in [(Column::Epoch, 1), (Column::Layer, layer)] {
            if has(column) {
                b.u32s(column, [number]);
            }
        }
        for (column, number) in [(Column::Value, value), (Column::Limit, limit), (Column::Reference, reference)] {
            if has(column) {
                b.f32s(column, [number]);
            }
        }
        for (column, number) in [(Column::EventKind, kind), (Column::EventAction, action)] {
            if has(column) {
                b.column(column, Cells::U8, 1).push(number);
            }
        }
        b.advance(1, step, 1);
    }
    b
}

fn options() -> WriterOptions {
    WriterOptions { segment_bytes: 1 << 14, zstd_level: 1 }
}

fn write(dir: &Path, blocks: Vec<BlockBuilder>) {
    let mut writer = LogWriter::create_on(Box::new(MmapStorage::default()), dir, &manifest(), options()).unwrap();
    for mut block in blocks {
        writer.append(&mut block).unwrap();
    }
    writer.finish().unwrap();
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-events")
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_events() {
    write(&fixture(), vec![block(&ROWS[..3], None), block(&ROWS[3..], None)]);
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

fn read_events(dir: &Path) {
    let run = Run::open(dir).unwrap();
    assert!(run.verify().unwrap().damage.is_none());
    let events = run.events().unwrap();
    let seen: Vec<_> =
        events.iter().map(|e| (e.step, e.epoch, e.kind, e.example, e.layer, e.action, e.count)).collect();
    let (went_on, stopped) = (EventAction::WentOn, EventAction::Stopped);
    let expected = [
        (0, 1, EventKind::NonFiniteLoss, Some(7), None, went_on, 1),
        (2, 1, EventKind::LargeGradient, Some(40312), Some(1), went_on, 1),
        (2, 1, EventKind::LargeGradient, None, None, went_on, 12),
        (3, 1, EventKind::Divergence, None, None, stopped, 1),
        (3, 1, EventKind::NonFiniteGradient, Some(9), Some(0), EventAction::Skipped, 1),
    ];
    assert_eq!(seen, expected, "rows of newer kinds and actions are passed over");
    assert_eq!((events[1].value, events[1].limit, events[1].reference), (14.5, 10.0, 1.0));
    assert!(events[0].value.is_nan() && events[0].limit.is_nan() && events[4].value == f32::INFINITY);
    let said: Vec<String> = events.iter().map(|event| event.sentence(run.manifest())).collect();
    assert_eq!(said[0], "step 0: the loss is NaN at example 7");
    assert!(said[1].starts_with("step 2: the gradient of example 40312 is 14 times"), "{}", said[1]);
    assert!(said[2].contains("the gradients of 12 more examples are up to 14 times"), "{}", said[2]);
    assert!(said[3].contains("its running mean is 2.50, and 0.50 was the least so far; the step was not taken"));
    let name = &run.manifest().layers[0].name;
    assert!(said[4].contains(&format!("first in layer `{name}`; the step was skipped")), "{}", said[4]);
}

#[test]
fn the_fixture_and_a_new_run_are_read() {
    read_events(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), vec![block(&ROWS[..3], None), block(&ROWS[3..], None)]);
    read_events(dir.path());
    // A recovery keeps them.
    let saved = tempfile::tempdir().unwrap();
    Run::open(dir.path()).unwrap().recover(saved.path().join("run")).unwrap();
    read_events(&saved.path().join("run"));
}

#[test]
fn a_resumption_supersedes_events_of_its_step_and_later() {
    for (step, rows) in [(0, 0), (2, 1), (3, 3), (5, 5)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), vec![block(&ROWS, None)]);
        let place = {
            let run = Run::open(dir.path()).unwrap();
            let mut scan = run.part_scan();
            scan.by_ref().for_each(drop);
            let (next_segment, sequence) = scan.place();
            let run_id = run.manifest().run_id;
            crate::log::ResumePlace { run_id, next_segment, sequence, step, totals: Default::default() }
        };
        let mut writer = LogWriter::resume(dir.path(), place, options()).unwrap();
        // A session without a block leaves no segment.
        writer.append_gap(step, 1, 1).unwrap();
        writer.finish().unwrap();
        let run = Run::open(dir.path()).unwrap();
        assert_eq!(run.events().unwrap().len(), rows, "resumed at {step}");
        assert!(run.verify().unwrap().damage.is_none());
    }
}

#[test]
fn a_block_without_a_column_is_damage() {
    use Column::{Count, Epoch, EventAction, EventKind, Example, Layer, Limit, Reference, Step, Value};
    for column in [Step, Epoch, EventKind, EventAction, Example, Layer, Value, Limit, Reference, Count] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), vec![block(&ROWS, Some(column))]);
        let run = Run::open(dir.path()).unwrap();
        assert!(run.events().map_or(true, |events| events.is_empty()), "{column:?}");
        assert!(run.verify().unwrap().damage.is_some(), "{column:?}");
    }
}
