use super::*;
use crate::taps::gradient::fold_uses;
use crate::taps::metric::NormMetric;
use crate::taps::on_device;
use crate::taps::per_example::PerExample;
use crate::taps::placed::Placed;
use crate::taps::shared_fold::{LazyFold, SharedFold};
use gradlog_format::sketch::SketchConfig;
use std::sync::Arc;

const BATCH: usize = 3;
/// Sides of the weight. Neither is shortened, so all dot products are exact.
const SHAPE: (usize, usize) = (6, 5);

fn noise(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A layer of `rest` parameters behind its weight.
fn lazy(rest: usize) -> (LazyFold, Arc<SharedFold>) {
    let config = SketchConfig { folded_min: 64, folded_max: 64, ..SketchConfig::default() };
    let shared = Arc::new(SharedFold::new(config, Some(64), 0));
    let sides = Sides::new((3, 4), SHAPE, SHAPE);
    let fold = LazyFold::new(7, SHAPE.0 * SHAPE.1 + rest, (false, Some(0)), shared.clone());
    (fold.with_sides(Some(sides)), shared)
}

/// Uses of each kind, and the gradients `[batch, parameters]` that they say.
fn cases() -> Vec<(Vec<PerExample>, Tensor)> {
    let (rows, columns) = SHAPE;
    let outer = |groups: usize, positions: usize, bias: bool| {
        let inputs = noise(&[BATCH, groups, positions, columns]);
        let deltas = noise(&[BATCH, groups, positions, rows / groups]);
        let weight = deltas.transpose(2, 3).unwrap().contiguous().unwrap().matmul(&inputs).unwrap();
        let weight = weight.flatten_from(1).unwrap();
        let own = match bias {
            true => Tensor::cat(&[weight, deltas.sum(2).unwrap().flatten_from(1).unwrap()], 1).unwrap(),
            false => weight,
        };
        (PerExample::Outer { inputs, deltas, bias }, own)
    };
    let ids = Tensor::new(&[[0u32, 3, 3], [5, 1, 0], [2, 2, 2]], &Device::Cpu).unwrap();
    let deltas = noise(&[BATCH, 3, columns]);
    let hot = Tensor::eye(rows, DType::F32, &Device::Cpu).unwrap();
    let hot = hot.index_select(&ids.flatten_all().unwrap(), 0).unwrap().reshape((BATCH, 3, rows)).unwrap();
    let table = hot.transpose(1, 2).unwrap().contiguous().unwrap().matmul(&deltas).unwrap().flatten_from(1).unwrap();
    let whole = noise(&[BATCH, rows * columns + 2]);
    let (kernel, of_kernel) = outer(2, 4, false);
    let bias = noise(&[BATCH, 3]);
    let joined = Tensor::cat(&[&of_kernel, &bias], 1).unwrap();
    // A weight with a bias, and two more parameters of one length behind it.
    let (with_bias, of_with_bias) = outer(1, 4, true);
    let (first, second) = (noise(&[BATCH, 2]), noise(&[BATCH, 2]));
    let several = Tensor::cat(&[&of_with_bias, &first, &second], 1).unwrap();
    let parts = vec![with_bias, PerExample::Dense(first), PerExample::Dense(second)];
    let (one, of_one) = outer(1, 2, true);
    let (two, of_two) = outer(1, 3, true);
    vec![
        (vec![one.clone()], of_one.clone()),
        (vec![one, two], (of_one + of_two).unwrap()),
        (vec![kernel.clone()], of_kernel),
        (vec![PerExample::Rows { ids, deltas, rows }], table),
        (vec![PerExample::Dense(whole.clone())], whole),
        (vec![PerExample::Joined(vec![kernel, PerExample::Dense(bias)])], joined),
        (vec![PerExample::Joined(parts)], several),
    ]
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn close(made: f64, right: f64) -> bool {
    (made - right).abs() < 1e-4 * right.abs().max(1.0)
}

#[test]
fn sides_that_are_kept_whole_keep_dot_products_and_norms() {
    for (number, (uses, gradients)) in cases().into_iter().enumerate() {
        let (fold, _) = lazy(gradients.dim(1).unwrap() - SHAPE.0 * SHAPE.1);
        let folded = fold_uses(&uses, &fold, None, BATCH).unwrap();
        let there = on_device::sketch(&uses, &fold, None, BATCH).unwrap().unwrap().read().unwrap();
        let gradients = numbers(&gradients);
        let length = gradients.len() / BATCH;
        for (i, j) in (0..BATCH).flat_map(|i| (0..BATCH).map(move |j| (i, j))) {
            let right = dot(&gradients[i * length..][..length], &gradients[j * length..][..length]);
            for sketches in [&folded.sketches, &there.sketches] {
                let made = dot(&sketches[i * 64..][..64], &sketches[j * 64..][..64]);
                assert!(close(made, right), "{number}, {i} {j}: {made} {right}");
            }
            if i == j {
                assert!(close(folded.squared_norms[i].plain, right) && close(there.squared_norms[i].plain, right));
            }
        }
    }
}

/// Scales of each row, column and other parameter, and what they multiply each parameter by.
fn scales(rest: usize) -> (SideScales, Vec<f32>) {
    let scale = |count: usize, from: usize| (0..count).map(|i| 0.5 + ((i + from) % 5) as f32).collect::<Vec<f32>>();
    let (rows, columns, others) = (scale(SHAPE.0, 0), scale(SHAPE.1, 2), scale(rest, 3));
    let of_weight = rows.iter().flat_map(|row| columns.iter().map(move |column| row * column));
    let by = of_weight.chain(others.iter().copied()).collect();
    (SideScales::new(Placed::here(rows), Placed::here(columns), Placed::here(others)), by)
}

#[test]
fn a_second_sketch_is_that_of_the_scaled_gradient() {
    for (number, (uses, gradients)) in cases().into_iter().enumerate() {
        let rest = gradients.dim(1).unwrap() - SHAPE.0 * SHAPE.1;
        let ((fold, shared), (scales, by)) = (lazy(rest), scales(rest));
        let both = fold.with_scales(scales, Arc::new(shared.with_preconditioned()));
        assert_eq!(both.outputs(), 128);
        let folded = fold_uses(&uses, &both, None, BATCH).unwrap();
        let there = on_device::sketch(&uses, &both, None, BATCH).unwrap().unwrap().read().unwrap();
        let gradients = numbers(&gradients);
        let length = gradients.len() / BATCH;
        for (i, j) in (0..BATCH).flat_map(|i| (0..BATCH).map(move |j| (i, j))) {
            let scaled: Vec<f32> = gradients[j * length..][..length].iter().zip(&by).map(|(g, by)| g * by).collect();
            let right = dot(&gradients[i * length..][..length], &scaled);
            for sketches in [&folded.sketches, &there.sketches] {
                let made = dot(&sketches[i * 128..][..64], &sketches[j * 128 + 64..][..64]);
                assert!(close(made, right), "{number}, {i} {j}: {made} {right}");
            }
        }
    }
}

#[test]
fn a_norm_in_a_metric_is_that_of_the_scaled_gradient() {
    for (number, (uses, gradients)) in cases().into_iter().enumerate() {
        let rest = gradients.dim(1).unwrap() - SHAPE.0 * SHAPE.1;
        let ((fold, _), (scales, by)) = (lazy(rest), scales(rest));
        let metric = NormMetric::Sides(scales);
        let folded = fold_uses(&uses, &fold, Some(&metric), BATCH).unwrap();
        let there = on_device::sketch(&uses, &fold, Some(&metric), BATCH).unwrap().unwrap().read().unwrap();
        let gradients = numbers(&gradients);
        for (i, own) in gradients.chunks_exact(gradients.len() / BATCH).enumerate() {
            let scaled: Vec<f32> = own.iter().zip(&by).map(|(g, by)| g * by).collect();
            for made in [&folded, &there] {
                let norms = made.squared_norms[i];
                assert!(close(norms.plain, dot(own, own)), "{number}, {i}: {norms:?}");
                assert!(close(norms.in_metric, dot(&scaled, &scaled)), "{number}, {i}: {norms:?}");
                assert_eq!(made.sketches.len(), BATCH * 64, "the sketch has no second half");
            }
        }
    }
}

#[test]
fn gradients_of_another_shape_are_refused() {
    let (fold, _) = lazy(0);
    let (inputs, deltas) = (noise(&[BATCH, 2, SHAPE.0]), noise(&[BATCH, 2, SHAPE.1]));
    let turned = [PerExample::Outer { inputs, deltas, bias: false }];
    let ids = Tensor::zeros((BATCH, 2), DType::U32, &Device::Cpu).unwrap();
    let rows = [PerExample::Rows { ids, deltas: noise(&[BATCH, 2, SHAPE.0]), rows: SHAPE.1 }];
    for uses in [&turned, &rows] {
        let here = fold_uses(uses, &fold, None, BATCH).unwrap_err().to_string();
        let there = on_device::sketch(uses, &fold, None, BATCH).unwrap_err().to_string();
        assert!(here.contains("do not fit a weight of 6 x 5") && there.contains("Folding::Whole"), "{here} {there}");
    }
}
