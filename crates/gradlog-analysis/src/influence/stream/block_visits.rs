//! What a pass reads of a block of visits, and the dot products of its rows.

use crate::influence::products::{dots, panels_of, stretches, Error, Floats, ProbeSide, Scheme, Unpacked, TILE_ROWS};
use crate::rows::gradient::Gradients;
use crate::rows::reader::BlockGap;
use crate::LeftOut;
use gradlog_kernels::int8::COLUMNS;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The probes of a pass, by the position of their time.
pub(super) type Lent = HashMap<usize, Arc<ProbeSide>>;

/// What was read of one block.
#[derive(Default)]
pub(super) struct BlockVisits {
    pub examples: Vec<u64>,
    pub steps: Vec<u64>,
    pub labels: Option<Vec<Option<u32>>>,
    pub predictions: Option<Vec<Option<u32>>>,
    /// Rows inside the window.
    pub inside: Vec<usize>,
    /// Of these, rows that count, with their weights and the positions of their probe times.
    pub rows: Vec<usize>,
    pub weights: Vec<f64>,
    pub times: Vec<usize>,
    /// Of each row that counts, what it adds to the self-influence of its example; empty unless scores are divided by
    /// it.
    pub self_influence: Vec<f64>,
    pub gradients: Option<Gradients>,
    /// The dot products `[rows, probes]`, where the reader of the block computed them.
    pub dots: Option<Dots>,
    pub at_probe_times: u64,
    /// Rows inside the window that do not count.
    pub left_out: LeftOut,
    /// Why no row counts, if none does.
    pub gap: Option<BlockGap>,
}

/// Dot products with their errors, which are empty if they are not wanted.
pub(super) struct Dots {
    pub values: Vec<f32>,
    pub errors: Vec<Error>,
}

impl Dots {
    /// Whether there are few enough probes for the reader of a block to compute its dot products.
    pub(super) fn fit(probes: usize) -> bool {
        probes <= COLUMNS
    }

    pub(super) fn multiply(scheme: &Scheme, block: &BlockVisits, lent: &Lent, probes: usize) -> Self {
        let count = block.rows.len() * probes;
        let errors = vec![Error::default(); if scheme.errors() { count } else { 0 }];
        let mut all = Self { values: vec![0.0; count], errors };
        let (mut tile, mut floats) = (Unpacked::default(), Floats::default());
        let (rows, panels, kept) = (0..block.rows.len(), 0..panels_of(probes), (&mut tile, &mut floats));
        block.each_dots(scheme, lent, rows, panels, kept, |position, first, dots, errors| {
            let at = position * probes + first..position * probes + first + dots.len();
            all.values[at.clone()].copy_from_slice(dots);
            if let Some(errors) = errors {
                all.errors[at].copy_from_slice(errors);
            }
        });
        all
    }
}

impl BlockVisits {
    /// Drops the rows of all examples but some from those that count.
    pub(super) fn keep(&mut self, example: impl Fn(u64) -> bool) {
        let kept: Vec<bool> = self.rows.iter().map(|&row| example(self.examples[row])).collect();
        let mut of_row = kept.iter();
        self.rows.retain(|_| of_row.next() == Some(&true));
        let mut of_row = kept.iter();
        self.weights.retain(|_| of_row.next() == Some(&true));
        let mut of_row = kept.iter();
        self.times.retain(|_| of_row.next() == Some(&true));
    }

    /// The dot products of the rows at some positions, taken apart a tile at a time, which stays in the cache.
    pub(super) fn each_dots(
        &self,
        scheme: &Scheme,
        lent: &Lent,
        positions: Range<usize>,
        panels: Range<usize>,
        (tile, floats): (&mut Unpacked, &mut Floats),
        mut each: impl FnMut(usize, usize, &[f32], Option<&[Error]>),
    ) {
        let Some(gradients) = &self.gradients else { return };
        for stretch in stretches(&self.times[positions.clone()]) {
            let stretch = positions.start + stretch.start..positions.start + stretch.end;
            // The reader of the block made sure of it.
            let Some(probes) = lent.get(&self.times[stretch.start]) else { continue };
            for start in stretch.clone().step_by(TILE_ROWS) {
                let positions = start..stretch.end.min(start + TILE_ROWS);
                tile.load(scheme, gradients, &self.rows[positions.clone()], (probes, panels.len()));
                dots(scheme, tile, (probes, panels.clone()), floats, |position, first, dots, errors| {
                    each(start + position, first, dots, errors);
                });
            }
        }
    }
}
