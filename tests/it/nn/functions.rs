//! `nn::ops` and `nn::rotary_emb` against candle's own differentiable ops.

use crate::common::*;
use candle_core::{DType, Result, Tensor, Var};
use gradlog::nn::{ops, rotary_emb};

type Function<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// Value and gradient of `made` against those of `right`, at a variable of this shape, with a gradient of noise.
#[track_caller]
fn agree(shape: &[usize], dtype: DType, made: Function<'_>, right: Function<'_>) {
    let tolerance = if dtype == DType::F16 { 5e-3 } else { 2e-6 };
    let x = Var::from_tensor(&(noise(5, shape) * 3.0).unwrap().to_dtype(dtype).unwrap()).unwrap();
    let [made, right] = [made, right].map(|f| {
        let y = f(&x).unwrap();
        let weights = noise(8, y.dims()).to_dtype(dtype).unwrap();
        let gradient = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
        [y, gradient.get(&x).unwrap().clone()].map(|t| numbers(&t.to_dtype(DType::F32).unwrap()))
    });
    for (made, right) in made.iter().zip(&right) {
        assert!(relative_error(made, right) < tolerance, "{}", relative_error(made, right));
    }
}

#[test]
fn softmax_has_candles_value_and_gradient() {
    for dtype in [DType::F32, DType::F64, DType::F16] {
        let plain = |dim: usize| move |x: &Tensor| candle_nn::ops::softmax(x, dim);
        agree(&[2, 3, 7], dtype, &ops::softmax_last_dim, &plain(2));
        agree(&[2, 3, 7], dtype, &|x| ops::softmax(x, 2), &plain(2));
        agree(&[2, 3, 7], dtype, &|x| ops::softmax(x, 1), &plain(1));
        agree(&[1], dtype, &ops::softmax_last_dim, &plain(0));
    }
    // Of a transposed view, and of a row of which some numbers are masked.
    let right = |x: &Tensor| candle_nn::ops::softmax(&x.t()?, 1);
    agree(&[4, 6], DType::F32, &|x| ops::softmax_last_dim(&x.t()?), &right);
    let masked = Tensor::new(&[[0f32, f32::NEG_INFINITY, 1.0]], &candle_core::Device::Cpu).unwrap();
    assert_eq!(numbers(&ops::softmax_last_dim(&masked).unwrap())[1], 0.0);
    let huge = Tensor::new(&[[1e30f32, -1e30, 1e30]], &candle_core::Device::Cpu).unwrap();
    assert_eq!(numbers(&ops::softmax_last_dim(&huge).unwrap()), [0.5, 0.0, 0.5]);
}

#[test]
fn norms_have_the_gradient_of_candles_slow_ones() {
    for dtype in [DType::F32, DType::F64] {
        let (w, b) = (noise(1, &[7]).to_dtype(dtype).unwrap(), noise(2, &[7]).to_dtype(dtype).unwrap());
        agree(&[2, 3, 7], dtype, &|x| ops::layer_norm(x, &w, &b, 1e-5), &|x| {
            candle_nn::ops::layer_norm_slow(x, &w, &b, 1e-5)
        });
        agree(&[2, 3, 7], dtype, &|x| ops::rms_norm(x, &w, 1e-5), &|x| candle_nn::ops::rms_norm_slow(x, &w, 1e-5));
        let other = noise(1, &[6]).to_dtype(dtype).unwrap();
        assert!(ops::rms_norm(&b.reshape((1, 7)).unwrap(), &other, 1e-5).is_err());
        assert!(ops::layer_norm(&b.reshape((1, 7)).unwrap(), &w, &other, 1e-5).is_err());
    }
}

#[test]
fn rotations_have_the_gradient_of_candles_slow_ones() {
    let (cos, sin) = (noise(3, &[5, 3]).cos().unwrap(), noise(3, &[5, 3]).sin().unwrap());
    let shape = [2, 4, 5, 6];
    agree(&shape, DType::F32, &|x| rotary_emb::rope(x, &cos, &sin), &|x| rotary_emb::rope_slow(x, &cos, &sin));
    agree(&shape, DType::F32, &|x| rotary_emb::rope_i(x, &cos, &sin), &|x| rotary_emb::rope_i_slow(x, &cos, &sin));
    let turned = |x: &Tensor| {
        let heads = x.transpose(1, 2)?.contiguous()?;
        rotary_emb::rope_slow(&heads, &cos, &sin)?.transpose(1, 2)?.contiguous()
    };
    agree(&[2, 5, 4, 6], DType::F32, &|x| rotary_emb::rope_thd(x, &cos, &sin), &turned);
    // A batch's own angles: candle's slow way has none, so one example at a time is the oracle.
    let (cos, sin) = (noise(4, &[2, 5, 3]).cos().unwrap(), noise(4, &[2, 5, 3]).sin().unwrap());
    let own = |x: &Tensor| {
        let one = |i: usize| rotary_emb::rope_slow(&x.narrow(0, i, 1)?, &cos.get(i)?, &sin.get(i)?);
        Tensor::cat(&[one(0)?, one(1)?], 0)
    };
    agree(&shape, DType::F32, &|x| rotary_emb::rope(x, &cos, &sin), &own);
    let x = noise(1, &shape).transpose(1, 2).unwrap();
    assert!(rotary_emb::rope(&x, &cos, &sin).unwrap_err().to_string().contains("contiguous"));
}
