//! The bytes and numbers in FORMAT.md are those that the code makes. They were worked out from the text of the
//! specification by a program in another language, and so check the text as well.

use super::*;
use crate::sketch::{Fold, Projection};

const SPECIFICATION: &str = include_str!("../../../FORMAT.md");

/// The lines of the fence that is opened by three backticks and `name`.
fn fence(name: &str) -> Vec<&'static str> {
    let opening = format!("```{name}");
    let lines = SPECIFICATION.lines().skip_while(|line| *line != opening).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    assert!(!lines.is_empty(), "FORMAT.md has no fence `{name}`");
    lines
}

/// The bytes of a dump whose lines are an offset, bytes, and words behind `#`.
fn bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in fence(name) {
        let mut words = line.split('#').next().unwrap().split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        assert_eq!(offset, bytes.len(), "the offset in `{line}`");
        bytes.extend(words.map(|word| u8::from_str_radix(word, 16).unwrap()));
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn example_manifest() -> Manifest {
    let mut manifest = manifest();
    manifest.layers.truncate(1);
    let layer = &mut manifest.layers[0];
    (layer.name, layer.inputs, layer.outputs, layer.parameters) = ("fc".into(), 2, 2, 6);
    layer.shapes = vec![("weight".into(), vec![2, 2]), ("bias".into(), vec![2])];
    manifest.untapped.clear();
    manifest.notes.clear();
    manifest.model_parameters = Some(6);
    (manifest.sketch.encoding, manifest.sketch.projected_encoding) = (Encoding::F32, Encoding::F32);
    manifest
}

#[test]
fn the_run_in_the_specification_is_what_the_writer_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(dir.path(), &example_manifest(), options()).unwrap();
    let mut visits = BlockBuilder::new(BlockKind::Visits);
    visits.u64s(Column::Example, [10]);
    visits.u64s(Column::Step, [3]);
    visits.u32s(Column::Epoch, [1]);
    visits.f32s(Column::Coefficient, [1.0]);
    visits.column(Column::Flags, Cells::U8, 1).push(0);
    visits.f32s(Column::LearningRate, [0.5]);
    visits.f32s(Column::Clip, [1.0]);
    visits.f32s(Column::Loss, [0.25]);
    // (0.75² + 0.75²)·(0.5² + 1² + 1), the 1 for the bias.
    visits.f32s(Column::SquaredNorm, [2.53125]);
    let of = |column| ColumnKey { column, layer: 0 };
    for (values, scales, numbers) in
        [(Column::Input, Column::InputScale, [0.5, -1.0]), (Column::Delta, Column::DeltaScale, [0.75, -0.75])]
    {
        let scale = Encoding::F32.encode(&numbers, visits.column(of(values), Cells::Vector(Encoding::F32), 2)).scale;
        visits.column(of(scales), Cells::Bf16, 1).extend(scale.to_le_bytes());
    }
    visits.advance(1, 3, 1);
    writer.append(&mut visits).unwrap();
    writer.finish().unwrap();
    let written = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(hex(&written("manifest")), hex(&bytes("hex manifest")));
    assert_eq!(hex(&written("segment-00000.glog")), hex(&bytes("hex segment")));
}

#[test]
fn the_run_in_the_specification_is_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("manifest"), bytes("hex manifest")).unwrap();
    std::fs::write(dir.path().join("segment-00000.glog"), bytes("hex segment")).unwrap();
    let reading = read(dir.path()).unwrap();
    assert!(!reading.complains() && reading.blocks.len() == 1 && !reading.report.finished, "{reading:?}");
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.manifest(), &example_manifest());
    let visits = run.scan().next().unwrap();
    assert_eq!(visits.u64s(Column::Example).unwrap(), [10]);
    let of = |column| ColumnKey { column, layer: 0 };
    let mut input = [0.0; 2];
    visits.vectors(of(Column::Input), Origin::Whole).unwrap().decode(0, &mut input);
    assert_eq!(input, [0.5, -1.0]);
}

#[test]
fn the_seeds_in_the_specification_are_those_of_the_code() {
    let value = |line: &str| u64::from_str_radix(line.split("= 0x").nth(1).unwrap(), 16).unwrap();
    let mut derived = 0;
    for line in fence("vectors seeds") {
        let Some(arguments) = line.strip_prefix("derive(") else { continue };
        let arguments = arguments.split(')').next().unwrap().split(", ");
        let arguments: Vec<u64> = arguments.map(|a| a.parse().unwrap()).collect();
        let side = [Side::Input, Side::Delta, Side::Folded][arguments[2] as usize];
        assert_eq!(derive_seed(arguments[0], arguments[1] as u32, side), value(line), "{line}");
        derived += 1;
    }
    assert_eq!(derived, 4);
    // `draw` is not public outside of the sketches; its vectors are those of the lines that were not looked at above.
    for (seed, counter) in [(0, 0), (0, 1), (1234567, 0), (u64::MAX, 1000)] {
        let line = format!("draw({seed:#x}, {counter}) = {:#018x}", crate::sketch::draw(seed, counter));
        assert!(fence("vectors seeds").contains(&line.as_str()), "{line}");
    }
}

#[test]
fn the_folds_in_the_specification_are_those_of_the_code() {
    let mut lines = Vec::new();
    for (seed, n, m) in [(42, 10, 4), (43, 10, 4), (42, 3, 8), (42, 70, 5)] {
        let values: Vec<f32> = (1..=n).map(|i| i as f32).collect();
        // Sums of small whole numbers are exact in any order; adding 0 makes a zero of a negative one.
        let folded = Fold::new(seed, n, m).apply(&values);
        let folded: Vec<String> = folded.iter().map(|v| (v + 0.0).to_string()).collect();
        lines.push(format!("seed {seed}, the {n} numbers 1, 2, ..., {n} to {m}: {}", folded.join(", ")));
    }
    assert_eq!(fence("vectors fold"), lines);
}

#[test]
fn the_projections_in_the_specification_are_those_of_the_code() {
    let mut lines = Vec::new();
    for (seed, n, m) in [(42, 10, 4), (42, 10, 3), (42, 3, 8)] {
        let values: Vec<f32> = (1..=n).map(|i| i as f32).collect();
        let mut projected = Vec::new();
        Projection::new(seed, n, m).apply(&values, &mut Vec::new(), &mut projected);
        let projected: Vec<String> = projected.iter().map(|v| format!("{:.3}", v + 0.0)).collect();
        lines.push(format!("seed {seed}, the {n} numbers 1, 2, ..., {n} to {m}: {}", projected.join(", ")));
    }
    assert_eq!(fence("vectors projection"), lines);
}

#[test]
fn the_quantized_bytes_in_the_specification_are_those_of_the_code() {
    let vectors =
        [("0.5, -1, 0.3", [0.5f32, -1.0, 0.3]), ("0, 2e-20, -3e-20", [0.0, 2e-20, -3e-20]), ("0, 0, 0", [0.0; 3])];
    let encodings = [
        ("F32", Encoding::F32),
        ("F16", Encoding::F16),
        ("Q8", Encoding::Q8),
        ("Q4", Encoding::Q4),
        ("Signs", Encoding::Signs),
    ];
    let mut lines = Vec::new();
    for (text, values) in vectors {
        for (name, encoding) in encodings {
            let mut codes = Vec::new();
            let scale = encoding.encode(&values, &mut codes).scale.to_bits();
            lines.push(format!("{name} of ({text}): scale {scale:#06x}, {}", hex(&codes)));
        }
    }
    assert_eq!(fence("vectors quantized"), lines);
}

/// The tables of kinds, columns, types and limits name what the code has, and no less.
#[test]
fn the_tables_name_every_column_and_type() {
    for code in 0..=u16::MAX {
        if let Some(column) = Column::from_code(code) {
            let row = format!("| {code} | {column:?} |");
            assert!(SPECIFICATION.contains(&row), "no row `{row}`");
        }
        if let Some(kind) = BlockKind::from_code(code) {
            let row = format!("| {code} | {kind:?} |");
            assert!(SPECIFICATION.contains(&row), "no row `{row}`");
        }
    }
    for code in 0..=u8::MAX {
        if let Some(cells) = Cells::from_code(code) {
            let name = match cells {
                Cells::Vector(encoding) => format!("vector {encoding:?}"),
                plain => format!("{plain:?}").to_lowercase(),
            };
            assert!(SPECIFICATION.contains(&format!("| {code} | {name} |")), "no row for type {code}, {name}");
        }
    }
}
