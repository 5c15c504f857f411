//! The three depths, accumulation, fallbacks: ways to record that must agree with each other.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{linear, Linear, Optimizer, VarBuilder, VarMap, SGD};
use gradlog::optim::{Sgd, SgdConfig};
use gradlog::{Config, Recorder, SketchConfig, StepInfo, StepReport, Tapped, Taps};
use gradlog_format::log::{BlockKind, Column, ColumnKey};
use gradlog_format::run::Run;

struct Mlp {
    fc1: Tapped<Linear>,
    fc2: Tapped<Linear>,
}

impl Mlp {
    fn new(taps: &Taps, variables: &VarMap) -> Self {
        let vb = VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu);
        Self {
            fc1: taps.tap("fc1", linear(6, 5, vb.pp("fc1")).unwrap()),
            fc2: taps.tap("fc2", linear(5, 3, vb.pp("fc2")).unwrap()),
        }
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.fc1.forward(x)?.relu()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.features(x)?)
    }
}

fn labels(n: usize) -> Tensor {
    let y: Vec<u32> = (0..n as u32).map(|i| i * 7 % 3).collect();
    Tensor::from_vec(y, n, &Device::Cpu).unwrap()
}

fn exact() -> Config {
    Config { sketch: SketchConfig::exact(), ..Config::default() }
}

fn dots(a: &[Vec<f32>]) -> Vec<f32> {
    a.iter().flat_map(|x| a.iter().map(move |y| dot(x, y) as f32)).collect()
}

/// All dot products of the gradients of one layer, from its factors.
fn factored_dots(run: &std::path::Path, layer: u16, bias: bool) -> Vec<f32> {
    let a = dots(&vectors(run, Column::Input, Column::InputScale, layer));
    let d = dots(&vectors(run, Column::Delta, Column::DeltaScale, layer));
    a.iter().zip(&d).map(|(a, d)| (a + f32::from(bias)) * d).collect()
}

#[test]
fn last_layer_in_closed_form_is_the_tapped_last_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let last = Taps::new();
    last.last_layer("fc2", gradlog::taps::LastLayer::new(5, 3));
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

#[test]
fn per_example_backward_is_the_tapped_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let untapped = Taps::new();
    untapped.variables(&variables);
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
fn accumulated_passes_are_one_step_with_its_learning_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let run = dir.path().join("run");
    let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
    let (x, y) = (noise(1, &[6, 6]), labels(6));
    for step in 0..3u64 {
        for half in 0..2u64 {
            let ids: Vec<u64> = (0..3).map(|i| half * 3 + i).collect();
            let mut pass = recorder.pass(&ids).unwrap();
            let (x, y) = (x.narrow(0, half as usize * 3, 3).unwrap(), y.narrow(0, half as usize * 3, 3).unwrap());
            let loss = (pass.cross_entropy(&model.forward(&x).unwrap(), &y).unwrap() / 2.0).unwrap();
            loss.backward().unwrap();
            if half == 0 {
                pass.accumulate().unwrap();
            } else {
                pass.commit(StepInfo::new(0.1 * (step + 1) as f64).momentum(0.9).clip(0.5)).unwrap();
            }
        }
    }
    recorder.finish().unwrap();
    let steps: Vec<u64> = blocks(&run, BlockKind::Visits).iter().flat_map(|b| b.u64s(Column::Step).unwrap()).collect();
    assert_eq!(steps, [[0u64; 6], [1; 6], [2; 6]].concat());
    let rates = f32s(&run, BlockKind::Visits, Column::LearningRate);
    assert_eq!(rates, [[0.1f32; 6], [0.2; 6], [0.3; 6]].concat());
    assert_eq!(f32s(&run, BlockKind::Visits, Column::Clip), [0.5; 18]);
    // Each half is divided by its own three examples and by two halves: a sixth, as the whole batch would have it.
    assert!(f32s(&run, BlockKind::Visits, Column::Coefficient).iter().all(|c| (c - 1.0 / 6.0).abs() < 1e-7));
    let sizes: Vec<u32> =
        blocks(&run, BlockKind::Steps).iter().flat_map(|b| b.u32s(Column::BatchSize).unwrap()).collect();
    assert_eq!(sizes, [6, 6, 6]);
    assert_eq!(f32s(&run, BlockKind::Steps, Column::Momentum), [0.9; 3]);
}

#[test]
fn the_trained_weights_are_the_same_with_and_without_recording() {
    let dir = tempfile::tempdir().unwrap();
    let train = |recorder: &mut Recorder, variables: &VarMap, model: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let mut optimizer = SGD::new(variables.all_vars(), 0.1).unwrap();
        for step in 0..20u64 {
            let (x, y) = (noise(step, &[5, 6]), labels(5));
            let mut pass = recorder.pass(&[0, 1, 2, 3, 4]).unwrap();
            let loss = pass.cross_entropy(&model(&x).unwrap(), &y).unwrap();
            pass.backward_step(&mut optimizer, &loss).unwrap();
        }
    };
    let weights = |variables: &VarMap| -> Vec<f32> {
        let data = variables.data().lock().unwrap();
        let mut named: Vec<_> = data.iter().collect();
        named.sort_by_key(|(name, _)| name.to_string());
        named.iter().flat_map(|(_, var)| numbers(var.as_tensor())).collect()
    };
    let start = VarMap::new();
    Mlp::new(&Taps::new(), &start);
    let copy = || {
        let (taps, mut variables) = (Taps::new(), VarMap::new());
        let model = Mlp::new(&taps, &variables);
        let data = start.data().lock().unwrap();
        variables.set(data.iter().map(|(name, var)| (name.clone(), var.as_tensor().copy().unwrap()))).unwrap();
        (taps, variables, model)
    };
    let (taps, recorded, model) = copy();
    let mut recorder = Recorder::create(dir.path().join("run"), &taps, Config::default()).unwrap();
    train(&mut recorder, &recorded, &|x| model.forward(x));
    assert_eq!(recorder.finish().unwrap().visits, 100);
    let (_, disabled, model) = copy();
    train(&mut Recorder::disabled(), &disabled, &|x| model.forward(x));
    let (_, plain, model) = copy();
    let (fc1, fc2): (Linear, Linear) = (model.fc1.inner().clone(), model.fc2.inner().clone());
    train(&mut Recorder::disabled(), &plain, &|x| Module::forward(&fc2, &Module::forward(&fc1, x)?.relu()?));
    assert_eq!(weights(&recorded), weights(&disabled), "recording changes not one bit of a tapped MLP");
    assert!(relative_error(&weights(&recorded), &weights(&plain)) < 1e-5, "tapping changes nothing but rounding");
    assert_ne!(weights(&recorded), weights(&start), "something was trained");
}

#[test]
fn coverage_names_what_is_not_tapped() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    taps.tap("fc1", linear(6, 5, vb.pp("fc1")).unwrap());
    linear(5, 3, vb.pp("fc2")).unwrap();
    taps.tap("norm", candle_nn::group_norm(1, 4, 1e-5, vb.pp("model.norm")).unwrap());
    taps.model(&variables);
    let run = dir.path().join("run");
    Recorder::create(&run, &taps, Config::default()).unwrap().finish().unwrap();
    let manifest = Run::open(&run).unwrap().manifest().clone();
    let names: Vec<&str> = manifest.untapped.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["fc2.bias", "fc2.weight"]);
    assert_eq!(manifest.model_parameters, Some(35 + 18 + 8));
    assert_eq!(manifest.recorded_parameters(), 35 + 8);
}

#[test]
fn evaluation_between_passes_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let run = dir.path().join("run");
    let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
    let (x, y) = (noise(1, &[4, 6]), labels(4));
    for _ in 0..2 {
        model.forward(&noise(8, &[9, 6])).unwrap();
        let mut pass = recorder.pass(&[0, 1, 2, 3]).unwrap();
        let loss = pass.cross_entropy(&model.forward(&x).unwrap(), &y).unwrap();
        loss.backward().unwrap();
        pass.commit(0.1).unwrap();
        model.forward(&noise(8, &[9, 6])).unwrap().sum_all().unwrap().backward().unwrap();
    }
    assert_eq!(recorder.finish().unwrap().visits, 8);
    let key = ColumnKey { column: Column::Input, layer: 0 };
    assert!(blocks(&run, BlockKind::Visits).iter().all(|b| b.width(key) == Some(6)));
}

#[test]
fn tied_weights_are_one_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let weight = candle_core::Var::from_tensor(&noise(1, &[7, 4])).unwrap();
    let bias = candle_core::Var::from_tensor(&noise(2, &[7])).unwrap();
    let taps = Taps::new();
    let tokens = taps.tap("tokens", candle_nn::Embedding::new(weight.as_tensor().clone(), 4));
    let head = taps.tap("head", Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone())));
    let model = |ids: &Tensor| head.forward(&tokens.forward(ids)?.mean(1)?);
    let ids = Tensor::new(&[[0u32, 3, 3], [6, 1, 0], [2, 2, 5]], &Device::Cpu).unwrap();
    let y = labels(3);
    let config = exact();
    let length = config.sketch.folded_max as usize;
    let mut recorder = Recorder::create(&run, &taps, config).unwrap();
    let mut pass = recorder.pass(&[0, 1, 2]).unwrap();
    pass.cross_entropy(&model(&ids).unwrap(), &y).unwrap().backward().unwrap();
    pass.commit(0.1).unwrap();
    recorder.finish().unwrap();
    let manifest = Run::open(&run).unwrap().manifest().clone();
    let [first, second] = &manifest.layers[..] else { panic!("two layers") };
    assert_eq!(first.seed_folded, second.seed_folded);
    assert_eq!(manifest.recorded_parameters(), 35, "the shared weight counts once");
    let fold = gradlog_format::sketch::Fold::new(second.seed_folded, 35, length);
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

/// Whole layers' gradients are added where a weight is shared, and these have more than that, or other things, in
/// common.
#[test]
fn layers_that_share_some_of_their_parameters_are_refused() {
    let var = |seed, shape: &[usize]| candle_core::Var::from_tensor(&noise(seed, shape)).unwrap().into_inner();
    let (weight, other, one, two) = (var(1, &[7, 4]), var(2, &[7, 4]), var(3, &[7]), var(4, &[7]));
    let refused = |second: Linear| {
        let (dir, taps) = (tempfile::tempdir().unwrap(), Taps::new());
        let _ = taps.tap("a", Linear::new(weight.clone(), Some(one.clone())));
        let _ = taps.tap("b", second);
        Recorder::create(dir.path().join("run"), &taps, exact()).err().map(|error| error.to_string())
    };
    for second in [Linear::new(weight.clone(), Some(two)), Linear::new(other.clone(), Some(one.clone()))] {
        let error = refused(second).unwrap();
        assert!(error.contains("`a` and `b` share `weight`") || error.contains("`a` and `b` share `bias`"), "{error}");
    }
    for second in [Linear::new(weight.clone(), Some(one.clone())), Linear::new(weight.clone(), None)] {
        assert_eq!(refused(second), None);
    }
    assert_eq!(refused(Linear::new(other, None)), None);
}

/// `y = w ∘ w ∘ x`, whose gradient `2 w ∘ Σ_t δ_t ∘ x_t` depends on the weights.
struct Squared(candle_core::Var);

impl gradlog::taps::Tap for Squared {
    fn spec(&self) -> std::result::Result<gradlog::taps::LayerSpec, String> {
        let parameters = vec![gradlog::taps::Parameter::new("weight", self.0.as_tensor())];
        Ok(gradlog::taps::LayerSpec::new("squared", parameters))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.0.as_tensor().sqr()?)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<gradlog::taps::PerExample> {
        // Long enough for an optimizer to have stepped, were this to run beside the training.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let gradient = (x * delta)?.broadcast_mul(&(self.0.as_tensor() * 2.0)?)?;
        Ok(gradlog::taps::PerExample::Dense(gradient))
    }
}

#[test]
fn a_layer_of_ones_own_is_recorded_at_the_weights_before_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let weight = candle_core::Var::from_tensor(&noise(1, &[5])).unwrap();
    let taps = Taps::new();
    let layer = taps.tap("own", Squared(weight.clone()));
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

/// What gradlog's own optimizer does is recorded by whichever way takes its step.
#[test]
fn momentum_and_weight_decay_are_recorded() {
    let descent = SgdConfig::new(0.1).momentum(0.5).weight_decay(0.25);
    let mut weights = Vec::new();
    for by_hand in [false, true] {
        let (dir, taps, variables) = (tempfile::tempdir().unwrap(), Taps::new(), VarMap::new());
        let model = Mlp::new(&taps, &variables);
        for (number, variable) in all_by_name(&variables).into_iter().enumerate() {
            variable.set(&noise(number as u64, variable.dims())).unwrap();
        }
        let mut optimizer = Sgd::new(variables.all_vars(), descent).unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        for step in 0..3 {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let loss = pass.cross_entropy(&model.forward(&noise(10 + step, &[2, 6])).unwrap(), &labels(2)).unwrap();
            if by_hand {
                let grads = loss.backward().unwrap();
                pass.commit(optimizer.step_info()).unwrap();
                optimizer.step(&grads).unwrap();
            } else {
                pass.backward_step(&mut optimizer, &loss).unwrap();
            }
        }
        recorder.finish().unwrap();
        for (column, expected) in [(Column::LearningRate, 0.1), (Column::Momentum, 0.5), (Column::WeightDecay, 0.25)] {
            assert_eq!(f32s(dir.path(), BlockKind::Steps, column), [expected; 3], "{column:?}");
        }
        weights.push(all_by_name(&variables).iter().flat_map(|v| numbers(v)).collect::<Vec<_>>());
    }
    assert_eq!(weights[0], weights[1]);
}

/// The variables in the order of their names.
fn all_by_name(variables: &VarMap) -> Vec<candle_core::Var> {
    let data = variables.data().lock().unwrap();
    let by_name: std::collections::BTreeMap<_, _> = data.iter().collect();
    by_name.into_values().cloned().collect()
}

/// A micro-batch of one step; `ignored` gives it another set of columns.
fn micro(recorder: &mut Recorder, model: &Mlp, id: u64, ignored: bool) {
    let mut pass = recorder.pass(&[id, id + 1]).unwrap();
    let logits = model.forward(&noise(id, &[2, 6])).unwrap();
    let targets = Tensor::new(&[0i64, if ignored { -100 } else { 1 }], &Device::Cpu).unwrap();
    pass.ignore_index(-100).cross_entropy(&logits, &targets).unwrap().backward().unwrap();
    pass.accumulate().unwrap();
}

fn last(recorder: &mut Recorder, model: &Mlp, id: u64, rate: f64) {
    let mut pass = recorder.pass(&[id]).unwrap();
    pass.cross_entropy(&model.forward(&noise(id, &[1, 6])).unwrap(), &labels(1)).unwrap().backward().unwrap();
    pass.commit(rate).unwrap();
}

#[test]
fn every_visit_of_a_step_has_its_learning_rate_whatever_happens_inside_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let model = Mlp::new(&taps, &variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    // Other columns inside a step.
    micro(&mut recorder, &model, 0, true);
    micro(&mut recorder, &model, 10, false);
    last(&mut recorder, &model, 20, 0.1);
    // A flush and a probe inside a step.
    micro(&mut recorder, &model, 30, false);
    recorder.flush().unwrap();
    let mut probe = recorder.probe("test", &[1]).unwrap();
    probe.cross_entropy(&model.forward(&noise(9, &[1, 6])).unwrap(), &labels(1)).unwrap().backward().unwrap();
    probe.commit().unwrap();
    last(&mut recorder, &model, 40, 0.2);
    // A last micro-batch that is refused: the step has taken place all the same, and what is missing is counted.
    micro(&mut recorder, &model, 50, false);
    recorder.pass(&[60, 61, 62]).unwrap().commit(0.3).unwrap_err();
    last(&mut recorder, &model, 70, 0.4);
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.visits, summary.dropped), (11, 3));
    let mut rates = Vec::new();
    for block in blocks(dir.path(), BlockKind::Visits) {
        let (ids, found) = (block.u64s(Column::Example).unwrap(), block.f32s(Column::LearningRate).unwrap());
        rates.extend(ids.into_iter().zip(found));
    }
    let of = |ids: &[u64], rate: f32| ids.iter().map(move |id| (*id, rate)).collect::<Vec<_>>();
    let expected = [of(&[0, 1, 10, 11, 20], 0.1), of(&[30, 31, 40], 0.2), of(&[50, 51], 0.3), of(&[70], 0.4)].concat();
    assert_eq!(rates, expected);
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.steps, report.dropped), (4, 3));
    let sizes: Vec<u32> =
        blocks(dir.path(), BlockKind::Steps).iter().flat_map(|b| b.u32s(Column::BatchSize).unwrap()).collect();
    assert_eq!(sizes, [5, 3, 5, 1]);
}

#[test]
fn a_model_of_every_layer_trains_as_candles_own_does() {
    use candle_nn::{conv2d, embedding, group_norm, layer_norm, Conv2dConfig};
    // Plain candle_nn against tapped and recorded, ten steps of SGD from the same weights, candle's loss against ours.
    let dir = tempfile::tempdir().unwrap();
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let weights_after = |tapped: bool| -> Vec<f32> {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let taps = Taps::new();
        let tokens = embedding(9, 16, vb.pp("tokens")).unwrap();
        let conv = conv2d(1, 4, 3, config, vb.pp("conv")).unwrap();
        let groups = group_norm(2, 4, 1e-5, vb.pp("groups")).unwrap();
        let norm = layer_norm(16, 1e-5, vb.pp("norm")).unwrap();
        let head = linear(16, 3, vb.pp("head")).unwrap();
        let slow = norm.clone();
        type Layer = Box<dyn Fn(&Tensor) -> Result<Tensor>>;
        let layers: [Layer; 5] = if tapped {
            let (tokens, conv) = (taps.tap("tokens", tokens), taps.tap("conv", conv));
            let (groups, norm, head) = (taps.tap("groups", groups), taps.tap("norm", norm), taps.tap("head", head));
            [
                Box::new(move |x| tokens.forward(x)),
                Box::new(move |x| conv.forward(x)),
                Box::new(move |x| groups.forward(x)),
                Box::new(move |x| norm.forward(x)),
                Box::new(move |x| head.forward(x)),
            ]
        } else {
            let bias = slow.bias().unwrap().clone();
            [
                Box::new(move |x| Module::forward(&tokens, x)),
                Box::new(move |x| Module::forward(&conv, x)),
                Box::new(move |x| Module::forward(&groups, x)),
                Box::new(move |x| candle_nn::ops::layer_norm_slow(x, slow.weight(), &bias, 1e-5)),
                Box::new(move |x| Module::forward(&head, x)),
            ]
        };
        let data = variables.data().lock().unwrap().clone();
        let mut named: Vec<_> = data.into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        for (number, (name, var)) in named.iter().enumerate() {
            let values = (noise(number as u64, var.dims()) * 0.5).unwrap();
            let norm = name.starts_with("norm.w") || name.starts_with("groups.w");
            var.set(&if norm { (values + 1.0).unwrap() } else { values }).unwrap();
        }
        let mut optimizer = SGD::new(variables.all_vars(), 0.1).unwrap();
        let mut recorder = match tapped {
            true => Recorder::create(dir.path(), &taps, Config::default()).unwrap(),
            false => Recorder::disabled(),
        };
        for step in 0..10u64 {
            let ids = (noise(step, &[5, 8]).affine(4.0, 4.0).unwrap()).to_dtype(DType::U32).unwrap();
            let y = labels(5);
            let mut pass = recorder.pass(&[0, 1, 2, 3, 4]).unwrap();
            let x = layers[0](&ids).unwrap().unsqueeze(1).unwrap();
            let x = layers[2](&layers[1](&x).unwrap()).unwrap().mean(1).unwrap();
            let logits = layers[4](&layers[3](&x).unwrap()).unwrap().mean(1).unwrap();
            if tapped {
                let loss = pass.cross_entropy(&logits, &y).unwrap();
                pass.backward_step(&mut optimizer, &loss).unwrap();
            } else {
                drop(pass);
                optimizer.backward_step(&candle_nn::loss::cross_entropy(&logits, &y).unwrap()).unwrap();
            }
        }
        recorder.finish().unwrap();
        named.iter().flat_map(|(_, var)| numbers(var.as_tensor())).collect()
    };
    let (plain, recorded) = (weights_after(false), weights_after(true));
    assert!(relative_error(&recorded, &plain) < 1e-5, "{}", relative_error(&recorded, &plain));
}
