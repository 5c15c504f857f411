//! Stated errors against those that are met.

use super::super::{dots, panels_of, Floats, ProbeSide, Scheme, Stored, Unpacked};
use crate::rows::gradient::{Factored, Gradients, Layout};
use gradlog_format::log::LayerRecord;
use gradlog_format::run::{Origin, Vectors};
use gradlog_format::sketch::{draw, Encoding, Projection};

const VISITS: usize = 60;
const PROBES: usize = 40;
const CLASSES: usize = 8;

/// Inputs behind a ReLU and output gradients, both of which depend on a class, with tails.
fn vectors(seed: u64, count: usize, width: usize, relu: bool) -> Vec<Vec<f32>> {
    let uniform = |stream: u64, i: usize| (draw(stream, i as u64) >> 40) as f32 / (1 << 24) as f32 - 0.5;
    // A sum of three is near to a normal one; the factor in front makes the tails.
    let normal = |stream: u64, i: usize| {
        let part = |n: u64| uniform(stream.wrapping_mul(31).wrapping_add(n), i);
        2.0 * (part(1) + part(2) + part(3)) * (1.0 + 4.0 * part(4) * part(4))
    };
    (0..count)
        .map(|row| {
            let class = 1000 + (row % CLASSES) as u64;
            (0..width)
                .map(|i| normal(class, i) + normal(seed, row * width + i))
                .map(|x| if relu { x.max(0.0) } else { x })
                .collect()
        })
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

struct Case {
    inputs: usize,
    input_cap: usize,
    outputs: usize,
    delta_cap: usize,
    whole: usize,
    folded: usize,
    encoding: Encoding,
}

/// Shares of pairs whose exact dot product lies within one and two standard deviations, and the root mean square of the
/// errors in standard deviations, over some seeds of the projections.
fn coverage(case: &Case) -> [f64; 3] {
    let sides = [(11, VISITS, case.encoding), (12, PROBES, Encoding::Q8)];
    let of = |part: u64, width, relu| sides.map(|(seed, count, _)| vectors(seed + 100 * part, count, width, relu));
    let parts = [of(1, case.inputs, true), of(2, case.outputs, false), of(3, case.whole, false)];
    let origin = |width: usize, cap: usize| match width > cap {
        true => Origin::Projected { seed: 0, inputs: width as u32 },
        false => Origin::Whole,
    };
    let layer = Factored {
        layer: 0,
        inputs: case.input_cap,
        outputs: case.delta_cap,
        bias: true,
        input_origin: origin(case.inputs, case.input_cap),
        delta_origin: origin(case.outputs, case.delta_cap),
    };
    let layout = Layout { factored: vec![layer], folded: (case.folded > 0).then_some(case.folded) };
    let record = LayerRecord {
        name: "fc".into(),
        kind: "linear".into(),
        inputs: case.inputs as u32,
        outputs: case.outputs as u32,
        bias: true,
        parameters: 0,
        shapes: Vec::new(),
        seed_input: 0,
        seed_delta: 0,
        seed_folded: 0,
    };
    let scheme = Scheme::new(&layout, &[record], &[], true);
    let (mut within, mut squares, mut count) = ([0u64; 2], 0f64, 0u64);
    for seed in 0..16u64 {
        let caps = [case.input_cap, case.delta_cap, case.folded];
        let [visits, probes] = [0, 1].map(|side| {
            let stored = parts.iter().zip(caps).enumerate().filter(|(_, (_, cap))| *cap > 0);
            let stored = stored.map(|(number, (sides_of_part, cap))| {
                let rows = &sides_of_part[side];
                if rows[0].len() <= cap {
                    let encoding = if sides[side].2 == Encoding::Signs { Encoding::Q8 } else { sides[side].2 };
                    return Vectors::from_rows(encoding, cap, rows);
                }
                let projection = Projection::new(seed * 3 + number as u64, rows[0].len(), cap);
                let short = |row: &Vec<f32>| {
                    let mut out = Vec::new();
                    projection.apply(row, &mut Vec::new(), &mut out);
                    out
                };
                Vectors::from_rows(sides[side].2, cap, &rows.iter().map(short).collect::<Vec<_>>())
            });
            Gradients::made(stored.collect())
        });
        let count_of_parts = if case.folded > 0 { 3 } else { 2 };
        let stored = |row| (0..count_of_parts).map(|part| Stored::read(probes.part(part), row)).collect();
        let side = ProbeSide::new(&scheme, &(0..PROBES).map(stored).collect::<Vec<_>>());
        let rows: Vec<usize> = (0..VISITS).collect();
        let (mut unpacked, mut floats) = (Unpacked::default(), Floats::default());
        unpacked.load(&scheme, &visits, &rows, (&side, panels_of(PROBES)));
        let all = (&side, 0..panels_of(PROBES));
        dots(&scheme, &unpacked, all, &mut floats, |visit, first, found, errors| {
            for (place, (found, error)) in found.iter().zip(errors.unwrap()).enumerate() {
                let probe = first + place;
                let [input, delta, whole] =
                    [0, 1, 2].map(|part: usize| dot(&parts[part][0][visit], &parts[part][1][probe]));
                let exact = (input + 1.0) * delta + if case.folded > 0 { whole } else { 0.0 };
                let sigmas =
                    (f64::from(*found) - exact).abs() / f64::from((error.shared * error.shared + error.own).sqrt());
                within[0] += u64::from(sigmas <= 1.0);
                within[1] += u64::from(sigmas <= 2.0);
                squares += sigmas * sigmas;
                count += 1;
            }
        });
    }
    let share = |hits: u64| hits as f64 / count as f64;
    [share(within[0]), share(within[1]), (squares / count as f64).sqrt()]
}

#[test]
fn exact_dot_products_lie_within_the_stated_errors_as_often_as_they_should() {
    let all = Case {
        inputs: 900,
        input_cap: 128,
        outputs: 300,
        delta_cap: 64,
        whole: 5000,
        folded: 256,
        encoding: Encoding::Q4,
    };
    let cases = [
        // Projected on both sides, on one, and folded; at 8 bits, where the projection is nearly all of the error, and
        // at 4.
        (Case { encoding: Encoding::Q8, folded: 0, ..all }, "both sides, 8 bit"),
        (Case { folded: 0, ..all }, "both sides, 4 bit"),
        (Case { delta_cap: 300, folded: 0, ..all }, "inputs, 4 bit"),
        (Case { inputs: 20, input_cap: 20, outputs: 4, delta_cap: 4, ..all }, "mostly folded, 4 bit"),
        (Case { input_cap: 200, delta_cap: 300, encoding: Encoding::Signs, ..all }, "inputs and a fold, signs"),
        (
            Case { inputs: 20, input_cap: 20, outputs: 4, delta_cap: 4, encoding: Encoding::Signs, ..all },
            "folded, signs",
        ),
        (all, "a factored layer and a fold, 4 bit"),
    ];
    for (case, name) in &cases {
        let [one, two, rms] = coverage(case);
        println!("{name}: {one:.3} {two:.3} {rms:.3}");
        assert!((0.63..0.80).contains(&one) && (0.93..0.995).contains(&two), "{name}: {one} {two}");
        // Neither too small nor so large that it says nothing.
        assert!((0.8..1.1).contains(&rms), "{name}: {rms}");
    }
}

/// With nothing projected only rounding is left, and ReLU's exact zeros have none: the stated error is on the safe
/// side.
#[test]
fn rounding_alone_is_stated_on_the_safe_side() {
    let whole =
        Case { inputs: 400, input_cap: 400, outputs: 60, delta_cap: 60, whole: 1, folded: 0, encoding: Encoding::Q4 };
    let [one, two, rms] = coverage(&whole);
    println!("rounding: {one:.3} {two:.3} {rms:.3}");
    assert!(one > 0.66 && two > 0.94 && (0.5..1.05).contains(&rms), "{one} {two} {rms}");
}
