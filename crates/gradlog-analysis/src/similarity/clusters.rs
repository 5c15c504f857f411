//! Clusters of examples by the direction of their gradients: k-means on the sphere (Dhillon and Modha 2001).
//!
//! Each vector belongs to the center with which it has the largest cosine, and each center is the unit mean of its
//! vectors. A vector that is made of signs has a product with itself that is too large. That of a vector with its own
//! center leaves it out, and so does the length of the center. Its products with others in the cluster are right up to
//! a cosine of about 0.5, and up to π/2 times too large beyond, so a cluster of near-duplicates looks denser than it
//! is. Centers begin as in k-means++ (Arthur and Vassilvitskii 2007), drawn by `1 − cosine`, from the given seed;
//! the same seed gives the same clusters whatever the number of threads.

use super::unit_vectors::UnitVectors;
use gradlog_format::sketch::{derive_seed, Side};
use gradlog_kernels::matmul::{matmul, Matrix};

/// Vectors that are compared with all centers at a time.
const TILE: usize = 1024;

/// One cluster.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Cluster {
    /// How many vectors it has.
    pub size: usize,
    /// Mean cosine of its vectors with its center: 1 where all point the same way.
    pub cohesion: f64,
    /// Position of the vector nearest to its center.
    pub position: usize,
    /// Id of that vector's example.
    pub example: u64,
    /// The commonest label of its vectors, and how many have it, if labels were recorded.
    pub label: Option<(u32, usize)>,
}

/// Clusters of unit vectors.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Clusters {
    /// Of each vector, the number of its cluster.
    pub assignments: Vec<usize>,
    /// Of each vector, its cosine with the center of its cluster.
    pub cosines: Vec<f32>,
    /// The clusters, the largest first; none is empty.
    pub clusters: Vec<Cluster>,
    /// Rounds until nothing moved, or as many as were allowed.
    pub rounds: usize,
    /// Whether nothing moved any more.
    pub settled: bool,
}

impl UnitVectors {
    /// Gathers the vectors into at most `count` clusters, in at most `rounds` rounds, by k-means on the sphere (Dhillon
    /// and Modha 2001). The same `seed` gives the same clusters.
    ///
    /// Fewer clusters come out where there are fewer different vectors; a `count` of 0 is taken for 1.
    ///
    /// # Cost
    /// `rounds × vectors × count × length` multiplications. Memory: `count` vectors, and a few numbers for each vector.
    pub fn clusters(&self, count: usize, rounds: usize, seed: u64) -> Clusters {
        find_clusters(self, count, rounds, seed)
    }
}

fn find_clusters(vectors: &UnitVectors, count: usize, rounds: usize, seed: u64) -> Clusters {
    let mut centers = Centers { values: first_centers(vectors, count, seed), norms: Vec::new() };
    let (mut of, mut cosines) = (vec![usize::MAX; vectors.len()], vec![0f32; vectors.len()]);
    let (mut done, mut settled) = (0, vectors.is_empty());
    while !settled && done < rounds.max(1) {
        done += 1;
        settled = assign(vectors, &centers, &mut of, &mut cosines) == 0;
        if !settled {
            centers = means(vectors, &of, centers);
        }
    }
    sort_clusters(vectors, of, cosines, done, settled)
}

/// A number in 0..1 of the stream that `seed` names.
fn uniform(seed: u64, number: usize) -> f64 {
    let bits = derive_seed(seed, u32::try_from(number).unwrap_or(u32::MAX), Side::Folded);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// k-means++: each next center is drawn with a chance that goes by its distance from those there are.
fn first_centers(vectors: &UnitVectors, count: usize, seed: u64) -> Vec<f32> {
    let n = vectors.len();
    let mut centers: Vec<f32> = Vec::new();
    // Half the squared distance of unit vectors is 1 − cosine.
    let mut far = vec![f64::INFINITY; n];
    let (mut cosines, mut scratch) = (Vec::new(), Vec::new());
    for number in 0..count.max(1).min(n) {
        let total: f64 = far.iter().sum();
        let chosen = if number == 0 {
            ((uniform(seed, 0) * n as f64) as usize).min(n - 1)
        } else {
            if total <= 1e-9 * n as f64 {
                break;
            }
            let mut left = uniform(seed, number) * total;
            let found = far.iter().position(|far| {
                left -= far;
                left < 0.0
            });
            found.unwrap_or(n - 1)
        };
        centers.extend(vectors.vector(chosen));
        let threads = rayon::current_num_threads();
        vectors.write_cosines(chosen..chosen + 1, 0..n, &mut cosines, &mut scratch, threads);
        for (far, cosine) in far.iter_mut().zip(&cosines) {
            *far = far.min((1.0 - f64::from(*cosine)).max(0.0));
        }
    }
    centers
}

/// The centers of clusters.
struct Centers {
    /// `[centers, length]`, of length one.
    values: Vec<f32>,
    /// Of each, the length of the sum of its vectors. None yet for those that begin.
    norms: Vec<f64>,
}

/// Gives each vector its nearest center; says how many moved.
fn assign(vectors: &UnitVectors, centers: &Centers, of: &mut [usize], best: &mut [f32]) -> usize {
    let length = vectors.length.max(1);
    let count = centers.values.len() / length;
    let (mut moved, mut position) = (0, 0);
    let mut cosines = Vec::new();
    let tiles = vectors.values.chunks(TILE * length).zip(of.chunks_mut(TILE)).zip(best.chunks_mut(TILE));
    for ((values, of), best) in tiles {
        cosines.resize(of.len() * count, 0f32);
        let (left, right) = (Matrix::new(values, of.len(), length), Matrix::new(&centers.values, count, length));
        matmul(&mut cosines, left, right.t(), false, rayon::current_num_threads());
        for ((of, best), cosines) in of.iter_mut().zip(best).zip(cosines.chunks_mut(count.max(1))) {
            // What the vector has too much of itself in its own center.
            let own = centers.norms.get(*of).filter(|norm| **norm > 0.0);
            if let (Some(cosine), Some(norm)) = (cosines.get_mut(*of), own) {
                *cosine -= (vectors.excess(position) / norm) as f32;
            }
            position += 1;
            let nearest = cosines.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            if let Some((nearest, cosine)) = nearest {
                moved += usize::from(*of != nearest);
                (*of, *best) = (nearest, cosine.min(1.0));
            }
        }
    }
    moved
}

/// The unit mean of each cluster; a center that nothing belongs to stays where it was.
fn means(vectors: &UnitVectors, of: &[usize], old: Centers) -> Centers {
    let length = vectors.length.max(1);
    let mut sums = vec![0f64; old.values.len()];
    let mut excess = vec![0f64; old.values.len() / length];
    for (position, (vector, of)) in vectors.values.chunks(length).zip(of).enumerate() {
        excess[*of] += vectors.excess(position);
        let sum = &mut sums[of * length..(of + 1) * length];
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let mut centers = old;
    centers.norms = vec![0.0; excess.len()];
    let sums = sums.chunks(length).zip(excess);
    for ((center, norm), (sum, excess)) in centers.values.chunks_mut(length).zip(&mut centers.norms).zip(sums) {
        *norm = (sum.iter().map(|v| v * v).sum::<f64>() - excess).max(0.0).sqrt();
        if *norm > 0.0 {
            let norm = *norm;
            center.iter_mut().zip(sum).for_each(|(value, sum)| *value = (sum / norm) as f32);
        }
    }
    centers
}

fn sort_clusters(
    vectors: &UnitVectors,
    mut of: Vec<usize>,
    cosines: Vec<f32>,
    rounds: usize,
    settled: bool,
) -> Clusters {
    let count = of.iter().max().map_or(0, |last| last + 1);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); count];
    of.iter().enumerate().for_each(|(position, of)| members[*of].push(position));
    members.retain(|members| !members.is_empty());
    members.sort_by_key(|members| (std::cmp::Reverse(members.len()), members[0]));
    let mut clusters = Vec::with_capacity(members.len());
    for (number, members) in members.iter().enumerate() {
        members.iter().for_each(|position| of[*position] = number);
        let nearest = members.iter().copied().max_by(|a, b| cosines[*a].total_cmp(&cosines[*b]).then(b.cmp(a)));
        let mut labels: std::collections::BTreeMap<u32, usize> = std::collections::BTreeMap::new();
        for label in members.iter().filter_map(|position| vectors.labels[*position]) {
            *labels.entry(label).or_default() += 1;
        }
        let position = nearest.unwrap_or(members[0]);
        clusters.push(Cluster {
            size: members.len(),
            cohesion: members.iter().map(|position| f64::from(cosines[*position])).sum::<f64>() / members.len() as f64,
            position,
            example: vectors.examples[position],
            label: labels.into_iter().max_by_key(|(label, count)| (*count, std::cmp::Reverse(*label))),
        });
    }
    Clusters { assignments: of, cosines, clusters, rounds, settled }
}
