//! Products of a tile of visits with panels of probes, layer by layer.

use super::apart::ApartTile;
use super::probes::ProbeSide;
use super::scheme::Scheme;
use super::variance::{layer_variance, Error, Hidden, Parts};
use super::visits::Unpacked;
use gradlog_kernels::int8::{quads, Tile, Work, COLUMNS, ROWS};
use gradlog_kernels::matmul::{matmul, Matrix};
use std::ops::Range;

/// The products of a tile of visits with some panels of probes.
pub(in crate::influence) struct Products<'a> {
    scheme: &'a Scheme,
    visits: &'a Unpacked,
    probes: &'a ProbeSide,
    panels: Range<usize>,
    floats: &'a Floats,
}

/// Of each part that is multiplied in f32, its dot products with the panels: `[visits of the tile, columns of the
/// panels]`; empty for the others. Its buffers are kept from tile to tile.
#[derive(Default)]
pub(in crate::influence) struct Floats(Vec<Vec<f32>>);

impl<'a> Products<'a> {
    pub(in crate::influence) fn new(
        scheme: &'a Scheme,
        visits: &'a Unpacked,
        (probes, panels): (&'a ProbeSide, Range<usize>),
        floats: &'a mut Floats,
    ) -> Self {
        floats.0.resize_with(scheme.widths.len(), Vec::new);
        for ((out, part), other) in floats.0.iter_mut().zip(&visits.parts).zip(&probes.parts) {
            out.clear();
            if !part.has_codes() {
                let width = other.width;
                let columns = panels.start * COLUMNS..probes.probes.min(panels.end * COLUMNS);
                let left = &part.numbers;
                let right = &other.numbers(probes.probes)[columns.start * width..columns.end * width];
                out.resize(visits.rows * columns.len(), 0.0);
                let right = Matrix::new(right, columns.len(), width).t();
                matmul(out, Matrix::new(left, visits.rows, width), right, false, 1);
            }
        }
        Self { scheme, visits, probes, panels, floats }
    }

    /// Adds what a layer says of the visits `ROWS·group..` and the probes of a panel to `sums`, and if errors are
    /// wanted the variances of it to `variances`. Places behind the last visit or the last probe hold anything.
    #[inline]
    pub(in crate::influence) fn add(
        &self,
        layer: usize,
        (group, panel): (usize, usize),
        kept: &mut Integers,
        sums: &mut Tile<f32>,
        variances: &mut Variances,
    ) {
        let Some(factored) = self.scheme.layout.factored.get(layer) else {
            let (mut dots, mut variance) = ([0f32; ROWS * COLUMNS], Variances::default());
            self.side(self.scheme.widths.len() - 1, (group, panel), kept, &mut dots, &mut variance);
            return self.scheme.isa.run(|| {
                sums.iter_mut().zip(&dots).for_each(|(sum, dot)| *sum += dot);
                variances.add(&variance);
            });
        };
        let bias = if factored.bias { 1.0 } else { 0.0 };
        if !self.scheme.errors() && !self.keeps_apart(2 * layer) && !self.keeps_apart(2 * layer + 1) {
            let [of_left, of_right] = &mut *kept;
            let left = self.integers(2 * layer, (group, panel), of_left);
            let right = left.and_then(|_| self.integers(2 * layer + 1, (group, panel), of_right));
            if let (Some(left), Some(right)) = (left, right) {
                let (left, right) = ((&*of_left, left), (&*of_right, right));
                return self.scheme.isa.run(AddLayer { left, right, bias, sums });
            }
        }
        let (mut left, mut right) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
        let (mut of_left, mut of_right) = (Variances::default(), Variances::default());
        self.side(2 * layer, (group, panel), kept, &mut left, &mut of_left);
        self.side(2 * layer + 1, (group, panel), kept, &mut right, &mut of_right);
        self.scheme.isa.run(|| {
            if self.scheme.errors() {
                let of_right = (&mut of_right.shared, &mut of_right.own);
                layer_variance((&left, bias, &right), (&of_left.shared, &of_left.own), of_right);
            }
            variances.add(&of_right);
            for ((sum, left), right) in sums.iter_mut().zip(&left).zip(&right) {
                *sum += (left + bias) * right;
            }
        });
    }

    /// Whether any vector of a part keeps numbers apart, on either side.
    fn keeps_apart(&self, part: usize) -> bool {
        !self.visits.parts[part].apart.is_empty() || !self.probes.parts[part].apart.is_empty()
    }

    /// The products of a part's codes, each too large by its row's offset, and what makes numbers of them; `None` if
    /// the part is multiplied in f32.
    #[inline]
    fn integers(&self, part: usize, (group, panel): (usize, usize), out: &mut Tile<i32>) -> Option<Scaling<'a>> {
        let (visits, other) = (&self.visits.parts[part], &self.probes.parts[part]);
        let (panels, columns) = other.codes.as_ref()?;
        if !visits.has_codes() {
            return None;
        }
        let columns = &columns[panel * COLUMNS..(panel + 1) * COLUMNS];
        let rows = group * ROWS..(group + 1) * ROWS;
        if let Some(few) = visits.products.chunks(ROWS * self.probes.probes.max(1)).nth(group) {
            // Few probes are in one panel.
            let of_rows = few.chunks(self.probes.probes).zip(out.chunks_exact_mut(COLUMNS));
            of_rows.for_each(|(few, out)| out[..few.len()].copy_from_slice(few));
            return Some(Scaling { offsets: &visits.offsets[rows.clone()], rows: &visits.scales[rows], columns });
        }
        let row_bytes = 4 * quads(other.width);
        let codes = &visits.codes[rows.start * row_bytes..rows.end * row_bytes];
        self.scheme.isa.multiply((codes, &visits.used[group]), panels, panel, visits.narrow, out);
        Some(Scaling { offsets: &visits.offsets[rows.clone()], rows: &visits.scales[rows], columns })
    }

    /// The dot products of one part, and their variances if errors are wanted.
    fn side(
        &self,
        part: usize,
        (group, panel): (usize, usize),
        kept: &mut Integers,
        out: &mut Tile<f32>,
        variances: &mut Variances,
    ) {
        match self.integers(part, (group, panel), &mut kept[0]) {
            Some(scaling) => self.scheme.isa.run(|| scaling.fill(&kept[0], out)),
            None => {
                let before = self.panels.start * COLUMNS;
                let stride = self.probes.probes.min(self.panels.end * COLUMNS) - before;
                let start = panel * COLUMNS - before;
                let columns = start..stride.min(start + COLUMNS);
                let rows = group * ROWS..self.visits.rows.min((group + 1) * ROWS);
                for (row, out) in rows.zip(out.chunks_exact_mut(COLUMNS)) {
                    let dots = &self.floats.0[part][row * stride..(row + 1) * stride][columns.clone()];
                    out[..dots.len()].copy_from_slice(dots);
                }
            }
        }
        let errors = self.scheme.errors();
        let dots = if errors { *out } else { [0f32; ROWS * COLUMNS] };
        let mut hidden = None;
        if self.keeps_apart(part) {
            hidden = errors.then(Hidden::default);
            self.add_apart(part, (group, panel), out, hidden.as_mut());
        }
        if errors {
            let (visits, probes) = (&self.visits.parts[part].noise, &self.probes.parts[part].noise);
            let visits = &visits[(group * ROWS).min(visits.len())..];
            let probes = &probes[(panel * COLUMNS).min(probes.len())..];
            let met = self.count_met(part, (group, panel), &mut kept[0]);
            let parts = Parts { visits, probes, dots: &dots, hidden: hidden.as_ref(), met: met.as_ref() };
            let Variances { shared, own } = variances;
            self.scheme.isa.run(|| self.scheme.variances[part].fill(&parts, shared, own));
        }
    }

    /// Adds what the numbers that are kept apart add to the dot products of a part.
    fn add_apart(&self, part: usize, (group, panel): (usize, usize), out: &mut Tile<f32>, hidden: Option<&mut Hidden>) {
        let (visits, probes) = (&self.visits.parts[part], &self.probes.parts[part]);
        let padded = self.probes.padded();
        let probe_rests = if visits.apart.is_empty() { &[][..] } else { probes.rests(self.probes.probes, padded) };
        let tile = ApartTile {
            visits: &visits.apart,
            visit_rests: &visits.rests,
            probes: &probes.apart,
            probe_rests,
            buckets: probes.buckets(),
            padded,
            noise: &probes.noise,
            whole: probes.whole,
        };
        let rows = (group * ROWS, self.visits.rows.saturating_sub(group * ROWS));
        let columns = (panel * COLUMNS, self.probes.probes.saturating_sub(panel * COLUMNS).min(COLUMNS));
        tile.add(rows, columns, out, hidden);
    }

    /// The squares of the probes over the places where a visit's code is not zero, where that matters for some visit.
    fn count_met(&self, part: usize, (group, panel): (usize, usize), integers: &mut Tile<i32>) -> Option<Tile<f32>> {
        let used = self.visits.parts[part].used_places.as_ref()?;
        let other = &self.probes.parts[part];
        let (panels, scales) = other.squares(self.probes.probes)?;
        let row_bytes = 4 * quads(other.width);
        let rows = group * ROWS..(group + 1) * ROWS;
        let codes = used.codes.get(rows.start * row_bytes..rows.end * row_bytes)?;
        self.scheme.isa.multiply((codes, used.used.get(group)?), panels, panel, true, integers);
        let columns = scales.get(panel * COLUMNS..(panel + 1) * COLUMNS)?;
        let scaling = Scaling { offsets: used.offsets.get(rows)?, rows: &ONES, columns };
        let mut met = [0f32; ROWS * COLUMNS];
        self.scheme.isa.run(|| scaling.fill(integers, &mut met));
        // What a probe keeps apart is in no code.
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                for number in other.apart.get(panel * COLUMNS + column) {
                    if codes.get(row * row_bytes + number.bucket()).is_some_and(|code| *code != 0) {
                        met[row * COLUMNS + column] += number.square();
                    }
                }
            }
        }
        Some(met)
    }
}

/// Codes that need no scale of their row.
const ONES: [f32; ROWS] = [1.0; ROWS];

/// The variances of a tile: what the visits of an example share, and what is each visit's own.
pub(in crate::influence) struct Variances {
    pub shared: Tile<f32>,
    pub own: Tile<f32>,
}

impl Default for Variances {
    fn default() -> Self {
        Self { shared: [0.0; ROWS * COLUMNS], own: [0.0; ROWS * COLUMNS] }
    }
}

impl Variances {
    #[inline(always)]
    fn add(&mut self, other: &Self) {
        self.shared.iter_mut().zip(&other.shared).for_each(|(sum, variance)| *sum += variance);
        self.own.iter_mut().zip(&other.own).for_each(|(sum, variance)| *sum += variance);
    }

    fn clear(&mut self) {
        self.shared.fill(0.0);
        self.own.fill(0.0);
    }
}

/// The integers of both sides of a layer. They are written before they are read, and kept so that nobody clears them
/// each time.
pub(in crate::influence) type Integers = [Tile<i32>; 2];

pub(in crate::influence) const NO_INTEGERS: Integers = [[0; ROWS * COLUMNS]; 2];

/// What makes dot products of a tile's integers: `(sum − offset)·(scale of the row · scale of the column)`.
#[derive(Clone, Copy)]
struct Scaling<'a> {
    offsets: &'a [i32],
    rows: &'a [f32],
    columns: &'a [f32],
}

impl Scaling<'_> {
    /// Writes the dot products of the integers of a tile.
    #[inline(always)]
    fn fill(&self, integers: &Tile<i32>, out: &mut Tile<f32>) {
        let rows = out.chunks_exact_mut(COLUMNS).zip(integers.chunks_exact(COLUMNS));
        for ((out, sums), (offset, scale)) in rows.zip(self.offsets.iter().zip(self.rows)) {
            for ((out, sum), column) in out.iter_mut().zip(sums).zip(self.columns) {
                *out = (sum - offset) as f32 * (scale * column);
            }
        }
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

/// The dot products of whole gradients: of a tile of visits with the probes of some panels, summed over layers.
///
/// `each` gets the visit's position in the tile, the first probe, and from it on the dot products and, if errors are
/// wanted, their errors.
pub(in crate::influence) fn dots(
    scheme: &Scheme,
    tile: &Unpacked,
    (probes, panels): (&ProbeSide, Range<usize>),
    floats: &mut Floats,
    mut each: impl FnMut(usize, usize, &[f32], Option<&[Error]>),
) {
    let (mut sum, mut variances) = ([0f32; ROWS * COLUMNS], Variances::default());
    let mut errors = [Error::default(); ROWS * COLUMNS];
    let mut kept = NO_INTEGERS;
    let products = Products::new(scheme, tile, (probes, panels.clone()), floats);
    for panel in panels {
        let columns = panel * COLUMNS..probes.probes.min((panel + 1) * COLUMNS);
        for group in 0..tile.rows.div_ceil(ROWS) {
            sum.fill(0.0);
            if scheme.errors() {
                variances.clear();
            }
            for layer in 0..scheme.layers() {
                products.add(layer, (group, panel), &mut kept, &mut sum, &mut variances);
            }
            if scheme.errors() {
                scheme.isa.run(|| {
                    let both = variances.shared.iter().zip(&variances.own);
                    for (error, (shared, own)) in errors.iter_mut().zip(both) {
                        *error = Error { shared: shared.sqrt(), own: *own };
                    }
                });
            }
            for row in 0..ROWS.min(tile.rows - group * ROWS) {
                let place = row * COLUMNS..row * COLUMNS + columns.len();
                let errors = scheme.errors().then(|| &errors[place.clone()]);
                each(group * ROWS + row, columns.start, &sum[place], errors);
            }
        }
    }
}

/// The maximal stretches of equal neighbors.
pub(in crate::influence) fn stretches(times: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    times.chunk_by(|a, b| a == b).map(move |stretch| {
        let range = start..start + stretch.len();
        start = range.end;
        range
    })
}
