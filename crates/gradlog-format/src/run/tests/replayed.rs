//! Kinds and columns that checkpoints and replays added to version 1, and what becomes of them: a run of their own in
//! `tests/data/v1-replay`, made once by hand (`cargo test --no-default-features --lib -- --ignored
//! make_the_replayed_fixture`), and the harm that other tests do to the first fixture.

use super::*;
use crate::log::{checkpoint_path, Mode, PredictionScore, ResumePlace, Totals};
use crate::run::place::Held;
use crate::run::{Checkpoint, CheckpointFault};
use std::path::PathBuf;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/v1-replay")
}

const WEIGHTS: &[u8] = b"whatever is in here is for candle to read";
/// Steps of the checkpoints, the second of which has lost its file.
const SAVED: [u64; 2] = [0, 3];

fn checkpoint(step: u64) -> BlockBuilder {
    let mut builder = BlockBuilder::new(BlockKind::Checkpoints);
    builder.u64s(Column::Step, [step]);
    builder.u32s(Column::Epoch, [step as u32 / 2]);
    builder.f32s(Column::LearningRate, [f32::NAN]);
    builder.u64s(Column::Bytes, [WEIGHTS.len() as u64]);
    builder.u32s(Column::Checksum, [crc32fast::hash(WEIGHTS)]);
    builder.advance(1, step, step as u32 / 2);
    builder
}

fn replayed(kind: BlockKind, step: u64) -> BlockBuilder {
    let mut builder = BlockBuilder::new(kind);
    builder.u64s(Column::Example, [10, 11]);
    builder.u64s(Column::Step, [step; 2]);
    builder.u32s(Column::Epoch, [step as u32 / 2; 2]);
    builder.f32s(Column::Loss, [-0.5, 0.25]);
    builder.column(Column::Mode, Cells::U8, 1).extend([Mode::Evaluation.code(), Mode::Training.code()]);
    if kind == BlockKind::Sweeps {
        builder.f32s(Column::LearningRate, [0.5, 0.5]);
    } else {
        builder.u32s(Column::ProbeSet, [0, 0]);
        builder.column(Column::PredictionScore, Cells::U8, 1).extend([PredictionScore::LogOdds.code(); 2]);
        builder.u32s(Column::ScoredClass, [7, 8]);
    }
    builder.advance(2, step, step as u32 / 2);
    builder
}

fn write(dir: &Path) {
    let mut writer = LogWriter::create(dir, &manifest(), options()).unwrap();
    for step in 0..4 {
        let mut steps = BlockBuilder::new(BlockKind::Steps);
        steps.u64s(Column::Step, [step]);
        steps.u32s(Column::Epoch, [step as u32 / 2]);
        steps.f32s(Column::LearningRate, [1.0 / (1 + step) as f32]);
        steps.advance(1, step, step as u32 / 2);
        if SAVED.contains(&step) {
            writer.append(&mut checkpoint(step)).unwrap();
        }
        writer.append(&mut steps).unwrap();
    }
    let mut visits = BlockBuilder::new(BlockKind::Visits);
    visits.u64s(Column::Example, [10, 11, 12]);
    visits.u64s(Column::Step, [0, 1, 3]);
    visits.u32s(Column::Epoch, [0, 0, 1]);
    visits.advance(2, 0, 0);
    visits.advance(1, 3, 1);
    writer.append(&mut visits).unwrap();
    let mut end = BlockBuilder::new(BlockKind::End);
    end.u64s(Column::Visits, [3]);
    end.u64s(Column::Dropped, [0]);
    end.advance(1, 0, 0);
    writer.append(&mut end).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let path = checkpoint_path(dir, 0);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, WEIGHTS).unwrap();

    let run = Run::open(dir).unwrap();
    let mut scan = run.part_scan();
    scan.by_ref().for_each(drop);
    let (next_segment, sequence) = scan.place();
    let place = ResumePlace { run_id: manifest().run_id, next_segment, sequence, step: 0, totals: Totals::default() };
    let mut writer = LogWriter::add_to(dir, place, options()).unwrap();
    let mut set = BlockBuilder::new(BlockKind::ProbeSet);
    set.u32s(Column::ProbeSet, [0]);
    set.column(Column::Name, Cells::U8, 5).extend(b"later");
    set.advance(1, 0, 0);
    writer.append(&mut set).unwrap();
    for step in SAVED.into_iter().rev() {
        writer.append(&mut replayed(BlockKind::Probes, step)).unwrap();
        writer.append(&mut replayed(BlockKind::Sweeps, step)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
#[ignore = "writes tests/data; run by hand, once"]
fn make_the_replayed_fixture() {
    write(&fixture());
    std::fs::remove_file(fixture().join("lock")).unwrap();
}

/// What is read of a sound run.
fn check(dir: &Path) {
    let run = Run::open(dir).unwrap();
    let report = run.verify().unwrap();
    assert!(report.damage.is_none() && report.finished, "{report:?}");
    assert_eq!((report.visits, report.steps, report.probes, report.sweeps), (3, 4, 4, 4));
    assert_eq!((report.checkpoints, report.checkpoint_faults), (2, vec![(3, CheckpointFault::Lost)]));
    let saved = run.checkpoints().unwrap();
    let expected = SAVED.map(|step| Checkpoint {
        step,
        epoch: step as u32 / 2,
        learning_rate: Some(if step == 0 { 1.0 } else { 1.0 / 3.0 }),
        bytes: WEIGHTS.len() as u64,
        checksum: crc32fast::hash(WEIGHTS),
        path: dir.join(format!("checkpoints/step-{step:08}.safetensors")),
        place: Held(run.place().clone()),
    });
    assert_eq!(saved, expected);
    assert_eq!(saved[0].read().unwrap(), WEIGHTS);
    assert_eq!(saved[1].read(), Err(CheckpointFault::Lost));
    assert_eq!(run.probe_sets().unwrap(), ["later"]);
    let kinds: Vec<BlockKind> = run.scan().filter(|b| b.is_replayed()).map(|b| b.kind().unwrap()).collect();
    assert_eq!(kinds, [BlockKind::Probes, BlockKind::Sweeps, BlockKind::Probes, BlockKind::Sweeps]);
    for block in run.scan().filter(Block::is_replayed) {
        assert_eq!(block.u64s(Column::Example).unwrap(), [10, 11]);
        assert_eq!(block.u8s(Column::Mode).unwrap(), [1, 0]);
        match block.kind() {
            Some(BlockKind::Sweeps) => assert_eq!(block.f32s(Column::LearningRate).unwrap(), [0.5, 0.5]),
            _ => {
                assert_eq!(block.u8s(Column::PredictionScore).unwrap(), [3, 3]);
                assert_eq!(block.u32s(Column::ScoredClass).unwrap(), [7, 8]);
            }
        }
    }
}

#[test]
fn the_replayed_fixture_is_read_to_the_last_number() {
    check(&fixture());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    check(dir.path());
}

#[test]
fn a_resumption_takes_probes_sweeps_and_checkpoints_behind_its_step() {
    for (step, left) in [(0, 1), (2, 1), (3, 2), (4, 2)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        let run = Run::open(dir.path()).unwrap();
        let mut scan = run.part_scan();
        scan.by_ref().for_each(drop);
        let (next_segment, sequence) = scan.place();
        let place = ResumePlace { run_id: manifest().run_id, next_segment, sequence, step, totals: Totals::default() };
        let mut writer = LogWriter::resume(dir.path(), place, options()).unwrap();
        let mut steps = BlockBuilder::new(BlockKind::Steps);
        steps.u64s(Column::Step, [step]);
        steps.u32s(Column::Epoch, [0]);
        steps.advance(1, step, 0);
        writer.append(&mut steps).unwrap();
        writer.finish().unwrap();
        let run = Run::open(dir.path()).unwrap();
        let report = run.verify().unwrap();
        let found = (report.checkpoints, report.probes, report.sweeps);
        assert_eq!(found, (left, 2 * left, 2 * left), "resumed at step {step}");
        assert_eq!(run.checkpoints().unwrap().len() as u64, left);
        assert!(!report.finished, "the training went on");
    }
}

/// A bit of every byte of the segments that hold them: a prefix or a typed error, and nothing panics; the training is
/// untouched by harm to a replay.
#[test]
fn a_flipped_bit_in_any_byte_is_found_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let run = Run::open(dir.path()).unwrap();
    let sound = read(dir.path()).unwrap();
    let kinds: Vec<Option<BlockKind>> = sound.blocks.iter().map(|block| block.kind).collect();
    let training = kinds.iter().position(|kind| *kind == Some(BlockKind::End)).unwrap() + 1;
    let mut flips = 0;
    for path in files(dir.path()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "glog")) {
        let whole = std::fs::read(&path).unwrap();
        let of_the_training =
            run.scan().any(|block| block.segment.path == path && block.kind() == Some(BlockKind::End));
        let only_replayed = run.scan().filter(|block| block.segment.path == path).all(|block| !block.reopens_run());
        for bit in (0..whole.len()).map(|byte| 8 * byte + byte % 8) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let reading = read(dir.path()).unwrap();
            assert_prefix_of(&reading.blocks, &sound.blocks, bit);
            if only_replayed && !of_the_training {
                assert!(reading.blocks.len() >= training, "bit {bit}");
            }
            if let Ok(checkpoints) = run.checkpoints() {
                assert!(checkpoints.iter().all(|checkpoint| SAVED.contains(&checkpoint.step)), "bit {bit}");
            }
            flips += 1;
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(flips > 2000, "{flips}");
}

fn assert_prefix_of(read: &[Contents], written: &[Contents], bit: usize) {
    // The rate of a checkpoint is NaN, which equals nothing.
    let text = |contents: &[Contents]| format!("{contents:?}");
    assert!(read.len() <= written.len() && text(read) == text(&written[..read.len()]), "bit {bit}");
}

#[test]
fn a_block_that_is_no_checkpoint_is_damage_to_a_reader_and_left_out_by_a_recovery() {
    use super::forge::{block, block_with, run, Forged};
    let of = |column: Column, cells: u8, bytes: Vec<u8>| Forged::plain(column as u16, cells, bytes);
    let whole = |rows: usize| {
        vec![
            of(Column::Step, 3, 5u64.to_le_bytes().repeat(rows)),
            of(Column::Epoch, 2, 1u32.to_le_bytes().repeat(rows)),
            of(Column::Bytes, 3, u64::MAX.to_le_bytes().repeat(rows)),
            of(Column::Checksum, 2, 9u32.to_le_bytes().repeat(rows)),
        ]
    };
    let examples = of(Column::Example, 3, 5u64.to_le_bytes().to_vec());
    // A length that no file has asks for no memory.
    let saved_at = |rows: u32, columns: &[Forged]| {
        block_with(8, 0, rows, columns, |header| {
            header[32..40].copy_from_slice(&5u64.to_le_bytes());
            header[40..48].copy_from_slice(&5u64.to_le_bytes());
            (header[48], header[52]) = (1, 1);
        })
    };
    let dir = run(&[saved_at(1, &whole(1)), block(1, 1, 1, std::slice::from_ref(&examples))]);
    let opened = Run::open(dir.path()).unwrap();
    assert!(opened.verify().unwrap().damage.is_none());
    let saved = opened.checkpoints().unwrap();
    assert_eq!((saved[0].step, saved[0].learning_rate, saved[0].bytes), (5, None, u64::MAX));
    std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
    std::fs::write(&saved[0].path, WEIGHTS).unwrap();
    assert!(matches!(saved[0].read(), Err(CheckpointFault::Damaged(_))));
    assert!(matches!(saved[0].check(), Err(CheckpointFault::Damaged(_))));
    for missing in 0..5 {
        let (mut columns, mut rows) = (whole(1), 1);
        match missing {
            4 => (columns, rows) = (whole(2), 2),
            missing => drop(columns.remove(missing)),
        }
        let dir = run(&[saved_at(rows, &columns), block(1, 1, 1, std::slice::from_ref(&examples))]);
        let opened = Run::open(dir.path()).unwrap();
        assert_eq!(opened.checkpoints().unwrap(), [], "{missing}: those before the damage");
        let report = opened.verify().unwrap();
        assert!(report.damage.is_some() && report.visits == 0, "{missing}: {report:?}");
        let to = tempfile::tempdir().unwrap();
        let report = opened.recover(to.path().join("new")).unwrap();
        assert_eq!((report.written.visits, report.written.checkpoints), (1, 0), "{missing}");
    }
}

/// No block is what its header calls steps that end before they begin; a range that is too wide is only no help.
#[test]
fn steps_that_end_before_they_begin_are_damage() {
    use super::forge::{block_with, run, Forged};
    let of = |column: Column, cells: u8, bytes: &[u8]| Forged::plain(column as u16, cells, bytes.to_vec());
    let saved = [
        of(Column::Step, 3, &5u64.to_le_bytes()),
        of(Column::Epoch, 2, &1u32.to_le_bytes()),
        of(Column::Bytes, 3, &41u64.to_le_bytes()),
        of(Column::Checksum, 2, &9u32.to_le_bytes()),
    ];
    let rates = [of(Column::Step, 3, &4u64.to_le_bytes()), of(Column::LearningRate, 4, &0.5f32.to_le_bytes())];
    for (first, last, rate) in [(4u64, 4u64, Some(0.5)), (9, 2, None), (u64::MAX, 0, None), (0, u64::MAX, Some(0.5))] {
        let steps = block_with(BlockKind::Steps as u16, 1, 1, &rates, |header| {
            header[32..40].copy_from_slice(&first.to_le_bytes());
            header[40..48].copy_from_slice(&last.to_le_bytes());
        });
        let saved = block_with(8, 0, 1, &saved, |header| {
            (header[32], header[40], header[48], header[52]) = (5, 5, 1, 1);
        });
        let dir = run(&[saved, steps]);
        let opened = Run::open(dir.path()).unwrap();
        assert_eq!(opened.checkpoints().unwrap()[0].learning_rate, rate, "steps {first} to {last}");
        let damage = opened.verify().unwrap().damage.map(|damage| damage.to_string());
        let says = damage.as_ref().is_some_and(|what| what.contains("end before they begin"));
        assert_eq!(says, rate.is_none(), "steps {first} to {last}: {damage:?}");
    }
}
