//! `σ` and `tanh` without a call of the mathematics library, so that loops over them become vector instructions.
//!
//! Both stay within 2e-7 of the exact value. They keep NaN, and their limits at ±∞. Polynomials of Cephes (Moshier 1984
//! to 2000), single precision.

/// `e^x` for `x` in -87..88, limited to that range. NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // `ln 2` in two parts. The product of the first with a small whole number is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // These comparisons are false for NaN. `f32::min` would drop it.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x`.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_6e-3;
    let p = p * z + 2.063_908_8e-2;
    let p = p * z - 5.373_971_5e-2;
    let p = p * z + 1.333_144_2e-1;
    let p = p * z - 3.333_328e-1;
    let near = p * z * x + x;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    // False for NaN, which `near` keeps.
    if x.abs() >= 0.625 {
        far.copysign(x)
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gradlog_kernels::simd::vectorized;

    /// All numbers of the range at a fine step, and small ones of every size.
    fn arguments() -> Vec<f32> {
        let fine = (-120_000..=120_000).map(|i| i as f32 * 1e-3);
        let small = (1..=40).flat_map(|n| [1.0f32, 1.7, -1.3].map(|v| v * 10f32.powi(-n)));
        fine.chain(small).chain([0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY]).collect()
    }

    #[test]
    fn both_stay_within_two_ten_millionths_of_the_exact_value() {
        let x = arguments();
        let (mut s, mut t) = (x.clone(), x.clone());
        vectorized(
            #[inline(always)]
            || {
                s.iter_mut().for_each(|v| *v = sigmoid(*v));
                t.iter_mut().for_each(|v| *v = tanh(*v));
            },
        );
        for ((x, s), t) in x.iter().zip(s).zip(t) {
            let wide = f64::from(*x);
            let exact = 1.0 / (1.0 + (-wide).exp());
            assert!((f64::from(s) - exact).abs() < 2e-7, "sigmoid {x}: {s} {exact}");
            assert!(x.abs() > 80.0 || (f64::from(s) - exact).abs() < 5e-7 * exact, "sigmoid {x}: {s} {exact}");
            let exact = wide.tanh();
            assert!((f64::from(t) - exact).abs() < 2e-7, "tanh {x}: {t} {exact}");
            // Small arguments keep their digits.
            assert!(x.abs() < 1e-37 || (f64::from(t) - exact).abs() < 5e-7 * exact.abs(), "tanh {x}: {t} {exact}");
        }
    }

    #[test]
    fn nan_stays_nan() {
        assert!(sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && tanh(-f32::NAN).is_nan());
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    }
}
