//! Checks and BatchNorm layers, which were added to version 1: a run of its own in `tests/data/v1-checks`, made once by
//! hand (`cargo test -p gradlog-format --lib -- --ignored make_the_fixture_of_checks`).

use super::*;
use crate::log::{BatchNormHandling, BatchNormRecord, Coupling, CouplingKind, FindingKind};
use std::path::PathBuf;

const TEXT: &str = "check failed: gradients of 4 examples\n- the loss of an example depends on the others\n";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-checks")
}

fn record(handling: BatchNormHandling) -> BatchNormRecord {
    BatchNormRecord { handling, layers: vec!["block.bn".into(), "".into()] }
}

fn with(record: &BatchNormRecord) -> Manifest {
    Manifest { extensions: vec![record.to_extension().unwrap()], ..manifest() }
}

fn check_block(step: u64, findings: u32, text: &str) -> BlockBuilder {
    let mut builder = BlockBuilder::new(BlockKind::Checks);
    builder.u64s(Column::Step, [step]);
    builder.u32s(Column::Epoch, [1]);
    builder.u32s(Column::Checked, [4]);
    builder.u32s(Column::Findings, [findings]);
    builder.column(Column::Text, Cells::U8, text.len() as u32).extend(text.bytes());
    builder.advance(1, step, 1);
    builder
}

fn write(dir: &Path, manifest: &Manifest, blocks: Vec<BlockBuilder>) {
    let options = WriterOptions { segment_bytes: 1 << 14, zstd_level: 1 };
    let mut writer = LogWriter::create_on(Box::new(MmapStorage::default()), dir, manifest, options).unwrap();
    for mut block in blocks {
        writer.append(&mut block).unwrap();
    }
    writer.finish().unwrap();
}

fn blocks() -> Vec<BlockBuilder> {
    let losses = FindingKind::CoupledLosses.bit();
    vec![check_block(0, losses, TEXT), check_block(3, FindingKind::UncoveredVariable.bit(), "check passed")]
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_fixture_of_checks() {
    write(&fixture(), &with(&record(BatchNormHandling::Share)), blocks());
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

fn read_checks(dir: &Path) {
    let run = Run::open(dir).unwrap();
    assert!(run.verify().unwrap().damage.is_none());
    assert_eq!(run.manifest().batch_norm(), Some(record(BatchNormHandling::Share)));
    let checks = run.checks().unwrap();
    let seen: Vec<_> = checks.iter().map(|c| (c.step, c.epoch, c.examples, c.findings, c.agrees())).collect();
    assert_eq!(seen, [(0, 1, 4, 4, false), (3, 1, 4, 64, true)]);
    assert_eq!((checks[0].text.as_str(), checks[1].text.as_str()), (TEXT, "check passed"));
    assert!(checks[0].found(FindingKind::CoupledLosses) && !checks[0].found(FindingKind::Random));
    let coupling = |kind, names: &[&str]| Coupling {
        kind,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        has_gradients: true,
    };
    let expected = [coupling(CouplingKind::BatchNorm, &["block.bn", ""]), coupling(CouplingKind::Losses, &[])];
    assert_eq!(run.couplings().unwrap(), expected);
}

#[test]
fn the_fixture_and_a_new_run_are_read() {
    read_checks(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &with(&record(BatchNormHandling::Share)), blocks());
    read_checks(dir.path());
    // A recovery keeps both.
    let saved = tempfile::tempdir().unwrap();
    Run::open(dir.path()).unwrap().recover(saved.path().join("run")).unwrap();
    read_checks(&saved.path().join("run"));
}

/// The bytes of the field, worked out from FORMAT.md.
#[test]
fn the_field_is_what_the_page_says() {
    let bytes = record(BatchNormHandling::Frozen).to_extension().unwrap().bytes;
    let mut expected = vec![1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    expected.extend(b"block.bn");
    expected.extend([0; 8]);
    assert_eq!(bytes, expected);
    let frozen = with(&record(BatchNormHandling::Frozen));
    assert_eq!(frozen.batch_norm(), Some(record(BatchNormHandling::Frozen)));
    assert!(frozen.couplings().is_empty());
    // A handling of a later version couples, as far as this version knows.
    let mut later = frozen;
    later.extensions[0].bytes[0] = 9;
    assert_eq!(later.couplings()[0].kind, CouplingKind::BatchNorm);
    later.extensions[0].bytes.truncate(7);
    assert_eq!((later.batch_norm(), later.couplings().len()), (None, 0));
}

#[test]
fn a_check_that_is_not_one_is_damage() {
    let without = |column: Column| {
        let mut builder = BlockBuilder::new(BlockKind::Checks);
        let mut add = |one: Column, make: &dyn Fn(&mut BlockBuilder)| {
            if one != column {
                make(&mut builder);
            }
        };
        add(Column::Step, &|b| b.u64s(Column::Step, [0]));
        add(Column::Epoch, &|b| b.u32s(Column::Epoch, [0]));
        add(Column::Checked, &|b| b.u32s(Column::Checked, [4]));
        add(Column::Findings, &|b| b.u32s(Column::Findings, [0]));
        add(Column::Text, &|b| b.column(Column::Text, Cells::U8, 2).extend(*b"ab"));
        builder.advance(1, 0, 0);
        builder
    };
    let mut wrong: Vec<BlockBuilder> =
        [Column::Step, Column::Epoch, Column::Checked, Column::Findings, Column::Text].map(without).into();
    wrong.push(check_block(0, 0, &"x".repeat((1 << 20) + 1)));
    let mut two = check_block(0, 0, "ab");
    two.u64s(Column::Step, [0]);
    two.u32s(Column::Epoch, [0]);
    two.u32s(Column::Checked, [4]);
    two.u32s(Column::Findings, [0]);
    two.column(Column::Text, Cells::U8, 2).extend(*b"cd");
    two.advance(1, 0, 0);
    wrong.push(two);
    for (number, block) in wrong.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &manifest(), vec![block]);
        let run = Run::open(dir.path()).unwrap();
        // A block that its kind cannot be ends the run for every reader.
        assert!(run.checks().map_or(true, |checks| checks.is_empty()), "block {number}");
        assert!(run.verify().unwrap().damage.is_some(), "block {number}");
    }
    // Text that is not UTF-8 is read as far as it can be.
    let dir = tempfile::tempdir().unwrap();
    let mut odd = check_block(0, 0, "ab");
    odd.column(Column::Text, Cells::U8, 2)[0] = 0xFF;
    write(dir.path(), &manifest(), vec![odd]);
    assert_eq!(Run::open(dir.path()).unwrap().checks().unwrap()[0].text, "\u{FFFD}b");
}

#[test]
fn a_bit_set_names_its_kinds() {
    let kinds = FindingKind::from_bits(0xFFFF_FE00 | 5);
    assert_eq!(kinds, [FindingKind::Random, FindingKind::CoupledLosses]);
    let names: std::collections::BTreeSet<_> =
        FindingKind::from_bits(u32::MAX).into_iter().map(FindingKind::name).collect();
    assert_eq!(names.len(), 9);
}
