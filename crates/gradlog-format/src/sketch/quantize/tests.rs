//! Quantizers against their definitions and stated errors.

use super::*;

const ALL: [Encoding; 4] = [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Q4];
const WITH_SIGNS: [Encoding; 5] = [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Q4, Encoding::Signs];

fn round_trip(encoding: Encoding, values: &[f32]) -> (Vec<f32>, Quantized) {
    let mut bytes = Vec::new();
    let quantized = encoding.encode(values, &mut bytes);
    assert_eq!(bytes.len(), encoding.bytes(values.len()));
    let mut out = vec![f32::NAN; values.len()];
    encoding.decode(&bytes, quantized.scale, &mut out);
    (out, quantized)
}

#[test]
fn every_code_is_what_the_decoder_takes_it_for() {
    for (encoding, width) in [(Encoding::Q8, 256), (Encoding::Q4, 512), (Encoding::Q4, 511), (Encoding::Signs, 2_043)] {
        let bytes: Vec<u8> = (0..=255).collect();
        let (mut codes, mut numbers) = (vec![99i8; width], vec![f32::NAN; width]);
        encoding.codes(&bytes, &mut codes);
        encoding.decode(&bytes, bf16::ONE, &mut numbers);
        for (code, number) in codes.iter().zip(&numbers) {
            assert_eq!(f32::from(*code), *number);
            assert!(i16::from(code.abs_diff(0)) <= encoding.code_max().unwrap());
        }
    }
    assert!([Encoding::F32, Encoding::F16].iter().all(|floats| floats.code_max().is_none()));
}

#[test]
fn error_stays_within_half_a_step() {
    for magnitude in [1e-38, 1e-30, 1e-8, 1.0, 3.7e4, 1e30, 3.0e38] {
        let values: Vec<f32> = (0..37).map(|i| ((i * 7919 % 41) as f32 / 20.0 - 1.0) * magnitude).collect();
        for encoding in ALL {
            let (back, quantized) = round_trip(encoding, &values);
            let step = quantized.scale.to_f32();
            let bound = match encoding {
                Encoding::F32 => 0.0,
                Encoding::F16 => step * 2f32.powi(-11),
                // A scale among the subnormals has few bits left; the bound still holds with a little slack.
                Encoding::Q8 | Encoding::Q4 | Encoding::Signs => step * 0.5001,
            };
            for (b, v) in back.iter().zip(&values) {
                assert!((b - v).abs() <= bound, "{encoding:?} at {magnitude}: {v} came back as {b}");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_odd_widths_work() {
    for encoding in ALL {
        assert_eq!(round_trip(encoding, &[0.0; 5]).0, [0.0; 5]);
        assert_eq!(round_trip(encoding, &[]).0, Vec::<f32>::new());
        let (back, _) = round_trip(encoding, &[0.0, 2.0, 0.0]);
        assert_eq!((back[0], back[2]), (0.0, 0.0));
        assert!((back[1] - 2.0).abs() < 0.02);
    }
}

#[test]
fn a_vector_that_is_not_finite_is_stored_as_zeros_and_said_so() {
    for encoding in WITH_SIGNS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (back, quantized) = round_trip(encoding, &[1.0, bad, 3.0]);
            assert!(!quantized.finite);
            assert_eq!(back, [0.0; 3]);
        }
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    for x in [-127.0f32, -7.0, -2.5, -1.5, -0.5, -0.2, 0.0, 0.49, 0.5, 1.5, 2.5, 126.5, 127.0] {
        assert_eq!(code(x, 1.0, 127.0) as i8, x.round_ties_even() as i8);
    }
}

#[test]
fn signs_keep_the_dot_product_with_the_vector_itself() {
    for magnitude in [1e-38, 1e-30, 1.0, 1e30, 3.0e38] {
        let values: Vec<f32> = (0..37).map(|i| ((i * 7919 % 41) as f32 / 20.5 - 1.0) * magnitude).collect();
        let (back, _) = round_trip(Encoding::Signs, &values);
        assert!(values.iter().zip(&back).all(|(v, b)| *v == 0.0 || (*v < 0.0) == (*b < 0.0)));
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
        let (kept, whole) = (dot(&back, &values), dot(&values, &values));
        // The scale is rounded to 8 bits, and among the subnormals to fewer.
        assert!((kept / whole - 1.0).abs() < if magnitude < 1e-37 { 0.05 } else { 0.004 }, "{kept} {whole}");
    }
    assert_eq!(round_trip(Encoding::Signs, &[0.0; 9]).0, [0.0; 9]);
    // Longer than a stretch, and no whole number of bytes. Bits behind the last number are zeros.
    let values: Vec<f32> = (0..4_099).map(|i| if i < 4_096 { -1.0 } else { 1.0 }).collect();
    let mut bytes = Vec::new();
    Encoding::Signs.encode(&values, &mut bytes);
    assert!(bytes.len() == 513 && bytes[..512].iter().all(|byte| *byte == 0xFF) && bytes[512] == 0);
    assert_eq!(Encoding::Signs.bytes(9), 2);
}
