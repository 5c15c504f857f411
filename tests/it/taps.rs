//! Every tap and every input shape it claims, against candle's own backward on a batch of one example.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, Embedding, GroupNorm, LayerNorm, Linear, RmsNorm};
use gradlog::{Config, Recorder, SketchConfig, Tap, Taps};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use gradlog_format::sketch::{rotate, Fold};

/// The bar of the per-example gradients: relative error in f32.
const TOLERANCE: f64 = 1e-4;

pub(crate) type Plain<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// A loss for each example, `Σ r y²`, so that gradients depend on outputs and differ between examples.
pub(crate) fn losses(y: &Tensor, weights: &Tensor) -> Result<Tensor> {
    (y.sqr()? * weights)?.flatten_from(1)?.sum(1)
}

pub(crate) fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&(noise(seed, shape) * 0.5).unwrap()).unwrap()
}

/// Runs `layer` tapped on a batch and `plain` on each example alone, `uses` times over, and compares outputs, the
/// gradients of parameters and input, every per-example gradient and every norm.
pub(crate) fn check<L: Tap>(what: &str, layer: L, plain: Plain<'_>, parameters: &[&Var], x: &Tensor, uses: usize) {
    let dir = tempfile::tempdir().unwrap();
    let batch = x.dim(0).unwrap();
    let ids: Vec<u64> = (0..batch as u64).collect();
    let taps = Taps::new();
    let tapped = taps.tap("layer", layer);
    let sketch = SketchConfig { folded_min: 97, folded_max: 97, ..SketchConfig::exact() };
    let config = Config { sketch: sketch.clone(), ..Config::default() };
    let mut recorder = Recorder::create(dir.path().join("run"), &taps, config).unwrap();
    let input = if x.dtype().is_int() { x.clone() } else { Var::from_tensor(x).unwrap().as_tensor().clone() };
    let forward = |f: &dyn Fn(&Tensor) -> Result<Tensor>, x: &Tensor| -> Result<Tensor> {
        // Later uses see another input, so that no two of them are alike.
        let mut y = f(x)?;
        for extra in 1..uses {
            let next = if x.dtype().is_int() { f(x)? } else { f(&(x * (1.0 + extra as f64 * 0.3))?)? };
            y = (y + next * 0.7)?;
        }
        Ok(y)
    };
    let shape = forward(&|x| plain(x), x).unwrap().shape().clone();
    let weights = noise(77, shape.dims());

    let mut pass = recorder.pass(&ids).unwrap();
    let y = forward(&|x| tapped.forward(x), &input).unwrap();
    let loss = pass.losses(&losses(&y, &weights).unwrap()).unwrap();
    let grads = loss.backward().unwrap();
    pass.commit(0.1).unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!(summary.visits, batch as u64);

    // The batch as a whole: outputs and gradients are those of the plain layer.
    let y_plain = forward(&|x| plain(x), &input).unwrap();
    assert!(relative_error(&numbers(&y), &numbers(&y_plain)) < 1e-5, "{what}: outputs");
    let plain_grads = losses(&y_plain, &weights).unwrap().mean_all().unwrap().backward().unwrap();
    for (number, parameter) in parameters.iter().enumerate() {
        let (ours, theirs) = (grads.get(parameter).unwrap(), plain_grads.get(parameter).unwrap());
        assert!(relative_error(&numbers(ours), &numbers(theirs)) < TOLERANCE, "{what}: parameter {number}");
    }
    if !x.dtype().is_int() {
        let (ours, theirs) = (grads.get(&input).unwrap(), plain_grads.get(&input).unwrap());
        assert!(relative_error(&numbers(ours), &numbers(theirs)) < TOLERANCE, "{what}: input");
    }

    // Each example on its own.
    let run = dir.path().join("run");
    let record = Run::open(&run).unwrap().manifest().layers[0].clone();
    let norms = f32s(&run, BlockKind::Visits, Column::SquaredNorm);
    let factored =
        blocks(&run, BlockKind::Visits)[0].has(gradlog_format::log::ColumnKey { column: Column::Input, layer: 0 });
    assert_eq!(
        factored,
        record.inputs > 0 && x.elem_count() == batch * record.inputs as usize && uses == 1,
        "{what}: form"
    );
    let (a, d, f) = if factored {
        (vectors(&run, Column::Input, 0), vectors(&run, Column::Delta, 0), vec![])
    } else {
        (vec![], vec![], folded(&run))
    };
    // 97 numbers are kept of 128, or all of fewer parameters, which are then placed.
    let (parameters_of_layer, kept) = (record.parameters as usize, f.first().map_or(97, Vec::len));
    let buckets = kept.next_power_of_two();
    let fold = match parameters_of_layer <= buckets {
        true => Fold::placed(record.seed_folded, parameters_of_layer, buckets, 0),
        false => Fold::new(record.seed_folded, parameters_of_layer, buckets),
    };
    for i in 0..batch {
        let own = forward(&|x| plain(x), &row(x, i).unwrap()).unwrap();
        let own = losses(&own, &row(&weights, i).unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
        let oracle: Vec<f32> = parameters.iter().flat_map(|p| numbers(own.get(p).unwrap())).collect();
        assert_eq!(oracle.len() as u64, record.parameters, "{what}: parameters");
        if factored {
            let mut outer: Vec<f32> = d[i].iter().flat_map(|d| a[i].iter().map(move |a| d * a)).collect();
            outer.extend(d[i].iter().filter(|_| record.bias));
            assert!(relative_error(&outer, &oracle) < TOLERANCE, "{what}: example {i}");
        } else {
            let mut expected = fold.apply(&oracle);
            rotate(&mut expected, kept);
            assert!(relative_error(&f[i], &expected[..kept]) < TOLERANCE, "{what}: example {i}");
        }
        let exact = dot(&oracle, &oracle);
        assert!(
            (f64::from(norms[i]) - exact).abs() < 2.0 * TOLERANCE * exact,
            "{what}: norm {i}: {} {exact}",
            norms[i]
        );
    }
}

#[test]
fn linear() {
    for bias in [true, false] {
        for shape in [vec![6, 5], vec![6, 3, 5], vec![6, 2, 3, 5], vec![1, 5]] {
            for uses in [1, 3] {
                let (w, b) = (var(1, &[4, 5]), var(2, &[4]));
                let layer = Linear::new(w.as_tensor().clone(), bias.then(|| b.as_tensor().clone()));
                let plain = layer.clone();
                let parameters = if bias { vec![&w, &b] } else { vec![&w] };
                let what = format!("linear bias={bias} {shape:?} used {uses} times");
                check(
                    &what,
                    layer,
                    Box::new(move |x| Module::forward(&plain, x)),
                    &parameters,
                    &noise(3, &shape),
                    uses,
                );
            }
        }
    }
}

#[test]
fn linear_takes_what_is_not_contiguous() {
    let (w, b) = (var(1, &[4, 5]), var(2, &[4]));
    let layer = Linear::new(w.as_tensor().clone(), Some(b.as_tensor().clone()));
    let plain = layer.clone();
    let x = noise(3, &[6, 5, 3]).transpose(1, 2).unwrap();
    check("linear strided", layer, Box::new(move |x| Module::forward(&plain, x)), &[&w, &b], &x, 1);
}

/// A convolution from candle's index_select and matmul, whose backward can be trusted: candle-core 0.11.1's own gives a
/// wrong gradient of the kernel for `conv1d` on the CPU (finite differences say so, and candle issue 3836 is its like),
/// and refuses inputs that are not square under a stride for `conv2d`. `weight` is `[out, channels / groups, kh, kw]`,
/// the input `[batch, channels, h, w]`.
fn reference_conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    settings: [(usize, usize); 3],
    groups: usize,
) -> Result<Tensor> {
    let [padding, stride, dilation] = settings;
    let (batch, channels, _, _) = x.dims4()?;
    let (outputs, _, kh, kw) = weight.dims4()?;
    let x = x.pad_with_zeros(2, padding.0, padding.0)?.pad_with_zeros(3, padding.1, padding.1)?;
    let out = |size: usize, k: usize, stride: usize, dilation: usize| (size - dilation * (k - 1) - 1) / stride + 1;
    let (h, w) = (out(x.dim(2)?, kh, stride.0, dilation.0), out(x.dim(3)?, kw, stride.1, dilation.1));
    let pick = |first: usize, step: usize, count: usize| {
        let indices: Vec<u32> = (0..count).map(|i| (first + i * step) as u32).collect();
        Tensor::from_vec(indices, count, &Device::Cpu)
    };
    let mut parts = Vec::new();
    for group in 0..groups {
        let x = x.narrow(1, group * channels / groups, channels / groups)?.contiguous()?;
        let weight = weight.narrow(0, group * outputs / groups, outputs / groups)?;
        let mut sum: Option<Tensor> = None;
        for ky in 0..kh {
            for kx in 0..kw {
                let at = x
                    .index_select(&pick(ky * dilation.0, stride.0, h)?, 2)?
                    .index_select(&pick(kx * dilation.1, stride.1, w)?, 3)?;
                let at = at.contiguous()?.reshape((batch, channels / groups, h * w))?;
                let kernel = weight
                    .narrow(2, ky, 1)?
                    .narrow(3, kx, 1)?
                    .contiguous()?
                    .reshape((outputs / groups, channels / groups))?;
                let kernel = kernel.unsqueeze(0)?.repeat((batch, 1, 1))?;
                let term = kernel.matmul(&at)?.reshape((batch, outputs / groups, h, w))?;
                sum = Some(match sum {
                    Some(sum) => (sum + term)?,
                    None => term,
                });
            }
        }
        parts.extend(sum);
    }
    let y = Tensor::cat(&parts, 1)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, outputs, 1, 1))?),
        None => Ok(y),
    }
}

#[test]
fn conv1d() {
    let cases = [(0, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (0, 1, 2, 1), (2, 2, 2, 2), (1, 1, 1, 4), (3, 3, 1, 2)];
    for (padding, stride, dilation, groups) in cases {
        for bias in [true, false] {
            for uses in [1, 2] {
                let config = Conv1dConfig { padding, stride, dilation, groups, cudnn_fwd_algo: None };
                let (w, b) = (var(1, &[8, 4 / groups, 3]), var(2, &[8]));
                let layer = Conv1d::new(w.as_tensor().clone(), bias.then(|| b.as_tensor().clone()), config);
                let parameters = if bias { vec![&w, &b] } else { vec![&w] };
                let what = format!("conv1d {config:?} bias={bias} uses={uses}");
                let x = noise(3, &[3, 4, 11]);
                assert!(
                    relative_error(
                        &numbers(&tapped_output(&layer, &x)),
                        &numbers(&Module::forward(&layer, &x).unwrap())
                    ) < 1e-5,
                    "{what}"
                );
                let plain = |x: &Tensor| {
                    let settings = [(0, padding), (1, stride), (1, dilation)];
                    reference_conv(&x.unsqueeze(2)?, &w.unsqueeze(2)?, bias.then(|| b.as_tensor()), settings, groups)?
                        .squeeze(2)
                };
                check(&what, layer, Box::new(plain), &parameters, &x, uses);
            }
        }
    }
}

#[test]
fn conv2d() {
    let cases = [(0, 1, 1, 1), (1, 1, 1, 1), (1, 2, 1, 1), (0, 1, 2, 1), (2, 2, 2, 2), (1, 1, 1, 4), (0, 3, 1, 2)];
    for (padding, stride, dilation, groups) in cases {
        for bias in [true, false] {
            for (kernel, uses) in [((3, 3), 1), ((2, 3), 1), ((1, 1), 1), ((3, 3), 2)] {
                let config = Conv2dConfig { padding, stride, dilation, groups, cudnn_fwd_algo: None };
                let (w, b) = (var(1, &[8, 4 / groups, kernel.0, kernel.1]), var(2, &[8]));
                let layer = Conv2d::new(w.as_tensor().clone(), bias.then(|| b.as_tensor().clone()), config);
                let parameters = if bias { vec![&w, &b] } else { vec![&w] };
                let what = format!("conv2d {kernel:?} {config:?} bias={bias} uses={uses}");
                let x = noise(3, &[3, 4, 9, 8]);
                assert!(
                    relative_error(
                        &numbers(&tapped_output(&layer, &x)),
                        &numbers(&Module::forward(&layer, &x).unwrap())
                    ) < 1e-5,
                    "{what}"
                );
                let plain = |x: &Tensor| {
                    let settings = [(padding, padding), (stride, stride), (dilation, dilation)];
                    reference_conv(x, w.as_tensor(), bias.then(|| b.as_tensor()), settings, groups)
                };
                check(&what, layer, Box::new(plain), &parameters, &x, uses);
            }
        }
    }
}

/// The output of a layer that is tapped and not armed.
pub(crate) fn tapped_output<L: Tap + Clone>(layer: &L, x: &Tensor) -> Tensor {
    Module::forward(&Taps::new().tap("layer", layer.clone()), x).unwrap()
}

#[test]
fn conv2d_has_the_gradients_of_candles_own() {
    for (padding, stride) in [(0, 1), (1, 1), (1, 2)] {
        let config = Conv2dConfig { padding, stride, ..Conv2dConfig::default() };
        let (w, b) = (var(1, &[8, 4, 3, 3]), var(2, &[8]));
        let layer = Conv2d::new(w.as_tensor().clone(), Some(b.as_tensor().clone()), config);
        let plain = layer.clone();
        check(
            &format!("{config:?}"),
            layer,
            Box::new(move |x| Module::forward(&plain, x)),
            &[&w, &b],
            &noise(3, &[3, 4, 9, 9]),
            1,
        );
    }
}

#[test]
fn embedding() {
    for shape in [vec![5], vec![5, 7], vec![5, 2, 3]] {
        for uses in [1, 2] {
            let w = var(1, &[6, 4]);
            let layer = Embedding::new(w.as_tensor().clone(), 4);
            let plain = layer.clone();
            // Few rows and many positions: rows repeat within an example.
            let ids = (noise(9, &shape).affine(3.0, 3.0).unwrap()).to_dtype(DType::U32).unwrap();
            let what = format!("embedding {shape:?} uses={uses}");
            check(&what, layer, Box::new(move |x| Module::forward(&plain, x)), &[&w], &ids, uses);
        }
    }
}

#[test]
fn layer_norm() {
    for shape in [vec![4, 6], vec![4, 3, 6], vec![4, 2, 3, 6]] {
        for uses in [1, 2] {
            let (w, b) = (var(1, &[6]), var(2, &[6]));
            let layer = LayerNorm::new(w.as_tensor().clone(), b.as_tensor().clone(), 1e-5);
            let plain = |x: &Tensor| candle_nn::ops::layer_norm_slow(x, w.as_tensor(), b.as_tensor(), 1e-5);
            check(&format!("layer_norm {shape:?}"), layer, Box::new(plain), &[&w, &b], &noise(3, &shape), uses);
            let layer = LayerNorm::new_no_bias(w.as_tensor().clone(), 1e-5);
            let zero = Tensor::zeros(6, DType::F32, &Device::Cpu).unwrap();
            let plain = |x: &Tensor| candle_nn::ops::layer_norm_slow(x, w.as_tensor(), &zero, 1e-5);
            check(&format!("layer_norm no bias {shape:?}"), layer, Box::new(plain), &[&w], &noise(3, &shape), uses);
        }
    }
}

#[test]
fn rms_norm() {
    for shape in [vec![4, 6], vec![4, 3, 6], vec![4, 2, 3, 6]] {
        for uses in [1, 2] {
            let w = var(1, &[6]);
            let layer = RmsNorm::new(w.as_tensor().clone(), 1e-5);
            let plain = |x: &Tensor| candle_nn::ops::rms_norm_slow(x, w.as_tensor(), 1e-5);
            check(&format!("rms_norm {shape:?}"), layer, Box::new(plain), &[&w], &noise(3, &shape), uses);
        }
    }
}

#[test]
fn group_norm() {
    for shape in [vec![4, 6, 5], vec![4, 6, 3, 5], vec![4, 6, 2, 3, 2]] {
        for groups in [1, 2, 6] {
            for uses in [1, 2] {
                let (w, b) = (var(1, &[6]), var(2, &[6]));
                let make = || GroupNorm::new(w.as_tensor().clone(), b.as_tensor().clone(), 6, groups, 1e-4).unwrap();
                let plain = make();
                let what = format!("group_norm {shape:?} groups={groups}");
                check(&what, make(), Box::new(move |x| Module::forward(&plain, x)), &[&w, &b], &noise(3, &shape), uses);
            }
        }
    }
}
