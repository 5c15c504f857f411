//! Tables of made-up runs against the visits that they were made of.

use super::{Record, RecordQuestion};
use crate::TableError;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_select::concat::concat_batches;
use gradlog_analysis::Window;
use gradlog_format::log::{encode_row, CardKind, Column, EventKind, FindingKind, PredictionScore, UpdateRule};
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, run_of, visits, Draws, Synthetic, Visit};
use half::bf16;
use std::sync::Arc;

fn read(question: &RecordQuestion, run: &Run) -> RecordBatch {
    let mut batches = Vec::new();
    let read = question.read(run, |batch| {
        batches.push(batch);
        Ok(())
    });
    let (read, schema) = (read.unwrap(), question.schema(run).unwrap());
    let whole = concat_batches(&schema, &batches).unwrap();
    assert_eq!(read.rows, whole.num_rows() as u64);
    whole
}

fn u64s(batch: &RecordBatch, name: &str) -> Vec<Option<u64>> {
    batch[name].as_primitive::<UInt64Type>().iter().collect()
}

fn u32s(batch: &RecordBatch, name: &str) -> Vec<Option<u32>> {
    batch[name].as_primitive::<UInt32Type>().iter().collect()
}

fn f32s(batch: &RecordBatch, name: &str) -> Vec<Option<f32>> {
    batch[name].as_primitive::<Float32Type>().iter().collect()
}

fn words(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch[name].as_string::<i32>().iter().map(|word| word.map(str::to_owned)).collect()
}

fn some<T>(rows: &[Visit], value: impl Fn(&Visit) -> T) -> Vec<Option<T>> {
    rows.iter().map(|row| Some(value(row))).collect()
}

#[test]
fn visits_are_those_that_were_written() {
    let mut rows = visits(&mut Draws(1), 40, 5, 8);
    rows[3].label = Column::NO_CLASS;
    rows[4].loss = f32::NAN;
    rows[4].flags = Column::FLAG_NOT_FINITE;
    rows[5].squared_norm = -1e-20;
    rows[6].flags = Column::FLAG_NO_WEIGHT | Column::FLAG_NORM_ESTIMATED;
    let written = run_of(&rows, 17);
    let table = read(&RecordQuestion::new(Record::Visits), &written.run());
    assert_eq!(u64s(&table, "example"), some(&rows, |row| row.example));
    assert_eq!(u64s(&table, "step"), some(&rows, |row| row.step));
    assert_eq!(u32s(&table, "epoch"), some(&rows, |row| row.epoch));
    assert_eq!(f32s(&table, "margin"), some(&rows, |row| row.margin));
    let losses = f32s(&table, "loss");
    assert!(losses[4].is_some_and(f32::is_nan), "a NaN that was recorded is no null");
    assert_eq!(losses[..4], some(&rows[..4], |row| row.loss));
    let labels = u32s(&table, "label");
    assert_eq!((labels[3], labels[4]), (None, Some(rows[4].label)));
    let norms = table["squared_norm"].as_primitive::<Float64Type>();
    assert_eq!(norms.value(5), (-1e-20f32 as f64).powi(2), "a small norm is decoded");
    assert_eq!(norms.value(7), f64::from(rows[7].squared_norm));
    let flag = |name: &str| -> Vec<usize> {
        let flags = table[name].as_boolean();
        (0..flags.len()).filter(|row| flags.value(*row)).collect()
    };
    assert_eq!((flag("not_finite"), flag("no_weight"), flag("norm_estimated")), (vec![4], vec![6], vec![6]));
    assert!(flag("no_gradient").is_empty());
    // What the run did not record is null, and stays a column.
    for name in ["target", "output", "worker", "preconditioned_squared_norm"] {
        assert_eq!(table[name].null_count(), rows.len(), "{name}");
    }
}

#[test]
fn columns_and_windows_choose() {
    let rows = visits(&mut Draws(2), 30, 6, 8);
    let written = run_of(&rows, 25);
    let question = RecordQuestion::new(Record::Visits).columns(["loss", "example"]);
    let table = read(&question, &written.run());
    let names: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["loss", "example"]);
    for window in [Window::epochs(2..4), Window::steps(5..9), Window::epochs(1..).with_steps(..12), Window::epochs(9..)]
    {
        let inside = |row: &&Visit| {
            window.epochs.as_ref().is_none_or(|epochs| epochs.contains(&row.epoch))
                && window.steps.as_ref().is_none_or(|steps| steps.contains(&row.step))
        };
        let expected: Vec<Visit> = rows.iter().filter(inside).cloned().collect();
        let table = read(&question.clone().window(window.clone()), &written.run());
        assert_eq!(u64s(&table, "example"), some(&expected, |row| row.example), "{window}");
        assert_eq!(f32s(&table, "loss"), some(&expected, |row| row.loss), "{window}");
    }
    let schema = |names: &[&str]| RecordQuestion::new(Record::Visits).columns(names.to_vec()).schema(&written.run());
    assert!(matches!(schema(&["loss", "lost"]), Err(TableError::NoColumn { column, .. }) if column == "lost"));
    assert!(matches!(schema(&["loss", "loss"]), Err(TableError::Twice(name)) if name == "loss"));
    // No columns are still so many rows.
    let none = RecordQuestion::new(Record::Visits).columns(Vec::<String>::new());
    assert_eq!(none.read(&written.run(), |_| Ok(())).unwrap().rows, rows.len() as u64);
}

#[test]
fn probes_have_the_name_of_their_set_and_what_they_are() {
    let mut draws = Draws(3);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.set(1, "hard");
    let mut rows: Vec<Visit> = (0..6).map(|id| draws.visit(id, 4, 1)).collect();
    rows.iter_mut().for_each(|row| row.set = u32::from(row.example % 2 == 1));
    run.probes(&rows);
    let scored: Vec<Visit> =
        (0..2).map(|id| Visit { scored: Some((PredictionScore::LogOdds, 7)), ..draws.visit(id, 5, 1) }).collect();
    run.probes(&scored);
    let weighed: Vec<Visit> = (0..2).map(|id| Visit { curvature_weight: Some(0.5), ..draws.visit(id, 5, 1) }).collect();
    run.probes(&weighed);
    run.preconditioned_probes(&rows);
    let written = run.finish();
    let table = read(&RecordQuestion::new(Record::Probes), &written.run());
    let sets: Vec<String> = words(&table, "set").into_iter().flatten().collect();
    assert_eq!(sets[..6], ["test", "hard", "test", "hard", "test", "hard"]);
    assert_eq!(words(&table, "prediction_score")[5..9], [None, Some("log_odds".into()), Some("log_odds".into()), None]);
    assert_eq!(u32s(&table, "scored_class")[5..9], [None, Some(7), Some(7), None]);
    assert_eq!(f32s(&table, "curvature_weight")[7..11], [None, Some(0.5), Some(0.5), None]);
    assert_eq!(words(&table, "preconditioner")[9..11], [None, Some("second_moments".into())]);
    assert_eq!(u64s(&table, "step")[..6], some(&rows, |row| row.step));
}

#[test]
fn steps_gaps_checkpoints_and_checks() {
    let mut run = Synthetic::new(Encoding::F32);
    run.steps(&[(0, 0, 0.1, 1_700_000_000_000), (1, 0, 0.2, 1_700_000_000_500)]);
    run.optimizer(&[(2, 0.1, 0.9, f32::NAN)]);
    run.adam(&[(3, 0.1, 0.01, 4), (4, 0.1, 0.01, 0)], (0.9, 0.999), 1e-8, UpdateRule::AdamW);
    run.dropped(12);
    run.checkpoint(3, 0);
    run.check(2, &[FindingKind::CoupledExamples], "they are coupled");
    let written = run.finish();
    let opened = written.run();
    let steps = read(&RecordQuestion::new(Record::Steps), &opened);
    assert_eq!(u64s(&steps, "step"), [Some(0), Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(f32s(&steps, "momentum"), [None, None, Some(0.9), None, None]);
    assert_eq!(f32s(&steps, "weight_decay"), [None, None, None, Some(0.01), Some(0.01)]);
    let adamw = Some("adamw".to_owned());
    assert_eq!(words(&steps, "update_rule"), [None, None, None, adamw.clone(), adamw]);
    assert_eq!(u64s(&steps, "steps_taken"), [None, None, None, Some(4), None]);
    let times = steps["time"].as_primitive::<arrow_array::types::TimestampMillisecondType>();
    assert_eq!((times.value(1), times.is_null(2)), (1_700_000_000_500, true));
    let gaps = read(&RecordQuestion::new(Record::Gaps), &opened);
    assert_eq!((u64s(&gaps, "dropped"), u64s(&gaps, "abandoned")), (vec![Some(12)], vec![Some(0)]));
    let checkpoints = read(&RecordQuestion::new(Record::Checkpoints), &opened);
    assert_eq!((u64s(&checkpoints, "step"), u64s(&checkpoints, "bytes")), (vec![Some(3)], vec![Some(64)]));
    let checks = read(&RecordQuestion::new(Record::Checks).columns(["text", "agrees", "findings"]), &opened);
    assert_eq!(words(&checks, "text"), [Some("they are coupled".into())]);
    assert!(!checks["agrees"].as_boolean().value(0));
    let findings = checks["findings"].as_list::<i32>().value(0);
    assert_eq!(findings.as_string::<i32>().value(0), FindingKind::CoupledExamples.name());
    // A window counts for lists as well.
    assert_eq!(read(&RecordQuestion::new(Record::Checkpoints).window(Window::steps(4..)), &opened).num_rows(), 0);
}

#[test]
fn events_name_their_example_and_layer() {
    let mut run = Synthetic::new(Encoding::F32);
    run.event((3, EventKind::LargeGradient), 17, 2, 140.0);
    run.event((5, EventKind::Divergence), Column::NO_EXAMPLE, Column::NO_LAYER_NUMBER, 9.0);
    let table = read(&RecordQuestion::new(Record::Events), &run.finish().run());
    let kinds: Vec<String> = words(&table, "kind").into_iter().flatten().collect();
    assert_eq!(kinds, ["large-gradient", "divergence"]);
    assert_eq!(u64s(&table, "example"), [Some(17), None]);
    assert_eq!(words(&table, "layer"), [Some("head".into()), None]);
    assert_eq!(f32s(&table, "value"), [Some(140.0), Some(9.0)]);
    assert_eq!(words(&table, "action"), vec![Some("went-on".to_owned()); 2]);
}

#[test]
fn stored_gradients_decode_to_those_that_were_written() {
    for encoding in [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Q4, Encoding::Signs] {
        let rows = visits(&mut Draws(4), 10, 2, 4);
        let mut run = Synthetic::new(encoding);
        rows.chunks(7).for_each(|block| run.visits(block));
        let written = run.finish();
        let question = RecordQuestion::new(Record::Visits).columns(["example"]).stored_gradients();
        let table = read(&question, &written.run());
        let names = ["input:fc", "delta:fc", "input:head", "delta:head", "folded"];
        for (at, row) in rows.iter().enumerate() {
            let expected = decoded(row, encoding);
            for (name, expected) in names.iter().zip(&expected) {
                let bytes = table[*name].as_fixed_size_binary().value(at);
                let scale = f32s(&table, &format!("{name}:scale"))[at].unwrap();
                let mut found = vec![0.0; expected.len()];
                encoding.decode(bytes, bf16::from_f32(scale), &mut found);
                assert_eq!(&found, expected, "{name} of row {at} in {encoding:?}");
            }
        }
        let schema = table.schema();
        let about = schema.field_with_name("input:fc").unwrap().metadata();
        assert_eq!((about["width"].as_str(), about["origin"].as_str()), ("5", "whole"));
    }
    let written = run_of(&visits(&mut Draws(5), 5, 1, 5), 5);
    let steps = RecordQuestion::new(Record::Steps).stored_gradients();
    assert!(matches!(steps.schema(&written.run()), Err(TableError::NoGradients("steps"))));
}

#[test]
fn workers_are_named_and_their_steps_are_one() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut draws = Draws(6);
    for rank in 0..2u32 {
        let mut part = Synthetic::part(dir.clone(), Some((rank, 2)), Encoding::F32);
        part.visits(&[draws.visit(u64::from(rank), 0, 0), draws.visit(10 + u64::from(rank), 1, 0)]);
        part.steps(&[(0, 0, 0.1, 1), (1, 0, 0.1, 2)]);
        part.end();
        part.finish();
    }
    let run = Run::open(dir.path()).unwrap();
    let table = read(&RecordQuestion::new(Record::Visits), &run);
    let mut rows: Vec<(Option<u64>, Option<u32>)> =
        u64s(&table, "example").into_iter().zip(u32s(&table, "worker")).collect();
    rows.sort_unstable();
    assert_eq!(rows, [(Some(0), Some(0)), (Some(1), Some(1)), (Some(10), Some(0)), (Some(11), Some(1))]);
    assert_eq!(u64s(&read(&RecordQuestion::new(Record::Steps), &run), "step"), [Some(0), Some(1)]);
}

#[test]
fn damage_ends_the_table_and_is_told() {
    let rows = visits(&mut Draws(7), 40, 4, 8);
    let written = run_of(&rows, 20);
    // Somewhere in the columns of the fourth block.
    written.damage(3, 700);
    let run = written.run();
    let mut seen = 0;
    let read = RecordQuestion::new(Record::Visits).stored_gradients().read(&run, |batch| {
        seen += batch.num_rows() as u64;
        Ok(())
    });
    let read = read.unwrap();
    assert_eq!((read.rows, seen), (60, 60));
    assert!(read.damage.is_some());
}

#[test]
fn a_stream_gives_the_same_and_ends_when_it_is_dropped() {
    let rows = visits(&mut Draws(8), 50, 6, 8);
    let written = run_of(&rows, 3);
    let question = RecordQuestion::new(Record::Visits);
    let run = Arc::new(Run::open(written.path()).unwrap());
    let expected = read(&question, &run);
    let mut stream = question.clone().stream(run.clone()).unwrap();
    let schema = arrow_array::RecordBatchReader::schema(&stream);
    let batches: Vec<RecordBatch> = stream.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(concat_batches(&schema, &batches).unwrap(), expected);
    assert_eq!(stream.read().map(|read| read.rows), Some(rows.len() as u64));
    let mut dropped = question.stream(run.clone()).unwrap();
    assert!(dropped.next().is_some());
    drop(dropped);
    assert_eq!(Arc::strong_count(&run), 1, "the thread is gone");
}

/// Cards of all kinds and of two sets, which lie in blocks of their own.
#[test]
fn cards_are_pictures_texts_and_rows() {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.set(1, "other");
    run.visits(&visits(&mut Draws(1), 4, 1, 4));
    run.cards(None, CardKind::Gray, 2, &[(7, &[1, 2, 3, 4]), (8, &[9, 8])]);
    run.cards(None, CardKind::Rgb, 1, &[(9, &[1, 2, 3, 4, 5, 6])]);
    run.cards(Some(1), CardKind::Text, 0, &[(7, "é <b>".as_bytes()), (8, b"")]);
    run.cards(Some(0), CardKind::Row, 0, &[(u64::MAX, &encode_row([("a", "1"), ("", "x")])), (3, b"")]);
    run.cards(None, CardKind::Refused, 0, &[(Column::NO_EXAMPLE, &[])]);
    run.end();
    let written = run.finish();
    let table = read(&RecordQuestion::new(Record::Cards), &written.run());
    assert_eq!(u64s(&table, "example"), [7, 8, 9, 7, 8, u64::MAX, 3].map(Some));
    let sets = [None, None, None, Some("other"), Some("other"), Some("test"), Some("test")];
    assert_eq!(words(&table, "set"), sets.map(|set| set.map(str::to_owned)));
    let kinds = ["gray", "gray", "rgb", "text", "text", "row", "row"];
    assert_eq!(words(&table, "kind"), kinds.map(|kind| Some(kind.to_owned())));
    let none = [None; 4];
    assert_eq!(u32s(&table, "width"), [&[Some(2), Some(2), Some(1)][..], &none].concat());
    assert_eq!(u32s(&table, "height"), [&[Some(2), Some(1), Some(2)][..], &none].concat());
    let pixels: Vec<Option<&[u8]>> = table["pixels"].as_binary::<i32>().iter().collect();
    let expected: [Option<&[u8]>; 3] = [Some(&[1, 2, 3, 4]), Some(&[9, 8]), Some(&[1, 2, 3, 4, 5, 6])];
    assert_eq!((&pixels[..3], pixels[3..].iter().flatten().count()), (&expected[..], 0));
    assert_eq!(words(&table, "text")[3..5], [Some("é <b>".to_owned()), Some(String::new())]);
    assert_eq!(table["text"].null_count(), 5);
    let rows = table["row"].as_list::<i32>();
    assert_eq!((rows.null_count(), rows.value_length(5), rows.value_length(6)), (5, 2, 0));
    let cells = rows.value(5);
    let cells = cells.as_struct();
    let cell = |place: usize| -> Vec<&str> { cells.column(place).as_string::<i32>().iter().flatten().collect() };
    assert_eq!((cell(0), cell(1)), (vec!["a", ""], vec!["1", "x"]));
    assert_eq!(table["worker"].null_count(), 7);

    let some = read(&RecordQuestion::new(Record::Cards).columns(["text", "example"]), &written.run());
    assert_eq!((some.num_columns(), some.num_rows()), (2, 7));
    let window = RecordQuestion::new(Record::Cards).window(Window::epochs(0..1));
    assert!(matches!(window.schema(&written.run()), Err(TableError::NoWindow("cards"))));
}
