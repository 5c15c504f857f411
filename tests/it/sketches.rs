//! Sketches as a user gets them: exact where that is promised, unbiased and with honest errors for inputs that once
//! were rounded away.

use crate::common::*;
use candle_core::{Device, Module, Result, Tensor};
use candle_nn::{conv2d, linear, linear_no_bias, Conv2dConfig, Optimizer, VarMap, SGD};
use gradlog::ops::relu;
use gradlog::{Config, Recorder, SketchConfig, Taps};
use gradlog_analysis::{Influence, InfluenceQuestion};
use gradlog_format::run::Run;
use std::path::Path;

fn ask(dir: &Path) -> Influence {
    InfluenceQuestion::new("test").sketch_errors().compute(&Run::open(dir).unwrap()).unwrap()
}

/// A CNN with two folded layers, of 9,616 parameters together, and two factored ones.
fn cnn(examples: usize, probes: usize) -> Network {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let strided = Conv2dConfig { stride: 2, ..Conv2dConfig::default() };
    let fc1 = taps.tap("fc1", linear(2 * 2 * 64, 30, vb.pp("fc1")).unwrap());
    let conv1 = taps.tap("conv1", conv2d(1, 16, 3, strided, vb.pp("conv1")).unwrap());
    let conv2 = taps.tap("conv2", conv2d(16, 64, 3, strided, vb.pp("conv2")).unwrap());
    let fc2 = taps.tap("fc2", linear(30, 4, vb.pp("fc2")).unwrap());
    let forward = move |x: &Tensor, _| -> Result<Tensor> {
        let x = relu(&conv2.forward(&relu(&conv1.forward(x)?)?)?)?;
        fc2.forward(&relu(&fc1.forward(&x.flatten_from(1)?)?)?)
    };
    let images = |seed, n| Data { x: noise(seed, &[n, 1, 12, 12]), y: noisy_labels(seed, n) };
    let network = Network::new(taps, variables, forward, images(1, examples), images(2, probes));
    network.fill_with(0, |var| 1.0 / (var.elem_count() as f64 / var.dims()[0] as f64).sqrt())
}

#[test]
fn exact_sketches_are_exact_whatever_the_seed() {
    const VISITS: usize = 6;
    const PROBES: usize = 3;
    let model = cnn(VISITS, PROBES);
    let gradients = |data: &Data, n| (0..n).map(|i| model.loss_gradient(data, i)).collect::<Vec<_>>();
    let (visits, probes) = (gradients(&model.examples, VISITS), gradients(&model.probes, PROBES));
    for seed in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { sketch: SketchConfig::exact(), seed, ..Config::default() };
        let mut recorder = Recorder::create(dir.path(), &model.taps, config).unwrap();
        model.record_probes(&mut recorder, "test", &[0, 1, 2]);
        let ids: Vec<u64> = (0..VISITS as u64).collect();
        model.record_pass(&mut recorder, &ids, None, 1.0);
        recorder.finish().unwrap();
        let found = ask(dir.path());
        for (visit, of_visit) in visits.iter().enumerate() {
            for (probe, of_probe) in probes.iter().enumerate() {
                let exact = dot(of_visit, of_probe) / VISITS as f64;
                let (got, scale) = (found.score(visit, probe), norm(of_visit) * norm(of_probe));
                assert!((got - exact).abs() < 1e-5 * scale, "seed {seed}, {visit} {probe}: {got} for {exact}");
                assert!(found.sketch_error(visit, probe).unwrap() < 1e-5 * scale, "stated to be less than exact");
            }
        }
    }
}

const COUNT: usize = 60;
const PROBED: usize = 12;

/// Records `visits` and `probes` of one layer: inputs and output gradients as they are given.
fn record(dir: &Path, inputs: &Tensor, deltas: &Tensor, seed: u64) {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let (wide, outputs) = (inputs.dims()[1], deltas.dims()[1]);
    let layer = taps.tap("fc", linear_no_bias(wide, outputs, builder(&variables).pp("fc")).unwrap());
    let mut recorder = Recorder::create(dir, &taps, Config { seed, ..Config::default() }).unwrap();
    let losses = |from: usize, count: usize| {
        let part = |t: &Tensor| t.narrow(0, from, count).unwrap();
        (layer.forward(&part(inputs)).unwrap() * part(deltas)).unwrap().sum(1).unwrap()
    };
    let ids = |count: usize| (0..count as u64).collect::<Vec<u64>>();
    let mut pass = recorder.probe("test", &ids(PROBED)).unwrap();
    pass.losses(&losses(COUNT, PROBED)).unwrap().backward().unwrap();
    pass.commit().unwrap();
    let mut pass = recorder.pass(&ids(COUNT)).unwrap();
    pass.losses(&losses(0, COUNT)).unwrap().backward().unwrap();
    pass.commit(COUNT as f64).unwrap();
    recorder.finish().unwrap();
}

/// Inputs with one heavy family each: `COUNT + PROBED` rows.
fn family(name: &str) -> Tensor {
    let z = noise(3, &[COUNT + PROBED, 768]);
    let positive = z.abs().unwrap();
    match name {
        "heavy tails" => (z * 2.0).unwrap().exp().unwrap(),
        "counts" => (z * 1.5).unwrap().exp().unwrap().floor().unwrap(),
        outlier => {
            let times: f64 = outlier.split(' ').next().unwrap().parse().unwrap();
            let rms = positive.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let column = (noise(4, &[COUNT + PROBED, 1]) * 0.1).unwrap().affine(1.0, 1.0).unwrap();
            let massive = (column * (times * f64::from(rms))).unwrap();
            Tensor::cat(&[&positive.narrow(1, 0, 767).unwrap(), &massive], 1).unwrap()
        }
    }
}

/// The share of bias in the squared error, and shares within two and three stated deviations.
///
/// Errors of different seeds are independent. So if their mean is 0, the products of errors of two seeds average to 0.
fn errors(inputs: &Tensor, deltas: &Tensor) -> (f64, f64, f64) {
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    let (a, d) = (rows(inputs), rows(deltas));
    const SEEDS: u64 = 24;
    let mut sigmas = Vec::new();
    let mut sums = vec![(0.0, 0.0); COUNT * PROBED];
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), inputs, deltas, seed);
        let found = ask(dir.path());
        for row in 0..COUNT {
            for probe in 0..PROBED {
                let (visit, id) = (found.rows[row].example as usize, COUNT + found.probes[probe].id as usize);
                let exact = dot(&a[visit], &a[id]) * dot(&d[visit], &d[id]);
                let error = found.score(row, probe) - exact;
                let stated = found.sketch_error(row, probe).unwrap();
                sigmas.push(error.abs() / stated);
                let sum = &mut sums[visit * PROBED + id - COUNT];
                *sum = (sum.0 + error, sum.1 + error * error);
            }
        }
    }
    let within = |limit: f64| sigmas.iter().filter(|s| **s <= limit).count() as f64 / sigmas.len() as f64;
    let products: f64 = sums.iter().map(|(sum, squares)| sum * sum - squares).sum();
    let bias = products / ((SEEDS - 1) as f64 * sums.iter().map(|(_, squares)| squares).sum::<f64>());
    (bias, within(2.0), within(3.0))
}

#[test]
fn scores_are_unbiased_and_their_errors_honest_for_heavy_inputs() {
    let deltas = noise(5, &[COUNT + PROBED, 6]);
    for name in ["heavy tails", "counts", "5 rms", "26 rms", "100 rms"] {
        let (bias, two, three) = errors(&family(name), &deltas);
        println!("{name}: {bias:.4} {two:.3} {three:.3}");
        assert!(bias.abs() < 0.04, "{name}: {bias}");
        assert!((0.92..=1.0).contains(&two) && three > 0.985, "{name}: {two} {three}");
    }
}

/// `p − onehot(y)` of so many classes.
fn residuals(classes: usize) -> Tensor {
    let logits = (noise(7, &[COUNT + PROBED, classes]) * 2.0).unwrap();
    let labels: Vec<u32> = (0..(COUNT + PROBED) as u32).map(|i| i * 7 % 30).collect();
    let labels = Tensor::from_vec(labels, COUNT + PROBED, &Device::Cpu).unwrap();
    let onehot = candle_nn::encoding::one_hot(labels, classes, 1f32, 0f32).unwrap();
    (candle_nn::ops::softmax(&logits, 1).unwrap() - onehot).unwrap()
}

#[test]
fn many_classes_keep_their_small_probabilities() {
    let inputs = noise(8, &[COUNT + PROBED, 12]);
    for classes in [200, 1_000, 5_000] {
        let (bias, two, three) = errors(&inputs, &residuals(classes));
        println!("{classes} classes: {bias:.4} {two:.3} {three:.3}");
        assert!(bias.abs() < 0.04, "{classes}: {bias}");
        assert!((0.91..=1.0).contains(&two) && three > 0.98, "{classes}: {two} {three}");
    }
}

/// Examples of other classes once had a score of exactly 0, and the sum was more than twice the fall of the loss.
#[test]
fn the_sum_over_a_thousand_classes_is_the_fall_of_the_loss() {
    const CLASSES: usize = 1_000;
    const EXAMPLES: usize = 64;
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer = taps.tap("fc", linear(20, CLASSES, builder(&variables).pp("fc")).unwrap());
    let (x, test) = (noise(1, &[EXAMPLES, 20]), noise(2, &[1, 20]));
    let labels = |n: u32, every: u32| {
        Tensor::from_vec((0..n).map(|i| i * every).collect::<Vec<u32>>(), n as usize, &Device::Cpu)
    };
    let (y, target) = (labels(EXAMPLES as u32, 3).unwrap(), labels(1, 1).unwrap());
    let loss = || candle_nn::loss::cross_entropy(&layer.forward(&test).unwrap(), &target).unwrap();
    let before = loss().to_scalar::<f32>().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut optimizer = SGD::new(variables.all_vars(), 0.02).unwrap();
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    for step in 0..32 {
        let mut pass = recorder.probe("test", &[0]).unwrap();
        pass.cross_entropy(&layer.forward(&test).unwrap(), &target).unwrap().backward().unwrap();
        pass.commit().unwrap();
        let ids: Vec<u64> = (0..8).map(|i| (step * 8 + i) % EXAMPLES as u64).collect();
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.cross_entropy(&layer.forward(&rows(&x, &ids)).unwrap(), &rows(&y, &ids)).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    let fall = f64::from(before - loss().to_scalar::<f32>().unwrap());
    let found = ask(dir.path());
    let total = found.totals[0];
    println!("fall {fall:.5}, sum {:.5} ± {:.5}", total.score, total.sketch_error);
    assert!((total.score - fall).abs() < 3.0 * total.sketch_error + 0.03 * fall.abs(), "{fall} {total:?}");
    let opponents = found.scores.iter().filter(|score| **score < 0.0).count();
    assert!(opponents > EXAMPLES / 4, "{opponents} opponents");
    assert!(found.scores.iter().all(|score| *score != 0.0));
}
