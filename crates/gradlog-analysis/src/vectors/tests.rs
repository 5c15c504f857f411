//! Flat vectors against outer products written out, and their dot products against the definition.

use super::{norm, row, Flattener, Lengths, Signs};
use crate::rows::gradient::{Gradients, Layout};
use crate::vectors::Shape;
use crate::{AnalysisError, Basis, Combine, FlatVectors, LeftOut, UnitVectors, VectorQuestion, Window};
use gradlog_format::run::{Origin, Vectors};
use gradlog_format::sketch::{read_rotated, Encoding};
use gradlog_testing::{decoded, visits, Draws, Synthetic, Visit};
use std::collections::BTreeMap;

/// The whole recorded gradient of a visit: `δ_j·[a; 1]` of `fc`, `δ_j·a` of `head`, the folded vector.
fn whole(visit: &Visit, encoding: Encoding) -> Vec<f32> {
    let [a, d, b, e, folded] = decoded(visit, encoding);
    let mut out = Vec::new();
    for scale in d {
        out.extend(a.iter().chain(&[1.0]).map(|x| scale * x));
    }
    for scale in e {
        out.extend(b.iter().map(|x| scale * x));
    }
    out.extend(folded);
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn story(encoding: Encoding) -> (Vec<Visit>, gradlog_testing::Written) {
    let mut all = visits(&mut Draws(5), 20, 3, 6);
    all[3].flags = 1;
    all[10].parts[1] = vec![0.0; 3];
    let mut run = Synthetic::new(encoding);
    for rows in all.chunks(17) {
        run.visits(rows);
    }
    run.end();
    (all, run.finish())
}

#[test]
fn long_enough_vectors_are_the_gradients_themselves() {
    for encoding in [Encoding::F32, Encoding::Q4] {
        let (all, written) = story(encoding);
        let usable: Vec<&Visit> = all.iter().filter(|visit| visit.flags == 0).collect();
        for shape in [Shape::whole(33), Shape::whole(4096), Shape::by_layer(18)] {
            let question = VectorQuestion { shape, combine: Combine::Visits, ..VectorQuestion::new(1) };
            let found = question.compute(&written.run()).unwrap();
            assert!(found.is_exact());
            assert_eq!((found.length, found.examples.len(), found.left_out.not_finite), (33, usable.len(), 1));
            let widths: Vec<usize> = found.blocks.iter().map(|block| block.width).collect();
            assert_eq!(widths, if shape.by_layer { vec![18, 8, 7] } else { vec![33] });
            for (position, visit) in usable.iter().enumerate() {
                assert_eq!((found.examples[position], found.steps[position]), (visit.example, visit.step));
                assert_eq!(found.labels[position], Some(visit.label));
                assert_eq!(found.vector(position), whole(visit, encoding));
            }
        }
    }
}

#[test]
fn means_and_applied_sums_of_a_window() {
    let (all, written) = story(Encoding::F32);
    for combine in [Combine::Mean, Combine::Applied] {
        let question = VectorQuestion { window: Window::epochs(1..3), combine, ..VectorQuestion::new(100) };
        let found = question.compute(&written.run()).unwrap();
        let mut expected: BTreeMap<u64, (u64, Vec<f64>)> = BTreeMap::new();
        for visit in all.iter().filter(|visit| visit.epoch >= 1 && visit.flags == 0) {
            let entry = expected.entry(visit.example).or_insert((0, vec![0.0; 33]));
            entry.0 += 1;
            let weight = match combine {
                Combine::Applied => f64::from(visit.learning_rate * visit.clip * visit.coefficient),
                _ => 1.0,
            };
            for (sum, value) in entry.1.iter_mut().zip(whole(visit, Encoding::F32)) {
                *sum += weight * f64::from(value);
            }
        }
        assert_eq!(found.examples.len(), expected.len());
        for (position, example) in found.examples.iter().enumerate() {
            let (count, sums) = &expected[example];
            assert_eq!(found.visits[position], *count);
            let over = if combine == Combine::Mean { *count as f64 } else { 1.0 };
            for (got, sum) in found.vector(position).iter().zip(sums) {
                assert!((f64::from(*got) - sum / over).abs() < 1e-5, "{got} {}", sum / over);
            }
        }
    }
}

/// The mean of estimated dot products over many seeds is the true one, and their spread is that of a fold.
#[test]
fn short_vectors_are_unbiased() {
    let (length, seeds) = (16usize, 600);
    let mut draws = Draws(9);
    let pair: Vec<Visit> = (0..2).map(|id| draws.visit(id, 0, 0)).collect();
    let [g, h] = [0, 1].map(|i: usize| whole(&pair[i], Encoding::F32));
    let (truth, bound) = (dot(&g, &h), (dot(&g, &g) * dot(&h, &h) + dot(&g, &h).powi(2)) / length as f64);
    let (mut sum, mut squares) = (0.0, 0.0);
    for seed in 0..seeds {
        let mut run = Synthetic::with_seed(Encoding::F32, seed);
        run.visits(&pair);
        run.end();
        let question =
            VectorQuestion { shape: Shape::whole(length), combine: Combine::Visits, ..VectorQuestion::new(1) };
        let found = question.compute(&run.finish().run()).unwrap();
        assert!(!found.is_exact());
        let estimate = dot(found.vector(0), found.vector(1));
        sum += estimate;
        squares += (estimate - truth).powi(2);
    }
    let (mean, variance) = (sum / seeds as f64, squares / seeds as f64);
    // Four standard errors of the mean; the variance's own bound, with as much again for its estimate.
    assert!((mean - truth).abs() < 4.0 * (variance / seeds as f64).sqrt(), "{mean} for {truth}");
    assert!(variance < 1.4 * bound && variance > 0.2 * bound, "{variance} of {bound}");
}

#[test]
fn what_cannot_be_is_said() {
    let (_, written) = story(Encoding::F32);
    let run = written.run();
    let ask = |question: &VectorQuestion| question.compute(&run).unwrap_err();
    let small = VectorQuestion { bytes_max: 4 * 33 * 5, ..VectorQuestion::new(100) };
    assert!(matches!(ask(&small), AnalysisError::TooLarge { .. }));
    assert!(matches!(ask(&VectorQuestion::new(0)), AnalysisError::OutOfRange { .. }));
    assert!(matches!(ask(&VectorQuestion::new(usize::MAX)), AnalysisError::OutOfRange { .. }));
    let nowhere = VectorQuestion { window: Window::epochs(9..10), ..VectorQuestion::new(100) };
    assert!(matches!(ask(&nowhere), AnalysisError::OutsideRun { .. }));
}

/// Vectors of signs beside one large number that is kept apart: lengths and cosines against the numbers before
/// rounding.
#[test]
fn numbers_kept_apart_are_no_signs() {
    const WIDTH: usize = 4096;
    let mut draws = Draws(11);
    let mut normal = || (0..12).map(|_| draws.number()).sum::<f32>();
    let shared: Vec<f32> = (0..WIDTH).map(|_| normal()).collect();
    let size = dot(&shared, &shared).sqrt() as f32;
    // The large number in units of the length of the others, and what the others share with the first vector.
    let planted = [(2.0, 1.0), (2.0, 1.0), (-1.0, 0.9), (1.0, 0.0), (0.0, 0.9)];
    let rest = planted.map(|(_, common): (f32, f32)| {
        let own = (1.0 - common * common).sqrt();
        shared.iter().map(|value| common * value + own * normal()).collect::<Vec<f32>>()
    });
    let mut exact = rest.clone();
    exact.iter_mut().zip(planted).for_each(|(all, (large, _))| read_rotated(17, large * size, all));
    let mut vectors = Vectors::from_rows(Encoding::Signs, WIDTH, &rest).with_origin(Origin::Rotated);
    vectors.keep_apart(vec![17; planted.len()], planted.map(|(large, _)| large * size).to_vec()).unwrap();

    let layout = Layout { factored: Vec::new(), folded: Some(WIDTH) };
    let (_, written) = story(Encoding::F32);
    let flattener = Flattener::new(&layout, written.run().manifest(), Shape::whole(WIDTH));
    let rows: Vec<usize> = (0..planted.len()).collect();
    let flat = flattener.flatten(&Gradients::made(vec![vectors]), &rows);
    let lengths = rows.iter().map(|at| {
        let mut lengths = Lengths::default();
        lengths.add(1.0, flat.excess(0, *at), 0.0);
        lengths
    });
    let lengths: Vec<Lengths> = lengths.collect();
    let places = flattener.folded_places().unwrap();
    let values = flat.blocks[0].clone();
    let norms: Vec<f64> = values
        .chunks(WIDTH)
        .zip(&lengths)
        .enumerate()
        .map(|(at, (vector, lengths))| norm(vector, &places, row(&flat.apart, WIDTH, at), lengths))
        .collect();
    for (found, exact) in norms.iter().zip(&exact) {
        assert!((found / dot(exact, exact).sqrt() - 1.0).abs() < 0.03, "{found} for {}", dot(exact, exact).sqrt());
    }
    let signs = Signs { places, norms: lengths.iter().map(|lengths| lengths.norms).collect(), apart: flat.apart };
    let unit = UnitVectors::new(FlatVectors {
        combine: Combine::Visits,
        blocks: flattener.blocks.clone(),
        examples: rows.iter().map(|row| *row as u64).collect(),
        steps: vec![0; rows.len()],
        visits: vec![1; rows.len()],
        labels: vec![None; rows.len()],
        length: WIDTH,
        values,
        basis: Basis::default(),
        norms,
        signs: Some(signs),
        left_out: LeftOut::default(),
        damage: None,
    });
    for position in rows {
        for other in unit.neighbors(position, unit.len()) {
            let (x, y) = (&exact[position], &exact[other.position]);
            let cosine = dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
            assert!((f64::from(other.cosine) - cosine).abs() < 0.04, "{position}: {other:?} for {cosine}");
        }
    }
}
