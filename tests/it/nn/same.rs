//! A model by `gradlog::nn` computes what it computes by candle_nn: outputs, gradients, a whole training.

use super::{built, differentiable, plain};
use crate::common::*;
use candle_core::{Device, Result, Tensor};
use candle_nn::{ModuleT, Optimizer, VarBuilder, VarMap, SGD};
use gradlog::{Recorder, Taps};

/// Two functions of a batch from the same variables: by candle_nn and by `gradlog::nn`.
type Forward = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Builds a shape from variables, by one of the imports.
type Build = fn(VarBuilder<'static>) -> Result<Forward>;

macro_rules! builders {
    ($import:ident) => {
        [
            |vb| {
                let model = $import::mlp::Mlp::new(vb)?;
                assert_eq!(model.clone().hidden_width(), 8);
                assert!(format!("{model:?}").contains("hidden"));
                Ok(Box::new(move |x: &Tensor| model.forward_t(x, false)))
            },
            |vb| {
                let model = $import::cnn::ConvNet::new(vb)?;
                Ok(Box::new(move |x: &Tensor| model.forward(x)))
            },
            |vb| {
                let model = $import::sequence::classifier(vb)?;
                Ok(Box::new(move |x: &Tensor| $import::sequence::forward(&model, x)))
            },
            |vb| {
                let model = $import::nanogpt::NanoGpt::new(vb)?;
                Ok(Box::new(move |x: &Tensor| model.forward(x)))
            },
            |vb| {
                let model = $import::llama::Llama::load(vb)?;
                Ok(Box::new(move |x: &Tensor| model.clone().forward(x)))
            },
            |vb| {
                let model = $import::tagger::Tagger::new(vb)?;
                assert!(format!("{:?}", model.clone()).contains("lstms"));
                Ok(Box::new(move |x: &Tensor| model.forward(x)))
            },
            |vb| {
                let model = $import::autoencoder::Autoencoder::new(vb)?;
                assert!(format!("{:?}", model.clone()).contains("up1"));
                Ok(Box::new(move |x: &Tensor| model.forward(x)))
            },
        ]
    };
}

const NAMES: [&str; 7] = ["mlp", "cnn", "sequence", "nanogpt", "llama", "tagger", "autoencoder"];
const PLAIN: [Build; 7] = builders!(plain);
const DIFFERENTIABLE: [Build; 7] = builders!(differentiable);
const BUILT: [Build; 7] = builders!(built);

fn batch(shape: usize, seed: u64, n: usize) -> Tensor {
    match shape {
        0 => noise(seed, &[n, 6]),
        1 | 6 => noise(seed, &[n, 64]),
        _ => {
            let ids: Vec<u32> = (0..4 * n as u64).map(|i| ((i * 7 + i / 5 + seed) % 11) as u32).collect();
            Tensor::from_vec(ids, (n, 4), &Device::Cpu).unwrap()
        }
    }
}

/// Sets all variables to numbers that do not depend on chance.
fn stir(variables: &VarMap) {
    for (seed, (_, var)) in sorted(variables).into_iter().enumerate() {
        let middle = if var.rank() == 1 { 1.0 } else { 0.0 };
        let width = *var.dims().last().unwrap() as f64;
        let scale = if var.rank() == 1 { 0.2 } else { 1.5 / width.sqrt() };
        var.set(&noise(seed as u64 + 90, var.dims()).affine(scale, middle).unwrap()).unwrap();
    }
}

fn sorted(variables: &VarMap) -> Vec<(String, candle_core::Var)> {
    let data = variables.data().lock().unwrap();
    let mut named: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

#[test]
fn outputs_and_gradients_are_those_of_candle() {
    for shape in 0..NAMES.len() {
        let name = NAMES[shape];
        let variables = VarMap::new();
        let vb = builder(&variables);
        let plain = PLAIN[shape](vb.clone()).unwrap();
        let slow = DIFFERENTIABLE[shape](vb.clone()).unwrap();
        let (model, taps) = Taps::collect(|| BUILT[shape](vb)).unwrap();
        stir(&variables);
        let (x, y) = (batch(shape, 3, 5), labels(5));
        let right = plain(&x).unwrap();
        assert!(relative_error(&numbers(&model(&x).unwrap()), &numbers(&right)) < 1e-5, "{name}");
        assert!(relative_error(&numbers(&slow(&x).unwrap()), &numbers(&right)) < 1e-5, "{name}");
        let gradients =
            |forward: &Forward| candle_nn::loss::cross_entropy(&forward(&x).unwrap(), &y).unwrap().backward().unwrap();
        let (right, made) = (gradients(&slow), gradients(&model));
        for (variable, var) in sorted(&variables) {
            let [right, made] = [&right, &made].map(|g| numbers(g.get(&var).unwrap_or_else(|| panic!("{variable}"))));
            assert!(norm(&right) > 1e-6, "{name}: {variable} has no gradient");
            assert!(relative_error(&made, &right) < 1e-4, "{name}: {variable} {}", relative_error(&made, &right));
        }
        // What is recorded is each example's own gradient: candle's backward on that example alone.
        taps.declare_model(&variables);
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let check = recorder
            .check_gradients(&variables, &[1, 2, 3, 4, 5], |pass, rows| {
                pass.cross_entropy(&model(&rows.of(&x)?)?, &rows.of(&y)?)
            })
            .unwrap();
        assert!(check.agrees() && check.findings.is_empty(), "{name}: {check}");
        recorder.finish().unwrap();
    }
}

/// The losses of a training, and the weights after it.
fn train(shape: usize, variables: &VarMap, forward: &Forward, recorder: Option<&mut Recorder>) -> Vec<f32> {
    let mut optimizer = SGD::new(variables.all_vars(), 0.1).unwrap();
    let mut curve = Vec::new();
    let mut recorder = recorder;
    for step in 0..12 {
        let (x, y) = (batch(shape, 40 + step, 6), noisy_labels(70 + step, 6));
        let loss = match &mut recorder {
            Some(recorder) => {
                let mut pass = recorder.pass(&[0, 1, 2, 3, 4, 5]).unwrap();
                let loss = pass.cross_entropy(&forward(&x).unwrap(), &y).unwrap();
                pass.backward_step(&mut optimizer, &loss).unwrap();
                loss
            }
            None => {
                let loss = candle_nn::loss::cross_entropy(&forward(&x).unwrap(), &y).unwrap();
                optimizer.backward_step(&loss).unwrap();
                loss
            }
        };
        curve.push(loss.to_scalar::<f32>().unwrap());
    }
    curve.extend(sorted(variables).into_iter().flat_map(|(_, var)| numbers(&var)));
    curve
}

#[test]
fn a_recorded_training_is_that_of_candle() {
    for shape in 0..NAMES.len() {
        let start = VarMap::new();
        drop(DIFFERENTIABLE[shape](builder(&start)).unwrap());
        stir(&start);
        let copy = |build: Build, taps: &Taps| {
            let variables = VarMap::new();
            let forward = taps.collect_more(|| build(builder(&variables))).unwrap();
            for ((_, from), (_, to)) in sorted(&start).iter().zip(sorted(&variables)) {
                to.set(&from.as_tensor().copy().unwrap()).unwrap();
            }
            (variables, forward)
        };
        let (variables, forward) = copy(DIFFERENTIABLE[shape], &Taps::new());
        let right = train(shape, &variables, &forward, None);
        let (taps, dir) = (Taps::new(), tempfile::tempdir().unwrap());
        let (variables, forward) = copy(BUILT[shape], &taps);
        let unrecorded = copy(BUILT[shape], &Taps::new());
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let made = train(shape, &variables, &forward, Some(&mut recorder));
        assert_eq!(recorder.finish().unwrap().visits, 72);
        assert!(relative_error(&made, &right) < 1e-4, "{}: {}", NAMES[shape], relative_error(&made, &right));
        assert!((right[0] - right[11]).abs() > 1e-3, "{}: the loss moves", NAMES[shape]);
        let alone = train(shape, &unrecorded.0, &unrecorded.1, None);
        // Sums over positions are made in another order.
        assert!(relative_error(&made, &alone) < 1e-5, "{}: {}", NAMES[shape], relative_error(&made, &alone));
    }
}
