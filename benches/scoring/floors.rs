//! What scoring is measured against: the same multiplications in f32, the same bytes inflated, memory copied.

use anyhow::Result;
use gradlog_analysis::Score;
use gradlog_format::log::{BlockKind, Column, ColumnKey, NO_LAYER};
use gradlog_format::run::{Block, Origin, Run};
use gradlog_kernels::matmul::{matmul, Matrix};
use rayon::prelude::*;
use std::path::Path;
use std::time::Instant;

fn visit_blocks(run: &Run) -> Vec<Block> {
    run.scan().filter(|block| block.kind() == Some(BlockKind::Visits)).collect()
}

fn layers(run: &Run) -> Vec<ColumnKey> {
    let key = |column, layer| ColumnKey { column, layer };
    let layers = (0..NO_LAYER).zip(&run.manifest().layers);
    let sides = |layer| [key(Column::Input, layer), key(Column::Delta, layer)];
    layers.flat_map(|(layer, _)| sides(layer)).collect()
}

/// Visits, and numbers in the vectors of one.
pub fn shape(run: &Run) -> (usize, usize) {
    let blocks = visit_blocks(run);
    let width = layers(run).iter().filter_map(|values| blocks[0].width(*values)).sum();
    (blocks.iter().map(Block::rows).sum(), width)
}

/// The columns beside the vectors that influence reads.
const PLAIN: [Column; 8] = [
    Column::Example,
    Column::Step,
    Column::LearningRate,
    Column::Clip,
    Column::Coefficient,
    Column::Flags,
    Column::Label,
    Column::Prediction,
];

fn bytes_of(run: &Run, counts: impl Fn(u16) -> bool) -> u64 {
    let sizes =
        |block: &Block| block.sizes().filter(|size| counts(size.column)).map(|size| size.stored_bytes).sum::<u64>();
    visit_blocks(run).iter().map(sizes).sum()
}

/// Compressed bytes of the visits' columns that influence reads.
pub fn stored_bytes(run: &Run) -> u64 {
    let vectors = Column::Input as u16..=Column::FoldedScale as u16;
    bytes_of(run, |column| vectors.contains(&column) || PLAIN.iter().any(|plain| *plain as u16 == column))
}

/// Compressed bytes of the columns that a score reads.
pub fn score_bytes(run: &Run, score: Score) -> u64 {
    let own: &[Column] = match score {
        Score::Forgetting => &[Column::Correct, Column::Loss],
        Score::El2n => &[Column::El2n],
        _ => &[Column::Margin],
    };
    let always = [Column::Example, Column::Flags, Column::Label, Column::Prediction];
    bytes_of(run, |column| own.iter().chain(&always).any(|other| *other as u16 == column))
}

/// Reads, checks and inflates what influence needs of the visits, on all threads, and does nothing with it.
pub fn inflate(run: &Run) -> Result<()> {
    let keys = layers(run);
    visit_blocks(run).par_iter().try_for_each(|block| {
        for column in PLAIN {
            match column {
                Column::Example | Column::Step => drop(block.u64s(column)?),
                Column::Flags => drop(block.u8s(column)?),
                Column::Label | Column::Prediction => drop(block.u32s(column)?),
                _ => drop(block.f32s(column)?),
            }
        }
        for values in &keys {
            drop(block.vectors(*values, Origin::Whole)?);
        }
        Ok(())
    })
}

/// Asks the operating system to forget the files, if it knows how.
pub fn forget(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = format!("if={}", entry.path().display());
        let _ = std::process::Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]).status();
    }
}

/// `[visits, width]·[width, probes]` in f32, on all threads, everything in memory and touched before.
pub struct Gemm {
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
    shape: [usize; 3],
}

impl Gemm {
    pub fn new(visits: usize, probes: usize, width: usize) -> Self {
        let numbers = |count: usize| (0..count).map(|i| (i % 15) as f32 - 7.0).collect();
        let (left, right) = (numbers(visits * width), numbers(probes * width));
        Self { left, right, out: vec![1.0; visits * probes], shape: [visits, probes, width] }
    }

    pub fn multiply(&mut self) {
        let [visits, probes, width] = self.shape;
        let right = Matrix::new(&self.right, probes, width).t();
        matmul(&mut self.out, Matrix::new(&self.left, visits, width), right, false, rayon::current_num_threads());
        std::hint::black_box(&self.out);
    }
}

/// Bytes read and written a second by all threads copying, each its own 64 MB.
pub fn copy_gb_per_s() -> f64 {
    const BYTES: usize = 64 << 20;
    let threads = rayon::current_num_threads();
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = (0..threads).map(|_| (vec![1; BYTES], vec![2; BYTES])).collect();
    let start = Instant::now();
    for _ in 0..4 {
        pairs.par_iter_mut().for_each(|(from, to)| {
            to.copy_from_slice(from);
            std::hint::black_box(to);
        });
    }
    (2 * 4 * BYTES * threads) as f64 / start.elapsed().as_secs_f64() / 1e9
}
