//! Recorded curvature along the walk: for each step, the rows of the nearest earlier time.

use crate::curvature::probes::load;
use crate::curvature::scores::block_dots;
use crate::curvature::story::SetRows;
use crate::curvature::subject::Subject;
use crate::influence::plan::index::Record;
use crate::vectors::flatten::{Flat, Region};
use crate::AnalysisError;
use gradlog_kernels::matmul::{matmul, Matrix};
use std::ops::Range;

/// The curvature rows of one time.
enum Rows {
    /// As they are, with the share of each in the mean; better where they are few.
    Few(Flat, Vec<f64>),
    /// As `Σ w g gᵀ / Σ w` of each block.
    Many(Vec<Vec<f32>>),
}

pub(super) struct SetCurvature<'a> {
    subject: &'a Subject<'a>,
    set: &'a SetRows,
    at: Option<u64>,
    rows: Rows,
    /// How many rows have been used.
    pub count: u64,
}

impl<'a> SetCurvature<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, set: &'a SetRows) -> Self {
        Self { subject, set, at: None, rows: Rows::Few(Flat::default(), Vec::new()), count: 0 }
    }

    /// Makes the rows of the nearest earlier time ready, or of the first if none is earlier.
    pub(super) fn go_to(&mut self, step: u64) -> Result<(), AnalysisError> {
        let earlier = self.set.times.range(..=step).next_back();
        let Some((&time, rows)) = earlier.or_else(|| self.set.times.first_key_value()) else { return Ok(()) };
        if self.at == Some(time) {
            return Ok(());
        }
        self.at = Some(time);
        self.count += rows.len() as u64;
        let records: Vec<Record> = rows.iter().map(|row| row.record).collect();
        let (mut flat, _, _) = load(&self.set.index, &self.subject.flattener, &records)?;
        let total: f64 = rows.iter().map(|row| row.weight).sum();
        let shares: Vec<f64> = rows.iter().map(|row| if total > 0.0 { row.weight / total } else { 0.0 }).collect();
        let longest = self.subject.flattener.blocks.iter().map(|block| block.width).max().unwrap_or(0);
        if 2 * flat.rows <= longest {
            self.rows = Rows::Few(flat, shares);
            return Ok(());
        }
        for (values, about) in flat.blocks.iter_mut().zip(&self.subject.flattener.blocks) {
            for (row, share) in values.chunks_mut(about.width.max(1)).zip(&shares) {
                let root = share.sqrt() as f32;
                row.iter_mut().for_each(|value| *value *= root);
            }
        }
        let square = |(values, about): (&Vec<f32>, &crate::VectorBlock)| {
            let mut out = vec![0f32; about.width * about.width];
            let rows = Matrix::new(values, flat.rows, about.width);
            matmul(&mut out, rows.t(), rows, false, rayon::current_num_threads());
            out
        };
        self.rows = Rows::Many(flat.blocks.iter().zip(&self.subject.flattener.blocks).map(square).collect());
        Ok(())
    }

    /// `a += weight·H b` of one block, for matrices `[probes, width]`.
    pub(super) fn add(&self, block: usize, a: &mut [f32], b: &[f32], probes: usize, weight: f64) {
        let width = self.subject.flattener.blocks[block].width;
        match &self.rows {
            Rows::Few(flat, shares) => {
                let weights: Vec<f64> = shares.iter().map(|share| share * weight).collect();
                add_curvature(a, b, &flat.blocks[block], flat.rows, probes, width, &weights);
            }
            Rows::Many(matrices) => {
                let scaled: Vec<f32> = b.iter().map(|b| weight as f32 * b).collect();
                let left = Matrix::new(&scaled, probes, width);
                let right = Matrix::new(&matrices[block], width, width);
                matmul(a, left, right, true, rayon::current_num_threads());
            }
        }
    }
}

/// `a += Σ_r weight_r·⟨w_r, b⟩·w_r` for each probe of one block; gives the dot products `[rows, probes]`.
pub(super) fn add_curvature(
    a: &mut [f32],
    b: &[f32],
    rows: &[f32],
    count: usize,
    probes: usize,
    width: usize,
    weights: &[f64],
) -> Vec<f32> {
    let dots = block_dots(rows, count, b, probes);
    let weighted: Vec<f32> = dots
        .chunks(probes.max(1))
        .zip(weights)
        .flat_map(|(dots, weight)| dots.iter().map(move |dot| (weight * f64::from(*dot)) as f32))
        .collect();
    let left = Matrix::new(&weighted, count, probes).t();
    matmul(a, left, Matrix::new(rows, count, width), true, rayon::current_num_threads());
    dots
}

/// Of each region of a block, what `Σ_r weight_r·g_r g_rᵀ` has too much on the diagonal, because rows are signs.
pub(super) fn weighted_excess(
    subject: &Subject<'_>,
    flat: &Flat,
    block: usize,
    weights: &[f64],
) -> Vec<(Range<usize>, f32)> {
    let own = subject.flattener.regions.iter().enumerate().filter(|(_, region)| region.block == block);
    let sum = |(number, region): (usize, &Region)| {
        let sum = weights.iter().enumerate().map(|(row, weight)| weight * flat.excess(number, row)).sum::<f64>();
        (region.places.clone(), region.share(sum) as f32)
    };
    own.map(sum).filter(|(_, excess)| *excess != 0.0).collect()
}

/// `a −= excess·b` for each probe in each region.
pub(super) fn take_off(a: &mut [f32], b: &[f32], width: usize, excess: &[(Range<usize>, f32)]) {
    for (a, b) in a.chunks_mut(width.max(1)).zip(b.chunks(width.max(1))) {
        for (places, excess) in excess {
            a[places.clone()].iter_mut().zip(&b[places.clone()]).for_each(|(a, b)| *a -= excess * b);
        }
    }
}
