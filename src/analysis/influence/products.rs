//! Products of many visits with many probes, layer by layer, from the numbers as they are stored.
//!
//! Vectors that are stored as integers on both sides are multiplied as integers ([`crate::int8`]) and scaled afterwards, so
//! a dot product of codes is exact. All others are decoded and multiplied in f32. Visits come in tiles that stay in the
//! cache; a tile's products with a panel of probes are added up layer by layer, `(⟨a,a'⟩ + bias)·⟨δ,δ'⟩` or `⟨s,s'⟩`, with
//! their variances where asked for, so that what is made of them (a sum, for TracIn) is up to the caller.

mod probes;
mod visits;

use super::super::gradient::Layout;
use super::variance::{layer_variance, PartVariance};
use crate::int8::{quads, Isa, Tile, Work, COLUMNS, ROWS};
use crate::log::LayerRecord;
use crate::matmul::{matmul, Matrix};
pub(super) use probes::{ProbeSide, Stored};
use std::ops::Range;
pub(super) use visits::Unpacked;

/// Visits of a tile: their unpacked codes and a panel of probes fit the second-level cache.
pub(super) const TILE_ROWS: usize = 8 * ROWS;

/// Which vectors there are, and how they are multiplied.
pub(super) struct Scheme {
    pub layout: Layout,
    pub isa: Isa,
    widths: Vec<usize>,
    /// Of each part, what its error depends on; empty if no errors are wanted.
    variances: Vec<PartVariance>,
}

impl Scheme {
    pub(super) fn new(layout: &Layout, layers: &[LayerRecord], errors: bool) -> Self {
        let widths = layout.widths();
        let parts = widths.iter().zip(layout.projected(layers));
        let variances = parts.map(|(&width, projected)| PartVariance::new(width, projected));
        let variances = if errors { variances.collect() } else { Vec::new() };
        Self { layout: layout.clone(), isa: Isa::detect(), widths, variances }
    }

    pub(super) fn errors(&self) -> bool {
        !self.variances.is_empty()
    }

    /// How many layers [`Products::add`] knows: the factored ones, and the folded vector.
    pub(super) fn layers(&self) -> usize {
        self.layout.factored.len() + usize::from(self.layout.folded.is_some())
    }
}

/// How many panels hold so many probes.
pub(super) fn panels_of(probes: usize) -> usize {
    probes.div_ceil(COLUMNS)
}

/// The products of a tile of visits with some panels of probes.
pub(super) struct Products<'a> {
    scheme: &'a Scheme,
    visits: &'a Unpacked,
    probes: &'a ProbeSide,
    /// Rows of `visits`.
    tile: Range<usize>,
    panels: Range<usize>,
    floats: &'a Floats,
}

/// Of each part that is multiplied in f32, its dot products with the panels: `[visits of the tile, columns of the panels]`; empty
/// for the others. Its buffers are kept from tile to tile.
#[derive(Default)]
pub(super) struct Floats(Vec<Vec<f32>>);

impl<'a> Products<'a> {
    pub(super) fn new(
        scheme: &'a Scheme,
        (visits, tile): (&'a Unpacked, Range<usize>),
        (probes, panels): (&'a ProbeSide, Range<usize>),
        floats: &'a mut Floats,
    ) -> Self {
        floats.0.resize_with(scheme.widths.len(), Vec::new);
        for ((out, part), other) in floats.0.iter_mut().zip(&visits.parts).zip(&probes.parts) {
            out.clear();
            if !part.has_codes() {
                let width = other.width;
                let columns = panels.start * COLUMNS..probes.probes.min(panels.end * COLUMNS);
                let left = &part.numbers[tile.start * width..tile.end * width];
                let right = &other.numbers(probes.probes)[columns.start * width..columns.end * width];
                out.resize(tile.len() * columns.len(), 0.0);
                let right = Matrix::new(right, columns.len(), width).t();
                matmul(out, Matrix::new(left, tile.len(), width), right, false, 1);
            }
        }
        Self { scheme, visits, probes, tile, panels, floats }
    }

    /// Adds what a layer says of the visits `first..first + ROWS` and the probes of a panel to `sums`, and if errors are wanted the
    /// variances of it to `variances`. Places behind the last visit or the last probe hold anything.
    #[inline]
    pub(super) fn add(
        &self,
        layer: usize,
        (first, panel): (usize, usize),
        sums: &mut Tile<f32>,
        variances: &mut Tile<f32>,
    ) {
        let Some(factored) = self.scheme.layout.factored.get(layer) else {
            let (mut dots, mut variance) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
            self.side(self.scheme.widths.len() - 1, (first, panel), &mut dots, &mut variance);
            return self.scheme.isa.run(|| {
                sums.iter_mut().zip(&dots).for_each(|(sum, dot)| *sum += dot);
                variances.iter_mut().zip(&variance).for_each(|(sum, variance)| *sum += variance);
            });
        };
        let bias = if factored.bias { 1.0 } else { 0.0 };
        if !self.scheme.errors() {
            let mut products = ([0i32; ROWS * COLUMNS], [0i32; ROWS * COLUMNS]);
            let left = self.integers(2 * layer, (first, panel), &mut products.0);
            let right = left.and_then(|_| self.integers(2 * layer + 1, (first, panel), &mut products.1));
            if let (Some(left), Some(right)) = (left, right) {
                let (left, right) = ((&products.0, left), (&products.1, right));
                return self.scheme.isa.run(AddLayer { left, right, bias, sums });
            }
        }
        let (mut left, mut right) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
        let (mut of_left, mut of_right) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
        self.side(2 * layer, (first, panel), &mut left, &mut of_left);
        self.side(2 * layer + 1, (first, panel), &mut right, &mut of_right);
        self.scheme.isa.run(|| {
            if self.scheme.errors() {
                layer_variance(&left, bias, &of_left, &right, &mut of_right);
                variances.iter_mut().zip(&of_right).for_each(|(sum, variance)| *sum += variance);
            }
            for ((sum, left), right) in sums.iter_mut().zip(&left).zip(&right) {
                *sum += (left + bias) * right;
            }
        });
    }

    /// The products of a part's codes, each too large by its row's offset, and what makes numbers of them; `None` if the part is
    /// multiplied in f32.
    #[inline]
    fn integers(&self, part: usize, (first, panel): (usize, usize), out: &mut Tile<i32>) -> Option<Scaling<'a>> {
        let (visits, other) = (&self.visits.parts[part], &self.probes.parts[part]);
        let (panels, columns) = other.codes.as_ref()?;
        if !visits.has_codes() {
            return None;
        }
        let row_bytes = 4 * quads(other.width);
        let codes = &visits.codes[first * row_bytes..(first + ROWS) * row_bytes];
        self.scheme.isa.multiply(codes, panels, panel, visits.narrow, out);
        let rows = first..first + ROWS;
        let columns = &columns[panel * COLUMNS..(panel + 1) * COLUMNS];
        Some(Scaling { offsets: &visits.offsets[rows.clone()], rows: &visits.scales[rows], columns })
    }

    /// The dot products of one part, and their variances if errors are wanted.
    fn side(&self, part: usize, (first, panel): (usize, usize), out: &mut Tile<f32>, variances: &mut Tile<f32>) {
        let mut products = [0i32; ROWS * COLUMNS];
        match self.integers(part, (first, panel), &mut products) {
            Some(scaling) => self.scheme.isa.run(|| {
                for (at, (out, sum)) in out.iter_mut().zip(&products).enumerate() {
                    *out = scaling.number(at / COLUMNS, at % COLUMNS, *sum);
                }
            }),
            None => {
                let before = self.panels.start * COLUMNS;
                let stride = self.probes.probes.min(self.panels.end * COLUMNS) - before;
                let start = panel * COLUMNS - before;
                let columns = start..stride.min(start + COLUMNS);
                let rows = first - self.tile.start..self.tile.len().min(first - self.tile.start + ROWS);
                for (row, out) in rows.zip(out.chunks_exact_mut(COLUMNS)) {
                    let dots = &self.floats.0[part][row * stride..(row + 1) * stride][columns.clone()];
                    out[..dots.len()].copy_from_slice(dots);
                }
            }
        }
        if self.scheme.errors() {
            let (visits, probes) = (&self.visits.parts[part].noise, &self.probes.parts[part].noise);
            let visits = &visits[first.min(visits.len())..];
            let probes = &probes[(panel * COLUMNS).min(probes.len())..];
            self.scheme.isa.run(|| self.scheme.variances[part].fill(visits, probes, out, variances));
        }
    }
}

/// What makes dot products of a tile's integers: `(sum − offset)·(scale of the row · scale of the column)`.
#[derive(Clone, Copy)]
struct Scaling<'a> {
    offsets: &'a [i32],
    rows: &'a [f32],
    columns: &'a [f32],
}

impl Scaling<'_> {
    #[inline(always)]
    fn number(&self, row: usize, column: usize, sum: i32) -> f32 {
        (sum - self.offsets[row]) as f32 * (self.rows[row] * self.columns[column])
    }
}

/// Adds `(⟨a,a'⟩ + bias)·⟨δ,δ'⟩` in one go, while the integers are in the first-level cache.
struct AddLayer<'a> {
    left: (&'a Tile<i32>, Scaling<'a>),
    right: (&'a Tile<i32>, Scaling<'a>),
    bias: f32,
    sums: &'a mut Tile<f32>,
}

impl Work for AddLayer<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { left: (left, of_left), right: (right, of_right), bias, sums } = self;
        let rows = left.chunks_exact(COLUMNS).zip(right.chunks_exact(COLUMNS)).zip(sums.chunks_exact_mut(COLUMNS));
        let of_rows = |of: &Scaling<'_>, row: usize| (of.offsets[row], of.rows[row]);
        for (row, ((left, right), sums)) in rows.enumerate() {
            let ((left_offset, left_scale), (right_offset, right_scale)) =
                (of_rows(&of_left, row), of_rows(&of_right, row));
            let left = left.iter().zip(of_left.columns);
            let right = right.iter().zip(of_right.columns);
            for ((sum, (left, left_column)), (right, right_column)) in sums.iter_mut().zip(left).zip(right) {
                let left = (left - left_offset) as f32 * (left_scale * left_column);
                let right = (right - right_offset) as f32 * (right_scale * right_column);
                *sum += (left + bias) * right;
            }
        }
    }
}

/// The dot products of whole gradients: of the rows `positions` of `visits` with the probes of some panels, summed over layers.
///
/// `each` is told of the position, the first probe, and of so many probes the dot products and, if errors are wanted, their standard
/// deviations.
pub(super) fn dots(
    scheme: &Scheme,
    (visits, positions): (&Unpacked, Range<usize>),
    (probes, panels): (&ProbeSide, Range<usize>),
    floats: &mut Floats,
    mut each: impl FnMut(usize, usize, &[f32], Option<&[f32]>),
) {
    let (mut sum, mut variance) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
    for start in positions.clone().step_by(TILE_ROWS) {
        let tile = start..positions.end.min(start + TILE_ROWS);
        let products = Products::new(scheme, (visits, tile.clone()), (probes, panels.clone()), floats);
        for panel in panels.clone() {
            let columns = panel * COLUMNS..probes.probes.min((panel + 1) * COLUMNS);
            for first in tile.clone().step_by(ROWS) {
                sum.fill(0.0);
                variance.fill(0.0);
                (0..scheme.layers()).for_each(|layer| products.add(layer, (first, panel), &mut sum, &mut variance));
                if scheme.errors() {
                    scheme.isa.run(|| variance.iter_mut().for_each(|variance| *variance = variance.sqrt()));
                }
                for row in 0..ROWS.min(tile.end - first) {
                    let place = row * COLUMNS..row * COLUMNS + columns.len();
                    let errors = scheme.errors().then(|| &variance[place.clone()]);
                    each(first + row, columns.start, &sum[place], errors);
                }
            }
        }
    }
}

/// The maximal stretches of equal neighbours.
pub(super) fn stretches(times: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    times.chunk_by(|a, b| a == b).map(move |stretch| {
        let range = start..start + stretch.len();
        start = range.end;
        range
    })
}

#[cfg(test)]
mod tests;
