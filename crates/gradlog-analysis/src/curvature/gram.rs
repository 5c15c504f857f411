//! Curvature as a matrix for each block, `H = Σ w g gᵀ / Σ w`, gathered tile by tile in f64, and its damped inverse.
//!
//! A damping costs a Cholesky factorization. Many share one eigendecomposition `H = V S Vᵀ`, from which
//! `(H + λI)⁻¹ v = V (S + λI)⁻¹ Vᵀ v` for every λ at the price of a product. It takes as long as some twelve of the
//! former: 4.1 s against 0.37 s for 2,048 numbers, on a busy machine of two cores.
//!
//! Visits whose folded layers are signs add `(1 − 2/π)·s²` to each of these numbers on the diagonal of `g gᵀ`, which
//! would damp like a relative damping of 0.57. It is taken off again. What that leaves below 0 is 0, so such a matrix
//! always has an eigendecomposition.

use crate::vectors::flatten::{Flat, Flattener, Region};
use crate::{AnalysisError, Damping, VectorBlock};
use faer::linalg::matmul::{self, triangular, triangular::BlockStructure};
use faer::linalg::solvers::Solve;
use faer::prelude::ReborrowMut;
use faer::{Accum, Mat, MatRef, Par, Side};

/// Up to this number of dampings, each has a factorization.
pub(super) const FACTORS_MAX: usize = 8;

/// What a damping adds to each eigenvalue of a curvature with this trace over this many numbers.
pub(super) fn lambda(damping: Damping, trace: f64, numbers: f64) -> f64 {
    match damping {
        Damping::Relative(factor) => factor * trace / numbers.max(1.0),
        Damping::Absolute(lambda) => lambda,
    }
}

/// Sums of outer products, block by block. Only the lower triangles are kept up.
pub(super) struct Gram {
    blocks: Vec<VectorBlock>,
    regions: Vec<Region>,
    sums: Vec<Mat<f64>>,
    /// Of each region, what the traces have too much, because its numbers are signs.
    excess: Vec<f64>,
    rows: u64,
    /// What the sums are divided by.
    weight: f64,
    wide: Vec<f64>,
}

impl Gram {
    pub(super) fn new(flattener: &Flattener) -> Self {
        let (blocks, regions) = (flattener.blocks.clone(), flattener.regions.clone());
        let sums = blocks.iter().map(|block| Mat::zeros(block.width, block.width)).collect();
        let excess = vec![0.0; regions.len()];
        Self { blocks, regions, sums, excess, rows: 0, weight: 0.0, wide: Vec::new() }
    }

    /// What the rows that have been added weigh together.
    pub(super) fn weight(&self) -> f64 {
        self.weight
    }

    /// How many rows have been added.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds `w_r·s_r²·g_r g_rᵀ` of the rows of a tile with the weights `w` and the scales `s`. Each counts as `w_r` in
    /// the mean, one of scale 0 as a row of zeros.
    pub(super) fn add(&mut self, flat: &Flat, weights: &[f64], scales: &[f64]) {
        self.sum_up(flat, &weights.iter().zip(scales).map(|(w, scale)| w.sqrt() * scale).collect::<Vec<f64>>());
        self.rows += flat.rows as u64;
        self.weight += weights.iter().sum::<f64>();
    }

    /// Adds `w_r·g_r g_rᵀ` of the rows of a tile, each of which counts as `w_r` in the mean.
    pub(super) fn add_weighted(&mut self, flat: &Flat, weights: &[f64]) {
        self.sum_up(flat, &weights.iter().map(|weight| weight.sqrt()).collect::<Vec<f64>>());
        self.rows += weights.iter().filter(|weight| **weight != 0.0).count() as u64;
        self.weight += weights.iter().sum::<f64>();
    }

    fn sum_up(&mut self, flat: &Flat, scales: &[f64]) {
        for ((sum, block), values) in self.sums.iter_mut().zip(&self.blocks).zip(&flat.blocks) {
            let width = block.width;
            self.wide.clear();
            for (vector, scale) in values.chunks(width.max(1)).zip(scales) {
                self.wide.extend(vector.iter().map(|value| scale * f64::from(*value)));
            }
            add_outer_products(sum, &self.wide, flat.rows);
        }
        for (region, sum) in self.excess.iter_mut().enumerate() {
            *sum += scales.iter().enumerate().map(|(row, scale)| scale * scale * flat.excess(region, row)).sum::<f64>();
        }
    }

    /// The mean of what was added, made ready for all `dampings`.
    ///
    /// # Errors
    /// [`AnalysisError::Singular`] if a block cannot be inverted.
    pub(super) fn invert(self, dampings: &[Damping]) -> Result<Inverse, AnalysisError> {
        let (rows, weight) = (self.rows, self.weight);
        let mut blocks = Vec::with_capacity(self.sums.len());
        // All weights may be 0 in a log that somebody made up: the matrix is then 0, and said to be singular.
        let to_mean = if weight > 0.0 { 1.0 / weight } else { 0.0 };
        let signs: Vec<(&Region, f64)> =
            self.regions.iter().zip(&self.excess).map(|(region, excess)| (region, excess * to_mean)).collect();
        for (number, (mut matrix, about)) in self.sums.into_iter().zip(self.blocks).enumerate() {
            matrix *= faer::Scale(to_mean);
            let mut is_signs = false;
            for (region, excess) in signs.iter().filter(|(region, excess)| region.block == number && *excess > 0.0) {
                is_signs = true;
                region.places.clone().for_each(|i| matrix[(i, i)] -= region.share(*excess));
            }
            let trace: f64 = (0..about.width).map(|i| matrix[(i, i)]).sum();
            let lambdas: Vec<f64> =
                dampings.iter().map(|damping| lambda(*damping, trace, about.width as f64)).collect();
            let singular = |damping: f64, why: &str| AnalysisError::Singular {
                block: about.name.clone(),
                damping,
                why: why.into(),
            };
            let smallest = lambdas.iter().copied().fold(f64::INFINITY, f64::min);
            if !trace.is_finite() {
                return Err(singular(smallest, "a gradient is too large"));
            }
            if smallest <= 0.0 && about.width > 0 {
                return Err(singular(smallest, "all of its gradients are 0"));
            }
            let factor = if lambdas.len() <= FACTORS_MAX && !is_signs {
                let mut factors = Vec::with_capacity(lambdas.len());
                let mut added = 0.0;
                for &lambda in &lambdas {
                    for i in 0..about.width {
                        matrix[(i, i)] += lambda - added;
                    }
                    added = lambda;
                    let factor = matrix.llt(Side::Lower).map_err(|error| singular(lambda, &format!("{error}")))?;
                    factors.push(factor);
                }
                Factor::Cholesky(factors)
            } else {
                let eigen = matrix
                    .self_adjoint_eigen(Side::Lower)
                    .map_err(|_| singular(smallest, "its eigenvalues do not converge"))?;
                let values = (0..about.width).map(|i| eigen.S()[i].max(0.0)).collect();
                Factor::Eigen { vectors: eigen.U().to_owned(), values }
            };
            let mut block = InvertedBlock { width: about.width, lambdas, factor, traces: Vec::new() };
            if is_signs {
                let own = self.regions.iter().enumerate().filter(|(_, region)| region.block == number);
                block.traces = own.map(|(at, region)| (at, block.traces_of(region))).collect();
            }
            blocks.push(block);
        }
        Ok(Inverse { blocks, regions: self.regions, rows })
    }
}

/// Adds `Σ_r v_r v_rᵀ` of `rows` vectors, one after another, to the lower triangle of `sum`.
pub(super) fn add_outer_products(sum: &mut Mat<f64>, vectors: &[f64], rows: usize) {
    let vectors = MatRef::from_row_major_slice(vectors, rows, sum.ncols());
    triangular::matmul(
        sum.rb_mut(),
        BlockStructure::TriangularLower,
        Accum::Add,
        vectors.transpose(),
        BlockStructure::Rectangular,
        vectors,
        BlockStructure::Rectangular,
        1.0,
        threads(),
    );
}

enum Factor {
    /// One for each damping.
    Cholesky(Vec<faer::linalg::solvers::Llt<f64>>),
    Eigen {
        vectors: Mat<f64>,
        values: Vec<f64>,
    },
}

struct InvertedBlock {
    width: usize,
    lambdas: Vec<f64>,
    factor: Factor,
    /// Of each region of the block, by its number, the traces of `(H + λI)⁻¹` over its places, one for each damping;
    /// only where there are signs.
    traces: Vec<(usize, Vec<f64>)>,
}

/// `(H + λI)⁻¹` of each block, for each damping.
pub(super) struct Inverse {
    blocks: Vec<InvertedBlock>,
    regions: Vec<Region>,
    pub rows: u64,
}

impl Inverse {
    /// What the damping at a position came to, block by block.
    pub(super) fn lambdas(&self, damping: usize) -> Vec<f64> {
        self.blocks.iter().map(|block| block.lambdas[damping]).collect()
    }

    /// `(H + λI)⁻¹ v` of each of the vectors: of each block a matrix `[dampings · vectors, width]`, damping after
    /// damping.
    pub(super) fn solve(&self, vectors: &Flat) -> Vec<Vec<f32>> {
        let columns = vectors.rows;
        self.blocks
            .iter()
            .zip(&vectors.blocks)
            .map(|(block, values)| {
                let mut out = Vec::with_capacity(block.lambdas.len() * values.len());
                block.each_solution(&block.columns(values, columns), |solved| {
                    for column in 0..columns {
                        out.extend((0..block.width).map(|row| solved[(row, column)] as f32));
                    }
                });
                out
            })
            .collect()
    }

    /// `vᵀ (H + λI)⁻¹ v` of each of the vectors, summed over the blocks: `[dampings, vectors]`, damping after damping.
    ///
    /// With `v̂` signs it is `v̂ᵀ (H + λI)⁻¹ v̂` less the excess of each number times the trace of the inverse. What is
    /// left of that by chance is at least a twentieth.
    pub(super) fn quadratic(&self, vectors: &Flat) -> Vec<f64> {
        let columns = vectors.rows;
        let dampings = self.blocks.first().map_or(0, |block| block.lambdas.len());
        let mut sums = vec![0f64; dampings * columns];
        for (block, values) in self.blocks.iter().zip(&vectors.blocks) {
            let right = block.columns(values, columns);
            let mut of_damping = sums.chunks_mut(columns.max(1));
            let mut number = 0;
            block.each_solution(&right, |solved| {
                let damping = number;
                number += 1;
                for (column, sum) in of_damping.next().into_iter().flatten().enumerate() {
                    let own = (0..block.width).map(|row| right[(row, column)] * solved[(row, column)]).sum::<f64>();
                    let of_region = |(region, traces): &(usize, Vec<f64>)| {
                        self.regions[*region].share(vectors.excess(*region, column)) * traces[damping]
                    };
                    let excess: f64 = block.traces.iter().map(of_region).sum();
                    *sum += if excess > 0.0 { (own - excess).max(own / 20.0) } else { own };
                }
            });
        }
        sums
    }
}

impl InvertedBlock {
    /// Vectors `[columns, width]` as the columns of a matrix.
    fn columns(&self, values: &[f32], columns: usize) -> Mat<f64> {
        Mat::from_fn(self.width, columns, |i, j| f64::from(values[j * self.width + i]))
    }

    /// The traces of `(H + λI)⁻¹` over the places of a region, one for each damping.
    fn traces_of(&self, region: &Region) -> Vec<f64> {
        let Factor::Eigen { vectors, values } = &self.factor else { return vec![0.0; self.lambdas.len()] };
        let mut weights = vec![0f64; self.width];
        for (k, weight) in weights.iter_mut().enumerate() {
            *weight = region.places.clone().map(|i| vectors[(i, k)].powi(2)).sum();
        }
        let trace = |lambda: &f64| weights.iter().zip(values).map(|(weight, value)| weight / (value + lambda)).sum();
        self.lambdas.iter().map(trace).collect()
    }

    /// Tells `each` of `(H + λI)⁻¹ R` of the columns of `right`, damping after damping.
    fn each_solution(&self, right: &Mat<f64>, mut each: impl FnMut(&Mat<f64>)) {
        match &self.factor {
            Factor::Cholesky(factors) => {
                for factor in factors {
                    let mut solved = right.clone();
                    factor.solve_in_place(&mut solved);
                    each(&solved);
                }
            }
            Factor::Eigen { vectors, values } => {
                let turned = product(vectors.transpose(), right.as_ref());
                for lambda in &self.lambdas {
                    let scaled = Mat::from_fn(self.width, right.ncols(), |i, j| turned[(i, j)] / (values[i] + lambda));
                    each(&product(vectors.as_ref(), scaled.as_ref()));
                }
            }
        }
    }
}

pub(super) fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(left.nrows(), right.ncols());
    matmul::matmul(out.rb_mut(), Accum::Replace, left, right, 1.0, threads());
    out
}

pub(super) fn threads() -> Par {
    Par::rayon(0)
}
