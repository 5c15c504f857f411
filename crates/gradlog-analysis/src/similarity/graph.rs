//! Neighbours through a navigable small-world graph, by the crate `instant-distance`.

use super::neighbours::{nearest_first, Neighbour};
use super::UnitVectors;
use instant_distance::{Builder, Point, Search};
use rayon::prelude::*;

/// Lanes of the dot product: sums that do not wait for one another.
const LANES: usize = 16;

/// A unit vector among others.
#[derive(Clone, Copy)]
struct Unit<'a>(&'a [f32]);

impl Point for Unit<'_> {
    fn distance(&self, other: &Self) -> f32 {
        let mut sums = [0f32; LANES];
        let (a, b) = (self.0.chunks_exact(LANES), other.0.chunks_exact(LANES));
        let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
        for (a, b) in a.zip(b) {
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum += a[lane] * b[lane];
            }
        }
        1.0 - (rest + sums.iter().sum::<f32>())
    }
}

/// The `count` nearest of every vector that the graph finds. Threads build it together, so two graphs may differ a little.
pub(super) fn all_neighbours(vectors: &UnitVectors, count: usize) -> Vec<Vec<Neighbour>> {
    // The search keeps a few times as many candidates as are asked for: what it does not keep it cannot find.
    let candidates = (4 * count).max(100);
    let points: Vec<Unit<'_>> = (0..vectors.len()).map(|position| Unit(vectors.vector(position))).collect();
    let (graph, ids) = Builder::default().ef_search(candidates).build_hnsw(points.clone());
    let mut position_of = vec![0usize; ids.len()];
    for (position, id) in ids.iter().enumerate() {
        position_of[id.into_inner() as usize] = position;
    }
    points
        .par_iter()
        .enumerate()
        .map_init(Search::default, |search, (position, point)| {
            let found = graph.search(point, search).map(|item| {
                let other = position_of[item.pid.into_inner() as usize];
                Neighbour { position: other, example: vectors.examples[other], cosine: 1.0 - item.distance }
            });
            let mut found: Vec<Neighbour> = found.filter(|found| found.position != position).collect();
            found.sort_by(nearest_first);
            found.truncate(count);
            found
        })
        .collect()
}
