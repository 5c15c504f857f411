//! The visits' side of products: rows of a block, taken apart into codes of a byte.

use super::apart::ApartNumbers;
use super::probes::ProbeSide;
use super::scheme::Scheme;
use super::variance::Noise;
use crate::rows::gradient::Gradients;
use gradlog_format::run::Vectors;
use gradlog_format::sketch::Encoding;
use gradlog_kernels::int8::{offset, quads, Column, Isa, UsedQuads, Work, NARROW_MAX, ROWS};

/// Some rows of a block as they are multiplied. Its buffers are kept from one load to the next.
#[derive(Default)]
pub(in crate::influence) struct Unpacked {
    pub(super) parts: Vec<UnpackedPart>,
    pub(super) rows: usize,
}

/// One part of these rows.
#[derive(Default)]
pub(super) struct UnpackedPart {
    /// `[rows + ROWS, 4·quads]` with zeros behind the last row, so that the last group of [`ROWS`] is whole.
    pub(super) codes: Vec<i8>,
    /// Of each group of rows from the first on, which of its quads are not zeros.
    pub(super) used: Vec<UsedQuads>,
    /// As many as rows of `codes`; none if the part is multiplied in f32.
    pub(super) offsets: Vec<i32>,
    pub(super) scales: Vec<f32>,
    pub(super) narrow: bool,
    /// `[rows, probes]`: the products of the codes, if there are few probes. Then `codes` is empty and offsets are 0.
    pub(super) products: Vec<i32>,
    /// `[rows, width]`, if the part is multiplied in f32.
    pub(super) numbers: Vec<f32>,
    pub(super) noise: Vec<Noise>,
    /// Which codes are not zero, if errors are wanted and a row has many numbers that are.
    pub(super) used_places: Option<UsedPlaces>,
    pub(super) apart: ApartNumbers,
    /// `[rows, buckets]`: the numbers without those that are kept apart, rotated back; empty unless a probe keeps
    /// numbers apart.
    pub(super) rests: Vec<f32>,
}

/// The codes of some rows, with 1 for each that is not zero.
#[derive(Default)]
pub(super) struct UsedPlaces {
    pub(super) codes: Vec<i8>,
    pub(super) used: Vec<UsedQuads>,
    pub(super) offsets: Vec<i32>,
}

impl Unpacked {
    /// Takes `rows` of `visits` apart, for products with this number of panels of `probes`.
    pub(in crate::influence) fn load(
        &mut self,
        scheme: &Scheme,
        visits: &Gradients,
        rows: &[usize],
        (probes, panels): (&ProbeSide, usize),
    ) {
        self.rows = rows.len();
        self.parts.resize_with(scheme.widths.len(), UnpackedPart::default);
        for (number, part) in self.parts.iter_mut().enumerate() {
            let vectors = visits.part(number);
            let errors = scheme.errors();
            let other = &probes.parts[number];
            part.apart.load(vectors, rows);
            part.used_places = None;
            part.rests.clear();
            if !other.apart.is_empty() {
                part.rotate_back(vectors, rows);
            }
            part.products.clear();
            let few = other.few.as_ref().and_then(|few| few.get(vectors.encoding()));
            match vectors.encoding().code_max().filter(|_| other.codes.is_some()) {
                Some(_) if few.is_some() => part.multiply(scheme.isa, vectors, rows, few.unwrap_or_default()),
                Some(code_max) => {
                    part.numbers.clear();
                    part.narrow = code_max <= i16::from(NARROW_MAX);
                    let isa = scheme.isa;
                    isa.run(Unpack { isa, part, vectors, rows, errors, panels });
                }
                None => part.decode(vectors, rows, errors),
            }
            if errors && !part.apart.is_empty() {
                for (row, noise) in part.noise.iter_mut().enumerate() {
                    *noise = noise.with_apart(part.apart.squares(row));
                }
            }
            if part.noise.iter().any(Noise::is_uneven) && part.has_codes() {
                part.mark_used_places(quads(vectors.width()));
            }
        }
    }
}

impl UnpackedPart {
    /// Whether it is multiplied as integers.
    pub(super) fn has_codes(&self) -> bool {
        !self.offsets.is_empty()
    }

    /// Fills [`UnpackedPart::products`].
    fn multiply(&mut self, isa: Isa, vectors: &Vectors, rows: &[usize], probes: &[Column]) {
        self.numbers.clear();
        self.codes.clear();
        self.noise.clear();
        self.offsets.clear();
        self.offsets.resize(rows.len() + ROWS, 0);
        self.scales.clear();
        for &row in rows {
            let (bytes, scale) = vectors.row(row);
            self.products.extend(probes.iter().map(|probe| isa.dot(bytes, probe)));
            self.scales.push(scale.to_f32());
        }
        self.scales.resize(rows.len() + ROWS, 0.0);
    }

    /// Fills [`UnpackedPart::rests`].
    fn rotate_back(&mut self, vectors: &Vectors, rows: &[usize]) {
        let mut numbers = Vec::new();
        for &row in rows {
            numbers.clear();
            numbers.resize(vectors.width(), 0.0);
            vectors.decode_rest(row, &mut numbers);
            vectors.rotate_back(&mut numbers);
            self.rests.extend_from_slice(&numbers);
        }
    }

    /// Fills [`UnpackedPart::used_places`] from the codes of `quads` quads a row.
    fn mark_used_places(&mut self, quads: usize) {
        let row_bytes = 4 * quads;
        let codes: Vec<i8> = self.codes.iter().map(|code| i8::from(*code != 0)).collect();
        let offsets = codes.chunks_exact(row_bytes.max(1)).map(offset).collect();
        let used = codes.chunks_exact((ROWS * row_bytes).max(1)).map(|rows| {
            let mut used = UsedQuads::default();
            used.take_all(rows);
            used
        });
        let used = used.collect();
        self.used_places = Some(UsedPlaces { codes, used, offsets });
    }

    fn decode(&mut self, vectors: &Vectors, rows: &[usize], errors: bool) {
        self.codes.clear();
        self.offsets.clear();
        let width = vectors.width();
        self.numbers.resize(rows.len() * width, 0.0);
        if width > 0 {
            for (row, vector) in rows.iter().zip(self.numbers.chunks_exact_mut(width)) {
                vectors.decode_rest(*row, vector);
            }
        }
        self.noise.clear();
        if errors {
            let scale = |i: usize| vectors.row(rows[i]).1.to_f32();
            let vector = |i: usize| &self.numbers[i * width..(i + 1) * width];
            let noise = |i| Noise::of_decoded(vectors.encoding(), vector(i), scale(i), vectors.rounding(rows[i]));
            self.noise.extend((0..rows.len()).map(noise));
        }
    }
}

/// Takes the codes of some rows apart.
struct Unpack<'a> {
    isa: Isa,
    part: &'a mut UnpackedPart,
    vectors: &'a Vectors,
    rows: &'a [usize],
    errors: bool,
    panels: usize,
}

impl Work for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { isa, part, vectors, rows, errors, panels } = self;
        let (width, row_bytes) = (vectors.width(), 4 * quads(vectors.width()));
        let with_padding = rows.len() + ROWS;
        part.codes.resize(with_padding * row_bytes, 0);
        part.offsets.clear();
        part.offsets.resize(with_padding, 0);
        part.scales.clear();
        part.scales.resize(with_padding, 0.0);
        part.noise.clear();
        let encoding = vectors.encoding();
        for (position, &row) in rows.iter().enumerate() {
            let (bytes, scale) = vectors.row(row);
            let codes = &mut part.codes[position * row_bytes..(position + 1) * row_bytes];
            let (codes, padding) = codes.split_at_mut(width);
            padding.fill(0);
            match encoding {
                Encoding::Q4 => isa.spread(bytes, codes),
                _ => encoding.codes(bytes, codes),
            }
            part.offsets[position] = offset(codes);
            part.scales[position] = scale.to_f32();
            if errors {
                part.noise.push(match encoding {
                    Encoding::Signs => Noise::of_signs(width, scale.to_f32()),
                    _ => Noise::of_codes(codes, scale.to_f32(), vectors.rounding(row)),
                });
            }
        }
        // What is multiplied but read by nobody; an earlier load may have left wide codes there.
        part.codes[rows.len() * row_bytes..].fill(0);
        part.used.resize_with(rows.len().div_ceil(ROWS), UsedQuads::default);
        let mut scratch = Vec::new();
        for (group, used) in part.used.iter_mut().enumerate() {
            let rows = &part.codes[group * ROWS * row_bytes..(group + 1) * ROWS * row_bytes];
            match panels {
                1 => used.take_all(rows),
                _ => used.take_nonzero(rows, &mut scratch),
            }
        }
    }
}
