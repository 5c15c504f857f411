//! A declared last layer whose output is not what the loss gets: its recorded gradients would be those of another
//! layer.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{linear, linear_no_bias, Embedding, Optimizer, VarMap, SGD};
use gradlog::taps::LastLayer;
use gradlog::{RecordError, Recorder, Taps};
use gradlog_format::log::{BlockKind, Column};
use std::path::Path;

/// What lies between a head and its loss, and whether the recorded gradients are right.
const HEADS: [(&str, bool); 10] = [
    ("right", true),
    ("class prior", true),
    ("classes that are out", true),
    ("a mask for each example", true),
    ("a penalty on the weights", true),
    ("temperature", false),
    ("a tanh cap", false),
    ("other features", false),
    ("features times three", false),
    ("a scale near one", false),
];

fn between(how: &str, logits: &Tensor) -> Result<Tensor> {
    let add = |numbers: &[f32]| logits.broadcast_add(&Tensor::new(numbers, &Device::Cpu)?);
    match how {
        "class prior" => add(&[0.5, 0.0, -0.5]),
        "classes that are out" => add(&[0.0, 0.0, -1e9]),
        "a mask for each example" => {
            let out = noise(7, logits.dims()).affine(0.0, 0.0)?.to_dtype(DType::F32)?;
            let rows = logits.dim(0)?;
            // Class 1 or 2 is out, whichever is not the label.
            let masks: Vec<f32> =
                (0..rows).flat_map(|i| [[0.0, 0.0, -1e9], [0.0, 0.0, -1e9], [0.0, -1e9, 0.0]][i % 3]).collect();
            logits + (out + Tensor::from_vec(masks, (rows, 3), &Device::Cpu)?)?
        }
        "temperature" => logits / 2.0,
        "a scale near one" => logits * 1.05,
        "a tanh cap" => logits.tanh()? * 2.0,
        _ => Ok(logits.clone()),
    }
}

fn features(how: &str, x: &Tensor) -> Result<Tensor> {
    match how {
        "other features" => Ok(noise(8, x.dims())),
        "features times three" => x * 3.0,
        _ => Ok(x.clone()),
    }
}

/// Records one pass. Returns the squared norms, and those of candle's backward on each example alone.
fn record(dir: &Path, how: &str, steps: bool) -> std::result::Result<(Vec<f32>, Vec<f64>), RecordError> {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let head = linear(5, 3, builder(&variables).pp("f")).unwrap();
    for variable in variables.all_vars() {
        variable.set(&noise(variable.elem_count() as u64, variable.dims())).unwrap();
    }
    taps.declare_last_layer("f", LastLayer::new(5, 3));
    taps.declare_model(&variables);
    let mut recorder = Recorder::create(dir, &taps, exact())?;
    let (x, y) = (noise(1, &[6, 5]), labels(6));
    let own = |i: usize| -> Result<f64> {
        let logits = between(how, &head.forward(&x)?)?;
        let loss = candle_nn::loss::cross_entropy(&logits.narrow(0, i, 1)?, &y.narrow(0, i, 1)?)?;
        let grads = loss.backward()?;
        Ok(variables.all_vars().iter().map(|var| norm(&numbers(grads.get(var).unwrap())).powi(2)).sum())
    };
    let right = (0..6).map(own).collect::<Result<_>>()?;
    let mut pass = recorder.pass(0u64..6)?;
    pass.features(&features(how, &x)?);
    let loss = pass.cross_entropy(&between(how, &head.forward(&x)?)?, &y)?;
    let penalty = (head.weight().sqr()?.sum_all()? * 0.1)?;
    let total = if how == "a penalty on the weights" { (&loss + penalty)? } else { loss };
    if steps {
        pass.backward_step(&mut SGD::new(variables.all_vars(), 0.1)?, &total)?;
    } else {
        total.backward()?;
        pass.commit(0.1)?;
    }
    recorder.finish()?;
    Ok((f32s(dir, BlockKind::Visits, Column::SquaredNorm), right))
}

#[test]
fn a_head_whose_output_is_not_the_logits_is_refused() {
    for (how, is_right) in HEADS {
        for steps in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            match record(dir.path(), how, steps) {
                Ok((found, right)) => {
                    let agree = found.iter().zip(&right).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3 * b + 1e-6);
                    assert!(agree, "{how}: {found:?} {right:?}");
                    assert!(is_right, "{how} was not noticed");
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(!is_right, "{how}: {error}");
                    for word in ["`f`", "temperature", "features", "tap"] {
                        assert!(error.contains(word), "{how}, {word}: {error}");
                    }
                }
            }
        }
    }
}

/// Logits that another part of the model adds to: the head's gradient is right all the same, as `backward_step` sees.
#[test]
fn logits_from_elsewhere_may_be_added() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let head = linear(5, 3, builder(&variables).pp("f")).unwrap();
    taps.declare_last_layer("f", LastLayer::new(5, 3));
    taps.declare_model(&variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let x = noise(1, &[6, 5]);
    let mut pass = recorder.pass(0u64..6).unwrap();
    pass.features(&x);
    let logits = (head.forward(&x).unwrap() + noise(3, &[6, 3])).unwrap();
    let loss = pass.cross_entropy(&logits, &labels(6)).unwrap();
    pass.backward_step(&mut SGD::new(variables.all_vars(), 0.1).unwrap(), &loss).unwrap();
}

/// The weight is also the embedding's, so its whole gradient has another part.
#[test]
fn a_head_that_shares_its_weight_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let weight = builder(&variables)
        .pp("head")
        .get_with_hints((6, 5), "weight", candle_nn::Init::Randn { mean: 0.0, stdev: 1.0 })
        .unwrap();
    let (embedding, head) = (Embedding::new(weight.clone(), 5), candle_nn::Linear::new(weight, None));
    taps.declare_last_layer("head", LastLayer::new(5, 6).without_bias());
    taps.declare_model(&variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let tokens = Tensor::new(&[[0u32, 1], [2, 3], [4, 5]], &Device::Cpu).unwrap();
    let mut pass = recorder.pass(0u64..3).unwrap();
    let features = embedding.forward(&tokens).unwrap().tanh().unwrap();
    pass.features(&features);
    let targets = Tensor::new(&[[1u32, 2], [3, 4], [5, 0]], &Device::Cpu).unwrap();
    let loss = pass.cross_entropy(&head.forward(&features).unwrap(), &targets).unwrap();
    pass.backward_step(&mut SGD::new(variables.all_vars(), 0.1).unwrap(), &loss).unwrap();
}

#[test]
fn a_bias_that_the_head_has_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    linear_no_bias(5, 3, builder(&variables).pp("f")).unwrap();
    taps.declare_last_layer("f", LastLayer::new(5, 3));
    taps.declare_model(&variables);
    let error = Recorder::create(dir.path(), &taps, exact()).err().map(|error| error.to_string());
    let error = error.expect("the bias is recorded though no layer has one");
    assert!(error.contains("`f`") && error.contains("`LastLayer::without_bias`"), "{error}");
}

/// A check names the head, too.
#[test]
fn a_check_notices_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let head = linear(5, 3, builder(&variables).pp("f")).unwrap();
    taps.declare_last_layer("f", LastLayer::new(5, 3));
    taps.declare_model(&variables);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let (x, y) = (noise(1, &[6, 5]), labels(6));
    let check = recorder.check_gradients(&variables, 0u64..6, |pass, rows| {
        pass.features(&rows.of(&x)?);
        pass.cross_entropy(&(head.forward(&rows.of(&x)?)? / 2.0)?, &rows.of(&y)?)
    });
    let check = check.unwrap();
    assert!(!check.agrees() && check.to_string().contains("`f.weight`"), "{check}");
}
