//! Numbers that are kept apart: products with them equal those of the whole vectors.

use super::super::{dots, panels_of, Floats, ProbeSide, Scheme, Stored, Unpacked};
use super::numbers;
use crate::rows::gradient::{Factored, Gradients, Layout};
use gradlog_format::run::{Origin, Vectors};
use gradlog_format::sketch::{Encoding, Projection};
use gradlog_kernels::int8::Isa;

const VISITS: usize = 21;
const PROBES: usize = 53;
const INPUTS: usize = 90;

/// Vectors with a few numbers apart: every third has none, and some places occur on both sides.
struct Side {
    vectors: Vectors,
    /// What each vector stands for, as long as it was before a projection.
    whole: Vec<Vec<f32>>,
    apart: Vec<Vec<(u32, f32)>>,
}

fn side(seed: u64, count: usize, encoding: Encoding, origin: Origin) -> Side {
    let mut rest = numbers(seed, count, INPUTS);
    let apart: Vec<Vec<(u32, f32)>> = (0..count)
        .map(|row| match row % 3 {
            0 => Vec::new(),
            1 => vec![(17, 2.0 + row as f32)],
            _ => vec![(17, -3.0), (((row + 40) % INPUTS) as u32, 5.0)],
        })
        .collect();
    for (rest, apart) in rest.iter_mut().zip(&apart) {
        apart.iter().for_each(|(place, _)| rest[*place as usize] = 0.0);
    }
    let stored: Vec<Vec<f32>> = match origin {
        Origin::Projected { seed, .. } => {
            let projection = Projection::new(seed, INPUTS, 64);
            let project = |row: &Vec<f32>| {
                let mut out = Vec::new();
                projection.apply(row, &mut Vec::new(), &mut out);
                out
            };
            rest.iter().map(project).collect()
        }
        _ => rest.clone(),
    };
    let mut vectors = Vectors::from_rows(encoding, stored[0].len(), &stored).with_origin(origin);
    let slots = |row: &Vec<(u32, f32)>| [row.first(), row.get(1)].map(|slot| slot.copied().unwrap_or_default());
    let slots: Vec<(u32, f32)> = apart.iter().flat_map(slots).collect();
    vectors.keep_apart(slots.iter().map(|slot| slot.0).collect(), slots.iter().map(|slot| slot.1).collect()).unwrap();
    for (whole, apart) in rest.iter_mut().zip(&apart) {
        apart.iter().for_each(|(place, value)| whole[*place as usize] += value);
    }
    Side { vectors, whole: rest, apart }
}

/// A layer of these inputs and the output gradient 1 on all sides.
fn products(isa: Isa, visits: &Side, probes: &Side, origin: Origin) -> Vec<f32> {
    let width = visits.vectors.width();
    let layer = Factored {
        layer: 0,
        inputs: width,
        outputs: 1,
        bias: false,
        input_origin: origin,
        delta_origin: Origin::Whole,
    };
    let layout = Layout { factored: vec![layer], folded: None };
    let scheme = Scheme { isa, ..Scheme::new(&layout, &[], &[], false) };
    let ones = |count: usize| Vectors::from_rows(Encoding::F32, 1, &vec![vec![1.0]; count]);
    let visits = Gradients::made(vec![visits.vectors.clone(), ones(VISITS)]);
    let probes = Gradients::made(vec![probes.vectors.clone(), ones(PROBES)]);
    let stored = |row| (0..2).map(|part| Stored::read(probes.part(part), row)).collect();
    let side = ProbeSide::new(&scheme, &(0..PROBES).map(stored).collect::<Vec<_>>());
    let (mut unpacked, mut floats) = (Unpacked::default(), Floats::default());
    unpacked.load(&scheme, &visits, &(0..VISITS).collect::<Vec<_>>(), (&side, 2));
    let mut out = vec![f32::NAN; VISITS * PROBES];
    dots(&scheme, &unpacked, (&side, 0..panels_of(PROBES)), &mut floats, |visit, first, dots, _| {
        out[visit * PROBES + first..visit * PROBES + first + dots.len()].copy_from_slice(dots);
    });
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

#[test]
fn whole_vectors_are_multiplied_with_their_numbers_apart() {
    for (left, right) in [(Encoding::Q8, Encoding::Q8), (Encoding::F32, Encoding::Q8), (Encoding::Q8, Encoding::F32)] {
        let (visits, probes) = (side(1, VISITS, left, Origin::Whole), side(2, PROBES, right, Origin::Whole));
        for isa in Isa::available() {
            let found = products(isa, &visits, &probes, Origin::Whole);
            for visit in 0..VISITS {
                for probe in 0..PROBES {
                    let decode = |side: &Side, row: usize| {
                        let mut out = vec![0.0; INPUTS];
                        side.vectors.decode(row, &mut out);
                        assert!(out.iter().zip(&side.whole[row]).all(|(a, b)| (a - b).abs() < 2e-3), "{left:?}");
                        out
                    };
                    let (x, y) = (decode(&visits, visit), decode(&probes, probe));
                    let (expected, scale) = (dot(&x, &y), (dot(&x, &x) * dot(&y, &y)).sqrt());
                    let got = f64::from(found[visit * PROBES + probe]);
                    assert!(
                        (got - expected).abs() < 1e-5 * (1.0 + scale),
                        "{left:?} {right:?} {isa:?}: {got} {expected}"
                    );
                }
            }
        }
    }
}

/// Of projected vectors, numbers kept apart meet each other exactly, and the rest by their estimates.
#[test]
fn projected_vectors_are_multiplied_with_their_numbers_apart() {
    let origin = Origin::Projected { seed: 5, inputs: INPUTS as u32 };
    let (visits, probes) = (side(1, VISITS, Encoding::F32, origin), side(2, PROBES, Encoding::Q8, origin));
    let found = products(Isa::detect(), &visits, &probes, origin);
    let rest = |side: &Side, row: usize| {
        let mut out = vec![0.0; 64];
        side.vectors.decode_rest(row, &mut out);
        out
    };
    // The projection of each unit vector, by the definition.
    let projection = Projection::new(5, INPUTS, 64);
    let unit = |place: u32| {
        let (mut one, mut out) = (vec![0.0; INPUTS], Vec::new());
        one[place as usize] = 1.0;
        projection.apply(&one, &mut Vec::new(), &mut out);
        out
    };
    for visit in 0..VISITS {
        for probe in 0..PROBES {
            let (x, y) = (rest(&visits, visit), rest(&probes, probe));
            let mut expected = dot(&x, &y);
            for &(place, value) in &visits.apart[visit] {
                expected += f64::from(value) * dot(&unit(place), &y);
                for (_, other) in probes.apart[probe].iter().filter(|other| other.0 == place) {
                    expected += f64::from(value * other);
                }
            }
            for &(place, value) in &probes.apart[probe] {
                expected += f64::from(value) * dot(&unit(place), &x);
            }
            let got = f64::from(found[visit * PROBES + probe]);
            assert!((got - expected).abs() < 1e-3 * (1.0 + expected.abs()), "{visit} {probe}: {got} {expected}");
        }
    }
}
