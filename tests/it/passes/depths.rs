//! The depths of recording agree with each other: all layers, the last layer, one backward pass for each example, own
//! layers.

use super::*;
use candle_core::{Device, Module, Tensor, Var};
use candle_nn::{Embedding, Optimizer, SGD};
use gradlog::taps::{LayerSpec, Parameter, PerExample, Tap, TapError};
use gradlog::{Config, Recorder};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use gradlog_format::sketch::SketchConfig;
use std::path::Path;

fn dots(a: &[Vec<f32>]) -> Vec<f32> {
    a.iter().flat_map(|x| a.iter().map(move |y| dot(x, y) as f32)).collect()
}

/// All dot products of the gradients of one layer, from its factors.
fn factored_dots(run: &Path, layer: u16, bias: bool) -> Vec<f32> {
    let a = dots(&vectors(run, Column::Input, layer));
    let d = dots(&vectors(run, Column::Delta, layer));
    a.iter().zip(&d).map(|(a, d)| (a + f32::from(bias)) * d).collect()
}

#[test]
fn last_layer_in_closed_form_is_the_tapped_last_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let last = Taps::new();
    last.declare_last_layer("fc2", gradlog::taps::LastLayer::new(5, 3));
    let (x, y, ids) = (noise(1, &[4, 6]), labels(4), [0, 1, 2, 3]);
    let (all_dir, last_dir) = (dir.path().join("all"), dir.path().join("last"));
    for (taps, dir, tapped) in [(&taps, &all_dir, true), (&last, &last_dir, false)] {
        let mut recorder = Recorder::create(dir, taps, exact()).unwrap();
        let mut pass = recorder.pass(&ids).unwrap();
        let features = model.features(&x).unwrap();
        if !tapped {
            pass.features(&features);
        }
        let loss = pass.cross_entropy(&model.fc2.forward(&features).unwrap(), &y).unwrap();
        loss.backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
    }
    let (tapped, closed) = (factored_dots(&all_dir, 1, true), factored_dots(&last_dir, 0, true));
    assert!(relative_error(&closed, &tapped) < 1e-5);
    let norms = f32s(&last_dir, BlockKind::Visits, Column::SquaredNorm);
    for i in 0..4 {
        assert!((norms[i] - tapped[i * 5]).abs() < 1e-5 * tapped[i * 5], "norms are those of the recorded layer");
    }
}

/// A transposed tensor has as many numbers as the right one.
#[test]
fn features_of_another_shape_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let last = Taps::new();
    last.declare_last_layer("fc2", gradlog::taps::LastLayer::new(4, 3));
    let mut recorder = Recorder::create(dir.path(), &last, exact()).unwrap();
    let (features, logits, ids) = (noise(1, &[6, 4]), noise(2, &[6, 3]), [0, 1, 2, 3, 4, 5]);
    for (given, fits) in [
        (features.clone(), true),
        (features.reshape((6, 1, 4)).unwrap(), true),
        (features.t().unwrap(), false),
        (features.reshape((3, 8)).unwrap(), false),
        (features.reshape((4, 1, 6)).unwrap(), false),
        (features.reshape((6, 4, 1)).unwrap(), false),
    ] {
        let mut pass = recorder.pass(&ids).unwrap();
        pass.features(&given);
        pass.cross_entropy(&logits, &labels(6)).unwrap();
        let said = pass.commit(0.1).map_err(|error| error.to_string());
        assert_eq!(said.is_ok(), fits, "{:?}: {said:?}", given.shape());
        assert!(fits || said.unwrap_err().contains("do not fit `fc2`"));
    }
}

#[test]
fn per_example_backward_is_the_tapped_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let untapped = Taps::new();
    untapped.declare_variables(&variables);
    let (x, y, ids) = (noise(1, &[4, 6]), labels(4), [0, 1, 2, 3]);
    let (a_dir, b_dir) = (dir.path().join("tapped"), dir.path().join("looped"));
    let mut recorder = Recorder::create(&a_dir, &taps, exact()).unwrap();
    let mut pass = recorder.pass(&ids).unwrap();
    let loss = pass.cross_entropy(&model.forward(&x).unwrap(), &y).unwrap();
    loss.backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    // The folded vector is longer than each variable, so it holds each exactly; together they meet in it, which one
    // seed in many does without a collision: the norms are exact whatever the seed.
    let mut recorder = Recorder::create(&b_dir, &untapped, exact()).unwrap();
    let mut pass = recorder.pass(&ids).unwrap();
    let losses = pass
        .per_example(|i| candle_nn::loss::cross_entropy(&model.forward(&row(&x, i)?)?, &y.narrow(0, i, 1)?))
        .unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let norms = |dir| f32s(dir, BlockKind::Visits, Column::SquaredNorm);
    assert!(relative_error(&norms(&b_dir), &norms(&a_dir)) < 1e-5);
    assert!(relative_error(&numbers(&losses), &f32s(&a_dir, BlockKind::Visits, Column::Loss)) < 1e-5);
    assert_eq!(f32s(&b_dir, BlockKind::Visits, Column::Coefficient), [0.25; 4]);
    // Dot products are unbiased with variance at most (‖g‖²‖h‖² + ⟨g,h⟩²)/m each; six standard deviations.
    let looped = dots(&folded(&b_dir));
    let tapped: Vec<f32> =
        factored_dots(&a_dir, 0, true).iter().zip(factored_dots(&a_dir, 1, true)).map(|(a, b)| a + b).collect();
    let norms = norms(&a_dir);
    for (pair, (got, want)) in looped.iter().zip(&tapped).enumerate() {
        let (i, j) = (pair / 4, pair % 4);
        let deviation = ((norms[i] * norms[j] + want * want) / 4096.0).sqrt();
        assert!((got - want).abs() < 6.0 * deviation, "pair {i} {j}: {got} {want} {deviation}");
    }
}

#[test]
fn tied_weights_are_one_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let weight = Var::from_tensor(&noise(1, &[7, 4])).unwrap();
    let bias = Var::from_tensor(&noise(2, &[7])).unwrap();
    let taps = Taps::new();
    let tokens = taps.tap("tokens", Embedding::new(weight.as_tensor().clone(), 4));
    let head = taps.tap("head", Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone())));
    let model = |ids: &Tensor| head.forward(&tokens.forward(ids)?.mean(1)?);
    let ids = Tensor::new(&[[0u32, 3, 3], [6, 1, 0], [2, 2, 5]], &Device::Cpu).unwrap();
    let y = labels(3);
    let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
    let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
    pass.cross_entropy(&model(&ids).unwrap(), &y).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let manifest = Run::open(&run).unwrap().manifest().clone();
    let [first, second] = &manifest.layers[..] else { panic!("two layers") };
    assert_eq!(first.seed_folded, second.seed_folded);
    assert_eq!(manifest.recorded_parameters(), 35, "the shared weight counts once");
    let length = folded(&run)[0].len();
    let fold = gradlog_format::sketch::Fold::placed(second.seed_folded, 35, length, 0);
    let (sketches, norms) = (folded(&run), f32s(&run, BlockKind::Visits, Column::SquaredNorm));
    let flags: Vec<u8> = blocks(&run, BlockKind::Visits).iter().flat_map(|b| b.u8s(Column::Flags).unwrap()).collect();
    for i in 0..3 {
        let own = model(&row(&ids, i).unwrap()).unwrap();
        let grads = candle_nn::loss::cross_entropy(&own, &y.narrow(0, i, 1).unwrap()).unwrap().backward().unwrap();
        let oracle = [numbers(grads.get(&weight).unwrap()), numbers(grads.get(&bias).unwrap())].concat();
        let mut expected = fold.apply(&oracle);
        gradlog_format::sketch::rotate(&mut expected, length);
        assert!(relative_error(&sketches[i], &expected) < 1e-4, "example {i}");
        // A vector of 35 numbers folded into 4,096 buckets of one block keeps its norm.
        assert!((f64::from(norms[i]) - dot(&oracle, &oracle)).abs() < 1e-4 * dot(&oracle, &oracle));
        assert_eq!(flags[i], Column::FLAG_NORM_ESTIMATED);
    }
}

/// An embedding and two linears with one weight, and a bias for each linear.
#[test]
fn tied_weights_with_a_bias_each_are_one_gradient() {
    let var = |seed, shape: &[usize]| Var::from_tensor(&noise(seed, shape)).unwrap();
    let (weight, one, two) = (var(1, &[7, 7]), var(2, &[7]), var(3, &[7]));
    let linear = |bias: &Var| Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
    let ids = Tensor::new(&[[0u32, 3, 3], [6, 1, 0], [2, 2, 5]], &Device::Cpu).unwrap();
    let y = labels(3);
    // In a long vector each parameter has its place, in a short one they are hashed onto each other.
    let short = SketchConfig { folded_min: 32, folded_max: 32, ..SketchConfig::exact() };
    let short = Config { sketch: short, ..Config::default() };
    for (config, embedded) in [(exact(), true), (exact(), false), (short.clone(), true), (short, false)] {
        let (dir, taps) = (tempfile::tempdir().unwrap(), Taps::new());
        let tokens = Embedding::new(weight.as_tensor().clone(), 7);
        let tokens: Box<dyn Module> = if embedded { Box::new(taps.tap("tokens", tokens)) } else { Box::new(tokens) };
        let (a, b) = (taps.tap("a", linear(&one)), taps.tap("b", linear(&two)));
        let model = |ids: &Tensor| {
            let x = tokens.forward(ids)?.mean(1)?;
            let x = if embedded { x } else { x.detach() };
            b.forward(&a.forward(&x)?.tanh()?)
        };
        let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
        let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
        pass.cross_entropy(&model(&ids).unwrap(), &y).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
        recorder.finish().unwrap();
        let manifest = Run::open(dir.path()).unwrap().manifest().clone();
        assert_eq!(manifest.recorded_parameters(), 63, "the shared weight counts once, and each bias once");
        let (sketches, seed) = (folded(dir.path()), manifest.layers[0].seed_folded);
        let length = sketches[0].len();
        let buckets = length.next_power_of_two();
        let fold = match buckets >= 63 {
            true => gradlog_format::sketch::Fold::placed(seed, 63, buckets, 0),
            false => gradlog_format::sketch::Fold::new(seed, 63, buckets),
        };
        for (i, sketch) in sketches.iter().enumerate() {
            let own = model(&row(&ids, i).unwrap()).unwrap();
            let grads = candle_nn::loss::cross_entropy(&own, &y.narrow(0, i, 1).unwrap()).unwrap().backward().unwrap();
            let oracle: Vec<f32> = [&weight, &one, &two].iter().flat_map(|v| numbers(grads.get(v).unwrap())).collect();
            let mut expected = fold.apply(&oracle);
            gradlog_format::sketch::rotate(&mut expected, length);
            let error = relative_error(sketch, &expected);
            assert!(error < 1e-4, "example {i}, {buckets} buckets: {error}");
        }
    }
}

/// Whole layers' gradients are added where a weight is shared, and these have more than that, or other things, in
/// common.
#[test]
fn layers_that_share_some_of_their_parameters_are_refused() {
    let var = |seed, shape: &[usize]| Var::from_tensor(&noise(seed, shape)).unwrap().into_inner();
    let (weight, other, one, two) = (var(1, &[7, 4]), var(2, &[7, 4]), var(3, &[7]), var(4, &[7]));
    let refused = |second: Linear| {
        let (dir, taps) = (tempfile::tempdir().unwrap(), Taps::new());
        let _ = taps.tap("a", Linear::new(weight.clone(), Some(one.clone())));
        let _ = taps.tap("b", second);
        Recorder::create(dir.path().join("run"), &taps, exact()).err().map(|error| error.to_string())
    };
    let error = refused(Linear::new(other.clone(), Some(one.clone()))).unwrap();
    assert!(error.contains("`a` and `b` share `bias`"), "{error}");
    for second in [
        Linear::new(weight.clone(), Some(two)),
        Linear::new(weight.clone(), Some(one.clone())),
        Linear::new(weight.clone(), None),
    ] {
        assert_eq!(refused(second), None);
    }
    assert_eq!(refused(Linear::new(other, None)), None);
}

/// `y = w ∘ w ∘ x`, whose gradient `2 w ∘ Σ_t δ_t ∘ x_t` depends on the weights.
struct Squared {
    weight: Var,
    /// The thread that trains.
    training: std::thread::ThreadId,
    kind: &'static str,
}

impl Tap for Squared {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let parameters = vec![Parameter::new("weight", self.weight.as_tensor())];
        Ok(LayerSpec::new(self.kind, parameters))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.weight.as_tensor().sqr()?)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        // On another thread the optimizer might have stepped meanwhile.
        assert_eq!(std::thread::current().id(), self.training);
        let gradient = (x * delta)?.broadcast_mul(&(self.weight.as_tensor() * 2.0)?)?;
        Ok(PerExample::Dense(gradient))
    }
}

#[test]
fn declared_variables_exclude_taps_of_any_kind_and_a_last_layer() {
    let variables = VarMap::new();
    let _ = linear(4, 3, builder(&variables)).unwrap();
    let refused = |taps: &Taps| {
        let dir = tempfile::tempdir().unwrap();
        let error = Recorder::create(dir.path(), taps, exact()).err().unwrap().to_string();
        assert!(error.contains("use either `taps.tap` or `taps.declare_variables`"), "{error}");
        error
    };
    let tapped = Taps::new();
    let weight = Var::from_tensor(&noise(1, &[5])).unwrap();
    // The kind is a user's word: it does not make a declared variable of a tap.
    let _ = tapped.tap("own", Squared { weight, training: std::thread::current().id(), kind: "variable" });
    tapped.declare_variables(&variables);
    refused(&tapped);
    let with_last = Taps::new();
    with_last.declare_variables(&variables);
    with_last.declare_last_layer("head", gradlog::taps::LastLayer::new(5, 3));
    let error = refused(&with_last);
    assert!(!error.contains("twice"), "{error}");
}

#[test]
fn a_layer_of_ones_own_is_recorded_at_the_weights_before_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let weight = Var::from_tensor(&noise(1, &[5])).unwrap();
    let taps = Taps::new();
    let layer =
        taps.tap("own", Squared { weight: weight.clone(), training: std::thread::current().id(), kind: "squared" });
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let mut optimizer = SGD::new(vec![weight.clone()], 1.0).unwrap();
    let mut oracle = Vec::new();
    for step in 0..3 {
        let x = noise(step, &[2, 5]);
        for i in 0..2 {
            let loss = layer.forward(&row(&x, i).unwrap()).unwrap().sqr().unwrap().sum_all().unwrap();
            let gradient = numbers(loss.backward().unwrap().get(&weight).unwrap());
            oracle.push(dot(&gradient, &gradient) as f32);
        }
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let loss = pass.losses(&layer.forward(&x).unwrap().sqr().unwrap().sum(1).unwrap()).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
    assert!(relative_error(&norms, &oracle) < 1e-4, "{norms:?} {oracle:?}");
}
