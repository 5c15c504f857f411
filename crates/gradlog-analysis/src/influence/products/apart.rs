//! What the numbers that are kept apart add to dot products.
//!
//! A vector is `x = x' + x°`: the rest, and some numbers kept apart. So
//! `⟨x, y⟩ = ⟨x', y'⟩ + Σ_j x°_j y'_j + Σ_j y°_j x'_j + Σ_j x°_j y°_j`. The first term is multiplied as all vectors
//! are. Of a projected vector, `y'_j` is its estimate ([`Vectors::rotate_back`]), and the last term is exact.

use super::variance::{Hidden, Noise};
use gradlog_format::run::Vectors;
use gradlog_kernels::int8::{Tile, COLUMNS, ROWS};

/// A number that is kept apart, and where the other side has its counterpart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Its place in the original vector.
    place: u32,
    value: f32,
    /// Where the rest of the other side has this place once it is rotated back, and the value with its sign there.
    bucket: usize,
    signed: f32,
}

/// The numbers of some vectors that are kept apart.
#[derive(Debug, Default)]
pub(super) struct ApartNumbers {
    numbers: Vec<Placed>,
    /// Of each vector, where its numbers end; empty if no vector has any.
    ends: Vec<usize>,
}

impl ApartNumbers {
    pub(super) fn read(vectors: &Vectors, row: usize) -> Vec<Placed> {
        let placed = |apart: gradlog_format::sketch::Apart| {
            let (bucket, sign) = vectors.locate(apart.place);
            Placed { place: apart.place, value: apart.value, bucket, signed: sign * apart.value }
        };
        vectors.apart(row).map(placed).collect()
    }

    /// Of vectors in their order.
    pub(super) fn collect(of: impl Iterator<Item = Vec<Placed>>) -> Self {
        let mut all = Self::default();
        for numbers in of {
            all.numbers.extend(numbers);
            all.ends.push(all.numbers.len());
        }
        if all.numbers.is_empty() {
            all.ends.clear();
        }
        all
    }

    pub(super) fn load(&mut self, vectors: &Vectors, rows: &[usize]) {
        *self = match vectors.has_apart() {
            true => Self::collect(rows.iter().map(|&row| Self::read(vectors, row))),
            false => Self::default(),
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    pub(super) fn get(&self, vector: usize) -> &[Placed] {
        let Some(&end) = self.ends.get(vector) else { return &[] };
        let start = vector.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        &self.numbers[start..end]
    }

    /// `Σ` of their squares.
    pub(super) fn squares(&self, vector: usize) -> f32 {
        self.get(vector).iter().map(|number| number.value * number.value).sum()
    }
}

impl Placed {
    pub(super) fn scale(&mut self, factor: f32) {
        self.value *= factor;
        self.signed *= factor;
    }

    /// Its place in a whole vector.
    pub(super) fn bucket(&self) -> usize {
        self.bucket
    }

    pub(super) fn square(&self) -> f32 {
        self.value * self.value
    }
}

/// The two sides of a tile, as far as they keep numbers apart.
pub(super) struct ApartTile<'a> {
    pub visits: &'a ApartNumbers,
    /// `[rows, buckets]`: the rests of the visits, rotated back. Read only if a probe keeps numbers apart.
    pub visit_rests: &'a [f32],
    pub probes: &'a ApartNumbers,
    /// `[buckets, padded probes]`: the rests of the probes, rotated back. Read only if a visit keeps numbers apart.
    pub probe_rests: &'a [f32],
    /// Numbers in a vector that is rotated back.
    pub buckets: usize,
    pub padded: usize,
    /// Of the probes; empty if no errors are wanted.
    pub noise: &'a [Noise],
    /// Whether a bucket is a place: then squares there meet no rounding.
    pub whole: bool,
}

impl ApartTile<'_> {
    /// Adds to `dots` what the numbers kept apart add to those of the rests, for the rows and columns that there are.
    /// With `hidden`, also writes the squares that meet no rounding.
    pub(super) fn add(
        &self,
        (first_row, rows): (usize, usize),
        (first_column, columns): (usize, usize),
        dots: &mut Tile<f32>,
        mut hidden: Option<&mut Hidden>,
    ) {
        for row in 0..rows.min(ROWS) {
            let dots = &mut dots[row * COLUMNS..(row + 1) * COLUMNS];
            for number in self.visits.get(first_row + row) {
                let start = number.bucket * self.padded + first_column;
                let rests = &self.probe_rests[start..start + columns];
                for (column, (dot, rest)) in dots.iter_mut().zip(rests).enumerate() {
                    *dot += number.signed * rest;
                    if let (true, Some(hidden)) = (self.whole, &mut hidden) {
                        let at = row * COLUMNS + column;
                        hidden.of_probes[at] += rest * rest;
                        hidden.of_visits[at] += number.square();
                        let variance = |noise: &Noise| noise.variance_at(*rest != 0.0);
                        hidden.lost[at] +=
                            number.square() * self.noise.get(first_column + column).map_or(0.0, variance);
                    }
                }
            }
            if self.probes.is_empty() {
                continue;
            }
            let own = self.visits.get(first_row + row);
            let rests = &self.visit_rests[(first_row + row) * self.buckets..(first_row + row + 1) * self.buckets];
            for (column, dot) in dots.iter_mut().enumerate().take(columns) {
                for number in self.probes.get(first_column + column) {
                    let rest = rests[number.bucket];
                    *dot += number.signed * rest;
                    let same = own.iter().find(|other| other.place == number.place);
                    *dot += same.map_or(0.0, |other| other.value * number.value);
                    if let (true, Some(hidden)) = (self.whole, &mut hidden) {
                        let at = row * COLUMNS + column;
                        hidden.of_visits[at] += rest * rest;
                        if let Some(same) = same {
                            hidden.of_probes[at] += number.square();
                            let noise = self.noise.get(first_column + column);
                            hidden.lost[at] -= same.square() * noise.map_or(0.0, |noise| noise.variance_at(false));
                        }
                    }
                }
            }
        }
    }
}
