//! A training that goes on from saved weights and a saved state is the training that was not interrupted.

use crate::optim::{Adam, AdamConfig, AdamW, Sgd, SgdConfig};
use crate::step::StepReport;
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Init, Optimizer, VarBuilder, VarMap};
use std::path::Path;

fn map(names: &[&str]) -> (VarMap, Vec<Var>) {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    for name in names {
        vb.get_with_hints((3, 5), name, Init::Const(0.5)).unwrap();
    }
    let all = variables.all_vars();
    (variables, all)
}

/// Takes `steps` steps along gradients that differ by variable and step.
fn train(optimizer: &mut impl Optimizer, variables: &VarMap, steps: std::ops::Range<u64>) {
    for step in steps {
        let data = variables.data().lock().unwrap();
        let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
        for (name, var) in data.iter() {
            let scale = (name.len() as f64 + step as f64).sin();
            loss = (loss + (var.as_tensor() * scale).unwrap().exp().unwrap().sum_all().unwrap()).unwrap();
        }
        optimizer.step(&loss.backward().unwrap()).unwrap();
    }
}

fn bits(variables: &VarMap) -> Vec<(String, Vec<u32>)> {
    let data = variables.data().lock().unwrap();
    let bits = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    let mut all: Vec<_> = data.iter().map(|(name, var)| (name.clone(), bits(var))).collect();
    all.sort();
    all
}

/// Makes an optimizer, trains, saves, makes both anew, and goes on.
fn resume<O: Optimizer>(
    make: impl Fn(Vec<Var>) -> O,
    save: impl Fn(&O, &VarMap, &Path) -> Result<()>,
    load: impl Fn(&mut O, &VarMap, &Path) -> Result<()>,
) {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a", "bb", "ccc", "dddd"];
    let (variables, all) = map(&names);
    let mut optimizer = make(all);
    train(&mut optimizer, &variables, 0..4);
    variables.save(dir.path().join("weights")).unwrap();
    let state = dir.path().join("state");
    save(&optimizer, &variables, &state).unwrap();
    train(&mut optimizer, &variables, 4..7);
    // A new process gets the variables in another order.
    let (mut again, mut all) = map(&names);
    all.reverse();
    again.load(dir.path().join("weights")).unwrap();
    let mut resumed = make(all.clone());
    let without = bits(&again);
    load(&mut resumed, &again, &state).unwrap();
    assert_eq!(bits(&again), without, "loading a state moves no weight");
    train(&mut resumed, &again, 4..7);
    assert_eq!(bits(&again), bits(&variables));
    // Without its state it goes elsewhere.
    again.load(dir.path().join("weights")).unwrap();
    train(&mut make(all), &again, 4..7);
    assert_ne!(bits(&again), bits(&variables));
    // The state of another model is refused, and so is a map that lacks a variable.
    let (other, others) = map(&["a", "bb"]);
    let mut optimizer = make(others);
    let error = load(&mut optimizer, &other, &state).unwrap_err().to_string();
    assert!(error.contains("ccc") || error.contains("dddd"), "{error}");
    let error = save(&optimizer, &again, &dir.path().join("no")).map_or_else(|e| e.to_string(), |()| String::new());
    assert!(error.contains("not in the `VarMap`"), "{error}");
    assert!(!dir.path().join("no").exists());
    assert!(load(&mut optimizer, &other, &dir.path().join("weights")).is_err());
}

#[test]
fn a_resumed_training_goes_on_to_the_last_bit() {
    let config = SgdConfig::new(0.05).momentum(0.9);
    resume(
        |all| Sgd::new(all, config).unwrap(),
        |o, map, path| o.save_state(map, path),
        |o, map, path| o.load_state(map, path),
    );
    resume(
        |all| AdamW::new_lr(all, 0.05).unwrap(),
        |o, map, path| o.save_state(map, path),
        |o, map, path| o.load_state(map, path),
    );
    let config = AdamConfig::new(0.05).weight_decay(0.1);
    resume(
        |all| Adam::new(all, config).unwrap(),
        |o, map, path| o.save_state(map, path),
        |o, map, path| o.load_state(map, path),
    );
}

#[test]
fn a_state_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (variables, all) = map(&["a"]);
    let mut adamw = AdamW::new_lr(all, 0.05).unwrap();
    train(&mut adamw, &variables, 0..2);
    let path = dir.path().join("state");
    adamw.save_state(&variables, &path).unwrap();
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["first_moment/a", "second_moment/a", "steps/a"]);
    for (name, says) in [("second_moment/a", "not whole"), ("steps/a", "not whole")] {
        let mut harmed = tensors.clone();
        harmed.remove(name);
        candle_core::safetensors::save(&harmed, &path).unwrap();
        let error = adamw.load_state(&variables, &path).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let mut harmed = tensors.clone();
    harmed.insert("first_moment/a".into(), Tensor::zeros((5, 3), DType::F32, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&harmed, &path).unwrap();
    let error = adamw.load_state(&variables, &path).unwrap_err().to_string();
    assert!(error.contains("`first_moment/a` does not fit") && error.contains("[5, 3]"), "{error}");
    std::fs::write(&path, "no tensors").unwrap();
    assert!(adamw.load_state(&variables, &path).is_err());
}

/// The count of SGD's steps tells where its velocity began.
#[test]
fn the_count_of_steps_is_in_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (variables, all) = map(&["a"]);
    let config = SgdConfig::new(0.05).momentum(0.9);
    let mut sgd = Sgd::new(all.clone(), config).unwrap();
    assert_eq!(sgd.step_info().steps_taken, Some(1));
    train(&mut sgd, &variables, 0..3);
    assert_eq!(sgd.step_info().steps_taken, Some(4));
    sgd.save_state(&variables, &path).unwrap();
    let mut resumed = Sgd::new(all, config).unwrap();
    resumed.load_state(&variables, &path).unwrap();
    assert_eq!(resumed.step_info().steps_taken, Some(4));
    // A state of an earlier version has a velocity and no count.
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    tensors.remove("steps").unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    resumed.load_state(&variables, &path).unwrap();
    assert_eq!(resumed.step_info().steps_taken, None);
}
