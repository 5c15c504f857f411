//! Readers of a log and of results.

use gradlog_analysis::{Influence, ScoreTable};
use gradlog_format::log::{BlockKind, Column, ColumnKey, NO_LAYER};
use gradlog_format::run::{Block, Origin, Run};
use std::path::Path;

/// The blocks of a kind, in order.
pub fn blocks(dir: &Path, kind: BlockKind) -> Vec<Block> {
    Run::open(dir).unwrap().scan().filter(|block| block.kind() == Some(kind)).collect()
}

/// All vectors of a column over the visit blocks of a run, in order.
pub fn vectors(dir: &Path, column: Column, layer: u16) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let run = Run::open(dir).unwrap();
    for block in blocks(dir, BlockKind::Visits) {
        let origin = match (column, run.manifest().layers.get(usize::from(layer))) {
            (Column::Input, Some(record)) => Origin::of_input(record, &run.manifest().sketch),
            (Column::Delta, Some(record)) => Origin::of_delta(record, &run.manifest().sketch),
            _ => Origin::Rotated,
        };
        let vectors = block.vectors(ColumnKey { column, layer }, origin).unwrap();
        for i in 0..vectors.rows() {
            let mut out = vec![0.0; vectors.width()];
            vectors.decode(i, &mut out);
            rows.push(out);
        }
    }
    rows
}

pub fn folded(dir: &Path) -> Vec<Vec<f32>> {
    vectors(dir, Column::Folded, NO_LAYER)
}

pub fn u8s(dir: &Path, kind: BlockKind, column: Column) -> Vec<u8> {
    blocks(dir, kind).iter().flat_map(|block| block.u8s(column).unwrap()).collect()
}

pub fn u32s(dir: &Path, kind: BlockKind, column: Column) -> Vec<u32> {
    blocks(dir, kind).iter().flat_map(|block| block.u32s(column).unwrap()).collect()
}

pub fn u64s(dir: &Path, kind: BlockKind, column: Column) -> Vec<u64> {
    blocks(dir, kind).iter().flat_map(|block| block.u64s(column).unwrap()).collect()
}

pub fn f32s(dir: &Path, kind: BlockKind, column: Column) -> Vec<f32> {
    blocks(dir, kind).iter().flat_map(|block| block.f32s(column).unwrap()).collect()
}

/// The examples of all visits, in order.
pub fn visited(dir: &Path) -> Vec<u64> {
    u64s(dir, BlockKind::Visits, Column::Example)
}

/// The scores of examples 0 to `count` on a probe; NaN for an example that has none.
pub fn influence_by_example(result: &Influence, probe: usize, count: usize) -> Vec<f32> {
    let mut scores = vec![f32::NAN; count];
    for (number, row) in result.rows.iter().enumerate() {
        scores[row.example as usize] = result.score(number, probe) as f32;
    }
    scores
}

/// The scores of examples 0 to `count`; NaN for an example that has none.
pub fn score_by_example(table: &ScoreTable, count: usize) -> Vec<f32> {
    let mut scores = vec![f32::NAN; count];
    for row in &table.rows {
        scores[row.example as usize] = row.score as f32;
    }
    scores
}
