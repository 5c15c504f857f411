//! Recording does not change a training, and records nothing but the training.

use super::*;
use candle_core::DType;
use candle_nn::{Optimizer, SGD};
use gradlog::{Config, Recorder};
use gradlog_format::log::{BlockKind, Column, ColumnKey};
use gradlog_format::run::Run;

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
    let vb = builder(&variables);
    let _ = taps.tap("fc1", linear(6, 5, vb.pp("fc1")).unwrap());
    linear(5, 3, vb.pp("fc2")).unwrap();
    let _ = taps.tap("norm", candle_nn::group_norm(1, 4, 1e-5, vb.pp("model.norm")).unwrap());
    taps.declare_model(&variables);
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
fn a_model_of_every_layer_trains_as_candles_own_does() {
    use candle_nn::{conv2d, embedding, group_norm, layer_norm, Conv2dConfig};
    // Plain candle_nn against tapped and recorded, ten steps of SGD from the same weights, candle's loss against ours.
    let dir = tempfile::tempdir().unwrap();
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let weights_after = |tapped: bool| -> Vec<f32> {
        let variables = VarMap::new();
        let vb = builder(&variables);
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
