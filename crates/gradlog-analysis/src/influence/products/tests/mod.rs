//! Dot products and their errors against the definitions in f64, on every instruction set.

mod apart;
mod variance;

use super::scheme::Scheme;
use super::variance::PartVariance;
use super::*;
use crate::rows::gradient::{Factored, Gradients, Layout};
use gradlog_format::run::{Origin, Vectors};
use gradlog_format::sketch::{draw, Encoding};
use gradlog_kernels::int8::Isa;

const VISITS: usize = 131;
const PROBES: usize = 101;
/// Of parts: two layers, of which one has a bias, and the folded vector.
const WIDTHS: [usize; 5] = [203, 66, 31, 3, 128];

fn numbers(seed: u64, count: usize, width: usize) -> Vec<Vec<f32>> {
    let draw = |row: usize, i: usize| {
        let bits = draw(seed, (row * width + i) as u64);
        // A third are zeros, as behind a ReLU; the rest have tails.
        let x = (bits >> 40) as f32 / (1 << 24) as f32 - 0.5;
        if bits.is_multiple_of(3) {
            0.0
        } else {
            x * x * x
        }
    };
    (0..count).map(|row| (0..width).map(|i| draw(row, i)).collect()).collect()
}

fn parts(seed: u64, count: usize, encodings: [Encoding; 5]) -> Gradients {
    let part =
        |(part, (width, encoding))| Vectors::from_rows(encoding, width, &numbers(seed + part as u64, count, width));
    Gradients::made(WIDTHS.into_iter().zip(encodings).enumerate().map(part).collect())
}

fn scheme(isa: Isa) -> Scheme {
    let layer = |layer, inputs, outputs, bias| Factored {
        layer,
        inputs,
        outputs,
        bias,
        input_origin: Origin::Whole,
        delta_origin: Origin::Whole,
    };
    let layout = Layout {
        factored: vec![layer(0, WIDTHS[0], WIDTHS[1], true), layer(1, WIDTHS[2], WIDTHS[3], false)],
        folded: Some(WIDTHS[4]),
    };
    // Only the second layer's input was wider.
    let mut scheme = Scheme { isa, ..Scheme::new(&layout, &[], &[], true) };
    scheme.variances[2] = PartVariance::new(WIDTHS[2], true);
    scheme
}

/// All dot products and standard deviations.
fn all(scheme: &Scheme, visits: &Gradients, probes: &Gradients) -> (Vec<f32>, Vec<f32>) {
    let stored = |row| (0..5).map(|part| Stored::read(probes.part(part), row)).collect();
    let side = ProbeSide::new(scheme, &(0..PROBES).map(stored).collect::<Vec<_>>());
    let rows: Vec<usize> = (0..VISITS).rev().collect();
    let (mut dots_out, mut errors_out) = (vec![f32::NAN; VISITS * PROBES], vec![f32::NAN; VISITS * PROBES]);
    let (mut unpacked, mut floats) = (Unpacked::default(), Floats::default());
    unpacked.load(scheme, visits, &rows, (&side, 2));
    for panel in 0..panels_of(PROBES) {
        dots(scheme, &unpacked, (&side, panel..panel + 1), &mut floats, |position, first, dots, errors| {
            let place = rows[position] * PROBES + first..rows[position] * PROBES + first + dots.len();
            dots_out[place.clone()].copy_from_slice(dots);
            let deviations = errors.unwrap().iter().map(|error| (error.shared * error.shared + error.own).sqrt());
            errors_out[place].iter_mut().zip(deviations).for_each(|(out, deviation)| *out = deviation);
        });
    }
    (dots_out, errors_out)
}

/// The definitions in f64: dot product and variance of one pair.
fn pair(visits: &Gradients, probes: &Gradients, visit: usize, probe: usize) -> (f64, f64) {
    let part = |number: usize, projected: bool| {
        let vector = |side: &Gradients, row: usize| {
            let vectors = side.part(number);
            let mut out = vec![0f32; vectors.width()];
            vectors.decode(row, &mut out);
            let step = f64::from(vectors.row(row).1.to_f32());
            let rounded = matches!(vectors.encoding(), Encoding::Q8 | Encoding::Q4);
            (out.into_iter().map(f64::from).collect::<Vec<_>>(), if rounded { step * step / 12.0 } else { 0.0 })
        };
        let ((x, qx), (y, qy)) = (vector(visits, visit), vector(probes, probe));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (xy, xx, yy) = (dot(&x, &y), dot(&x, &x), dot(&y, &y));
        let m = x.len() as f64;
        let rounding = qx * yy + qy * xx + m * qx * qy;
        (xy, rounding + if projected { (xx * yy + xy * xy) / m } else { 0.0 })
    };
    let layer = |(a, va): (f64, f64), bias: f64, (d, vd): (f64, f64)| {
        ((a + bias) * d, (a + bias) * (a + bias) * vd + d * d * va + va * vd)
    };
    let first = layer(part(0, false), 1.0, part(1, false));
    let second = layer(part(2, true), 0.0, part(3, false));
    let folded = part(4, true);
    (first.0 + second.0 + folded.0, first.1 + second.1 + folded.1)
}

#[test]
fn integers_floats_and_mixtures_equal_the_definition_on_every_instruction_set() {
    use Encoding::{F16, F32, Q4, Q8};
    for (left, right) in [
        ([Q4, Q4, Q4, Q8, Q4], [Q8; 5]),
        ([Q8; 5], [Q8; 5]),
        ([Q4; 5], [Q4; 5]),
        ([F32; 5], [F32; 5]),
        ([F16; 5], [Q8; 5]),
        ([Q4, F32, Q8, Q4, F16], [F32, Q8, F16, Q8, Q4]),
    ] {
        let (visits, probes) = (parts(1, VISITS, left), parts(100, PROBES, right));
        let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
        for isa in Isa::available() {
            let found = all(&scheme(isa), &visits, &probes);
            let first = first.get_or_insert_with(|| found.clone());
            assert_eq!(*first, found, "{isa:?}");
        }
        let (found, errors) = first.unwrap();
        for visit in 0..VISITS {
            for probe in 0..PROBES {
                let (dot, variance) = pair(&visits, &probes, visit, probe);
                let at = visit * PROBES + probe;
                let (got, error) = (f64::from(found[at]), f64::from(errors[at]));
                assert!((got - dot).abs() < 1e-5 * (1.0 + dot.abs()), "{left:?} {right:?}: {got} for {dot}");
                let expected = variance.sqrt();
                assert!((error - expected).abs() <= 1e-4 * expected, "{left:?} {right:?}: {error} for {expected}");
            }
        }
    }
}

/// The same numbers stored as integers and as floats take the two ways, and differ by rounding only.
#[test]
fn the_integer_and_the_float_way_agree_to_rounding() {
    let encodings = [Encoding::Q4, Encoding::Q4, Encoding::Q4, Encoding::Q8, Encoding::Q4];
    let (visits, probes) = (parts(7, VISITS, encodings), parts(70, PROBES, [Encoding::Q8; 5]));
    let floats = |side: &Gradients, count: usize| {
        let part = |number: usize| {
            let decode = |row| {
                let mut out = vec![0f32; WIDTHS[number]];
                side.part(number).decode(row, &mut out);
                out
            };
            Vectors::from_rows(Encoding::F32, WIDTHS[number], &(0..count).map(decode).collect::<Vec<_>>())
        };
        Gradients::made((0..5).map(part).collect())
    };
    let scheme = scheme(Isa::detect());
    let (integers, _) = all(&scheme, &visits, &probes);
    let (floats, _) = all(&scheme, &floats(&visits, VISITS), &floats(&probes, PROBES));
    let largest = integers.iter().fold(0f32, |max, dot| max.max(dot.abs()));
    for (integer, float) in integers.iter().zip(&floats) {
        assert!((integer - float).abs() < 2e-6 * largest, "{integer} {float}");
    }
    assert!(integers != floats, "one way only");
}
