//! Neighbors and pairs against double loops, clusters against planted ones.

use crate::{Basis, UnitVectors, VectorQuestion};
use gradlog_testing::Draws;
use gradlog_testing::{run_of, visits};

/// Unit vectors around `centers` directions, `spread` away from them; vector `i` belongs to direction `i mod centers`.
fn around(count: usize, length: usize, centers: usize, spread: f32) -> UnitVectors {
    let mut draws = Draws(31);
    let directions: Vec<Vec<f32>> = (0..centers).map(|_| (0..length).map(|_| draws.number()).collect()).collect();
    let mut values = Vec::new();
    for i in 0..count {
        let vector: Vec<f32> = directions[i % centers].iter().map(|v| v + spread * draws.number()).collect();
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        values.extend(vector.iter().map(|v| v / norm));
    }
    UnitVectors {
        examples: (0..count as u64).map(|id| 1000 + id).collect(),
        labels: (0..count).map(|i| Some((i % centers) as u32)).collect(),
        length,
        values,
        basis: Basis::default(),
        signs: None,
        without_direction: Vec::new(),
    }
}

fn cosine(vectors: &UnitVectors, a: usize, b: usize) -> f32 {
    vectors.vector(a).iter().zip(vectors.vector(b)).map(|(x, y)| x * y).sum()
}

#[test]
fn neighbors_are_those_of_a_double_loop() {
    // More than a tile and a strip.
    let vectors = around(4200, 7, 9, 0.8);
    for position in (0..4200).step_by(97) {
        let mut expected: Vec<(usize, f32)> =
            (0..4200).filter(|o| *o != position).map(|o| (o, cosine(&vectors, position, o))).collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = vectors.neighbors(position, 5);
        assert_eq!(found.len(), 5);
        for (found, (_, cosine_there)) in found.iter().zip(&expected) {
            // Equal to rounding; which of two equally near ones comes first is left open.
            assert!((found.cosine - cosine_there).abs() < 1e-5);
            assert!((found.cosine - cosine(&vectors, position, found.position)).abs() < 1e-5);
            assert_eq!(found.example, 1000 + found.position as u64);
        }
    }
    assert!(vectors.neighbors(0, 0).is_empty());
    assert_eq!(vectors.neighbors(0, 10_000).len(), 4199);
}

#[test]
fn near_duplicates_are_the_planted_ones() {
    let mut vectors = around(300, 20, 300, 0.0);
    for (copy, original) in [(290, 3), (150, 3), (299, 64)] {
        let vector: Vec<f32> = vectors.vector(original).to_vec();
        vectors.values[copy * 20..(copy + 1) * 20].copy_from_slice(&vector);
    }
    let found = vectors.near_duplicates(0.999, 100);
    let mut pairs: Vec<(u64, u64)> = found.iter().map(|pair| (pair.first, pair.second)).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [(1003, 1150), (1003, 1290), (1064, 1299), (1150, 1290)]);
    assert!(found.iter().all(|pair| (pair.cosine - 1.0).abs() < 1e-5));
    assert_eq!(vectors.near_duplicates(-1.0, 7).len(), 7);
    let every = vectors.near_duplicates(-1.1, 300 * 299 / 2);
    assert_eq!(every.len(), 300 * 299 / 2);
    assert!(every.windows(2).all(|pair| pair[0].cosine >= pair[1].cosine));
}

#[test]
fn clusters_are_the_planted_ones_and_the_same_each_time() {
    let vectors = around(2500, 16, 5, 0.15);
    let found = vectors.clusters(5, 100, 4);
    assert!(found.settled);
    assert_eq!(found.clusters.len(), 5);
    for (number, cluster) in found.clusters.iter().enumerate() {
        assert_eq!(cluster.size, 500);
        assert_eq!(cluster.label.unwrap().1, 500);
        assert_eq!(found.assignments[cluster.position], number);
        assert!(cluster.cohesion > 0.9);
        let nearest =
            (0..2500).filter(|i| found.assignments[*i] == number).map(|i| found.cosines[i]).fold(-1.0, f32::max);
        assert_eq!(found.cosines[cluster.position], nearest);
    }
    assert_eq!(found, vectors.clusters(5, 100, 4));
    // No cluster gains by a move: each vector is nearest to its own center.
    let mut sums = vec![vec![0f64; 16]; 5];
    for i in 0..2500 {
        sums[found.assignments[i]].iter_mut().zip(vectors.vector(i)).for_each(|(s, v)| *s += f64::from(*v));
    }
    for i in (0..2500).step_by(13) {
        let with = |c: usize| {
            let norm = sums[c].iter().map(|v| v * v).sum::<f64>().sqrt();
            vectors.vector(i).iter().zip(&sums[c]).map(|(v, s)| f64::from(*v) * s / norm).sum::<f64>()
        };
        assert!((0..5).all(|c| with(c) <= with(found.assignments[i]) + 1e-5));
    }
}

#[test]
fn odd_inputs() {
    let none = around(0, 4, 1, 0.0);
    assert!(none.clusters(3, 5, 1).clusters.is_empty());
    let same = around(40, 4, 1, 0.0);
    let found = same.clusters(6, 5, 1);
    assert_eq!((found.clusters.len(), found.clusters[0].size), (1, 40));
    let few = around(3, 4, 3, 0.0).clusters(10, 5, 1);
    assert_eq!(few.clusters.iter().map(|cluster| cluster.size).sum::<usize>(), 3);
    assert_eq!(around(3, 4, 3, 0.0).clusters(0, 5, 1).clusters.len(), 1);

    // Gradients of zero have no direction.
    let mut all = visits(&mut Draws(5), 10, 1, 5);
    let id = all[4].example;
    for part in [1, 3, 4] {
        all[4].parts[part].fill(0.0);
    }
    let flat = VectorQuestion::new(64).compute(&run_of(&all, 8).run()).unwrap();
    let before = flat.clone();
    let unit = UnitVectors::new(flat);
    assert_eq!(unit.without_direction, [id]);
    assert_eq!(unit.len(), before.examples.len() - 1);
    assert!(unit.position(id).is_none());
    for position in 0..unit.len() {
        let from = before.examples.iter().position(|example| *example == unit.examples[position]).unwrap();
        let norm = before.vector(from).iter().map(|v| v * v).sum::<f32>().sqrt();
        for (a, b) in unit.vector(position).iter().zip(before.vector(from)) {
            assert!((a - b / norm).abs() < 1e-6);
        }
    }
}
