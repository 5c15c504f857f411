//! Steps by candle's ops, as on other devices, against those in place and against the definitions.

use super::{gradients, numbers, variables};
use crate::optim::buffer::Buffer;
use crate::optim::{Adam, AdamConfig, AdamW, Sgd, SgdConfig};
use crate::step::StepReport;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, VarMap};

fn check_near(ours: &[Var], right: &[Var], what: &str) {
    for (made, right) in numbers(ours).iter().flatten().zip(numbers(right).iter().flatten()) {
        assert!((made - right).abs() <= 1e-6 * right.abs().max(0.1), "{what}: {made} for {right}");
    }
}

#[test]
fn steps_by_ops_equal_those_in_place() {
    let sgd = SgdConfig::new(0.05);
    let settings = [
        sgd,
        sgd.weight_decay(0.1),
        sgd.momentum(0.9),
        sgd.momentum(0.9).weight_decay(0.1).dampening(0.3),
        sgd.momentum(0.9).nesterov(),
    ];
    for config in settings {
        let (ours, right) = (variables(1.0), variables(1.0));
        let mut by_ops = Sgd::new(ours.clone(), config).unwrap();
        by_ops.state.by_ops = true;
        let mut in_place = Sgd::new(right.clone(), config).unwrap();
        for _ in 0..5 {
            by_ops.step(&gradients(&ours)).unwrap();
            in_place.step(&gradients(&right)).unwrap();
        }
        check_near(&ours, &right, &format!("{config:?}"));
        let held = by_ops.state.parameters.iter().filter_map(|parameter| parameter.state.as_ref());
        assert!(held.into_iter().all(|held| matches!(held, Buffer::Tensor(_))));
    }
    let adam = AdamConfig::new(0.02);
    for config in [adam, adam.weight_decay(0.1).betas(0.5, 0.9)] {
        let (ours, right) = (variables(1.0), variables(1.0));
        let mut by_ops = AdamW::new(ours.clone(), config).unwrap();
        by_ops.0.by_ops = true;
        let mut in_place = AdamW::new(right.clone(), config).unwrap();
        for _ in 0..5 {
            by_ops.step(&gradients(&ours)).unwrap();
            in_place.step(&gradients(&right)).unwrap();
        }
        check_near(&ours, &right, &format!("AdamW {config:?}"));
        let (ours, right) = (variables(1.0), variables(1.0));
        let mut by_ops = Adam::new(ours.clone(), config).unwrap();
        by_ops.0.by_ops = true;
        let mut in_place = Adam::new(right.clone(), config).unwrap();
        for _ in 0..5 {
            by_ops.step(&gradients(&ours)).unwrap();
            in_place.step(&gradients(&right)).unwrap();
        }
        check_near(&ours, &right, &format!("Adam {config:?}"));
        // What the recorder reads is what the steps in place have.
        let (made, right) = (by_ops.second_moments().unwrap(), in_place.second_moments().unwrap());
        for (made_of, right_of) in ours.iter().zip(&in_place.variables().unwrap()) {
            let (made, steps) = made.read(made_of.id()).unwrap().unwrap();
            let (right, right_steps) = right.read(right_of.id()).unwrap().unwrap();
            assert!(steps == right_steps && made.iter().zip(&right).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs()));
        }
    }
}

/// A state that was saved on a device goes on there, and in main memory.
#[test]
fn a_state_goes_from_one_way_to_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let map = || {
        let (map, all) = (VarMap::new(), variables(2.0));
        let names = ["a", "b", "c"].map(String::from);
        map.data().lock().unwrap().extend(names.into_iter().zip(all.clone()));
        (map, all)
    };
    let ((first, ours), (second, others)) = (map(), map());
    let mut by_ops = AdamW::new_lr(ours.clone(), 0.05).unwrap();
    by_ops.0.by_ops = true;
    let mut in_place = AdamW::new_lr(others.clone(), 0.05).unwrap();
    for _ in 0..3 {
        by_ops.step(&gradients(&ours)).unwrap();
    }
    by_ops.save_state(&first, &path).unwrap();
    in_place.load_state(&second, &path).unwrap();
    for (from, to) in ours.iter().zip(&others) {
        to.set(&from.as_detached_tensor()).unwrap();
    }
    for _ in 0..2 {
        by_ops.step(&gradients(&ours)).unwrap();
        in_place.step(&gradients(&others)).unwrap();
    }
    check_near(&ours, &others, "in place");
    in_place.save_state(&second, &path).unwrap();
    by_ops.load_state(&first, &path).unwrap();
    assert!(by_ops.0.parameters.iter().all(|p| matches!(p.state.as_ref().unwrap().second, Buffer::Tensor(_))));
    by_ops.step(&gradients(&ours)).unwrap();
    in_place.step(&gradients(&others)).unwrap();
    check_near(&ours, &others, "by ops");
}

/// In half precision a squared gradient underflows, and a moment would never fall.
#[test]
fn moments_of_half_precision_are_f32() {
    for dtype in [DType::F16, DType::BF16] {
        let half = Var::from_tensor(&Tensor::new(&[1f32, -2.0, 0.5], &Device::Cpu).unwrap().to_dtype(dtype).unwrap());
        let (half, names) = (half.unwrap(), VarMap::new());
        names.data().lock().unwrap().insert("w".into(), half.clone());
        let gradient = |scale: f64| {
            let mut grads = half.sum_all().unwrap().backward().unwrap();
            let gradient = Tensor::new(&[1f64, -1.0, 0.25], &Device::Cpu).unwrap();
            grads.insert(&half, (gradient * scale).unwrap().to_dtype(dtype).unwrap());
            grads
        };
        let mut adamw = AdamW::new(vec![half.clone()], AdamConfig::new(0.01).weight_decay(0.0)).unwrap();
        // The square of 1e-4 is no number of f16.
        adamw.step(&gradient(1e-4)).unwrap();
        let moved: Vec<f32> = half.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        for (now, before) in moved.iter().zip([1f32, -2.0, 0.5]) {
            assert!(
                ((now - before).abs() - 0.01).abs() < 0.006,
                "{dtype:?}: the first step is as long as the rate: {now}"
            );
        }
        let second = |adamw: &AdamW| adamw.second_moments().unwrap().read(half.id()).unwrap().unwrap().0;
        adamw.step(&gradient(1.0)).unwrap();
        let high = second(&adamw);
        for _ in 0..100 {
            adamw.step(&gradient(0.0)).unwrap();
        }
        for (low, high) in second(&adamw).iter().zip(&high) {
            assert!((low / high - 0.999f32.powi(100)).abs() < 1e-4, "{dtype:?}: {low} of {high}");
        }
        // A state of half precision, as earlier versions saved it.
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("state");
        adamw.save_state(&names, &path).unwrap();
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        assert_eq!(tensors["second_moment/w"].dtype(), DType::F32);
        for name in ["first_moment/w", "second_moment/w"] {
            tensors.insert(name.into(), tensors[name].to_dtype(dtype).unwrap());
        }
        candle_core::safetensors::save(&tensors, &path).unwrap();
        adamw.load_state(&names, &path).unwrap();
        adamw.step(&gradient(1.0)).unwrap();
        let mut sgd = Sgd::new(vec![half.clone()], SgdConfig::new(0.5).momentum(0.9)).unwrap();
        let before: Vec<f32> = half.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        sgd.step(&gradient(1.0)).unwrap();
        let after: Vec<f32> = half.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        assert!(before.iter().zip(&after).zip([0.5, -0.5, 0.125]).all(|((b, a), step)| (b - a - step).abs() < 0.02));
    }
}
