//! Transposed convolutions, against a scatter made of candle's `matmul` and `index_add`, candle's own backward where it
//! has one, and loops with finite differences in f64.

use crate::check::{assert_clean, check_logits};
use crate::common::*;
use crate::taps::{check, losses, tapped_output, var};
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{
    linear, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d, ConvTranspose2dConfig, Linear, VarBuilder, VarMap,
};
use gradlog::{Recorder, Taps};
use gradlog_format::log::{BlockKind, Column};

/// The settings of a layer in one direction.
#[derive(Debug, Clone, Copy)]
struct Settings {
    padding: usize,
    output_padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
}

/// What a single row of windows has above and below it.
const ROW: Settings = Settings { padding: 0, output_padding: 0, stride: 1, dilation: 1, groups: 1 };

fn settings(of: [usize; 5]) -> Settings {
    let [padding, output_padding, stride, dilation, groups] = of;
    Settings { padding, output_padding, stride, dilation, groups }
}

impl Settings {
    fn line(self) -> ConvTranspose1dConfig {
        let Self { padding, output_padding, stride, dilation, groups } = self;
        ConvTranspose1dConfig { padding, output_padding, stride, dilation, groups }
    }

    fn plane(self) -> ConvTranspose2dConfig {
        let Self { padding, output_padding, stride, dilation, .. } = self;
        ConvTranspose2dConfig { padding, output_padding, stride, dilation }
    }

    /// Size with all of the padding, and without it.
    fn sizes(self, windows: usize, kernel: usize) -> (usize, usize) {
        let full = (windows - 1) * self.stride + self.dilation * (kernel - 1) + 1 + self.output_padding;
        (full, full - 2 * self.padding)
    }
}

/// Adds each window's numbers to their places. `vertical` and `horizontal` share their groups.
fn reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    vertical: Settings,
    horizontal: Settings,
) -> Result<Tensor> {
    let (batch, channels, h, w) = x.dims4()?;
    let (_, outputs, kh, kw) = weight.dims4()?;
    let groups = horizontal.groups;
    let inputs = channels / groups;
    let ((full_h, height), (full_w, width)) = (vertical.sizes(h, kh), horizontal.sizes(w, kw));
    let places = |settings: Settings, count: usize, k: usize| {
        let places: Vec<u32> = (0..count).map(|i| (i * settings.stride + k * settings.dilation) as u32).collect();
        Tensor::from_vec(places, count, &Device::Cpu)
    };
    let mut parts = Vec::new();
    for group in 0..groups {
        let x = x.narrow(1, group * inputs, inputs)?.contiguous()?.reshape((batch, inputs, h * w))?;
        let weight = weight.narrow(0, group * inputs, inputs)?;
        let mut sum = Tensor::zeros((batch, outputs, full_h, full_w), x.dtype(), &Device::Cpu)?;
        for ky in 0..kh {
            for kx in 0..kw {
                let kernel = weight.narrow(2, ky, 1)?.narrow(3, kx, 1)?.contiguous()?.reshape((inputs, outputs))?;
                let kernel = kernel.t()?.contiguous()?.unsqueeze(0)?.repeat((batch, 1, 1))?;
                let term = kernel.matmul(&x)?.reshape((batch, outputs, h, w))?;
                let lines = Tensor::zeros((batch, outputs, h, full_w), x.dtype(), &Device::Cpu)?;
                let lines = lines.index_add(&places(horizontal, w, kx)?, &term, 3)?;
                sum = sum.index_add(&places(vertical, h, ky)?, &lines, 2)?;
            }
        }
        parts.push(sum.narrow(2, vertical.padding, height)?.narrow(3, horizontal.padding, width)?);
    }
    let y = Tensor::cat(&parts, 1)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, outputs * groups, 1, 1))?),
        None => Ok(y),
    }
}

/// Padding, output padding, stride, dilation, groups. Some output paddings reach the stride, and some the padding.
const LINES: [[usize; 5]; 8] = [
    [0, 0, 1, 1, 1],
    [1, 0, 2, 1, 1],
    [1, 1, 2, 1, 1],
    [2, 0, 1, 2, 1],
    [1, 1, 3, 2, 2],
    [0, 2, 1, 1, 4],
    [1, 3, 2, 2, 2],
    [2, 3, 1, 1, 1],
];

#[test]
fn conv_transpose1d() {
    for case in LINES {
        for (bias, uses) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
            let settings = settings(case);
            let (w, b) = (var(1, &[4, 3, 3]), var(2, &[3 * settings.groups]));
            let own_bias = bias.then(|| b.as_tensor().clone());
            let layer = ConvTranspose1d::new(w.as_tensor().clone(), own_bias.clone(), settings.line());
            let parameters = if bias { vec![&w, &b] } else { vec![&w] };
            let plain = |x: &Tensor| {
                let row = Settings { groups: settings.groups, ..ROW };
                reference(&x.unsqueeze(2)?, &w.unsqueeze(2)?, own_bias.as_ref(), row, settings)?.squeeze(2)
            };
            let what = format!("conv_transpose1d {settings:?} bias={bias} uses={uses}");
            check(&what, layer, Box::new(plain), &parameters, &noise(3, &[3, 4, 7]), uses);
        }
    }
}

#[test]
fn conv_transpose2d() {
    for case in LINES {
        for (bias, kernel, uses) in [(true, (3, 3), 1), (false, (2, 3), 1), (true, (4, 4), 2), (false, (3, 3), 2)] {
            let settings = Settings { groups: 1, ..settings(case) };
            let (w, b) = (var(1, &[4, 3, kernel.0, kernel.1]), var(2, &[3]));
            let own_bias = bias.then(|| b.as_tensor().clone());
            let layer = ConvTranspose2d::new(w.as_tensor().clone(), own_bias.clone(), settings.plane());
            let parameters = if bias { vec![&w, &b] } else { vec![&w] };
            let what = format!("conv_transpose2d {kernel:?} {settings:?} bias={bias} uses={uses}");
            let x = noise(3, &[3, 4, 4, 5]);
            let candle = Module::forward(&layer, &x).unwrap();
            assert!(relative_error(&numbers(&tapped_output(&layer, &x)), &numbers(&candle)) < 1e-5, "{what}");
            let plain = |x: &Tensor| reference(x, w.as_tensor(), own_bias.as_ref(), settings, settings);
            check(&what, layer.clone(), Box::new(plain), &parameters, &x, uses);
            if settings.output_padding < settings.stride {
                let plain = |x: &Tensor| Module::forward(&layer, x);
                check(&what, layer.clone(), Box::new(plain), &parameters, &x, uses);
            }
        }
    }
}

/// One window, as in the first layer of a generator.
#[test]
fn a_single_window_becomes_an_image() {
    let (w, b) = (var(1, &[6, 5, 4, 4]), var(2, &[5]));
    let layer = ConvTranspose2d::new(w.as_tensor().clone(), Some(b.as_tensor().clone()), Default::default());
    let plain = |x: &Tensor| Module::forward(&layer, x);
    check("one window", layer.clone(), Box::new(plain), &[&w, &b], &noise(3, &[3, 6, 1, 1]), 1);
}

/// The output of the layer by its definition.
fn loops(x: &[f64], w: &[f64], b: &[f64], size: [usize; 4], kernel: [usize; 2], at: [Settings; 2]) -> Vec<f64> {
    let ([batch, inputs, h, width], [kh, kw]) = (size, kernel);
    let groups = at[1].groups;
    let outputs = w.len() / (inputs * kh * kw);
    let (oh, ow) = (at[0].sizes(h, kh).1, at[1].sizes(width, kw).1);
    let mut y = vec![0f64; batch * groups * outputs * oh * ow];
    for (place, value) in y.iter_mut().enumerate() {
        let (column, line) = (place % ow, place / ow % oh);
        let (channel, example) = (place / (ow * oh) % (groups * outputs), place / (ow * oh * groups * outputs));
        *value = b.get(channel).copied().unwrap_or(0.0);
        let group = channel / outputs;
        for input in group * (inputs / groups)..(group + 1) * (inputs / groups) {
            for (iy, ix) in (0..h).flat_map(|iy| (0..width).map(move |ix| (iy, ix))) {
                for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                    let hits = iy * at[0].stride + ky * at[0].dilation == line + at[0].padding
                        && ix * at[1].stride + kx * at[1].dilation == column + at[1].padding;
                    if hits {
                        *value += x[((example * inputs + input) * h + iy) * width + ix]
                            * w[((input * outputs + channel % outputs) * kh + ky) * kw + kx];
                    }
                }
            }
        }
    }
    y
}

/// The path that is not fused: outputs, the gradient of the input and the norm of each example's gradient.
#[test]
fn in_f64_gradients_are_those_of_finite_differences() {
    let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let doubles = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let error = |a: &[f64], b: &[f64]| {
        let (a, b): (Vec<f32>, Vec<f32>) =
            (a.iter().map(|v| *v as f32).collect(), b.iter().map(|v| *v as f32).collect());
        relative_error(&a, &b)
    };
    for (case, is_line) in LINES.into_iter().flat_map(|case| [(case, true), (case, false)]) {
        let horizontal = if is_line { settings(case) } else { Settings { groups: 1, ..settings(case) } };
        let vertical = if is_line { ROW } else { horizontal };
        let (size, kernel) = if is_line { ([2, 4, 1, 5], [1, 3]) } else { ([2, 4, 3, 4], [2, 3]) };
        let what = format!("{horizontal:?} {is_line}");
        let shape = |of: &[usize]| if is_line { vec![of[0], of[1], of[3]] } else { of.to_vec() };
        let x = Var::from_tensor(&double(&noise(3, &shape(&size)))).unwrap();
        let w = Var::from_tensor(&double(&noise(1, &shape(&[4, 3, kernel[0], kernel[1]])))).unwrap();
        let b = Var::from_tensor(&double(&noise(2, &[3 * horizontal.groups]))).unwrap();
        let (weight, bias) = (w.as_tensor().clone(), Some(b.as_tensor().clone()));
        let taps = Taps::new();
        let layer: Box<dyn Module> = if is_line {
            Box::new(taps.tap("layer", ConvTranspose1d::new(weight, bias, horizontal.line())))
        } else {
            Box::new(taps.tap("layer", ConvTranspose2d::new(weight, bias, horizontal.plane())))
        };
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path().join("run"), &taps, exact()).unwrap();
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let y = layer.forward(x.as_tensor()).unwrap();
        let weights = double(&noise(7, y.dims()));
        let grads = pass.losses(&losses(&y, &weights).unwrap()).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();

        let (xs, ws, bs, rs) = (doubles(&x), doubles(&w), doubles(&b), doubles(&weights));
        let output = |x: &[f64], w: &[f64], b: &[f64]| loops(x, w, b, size, kernel, [vertical, horizontal]);
        assert!(error(&doubles(&y), &output(&xs, &ws, &bs)) < 1e-6, "{what}: outputs");
        // The losses of both examples.
        let loss = |x: &[f64], w: &[f64], b: &[f64]| -> [f64; 2] {
            let y = output(x, w, b);
            let terms: Vec<f64> = y.iter().zip(&rs).map(|(y, r)| r * y * y).collect();
            [0, 1].map(|i| terms[i * terms.len() / 2..(i + 1) * terms.len() / 2].iter().sum())
        };
        let slopes = |of: &[f64], loss: &dyn Fn(&[f64]) -> [f64; 2]| -> [Vec<f64>; 2] {
            let mut out = [vec![], vec![]];
            for i in 0..of.len() {
                let moved = |by: f64| {
                    let mut moved = of.to_vec();
                    moved[i] += by;
                    loss(&moved)
                };
                let (up, down) = (moved(1e-3), moved(-1e-3));
                (0..2).for_each(|e| out[e].push((up[e] - down[e]) / 2e-3));
            }
            out
        };
        let by_x = slopes(&xs, &|x| loss(x, &ws, &bs));
        let by_x: Vec<f64> = by_x[0].iter().zip(&by_x[1]).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(error(&doubles(grads.get(x.as_tensor()).unwrap()), &by_x) < 1e-6, "{what}: input");
        let (by_w, by_b) = (slopes(&ws, &|w| loss(&xs, w, &bs)), slopes(&bs, &|b| loss(&xs, &ws, b)));
        let mean: Vec<f64> = by_w[0].iter().zip(&by_w[1]).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(error(&doubles(grads.get(w.as_tensor()).unwrap()), &mean) < 1e-6, "{what}: kernel");
        let right = [0, 1].map(|i| by_w[i].iter().chain(&by_b[i]).map(|v| v * v).sum::<f64>() as f32);
        let norms = f32s(&dir.path().join("run"), BlockKind::Visits, Column::SquaredNorm);
        assert!(relative_error(&norms, &right) < 1e-4, "{what}: {norms:?} {right:?}");
    }
}

/// `check_gradients` compares with candle's ops, fused or not.
#[test]
fn a_check_of_gradients_agrees() {
    for dtype in [DType::F32, DType::F64] {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let config = ConvTranspose1dConfig { stride: 2, padding: 1, ..Default::default() };
        let line = candle_nn::conv_transpose1d(3, 4, 3, config, vb.pp("line")).unwrap();
        let config = ConvTranspose2dConfig { stride: 2, padding: 1, ..Default::default() };
        let plane = candle_nn::conv_transpose2d(4, 2, 3, config, vb.pp("plane")).unwrap();
        let (line, plane) = (taps.tap("line", line), taps.tap("plane", plane));
        let head: gradlog::taps::Tapped<Linear> = taps.tap("head", linear(2, 3, vb.pp("head")).unwrap());
        let x = noise(1, &[6, 3, 4]).to_dtype(dtype).unwrap();
        let found = check_logits(&taps, &variables, &x, |x| {
            let h = plane.forward(&line.forward(x)?.tanh()?.unsqueeze(2)?)?;
            head.forward(&h.mean(3)?.mean(2)?)
        });
        assert_clean(&found, 3);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    for dtype in [DType::F32, DType::F64] {
        let make = |shape: &[usize], bias: usize, of: [usize; 5]| {
            let weight = noise(1, shape).to_dtype(dtype).unwrap();
            let bias = Some(noise(2, &[bias]).to_dtype(dtype).unwrap());
            Taps::new().tap("layer", ConvTranspose1d::new(weight, bias, settings(of).line()))
        };
        let says = |layer: &dyn Module, shape: &[usize], word: &str| {
            let x = noise(3, shape).to_dtype(dtype).unwrap();
            let error = layer.forward(&x).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        };
        let usual = [0, 0, 1, 1, 1];
        says(&make(&[4, 3, 3], 3, usual), &[2, 5, 7], "does not take an input of shape [2, 5, 7]");
        says(&make(&[4, 3, 3], 3, usual), &[2, 4, 7, 1], "an input of 3 dimensions");
        says(&make(&[4, 3, 3], 9, [0, 0, 1, 1, 3]), &[2, 4, 7], "in 3 groups");
        says(&make(&[4, 3, 3], 3, [0, 0, 1, 1, 0]), &[2, 4, 7], "in 0 groups");
        says(&make(&[4, 3, 3], 3, [9, 0, 1, 1, 1]), &[2, 4, 7], "leaves nothing");
        says(&make(&[4, 3, 3], 3, [0, 0, 0, 1, 1]), &[2, 4, 7], "a stride");
        says(&make(&[4, 3, 3], 2, usual), &[2, 4, 7], if dtype == DType::F32 { "bias" } else { "broadcast_add" });
    }
}
