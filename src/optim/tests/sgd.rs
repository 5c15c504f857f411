//! SGD against candle's own and the definition.

use super::{bits, gradients, numbers, variables};
use crate::optim::buffer::Buffer;
use crate::optim::{ParameterGroup, Sgd, SgdConfig};
use crate::step::{StepReport, StepRule};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, SGD};

#[test]
fn plain_sgd_equals_candles_bit_for_bit() {
    let (ours, candles) = (variables(1.0), variables(1.0));
    let mut sgd = Sgd::new(ours.clone(), SgdConfig::new(0.03)).unwrap();
    let mut reference = SGD::new(candles.clone(), 0.03).unwrap();
    // A weight of -0 with a gradient of -0, which candle's own backward does not make.
    let with_zero = |variables: &[Var]| {
        let mut grads = gradients(variables);
        grads.insert(&variables[0], variables[0].copy().unwrap());
        grads
    };
    for step in 0..4 {
        sgd.step(&with_zero(&ours)).unwrap();
        reference.step(&with_zero(&candles)).unwrap();
        assert!(bits(&ours) == bits(&candles), "step {step}");
        sgd.set_learning_rate(0.01);
        reference.set_learning_rate(0.01);
    }
    assert_eq!(sgd.learning_rate(), 0.01);
}

/// Compares with the definition in f64.
#[test]
fn momentum_and_decay_follow_pytorchs_definition() {
    for (momentum, decay) in [(0.9, 0.0), (0.0, 0.1), (0.9, 0.1)] {
        let ours = variables(2.0);
        let config = SgdConfig::new(0.05).momentum(momentum).weight_decay(decay);
        let mut sgd = Sgd::new(ours.clone(), config).unwrap();
        let mut weights = numbers(&ours);
        let mut velocity: Vec<Vec<f64>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
        for _ in 0..5 {
            sgd.step(&gradients(&ours)).unwrap();
            for (w, v) in weights.iter_mut().flatten().zip(velocity.iter_mut().flatten()) {
                *v = momentum * *v + (2.0 * *w + decay * *w);
                *w -= 0.05 * *v;
            }
        }
        for (got, expected) in numbers(&ours).iter().flatten().zip(weights.iter().flatten()) {
            assert!((got - expected).abs() < 1e-5, "{momentum}, {decay}: {got} for {expected}");
        }
        let info = sgd.step_info();
        assert_eq!((info.learning_rate, info.momentum, info.weight_decay), (0.05, Some(momentum), Some(decay)));
    }
}

/// The velocity does not keep the graph of a gradient alive. A gradient of a wrong shape is an error.
#[test]
fn velocities_do_not_keep_graphs() {
    for dtype in [DType::F32, DType::F64] {
        let ones =
            |rows, columns| Var::from_tensor(&Tensor::ones((rows, columns), dtype, &Device::Cpu).unwrap()).unwrap();
        let layers = [ones(3, 4), ones(4, 2)];
        let mut sgd = Sgd::new(layers.to_vec(), SgdConfig::new(0.01).momentum(0.9)).unwrap();
        for _ in 0..2 {
            let hidden = Tensor::ones((5, 3), dtype, &Device::Cpu).unwrap().matmul(&layers[0]).unwrap();
            let mut grads = hidden.matmul(&layers[1]).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&layers[1]).unwrap().track_op(), "the test needs a gradient with a graph");
            sgd.step(&grads).unwrap();
            let keeps_a_graph =
                |buffer: &Option<Buffer>| matches!(buffer, Some(Buffer::Tensor(tensor)) if tensor.track_op());
            assert!(sgd.state.parameters.iter().all(|p| p.state.is_some() && !keeps_a_graph(&p.state)), "{dtype:?}");
            grads.insert(&layers[0], Tensor::ones((1, 4), dtype, &Device::Cpu).unwrap());
            let refused = sgd.step(&grads).unwrap_err().to_string();
            assert!(refused.contains("[1, 4]") && refused.contains("[3, 4]"), "{refused}");
        }
    }
}

#[test]
fn a_variable_without_gradient_stays_and_wrong_settings_are_refused() {
    let ours = variables(3.0);
    let before = numbers(&ours);
    let mut sgd = Sgd::new(ours.clone(), SgdConfig::new(0.1).momentum(0.9).weight_decay(0.1)).unwrap();
    sgd.step(&ours[0].sqr().unwrap().sum_all().unwrap().backward().unwrap()).unwrap();
    let after = numbers(&ours);
    assert!(after[0] != before[0] && after[1..] == before[1..]);
    for config in [SgdConfig::new(-0.1), SgdConfig::new(f64::NAN), SgdConfig::new(0.1).momentum(f64::INFINITY)] {
        assert!(Sgd::new(vec![], config).is_err(), "{config:?}");
    }
    sgd.set_learning_rate(f64::NAN);
    assert!(sgd.step(&gradients(&ours)).unwrap_err().to_string().contains("learning rate of NaN"));
    assert!(numbers(&ours) == after);
}

/// Compares dampening and Nesterov momentum with the definition in f64.
#[test]
fn dampening_and_nesterov_follow_pytorchs_definition() {
    for (dampening, nesterov) in [(0.4, false), (0.0, true)] {
        let ours = variables(2.5);
        let config = SgdConfig::new(0.05).momentum(0.9).weight_decay(0.1).dampening(dampening);
        let mut sgd = Sgd::new(ours.clone(), if nesterov { config.nesterov() } else { config }).unwrap();
        let mut weights = numbers(&ours);
        let mut velocity: Vec<Vec<f64>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
        for step in 0..5 {
            sgd.step(&gradients(&ours)).unwrap();
            for (w, v) in weights.iter_mut().flatten().zip(velocity.iter_mut().flatten()) {
                let direction = 2.0 * *w + 0.1 * *w;
                *v = if step == 0 { direction } else { 0.9 * *v + (1.0 - dampening) * direction };
                *w -= 0.05 * if nesterov { direction + 0.9 * *v } else { *v };
            }
        }
        for (got, expected) in numbers(&ours).iter().flatten().zip(weights.iter().flatten()) {
            assert!((got - expected).abs() < 1e-5, "{dampening}, {nesterov}: {got} for {expected}");
        }
        // The log knows no dampening.
        let told = sgd.step_info();
        assert_eq!((told.momentum, told.rule), (nesterov.then_some(0.9), nesterov.then_some(StepRule::NesterovSgd)));
    }
    assert!(Sgd::new(vec![], SgdConfig::new(0.1).nesterov()).is_err());
    assert!(Sgd::new(vec![], SgdConfig::new(0.1).momentum(0.9).dampening(0.1).nesterov()).is_err());
}

#[test]
fn groups_have_their_own_rate_and_decay() {
    let (ours, alone) = (variables(4.0), variables(4.0));
    let groups = vec![
        ParameterGroup::new(ours[..1].to_vec()).rate_factor(0.1),
        ParameterGroup::new(ours[1..].to_vec()).weight_decay(0.0),
    ];
    let mut sgd = Sgd::with_groups(groups, SgdConfig::new(0.2).weight_decay(0.3)).unwrap();
    let mut first = Sgd::new(alone[..1].to_vec(), SgdConfig::new(0.2 * 0.1).weight_decay(0.3)).unwrap();
    let mut others = Sgd::new(alone[1..].to_vec(), SgdConfig::new(0.2)).unwrap();
    for _ in 0..3 {
        sgd.step(&gradients(&ours)).unwrap();
        let grads = gradients(&alone);
        first.step(&grads).unwrap();
        others.step(&grads).unwrap();
    }
    assert!(bits(&ours) == bits(&alone));
    let info = sgd.step_info();
    assert_eq!((info.weight_decay, info.momentum), (Some(0.3), Some(0.0)));
    assert_eq!(info.variable_rates, [(ours[0].id(), 0.2 * 0.1)]);
    let own: Vec<_> = ours[1..].iter().map(|variable| (variable.id(), 0.0)).collect();
    assert_eq!(info.variable_decays, own);
    let twice = vec![ParameterGroup::new(ours.clone()), ParameterGroup::new(ours[..1].to_vec())];
    let error = Sgd::with_groups(twice, SgdConfig::new(0.1)).unwrap_err().to_string();
    assert!(error.contains("[3, 5]") && error.contains("two places"), "{error}");
    let negative = vec![ParameterGroup::new(ours).rate_factor(-1.0)];
    assert!(Sgd::with_groups(negative, SgdConfig::new(0.1)).is_err());
}
