//! Products of many visits with many probes, layer by layer, from the numbers as they are stored.
//!
//! Vectors that are stored as integers on both sides are multiplied as integers ([`crate::int8`]) and scaled afterwards, so
//! a dot product of codes is exact. All others are decoded and multiplied in f32. Visits come in tiles that stay in the
//! cache; a tile's products with a panel of probes are given out layer by layer, `(⟨a,a'⟩ + bias)·⟨δ,δ'⟩` or `⟨s,s'⟩`, with
//! their variances where asked for, so that what is made of them (a sum, for TracIn) is up to the caller.

use super::super::gradient::{Gradients, Layout};
use super::variance::{layer_variance, Noise, PartVariance};
use crate::int8::{offset, quads, Isa, Panels, Tile, Work, COLUMNS, NARROW_MAX, ROWS, WIDTH_MAX};
use crate::log::LayerRecord;
use crate::matmul::{matmul, Matrix};
use crate::run::Vectors;
use crate::sketch::Encoding;
use std::ops::Range;
use std::sync::OnceLock;

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
}

/// A stored vector on its way into [`ProbeSide`].
pub(super) enum Stored {
    Codes { codes: Vec<i8>, scale: f32, signs: bool },
    Numbers(Vec<f32>),
}

impl Stored {
    pub(super) fn read(vectors: &Vectors, row: usize) -> Self {
        let (bytes, scale) = vectors.row(row);
        if vectors.encoding().code_max().is_some() && vectors.width() <= WIDTH_MAX {
            let mut codes = vec![0i8; vectors.width()];
            vectors.encoding().codes(bytes, &mut codes);
            return Stored::Codes { codes, scale: scale.to_f32(), signs: vectors.encoding() == Encoding::Signs };
        }
        let mut numbers = vec![0f32; vectors.width()];
        vectors.decode(row, &mut numbers);
        Stored::Numbers(numbers)
    }

    fn number(&self) -> impl Iterator<Item = f32> + '_ {
        let (codes, numbers, step) = match self {
            Stored::Codes { codes, scale, .. } => (codes.as_slice(), &[][..], *scale),
            Stored::Numbers(numbers) => (&[][..], numbers.as_slice(), 0.0),
        };
        codes.iter().map(move |code| step * f32::from(*code)).chain(numbers.iter().copied())
    }

    /// The squared norm of the vector that this stands for.
    pub(super) fn squared_norm(&self) -> f64 {
        self.noise().squared_norm()
    }

    /// Multiplies the vector by a number.
    pub(super) fn scale(&mut self, factor: f32) {
        match self {
            Stored::Codes { scale, .. } => *scale *= factor,
            Stored::Numbers(numbers) => numbers.iter_mut().for_each(|number| *number *= factor),
        }
    }

    fn noise(&self) -> Noise {
        match self {
            Stored::Codes { codes, scale, signs: true } => Noise::of_signs(codes.len(), *scale),
            Stored::Codes { codes, scale, .. } => Noise::of_codes(codes, *scale),
            Stored::Numbers(numbers) => Noise::of_numbers(numbers),
        }
    }
}

/// The gradients of all probes of a pass at one time.
pub(super) struct ProbeSide {
    parts: Vec<ProbePart>,
    probes: usize,
}

struct ProbePart {
    width: usize,
    codes: Option<(Panels, Vec<f32>)>,
    /// `[probes, width]`; made of the codes when it is asked for.
    numbers: OnceLock<Vec<f32>>,
    noise: Vec<Noise>,
}

impl ProbeSide {
    /// `stored` is `[probes][parts]`.
    pub(super) fn new(scheme: &Scheme, stored: &[Vec<Stored>]) -> Self {
        let parts = scheme.widths.iter().enumerate().map(|(number, &width)| {
            let of_part = || stored.iter().map(move |parts| &parts[number]);
            let noise = if scheme.errors() { of_part().map(Stored::noise).collect() } else { Vec::new() };
            let mut part = ProbePart { width, codes: None, numbers: OnceLock::new(), noise };
            if width <= WIDTH_MAX && of_part().all(|vector| matches!(vector, Stored::Codes { .. })) {
                let mut panels = Panels::new(width, stored.len());
                let mut scales = vec![0f32; stored.len().next_multiple_of(COLUMNS)];
                for (probe, vector) in of_part().enumerate() {
                    if let Stored::Codes { codes, scale, .. } = vector {
                        panels.set(probe, codes);
                        scales[probe] = *scale;
                    }
                }
                part.codes = Some((panels, scales));
            } else {
                part.numbers = OnceLock::from(of_part().flat_map(Stored::number).collect::<Vec<f32>>());
            }
            part
        });
        Self { parts: parts.collect(), probes: stored.len() }
    }
}

impl ProbePart {
    fn numbers(&self, probes: usize) -> &[f32] {
        self.numbers.get_or_init(|| {
            let Some((panels, scales)) = &self.codes else { return Vec::new() };
            let column =
                |probe: usize| panels.get(probe).take(self.width).map(move |code| scales[probe] * f32::from(code));
            (0..probes).flat_map(column).collect()
        })
    }
}

/// How many panels hold so many probes.
pub(super) fn panels_of(probes: usize) -> usize {
    probes.div_ceil(COLUMNS)
}

/// One part of the visits of a tile.
#[derive(Default)]
struct VisitPart {
    /// `[TILE_ROWS, 4·quads]`, rows of zeros behind the last visit; empty if the part is multiplied in f32.
    codes: Vec<i8>,
    offsets: Vec<i32>,
    scales: Vec<f32>,
    narrow: bool,
    /// `[visits, columns of the panels]`, if the part is multiplied in f32.
    dots: Vec<f32>,
    noise: Vec<Noise>,
}

/// What a layer says of the pairs of [`ROWS`] visits and a panel of probes.
pub(super) struct LayerProducts<'a> {
    /// Dot products of the layer's gradients; `[ROWS, COLUMNS]`.
    pub values: &'a Tile<f32>,
    /// Their variances, if errors are wanted.
    pub variances: Option<&'a Tile<f32>>,
}

/// The visits of a tile, ready to be multiplied with some panels of probes. Its buffers are kept from tile to tile.
#[derive(Default)]
pub(super) struct VisitTile {
    parts: Vec<VisitPart>,
    visits: usize,
    panels: Range<usize>,
    decoded: Vec<f32>,
}

impl VisitTile {
    /// Takes up to [`TILE_ROWS`] visits.
    pub(super) fn load(
        &mut self,
        scheme: &Scheme,
        visits: &Gradients,
        rows: &[usize],
        probes: &ProbeSide,
        panels: Range<usize>,
    ) {
        debug_assert!(rows.len() <= TILE_ROWS);
        self.visits = rows.len();
        self.panels = panels.clone();
        self.parts.resize_with(scheme.widths.len(), VisitPart::default);
        for (number, (part, other)) in self.parts.iter_mut().zip(&probes.parts).enumerate() {
            let vectors = visits.part(number);
            match (vectors.encoding().code_max(), &other.codes) {
                (Some(code_max), Some(_)) => {
                    part.dots.clear();
                    part.narrow = code_max <= i16::from(NARROW_MAX);
                    scheme.isa.run(Unpack { part, vectors, rows, errors: scheme.errors() });
                }
                _ => {
                    part.codes.clear();
                    let width = other.width;
                    self.decoded.resize(rows.len() * width, 0.0);
                    if width > 0 {
                        for (row, vector) in rows.iter().zip(self.decoded.chunks_exact_mut(width)) {
                            vectors.decode(*row, vector);
                        }
                    }
                    part.noise.clear();
                    if scheme.errors() {
                        let scale = |i: usize| vectors.row(rows[i]).1.to_f32();
                        let vector = |i: usize| &self.decoded[i * width..(i + 1) * width];
                        let noise = |i| Noise::of_decoded(vectors.encoding(), vector(i), scale(i));
                        part.noise.extend((0..rows.len()).map(noise));
                    }
                    let columns = panels.start * COLUMNS..probes.probes.min(panels.end * COLUMNS);
                    let numbers = &other.numbers(probes.probes)[columns.start * width..columns.end * width];
                    part.dots.resize(rows.len() * columns.len(), 0.0);
                    let left = Matrix::new(&self.decoded, rows.len(), width);
                    let right = Matrix::new(numbers, columns.len(), width).t();
                    matmul(&mut part.dots, left, right, false, 1);
                }
            }
        }
    }

    /// Hands the products of visits `group·ROWS..` of the tile with the probes of `panel` to `each`, layer by layer. Places
    /// behind the last visit or the last probe hold anything.
    pub(super) fn layers(
        &self,
        scheme: &Scheme,
        probes: &ProbeSide,
        group: usize,
        panel: usize,
        mut each: impl FnMut(LayerProducts<'_>),
    ) {
        let (mut left, mut right) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
        let (mut left_variance, mut right_variance) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
        let errors = scheme.errors();
        let mut sums = [0i32; ROWS * COLUMNS];
        let mut side = |part: usize, dots: &mut Tile<f32>, variances: &mut Tile<f32>| {
            self.part(scheme, probes, part, (group, panel), &mut sums, dots);
            if errors {
                let (visits, probes) = (&self.parts[part].noise, &probes.parts[part].noise);
                let visits = &visits[(group * ROWS).min(visits.len())..];
                let probes = &probes[(panel * COLUMNS).min(probes.len())..];
                scheme.isa.run(|| scheme.variances[part].fill(visits, probes, dots, variances));
            }
        };
        for (number, layer) in scheme.layout.factored.iter().enumerate() {
            side(2 * number, &mut left, &mut left_variance);
            side(2 * number + 1, &mut right, &mut right_variance);
            let bias = if layer.bias { 1.0 } else { 0.0 };
            scheme.isa.run(|| {
                if errors {
                    layer_variance(&left, bias, &left_variance, &right, &mut right_variance);
                }
                for (left, right) in left.iter_mut().zip(&right) {
                    *left = (*left + bias) * right;
                }
            });
            each(LayerProducts { values: &left, variances: errors.then_some(&right_variance) });
        }
        if scheme.layout.folded.is_some() {
            side(scheme.widths.len() - 1, &mut left, &mut left_variance);
            each(LayerProducts { values: &left, variances: errors.then_some(&left_variance) });
        }
    }

    /// The dot products of one part.
    fn part(
        &self,
        scheme: &Scheme,
        probes: &ProbeSide,
        number: usize,
        (group, panel): (usize, usize),
        sums: &mut Tile<i32>,
        out: &mut Tile<f32>,
    ) {
        let (part, other) = (&self.parts[number], &probes.parts[number]);
        let rows = group * ROWS..(group + 1) * ROWS;
        match &other.codes {
            Some((panels, scales)) if part.dots.is_empty() => {
                let row_bytes = 4 * quads(other.width);
                let codes = &part.codes[rows.start * row_bytes..rows.end * row_bytes];
                scheme.isa.multiply(codes, panels, panel, part.narrow, sums);
                let scales = &scales[panel * COLUMNS..(panel + 1) * COLUMNS];
                scheme.isa.run(|| {
                    let rows = part.offsets[rows.clone()].iter().zip(&part.scales[rows.clone()]);
                    let sums = sums.chunks_exact(COLUMNS);
                    for ((out, sums), (offset, scale)) in out.chunks_exact_mut(COLUMNS).zip(sums).zip(rows) {
                        for ((out, sum), other) in out.iter_mut().zip(sums).zip(scales) {
                            *out = (sum - offset) as f32 * (scale * other);
                        }
                    }
                });
            }
            _ => {
                let first = self.panels.start * COLUMNS;
                let stride = probes.probes.min(self.panels.end * COLUMNS) - first;
                let start = panel * COLUMNS - first;
                let columns = start..stride.min(start + COLUMNS);
                for (row, out) in (rows.start..rows.end.min(self.visits)).zip(out.chunks_exact_mut(COLUMNS)) {
                    let dots = &part.dots[row * stride..(row + 1) * stride][columns.clone()];
                    out[..dots.len()].copy_from_slice(dots);
                }
            }
        }
    }
}

/// Takes the codes of some rows apart.
struct Unpack<'a> {
    part: &'a mut VisitPart,
    vectors: &'a Vectors,
    rows: &'a [usize],
    errors: bool,
}

impl Work for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { part, vectors, rows, errors } = self;
        let (width, row_bytes) = (vectors.width(), 4 * quads(vectors.width()));
        part.codes.resize(TILE_ROWS * row_bytes, 0);
        part.offsets.clear();
        part.offsets.resize(TILE_ROWS, 0);
        part.scales.clear();
        part.scales.resize(TILE_ROWS, 0.0);
        part.noise.clear();
        let encoding = vectors.encoding();
        for (position, &row) in rows.iter().enumerate() {
            let (bytes, scale) = vectors.row(row);
            let codes = &mut part.codes[position * row_bytes..(position + 1) * row_bytes];
            let (codes, padding) = codes.split_at_mut(width);
            padding.fill(0);
            encoding.codes(bytes, codes);
            part.offsets[position] = offset(codes);
            part.scales[position] = scale.to_f32();
            if errors {
                part.noise.push(match encoding {
                    Encoding::Signs => Noise::of_signs(width, scale.to_f32()),
                    _ => Noise::of_codes(codes, scale.to_f32()),
                });
            }
        }
        // What is multiplied but read by nobody; an earlier tile may have left wide codes there.
        part.codes[rows.len() * row_bytes..].fill(0);
    }
}

/// The dot products of whole gradients: of the visits `rows` with the probes of some panels, summed over layers.
///
/// `each` is told of the position in `rows`, the first probe, and of so many probes the dot products and, if errors are
/// wanted, their standard deviations.
pub(super) fn dots(
    scheme: &Scheme,
    visits: &Gradients,
    rows: &[usize],
    probes: &ProbeSide,
    panels: Range<usize>,
    tile: &mut VisitTile,
    mut each: impl FnMut(usize, usize, &[f32], Option<&[f32]>),
) {
    let (mut sum, mut variance) = ([0f32; ROWS * COLUMNS], [0f32; ROWS * COLUMNS]);
    for (number, visits_of_tile) in rows.chunks(TILE_ROWS).enumerate() {
        tile.load(scheme, visits, visits_of_tile, probes, panels.clone());
        for panel in panels.clone() {
            let columns = panel * COLUMNS..probes.probes.min((panel + 1) * COLUMNS);
            for group in 0..visits_of_tile.len().div_ceil(ROWS) {
                sum.fill(0.0);
                variance.fill(0.0);
                tile.layers(scheme, probes, group, panel, |layer| {
                    scheme.isa.run(|| {
                        sum.iter_mut().zip(layer.values).for_each(|(sum, value)| *sum += value);
                        if let Some(variances) = layer.variances {
                            variance.iter_mut().zip(variances).for_each(|(sum, value)| *sum += value);
                        }
                    });
                });
                if scheme.errors() {
                    scheme.isa.run(|| variance.iter_mut().for_each(|variance| *variance = variance.sqrt()));
                }
                let first = group * ROWS;
                for row in 0..ROWS.min(visits_of_tile.len() - first) {
                    let place = row * COLUMNS..row * COLUMNS + columns.len();
                    let errors = scheme.errors().then(|| &variance[place.clone()]);
                    each(number * TILE_ROWS + first + row, columns.start, &sum[place], errors);
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
