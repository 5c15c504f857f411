//! Adam and AdamW against candle's own and the definition.

use super::{bits, gradients, numbers, variables};
use crate::optim::{Adam, AdamConfig, AdamW, ParameterGroup};
use crate::step::StepReport;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

#[test]
fn adamw_equals_candles_bit_for_bit() {
    for (beta1, weight_decay) in [(0.9, 0.01), (0.0, 0.0), (0.5, 0.3)] {
        let params = ParamsAdamW { lr: 0.03, beta1, weight_decay, ..Default::default() };
        let (ours, candles) = (variables(1.0), variables(1.0));
        let mut adamw = AdamW::new(ours.clone(), params.clone().into()).unwrap();
        let mut reference = candle_nn::AdamW::new(candles.clone(), params).unwrap();
        for step in 0..6 {
            adamw.step(&gradients(&ours)).unwrap();
            reference.step(&gradients(&candles)).unwrap();
            assert!(bits(&ours) == bits(&candles), "step {step}");
            adamw.set_learning_rate(0.01);
            reference.set_learning_rate(0.01);
        }
        assert_eq!(adamw.learning_rate(), 0.01);
    }
    let default = AdamW::new_lr(vec![], 0.001).unwrap();
    assert_eq!(*default.config(), AdamConfig::from(ParamsAdamW::default()));
}

/// Compares Adam, whose decay goes through the gradient, with the definition in f64.
#[test]
fn adam_follows_pytorchs_definition() {
    let ours = variables(2.0);
    let mut adam = Adam::new(ours.clone(), AdamConfig::new(0.05).betas(0.8, 0.95).weight_decay(0.1)).unwrap();
    let mut weights = numbers(&ours);
    let mut moments: Vec<Vec<(f64, f64)>> = weights.iter().map(|w| vec![(0.0, 0.0); w.len()]).collect();
    for step in 1..=5 {
        adam.step(&gradients(&ours)).unwrap();
        for (w, (m, v)) in weights.iter_mut().flatten().zip(moments.iter_mut().flatten()) {
            let g = 2.0 * *w + 0.1 * *w;
            *m = 0.8 * *m + 0.2 * g;
            *v = 0.95 * *v + 0.05 * g * g;
            let (m, v) = (*m / (1.0 - 0.8f64.powi(step)), *v / (1.0 - 0.95f64.powi(step)));
            *w -= 0.05 * m / (v.sqrt() + 1e-8);
        }
    }
    for (got, expected) in numbers(&ours).iter().flatten().zip(weights.iter().flatten()) {
        assert!((got - expected).abs() < 2e-5, "{got} for {expected}");
    }
    assert_eq!(Adam::new_lr(vec![], 0.1).unwrap().config().weight_decay, Some(0.0));
}

#[test]
fn groups_have_their_own_rate_and_decay() {
    let (ours, alone) = (variables(4.0), variables(4.0));
    let groups = vec![
        ParameterGroup::new(ours[..1].to_vec()).rate_factor(0.1),
        ParameterGroup::new(ours[1..].to_vec()).weight_decay(0.0),
    ];
    let mut adamw = AdamW::with_groups(groups, AdamConfig::new(0.2)).unwrap();
    let mut first = AdamW::new_lr(alone[..1].to_vec(), 0.2 * 0.1).unwrap();
    let mut others = AdamW::new(alone[1..].to_vec(), AdamConfig::new(0.2).weight_decay(0.0)).unwrap();
    for _ in 0..3 {
        adamw.step(&gradients(&ours)).unwrap();
        let grads = gradients(&alone);
        first.step(&grads).unwrap();
        others.step(&grads).unwrap();
    }
    assert!(bits(&ours) == bits(&alone));
    let info = adamw.step_info();
    assert_eq!((info.momentum, info.weight_decay, info.learning_rate), (None, Some(0.01), 0.2));
    assert_eq!(info.variable_rates, [(ours[0].id(), 0.2 * 0.1)]);
    let own: Vec<_> = ours[1..].iter().map(|variable| (variable.id(), 0.0)).collect();
    assert_eq!(info.variable_decays, own);
    let split = ParameterGroup::decay_matrices(vec![
        ours[0].clone(),
        candle_core::Var::zeros(3, DType::F32, &Device::Cpu).unwrap(),
    ]);
    assert_eq!((split[0].variables.len(), split[0].weight_decay), (1, None));
    assert_eq!((split[1].variables.len(), split[1].weight_decay), (1, Some(0.0)));
}

/// A variable that has no gradient for a while begins with the bias correction of its own first step.
#[test]
fn a_variable_without_gradient_stays_and_wrong_settings_are_refused() {
    let ours = variables(3.0);
    let before = numbers(&ours);
    let mut adamw = AdamW::new(ours.clone(), AdamConfig::new(0.1).weight_decay(0.0)).unwrap();
    for _ in 0..3 {
        adamw.step(&ours[0].sqr().unwrap().sum_all().unwrap().backward().unwrap()).unwrap();
    }
    let after = numbers(&ours);
    assert!(after[0] != before[0] && after[1..] == before[1..]);
    adamw.step(&gradients(&ours)).unwrap();
    for (now, before) in numbers(&ours)[2].iter().zip(&before[2]).skip(1) {
        assert!(((now - before).abs() - 0.1).abs() < 1e-3, "the first step of Adam is as long as its rate");
    }
    for config in [
        AdamConfig::new(-0.1),
        AdamConfig::new(f64::NAN),
        AdamConfig::new(0.1).betas(1.0, 0.9),
        AdamConfig::new(0.1).betas(0.9, f64::NAN),
        AdamConfig::new(0.1).epsilon(-1.0),
        AdamConfig::new(0.1).weight_decay(f64::INFINITY),
    ] {
        assert!(AdamW::new(vec![], config).is_err() && Adam::new(vec![], config).is_err(), "{config:?}");
    }
    let mut grads = gradients(&ours);
    grads.insert(&ours[0], Tensor::ones((1, 5), DType::F32, &Device::Cpu).unwrap());
    let refused = adamw.step(&grads).unwrap_err().to_string();
    assert!(refused.contains("[1, 5]") && refused.contains("[3, 5]"), "{refused}");
    grads.insert(&ours[0], Tensor::ones((3, 5), DType::F64, &Device::Cpu).unwrap());
    assert!(adamw.step(&grads).unwrap_err().to_string().contains("F64"));
}

/// Moments do not keep the graph of a gradient alive.
#[test]
fn moments_do_not_keep_graphs() {
    let ones = |rows, columns| {
        let ones = Tensor::ones((rows, columns), DType::F64, &Device::Cpu).unwrap();
        candle_core::Var::from_tensor(&ones).unwrap()
    };
    let layers = [ones(3, 4), ones(4, 2)];
    let mut adamw = AdamW::new_lr(layers.to_vec(), 0.01).unwrap();
    let hidden = Tensor::ones((5, 3), DType::F64, &Device::Cpu).unwrap().matmul(&layers[0]).unwrap();
    let grads = hidden.matmul(&layers[1]).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&layers[1]).unwrap().track_op(), "the test needs a gradient with a graph");
    adamw.step(&grads).unwrap();
    for parameter in &adamw.0.parameters {
        let moments = parameter.state.as_ref().unwrap();
        for buffer in [&moments.first, &moments.second] {
            assert!(!buffer.to_tensor(&parameter.variable).unwrap().track_op());
        }
    }
}

/// A variable that is trained from later on has a count of steps of its own, which its bias correction uses.
#[test]
fn second_moments_come_with_the_steps_of_each_variable() {
    let early = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let late = Var::new(&[3f64], &Device::Cpu).unwrap();
    let mut adamw = AdamW::new_lr(vec![early.clone(), late.clone()], 0.0).unwrap();
    for step in 0..4 {
        let mut loss = early.sqr().unwrap().sum_all().unwrap();
        if step == 3 {
            let other = late.sqr().unwrap().sum_all().unwrap().to_dtype(DType::F32).unwrap();
            loss = (loss + other).unwrap();
        }
        adamw.step(&loss.backward().unwrap()).unwrap();
    }
    let moments = adamw.second_moments().unwrap();
    let (v, steps) = moments.read(early.id()).unwrap().unwrap();
    let decayed = 1.0 - 0.999f32.powi(4);
    assert!(steps == Some(4) && (v[0] - 4.0 * decayed).abs() < 1e-6 && (v[1] - 16.0 * decayed).abs() < 1e-5, "{v:?}");
    let (v, steps) = moments.read(late.id()).unwrap().unwrap();
    assert!(steps == Some(1) && (v[0] - 36.0 * 0.001).abs() < 1e-6, "{v:?} {steps:?}");
}
