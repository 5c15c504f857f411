//! Compression by planes, which was added to version 1: a run of its own in `tests/data/v1-planes`, made once by hand
//! (`cargo test --no-default-features --lib -- --ignored make_the_fixture_of_planes`).

use super::*;
use crate::log::{ColumnEntry, ENTRY_BYTES, HEADER_BYTES};
use half::bf16;
use std::path::PathBuf;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-planes")
}

/// Rows of the blocks: of the first, the planes have a zstd block each.
const ROWS: [u32; 2] = [1100, 70];

fn id(row: u32) -> u64 {
    (u64::from(row) * 7919) % 5003
}

fn loss(row: u32) -> f32 {
    match row {
        7 => f32::NAN,
        _ => (id(row) as f32 / 400.0).exp2(),
    }
}

fn label(row: u32) -> u32 {
    (id(row) % 10) as u32
}

fn scale(row: u32) -> bf16 {
    bf16::from_bits(0x3c00 + (id(row) % 600) as u16)
}

const CODES: ColumnKey = ColumnKey { column: Column::Input, layer: 0 };
const SCALES: ColumnKey = ColumnKey { column: Column::InputScale, layer: 0 };
const DELTAS: ColumnKey = ColumnKey { column: Column::Delta, layer: 0 };
const DELTA_SCALES: ColumnKey = ColumnKey { column: Column::DeltaScale, layer: 0 };

fn visits(rows: u32) -> BlockBuilder {
    let mut builder = BlockBuilder::new(BlockKind::Visits);
    builder.u64s(Column::Example, (0..rows).map(id));
    builder.f32s(Column::Loss, (0..rows).map(loss));
    builder.u32s(Column::Label, (0..rows).map(label));
    builder.column(SCALES, Cells::Bf16, 1).extend((0..rows).flat_map(|row| scale(row).to_le_bytes()));
    builder.column(CODES, Cells::Vector(Encoding::Q8), 1).extend((0..rows).map(|row| row as u8));
    builder.column(DELTAS, Cells::Vector(Encoding::Q8), 1).extend((0..rows).map(|row| !row as u8));
    builder.column(DELTA_SCALES, Cells::Bf16, 1).extend((0..rows).flat_map(|row| scale(row).to_le_bytes()));
    builder.u64s(Column::Step, std::iter::repeat_n(0, rows as usize));
    builder.u32s(Column::Epoch, std::iter::repeat_n(0, rows as usize));
    builder.advance(rows, 0, 0);
    builder
}

fn write(dir: &Path) {
    let options = WriterOptions { segment_bytes: 1 << 14, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(MmapStorage::default()), dir, &manifest(), options).unwrap();
    for rows in ROWS {
        writer.append(&mut visits(rows)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_planes() {
    write(&fixture());
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

/// What is read of such a run, and that it is by planes that it was written.
fn check(dir: &Path) {
    let run = Run::open(dir).unwrap();
    assert!(run.verify().unwrap().damage.is_none());
    let blocks: Vec<Block> = run.scan().collect();
    assert_eq!(blocks.len(), ROWS.len());
    let file = std::fs::read(dir.join("segment-00000.glog")).unwrap();
    let mut at = 64;
    for (block, rows) in blocks.iter().zip(ROWS) {
        assert_eq!(block.u64s(Column::Example).unwrap(), (0..rows).map(id).collect::<Vec<_>>());
        let bits = |losses: Vec<f32>| losses.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(block.f32s(Column::Loss).unwrap()), bits((0..rows).map(loss).collect()));
        assert_eq!(block.u32s(Column::Label).unwrap(), (0..rows).map(label).collect::<Vec<_>>());
        let vectors = block.vectors(CODES, Origin::Whole).unwrap();
        assert!((0..rows).all(|row| vectors.row(row as usize) == (&[row as u8][..], scale(row))));
        for number in 0..4 {
            let entry = &file[at + HEADER_BYTES + number * ENTRY_BYTES..][..ENTRY_BYTES];
            assert_eq!(ColumnEntry::parse(entry).unwrap().codec, 2, "column {number} of {rows} rows");
        }
        at += block.bytes() as usize;
    }
}

#[test]
fn numbers_compressed_by_planes_are_read_as_they_were_written() {
    check(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    check(dir.path());
}
