//! The vectors nearest to one or to each, and pairs that are almost the same.
//!
//! Exact, by matrix products of tiles, so nothing is missed: for `N` vectors of `d` numbers `N²·d` multiplications,
//! half a minute for 60,000 of 512 on two cores.

use super::unit_vectors::UnitVectors;
use crate::scores::order::first_of;
use rayon::prelude::*;

/// Vectors of a tile: its products with all others are a few megabytes.
const TILE: usize = 64;

/// Vectors that a tile is multiplied with at a time.
const STRIP: usize = 4096;

/// Another example, and how much its gradient points the same way.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Neighbor {
    /// Its position among the vectors.
    pub position: usize,
    /// The example.
    pub example: u64,
    /// Cosine of the two gradients, -1 to 1.
    pub cosine: f32,
}

/// Two examples that are almost the same.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Pair {
    /// The one that was visited first.
    pub first: u64,
    /// The other.
    pub second: u64,
    /// Cosine of their gradients.
    pub cosine: f32,
}

fn nearest_first(a: &Neighbor, b: &Neighbor) -> std::cmp::Ordering {
    b.cosine.total_cmp(&a.cosine).then(a.position.cmp(&b.position))
}

impl UnitVectors {
    /// The `count` vectors nearest to the one at `position`, the nearest first, itself left out.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn neighbors(&self, position: usize, count: usize) -> Vec<Neighbor> {
        find_neighbors(self, position, count)
    }

    /// Pairs of examples whose gradients have a cosine of at least `threshold`, the most alike first.
    ///
    /// No more than `count`, which bounds memory: a set of `n` copies has `n²/2` pairs.
    pub fn near_duplicates(&self, threshold: f32, count: usize) -> Vec<Pair> {
        find_pairs(self, threshold, count)
    }
}

fn find_neighbors(vectors: &UnitVectors, position: usize, count: usize) -> Vec<Neighbor> {
    let mut cosines = Vec::new();
    let threads = rayon::current_num_threads();
    vectors.write_cosines(position..position + 1, 0..vectors.len(), &mut cosines, &mut Vec::new(), threads);
    let other = |(other, cosine): (usize, &f32)| Neighbor {
        position: other,
        example: vectors.examples[other],
        cosine: *cosine,
    };
    let others = cosines.iter().enumerate().map(other).filter(|found| found.position != position).collect();
    first_of(others, count, nearest_first)
}

/// Gives `each` the cosines of the vectors `rows` with those from `from` on: row, position, cosine.
fn visit_cosines(
    vectors: &UnitVectors,
    rows: std::ops::Range<usize>,
    from: usize,
    mut each: impl FnMut(usize, usize, f32),
) {
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    for first in (from..vectors.len()).step_by(STRIP) {
        let last = (first + STRIP).min(vectors.len());
        vectors.write_cosines(rows.clone(), first..last, &mut out, &mut scratch, 1);
        for (row, cosines) in out.chunks(last - first).enumerate() {
            for (column, cosine) in cosines.iter().enumerate() {
                each(row, first + column, *cosine);
            }
        }
    }
}

fn find_pairs(vectors: &UnitVectors, threshold: f32, count: usize) -> Vec<Pair> {
    let tiles: Vec<usize> = (0..vectors.len()).step_by(TILE).collect();
    let alike = |a: &Pair, b: &Pair| b.cosine.total_cmp(&a.cosine).then((a.first, a.second).cmp(&(b.first, b.second)));
    let pairs_of_tile = |first: usize| {
        let last = (first + TILE).min(vectors.len());
        let mut pairs = Vec::new();
        visit_cosines(vectors, first..last, first, |row, position, cosine| {
            if position > first + row && cosine >= threshold {
                pairs.push(Pair { first: vectors.examples[first + row], second: vectors.examples[position], cosine });
                if pairs.len() >= 2 * count.max(512) {
                    pairs = first_of(std::mem::take(&mut pairs), count, alike);
                }
            }
        });
        first_of(pairs, count, alike)
    };
    let merge = |mut a: Vec<Pair>, b: Vec<Pair>| {
        a.extend(b);
        first_of(a, count, alike)
    };
    tiles.into_par_iter().map(pairs_of_tile).reduce(Vec::new, merge)
}
