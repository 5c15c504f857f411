//! What the tests share.

use candle_core::{Device, Result, Tensor};
use gradlog_format::log::{BlockKind, Column, ColumnKey, NO_LAYER};
use gradlog_format::run::{Block, Run};
use std::path::Path;

/// A deterministic tensor of numbers in -1..1, another for each seed.
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn row(tensor: &Tensor, i: usize) -> Result<Tensor> {
    tensor.narrow(0, i, 1)?.contiguous()
}

pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

pub fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// `‖a − b‖ / ‖b‖`, and `‖a‖` where `b` is zero.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f32> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    norm(&difference) / if norm(b) == 0.0 { 1.0 } else { norm(b) }
}

pub fn blocks(dir: &Path, kind: BlockKind) -> Vec<Block> {
    Run::open(dir).unwrap().scan().filter(|block| block.kind() == Some(kind)).collect()
}

/// All vectors of a column over the visit blocks of a run, in order.
pub fn vectors(dir: &Path, column: Column, scale: Column, layer: u16) -> Vec<Vec<f32>> {
    let key = |column| ColumnKey { column, layer };
    let mut rows = Vec::new();
    for block in blocks(dir, BlockKind::Visits) {
        let vectors = block.vectors(key(column), key(scale)).unwrap();
        for i in 0..vectors.rows() {
            let mut out = vec![0.0; vectors.width()];
            vectors.decode(i, &mut out);
            rows.push(out);
        }
    }
    rows
}

pub fn folded(dir: &Path) -> Vec<Vec<f32>> {
    vectors(dir, Column::Folded, Column::FoldedScale, NO_LAYER)
}

pub fn f32s(dir: &Path, kind: BlockKind, column: Column) -> Vec<f32> {
    blocks(dir, kind).iter().flat_map(|block| block.f32s(column).unwrap()).collect()
}
