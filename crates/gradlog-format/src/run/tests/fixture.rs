//! A run of format version 1, made once and kept in `tests/data/v1`: whatever becomes of the code, it must be read like
//! this.
//!
//! Every number is a function of its place, below, so that nothing has to be written down twice. The generator is run
//! by hand, once for each version of the format: `cargo test --no-default-features --lib -- --ignored
//! make_the_fixture`.

use super::*;
use crate::log::{AllReduce, WorkerRecord, FORMAT_VERSION};
use std::path::PathBuf;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1")
}

fn fixture_manifest() -> Manifest {
    let layer = |name: &str, kind: &str, (inputs, outputs): (u32, u32), bias: bool, number: u32| LayerRecord {
        name: name.into(),
        kind: kind.into(),
        inputs,
        outputs,
        bias,
        parameters: 1000 + u64::from(number),
        shapes: vec![("weight".into(), vec![3, 5 + u64::from(number)]), ("bias".into(), vec![])],
        seed_input: derive_seed(11, number, Side::Input),
        seed_delta: derive_seed(11, number, Side::Delta),
        seed_folded: derive_seed(11, number, Side::Folded),
    };
    Manifest {
        run_id: *b"fixture of v. 1!",
        created_ms: 1_760_000_000_123,
        version: "0.1.0".into(),
        seed: 11,
        sketch: SketchConfig {
            input_cap: 128,
            delta_cap: u32::MAX,
            projected: 100,
            folded_min: 5,
            folded_max: 6,
            encoding: Encoding::Q4,
            projected_encoding: Encoding::F16,
        },
        layers: vec![
            layer("fc1", "linear", (5, 3), true, 0),
            layer("conv", "conv2d", (0, 0), false, 1),
            layer("head", "linear", (4, 2), false, 2),
        ],
        untapped: vec![VariableRecord { name: "norm.weight".into(), shape: vec![7, 1] }],
        model_parameters: Some(3010),
        notes: vec![("host".into(), "größer".into()), (String::new(), String::new())],
        worker: Some(WorkerRecord { rank: 2, workers: 3, reduction: AllReduce::Sum }),
        extensions: Vec::new(),
    }
}

/// A number of `block`, `row` and `column` that a float of 16 bits holds exactly, in -4..4; rarely one that is not
/// finite.
fn exact(block: u64, row: u32, column: u32) -> f32 {
    let any = number(block << 40 | u64::from(column), row);
    match any % 61 {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => -0.0,
        _ => (any >> 8 & 0xFF) as f32 / 32.0 - 4.0,
    }
}

const KINDS: [BlockKind; 10] = [
    BlockKind::ProbeSet,
    BlockKind::ProbeSet,
    BlockKind::Probes,
    BlockKind::Steps,
    BlockKind::Visits,
    BlockKind::Visits,
    BlockKind::Gaps,
    BlockKind::Steps,
    BlockKind::Visits,
    BlockKind::End,
];
/// The training is taken up again before this block, in a new segment, at this step: the last row of block 7 is void.
const RESUMED_BEFORE: u64 = 8;
const RESUMED_STEP: u64 = 71;
const NAMES: [&str; 2] = ["test", "größer"];
const ENCODINGS: [Encoding; 4] = [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Q4];
/// The folded vectors of this block are signs.
const SIGNS: u64 = 8;

/// What block `index` holds: the columns in their order, each with what its rows say.
fn expected(index: u64) -> Contents {
    use Column::*;
    let kind = KINDS[index as usize];
    let rows: u32 = match kind {
        BlockKind::Visits => 9 + index as u32,
        BlockKind::Probes => 4,
        BlockKind::Steps => 3,
        BlockKind::Gaps => 2,
        _ => 1,
    };
    let u64s = |column: Column, of: &dyn Fn(u32) -> u64| (column.into(), Values::U64((0..rows).map(of).collect()));
    let u32s = |column: Column, of: &dyn Fn(u32) -> u32| (column.into(), Values::U32((0..rows).map(of).collect()));
    let floats =
        |column: Column| (column.into(), Values::F32((0..rows).map(|row| exact(index, row, column as u32)).collect()));
    let step = |row: u32| 10 * index + u64::from(row / 2);
    let place = [u64s(Step, &step), u32s(Epoch, &|_| index as u32)];
    let mut columns: Vec<(ColumnKey, Values)> = match kind {
        BlockKind::ProbeSet => vec![
            u32s(ProbeSet, &|_| index as u32),
            (Name.into(), Values::Bytes(NAMES[index as usize].as_bytes().to_vec())),
        ],
        BlockKind::Gaps => vec![u64s(Dropped, &|row| 100 + u64::from(row))],
        BlockKind::End => vec![u64s(Visits, &|_| 44), u64s(Dropped, &|_| 201)],
        BlockKind::Steps => vec![
            floats(LearningRate),
            floats(Clip),
            floats(Momentum),
            floats(WeightDecay),
            u32s(BatchSize, &|row| 32 - row),
            u64s(WallClock, &|row| 1_760_000_000_000 + u64::from(row)),
        ],
        _ => vec![u64s(Example, &|row| number(index, row))],
    };
    if matches!(kind, BlockKind::Visits | BlockKind::Probes) {
        let plain = [Coefficient, Loss, El2n, Margin, Confidence, Correct, Target, Output, SquaredNorm];
        columns.extend(plain.map(floats));
        columns.extend([Label, Prediction].map(|column| u32s(column, &|row| (row + column as u32) % 3)));
        columns.push(u32s(Positions, &|row| 1 + row));
        columns.push((Flags.into(), Values::Bytes((0..rows).map(|row| row as u8 % 8).collect())));
        match kind {
            BlockKind::Visits => columns.extend([LearningRate, Clip].map(floats)),
            _ => columns.push(u32s(ProbeSet, &|row| row % 2)),
        }
        // One encoding for each of these four blocks; a vector of zeros among the others.
        let encoding = ENCODINGS[[2, 4, 5, 8].iter().position(|i| *i == index).unwrap()];
        let vectors = |key: ColumnKey, width: u32| {
            let signs = index == SIGNS && key.column == Folded;
            let encoding = if signs { Encoding::Signs } else { encoding };
            let row = |row: u32| {
                let stream = index << 40 | u64::from(key.layer) << 8 | key.column as u64;
                let values: Vec<f32> =
                    (0..width).map(|i| if row == 1 { 0.0 } else { float(stream, row << 8 | i) }).collect();
                let mut codes = Vec::new();
                let scale = encoding.encode(&values, &mut codes).scale.to_bits();
                (codes, scale)
            };
            (key, Values::Vectors(encoding, width as usize, (0..rows).map(row).collect()))
        };
        for (column, layer, width) in [(Input, 0, 5), (Delta, 0, 3), (Input, 2, 4), (Delta, 2, 2)] {
            columns.push(vectors(ColumnKey { column, layer }, width));
        }
        columns.push(vectors(Folded.into(), 6));
    }
    let timed = !matches!(kind, BlockKind::ProbeSet | BlockKind::End);
    if timed {
        columns.extend(place);
    }
    let steps = if timed { (step(0), step(rows - 1)) } else { (0, 0) };
    let epochs = if timed { (index as u32, index as u32) } else { (0, 0) };
    Contents { kind: Some(kind), rows: rows as usize, steps, epochs, columns }
}

fn builder(contents: &Contents) -> BlockBuilder {
    let mut builder = BlockBuilder::new(contents.kind.unwrap());
    for (key, values) in &contents.columns {
        match values {
            Values::Bytes(all) => {
                let width = if key.column == Column::Name { all.len() as u32 } else { 1 };
                builder.column(*key, Cells::U8, width).extend(all);
            }
            Values::U32(all) => builder.u32s(key.column, all.iter().copied()),
            Values::U64(all) => builder.u64s(key.column, all.iter().copied()),
            Values::F32(all) => builder.f32s(key.column, all.iter().copied()),
            Values::Vectors(encoding, width, all) => {
                let scales = match key.column {
                    Column::Input => Column::InputScale,
                    Column::Delta => Column::DeltaScale,
                    _ => Column::FoldedScale,
                };
                for (codes, scale) in all {
                    builder.column(*key, Cells::Vector(*encoding), *width as u32).extend(codes);
                    let scales = builder.column(ColumnKey { column: scales, ..*key }, Cells::Bf16, 1);
                    scales.extend(scale.to_le_bytes());
                }
            }
        }
    }
    let rows = contents.rows as u32;
    builder.advance(rows, contents.steps.0, contents.epochs.0);
    builder.advance(0, contents.steps.1, contents.epochs.1);
    builder
}

/// NaN equals NaN here.
fn bits(mut contents: Contents) -> Contents {
    for (_, values) in &mut contents.columns {
        if let Values::F32(all) = values {
            *values = Values::U32(all.iter().map(|v| v.to_bits()).collect());
        }
    }
    contents
}

/// Cuts a block of steps down to its first rows.
fn first_rows(contents: &mut Contents, rows: usize) {
    contents.rows = rows;
    for (_, values) in &mut contents.columns {
        match values {
            Values::U32(all) => all.truncate(rows),
            Values::U64(all) => all.truncate(rows),
            Values::F32(all) => all.truncate(rows),
            other => panic!("a step has no {other:?}"),
        }
    }
}

#[test]
#[ignore = "writes tests/data; run by hand for a new version of the format"]
fn make_the_fixture() {
    assert_eq!(FORMAT_VERSION, 1, "the fixture of an old version is never made again: give the new one its own folder");
    let options = WriterOptions { segment_bytes: 1 << 14, zstd_level: 3 };
    let storage = Box::new(MmapStorage::default());
    let mut writer = LogWriter::create_on(storage, &dir(), &fixture_manifest(), options).unwrap();
    for index in 0..KINDS.len() as u64 {
        if index == RESUMED_BEFORE {
            writer.mark_resumed(RESUMED_STEP).unwrap();
        }
        writer.append(&mut builder(&expected(index))).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    std::fs::remove_file(dir().join("lock")).unwrap();
}

#[test]
fn the_fixture_of_version_1_is_read_to_the_last_number() {
    let run = Run::open(dir()).unwrap();
    assert_eq!(run.manifest(), &fixture_manifest());
    let reading = read(&dir()).unwrap();
    assert!(!reading.complains() && reading.report.finished, "{reading:?}");
    assert_eq!(files(&dir()).len(), 3, "a manifest and two segments");
    assert_eq!(reading.blocks.len(), KINDS.len());
    for (index, read) in reading.blocks.into_iter().enumerate() {
        let mut expected = expected(index as u64);
        if index == 7 {
            first_rows(&mut expected, 2);
        }
        assert_eq!(bits(read), bits(expected), "block {index}");
    }
    assert_eq!(reading.probe_sets.unwrap(), NAMES);
    assert_eq!((reading.report.visits, reading.report.probes, reading.report.steps), (44, 4, 5));
    assert_eq!(reading.report.dropped, 201);
}

/// The vectors of the fixture as numbers, so that a decoder which went wrong with its encoder is found.
#[test]
fn the_vectors_of_the_fixture_are_the_numbers_that_went_in() {
    let run = Run::open(dir()).unwrap();
    let mut seen = Vec::new();
    for block in run.scan().filter(|b| matches!(b.kind(), Some(BlockKind::Visits | BlockKind::Probes))) {
        let key = ColumnKey { column: Column::Input, layer: 2 };
        let vectors = block.vectors(key, Origin::Whole).unwrap();
        let stream = block.sequence() << 40 | 2 << 8 | Column::Input as u64;
        let error_max = match vectors.encoding() {
            Encoding::F32 => 0.0,
            Encoding::F16 => 1.0 / 2048.0,
            Encoding::Q8 => 1.0 / 200.0,
            _ => 1.0 / 11.0,
        };
        for row in 0..vectors.rows() {
            let mut numbers = [0.0; 4];
            vectors.decode(row, &mut numbers);
            for (i, number) in (0..).zip(numbers) {
                let put = if row == 1 { 0.0 } else { float(stream, (row as u32) << 8 | i) };
                assert!((number - put).abs() <= error_max, "{:?}: {number} for {put}", vectors.encoding());
            }
        }
        seen.push(vectors.encoding());
        if block.sequence() == SIGNS {
            let vectors = block.vectors(Column::Folded.into(), Origin::Rotated).unwrap();
            assert_eq!(vectors.encoding(), Encoding::Signs);
            let stream = SIGNS << 40 | u64::from(crate::log::NO_LAYER) << 8 | Column::Folded as u64;
            let mut numbers = vec![0.0; vectors.width()];
            for row in (0..vectors.rows()).filter(|row| *row != 1) {
                vectors.decode(row, &mut numbers);
                let put: Vec<f32> = (0..numbers.len() as u32).map(|i| float(stream, (row as u32) << 8 | i)).collect();
                let dot = |a: &[f32]| -> f32 { a.iter().zip(&put).map(|(x, y)| x * y).sum() };
                assert!((dot(&numbers) / dot(&put) - 1.0).abs() < 0.01, "{numbers:?} for {put:?}");
            }
        }
    }
    assert_eq!(seen, ENCODINGS);
}
