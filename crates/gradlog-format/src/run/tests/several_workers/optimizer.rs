//! Momentum and weight decay that some workers' optimizers did not tell.

use super::*;

/// The steps of one worker: number, clip, momentum. It lacks the column of clips if none of them has one.
fn steps(rows: &[(u64, Option<f32>, f32)]) -> BlockBuilder {
    let mut block = BlockBuilder::new(BlockKind::Steps);
    block.u64s(Column::Step, rows.iter().map(|row| row.0));
    block.u32s(Column::Epoch, rows.iter().map(|_| 0));
    block.f32s(Column::LearningRate, rows.iter().map(|_| 0.5));
    if rows.iter().any(|row| row.1.is_some()) {
        block.f32s(Column::Clip, rows.iter().filter_map(|row| row.1));
    }
    block.f32s(Column::Momentum, rows.iter().map(|row| row.2));
    for row in rows {
        block.advance(1, row.0, 0);
    }
    block
}

#[test]
fn a_merged_step_has_what_the_lowest_rank_told() {
    let dir = tempfile::tempdir().unwrap();
    let parts: [&[(u64, Option<f32>, f32)]; 3] = [
        &[(0, None, 0.9), (1, None, f32::NAN)],
        &[(0, Some(0.25), 0.8), (1, Some(0.25), 0.8), (2, Some(0.25), 0.8)],
        &[(2, Some(0.75), f32::NAN), (3, Some(0.75), f32::NAN)],
    ];
    for (rank, rows) in (0..).zip(parts) {
        let mut writer = writer(dir.path(), &part_manifest(rank));
        writer.append(&mut steps(rows)).unwrap();
        writer.finish().unwrap();
    }
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.verify().unwrap().steps, 4);
    let block = run.scan().find(|block| block.kind() == Some(BlockKind::Steps)).unwrap();
    let momenta: Vec<Option<f32>> =
        block.f32s(Column::Momentum).unwrap().into_iter().map(|told| (!told.is_nan()).then_some(told)).collect();
    assert_eq!(momenta, [Some(0.9), None, Some(0.8), None], "rank 1 does not speak for rank 0");
    assert!(!block.has(Column::WeightDecay), "nobody told it");
    // No clip is a clip of 1.
    assert_eq!(block.f32s(Column::Clip).unwrap(), [1.0, 1.0, 0.25, 0.75]);
}
