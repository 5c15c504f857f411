//! The error barrier: by hand, on a network with its units exchanged, and on weights that do not belong together.

use crate::common::*;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, VarMap};
use gradlog::connectivity::{error_barrier, interpolate, set_weights, weights, ConnectivityError, Weights};

fn point(x: f64, y: f64) -> Weights {
    let scalar = |value: f64| Tensor::new(value, &Device::Cpu).unwrap();
    Weights::from([("x".to_string(), scalar(x)), ("y".to_string(), scalar(y))])
}

fn value(weights: &Weights, name: &str) -> f64 {
    weights[name].to_scalar::<f64>().unwrap()
}

#[test]
fn by_hand_with_ends_of_different_height() {
    // R = (x² − 1)² + y: the ends have the risks 3 and 1; α = 0.5 lies at x = 0, y = 2, with risk 3 above a chord of 2.
    let risk = |w: &Weights| Ok((value(w, "x").powi(2) - 1.0).powi(2) + value(w, "y"));
    let barrier = error_barrier(&point(1.0, 3.0), &point(-1.0, 1.0), &[0.75, 0.25, 0.5, 0.5, 1.0], risk).unwrap();
    assert_eq!((barrier.height, barrier.alpha), (1.0, 0.5));
    let path: Vec<(f64, f64, f64)> = barrier.path.iter().map(|p| (p.alpha, p.error, p.excess)).collect();
    // At α = 0.75: x = 0.5, y = 2.5, risk 0.5625 + 2.5.
    assert_eq!(
        path,
        [(0.0, 1.0, 0.0), (0.25, 2.0625, 0.5625), (0.5, 3.0, 1.0), (0.75, 3.0625, 0.5625), (1.0, 3.0, 0.0)]
    );
    // Between two places of one valley there is none, and below the chord is not a hill.
    let valley = error_barrier(&point(2.0, 0.0), &point(-1.0, 0.0), &[0.5], |w| Ok(value(w, "x").powi(2))).unwrap();
    assert_eq!((valley.height, valley.path[1].excess), (0.0, 0.25 - 2.5));
}

#[test]
fn the_ends_are_the_weights_themselves() {
    let (a, b) = (point(f64::MAX, 1.0), point(f64::MIN, 0.1));
    for (alpha, expected) in [(1.0, &a), (0.0, &b)] {
        let end = interpolate(&a, &b, alpha).unwrap();
        assert_eq!(value(&end, "x"), value(expected, "x"));
        assert_eq!(value(&end, "y"), value(expected, "y"));
    }
    assert!((value(&interpolate(&point(1.0, 0.0), &point(3.0, 0.0), 0.25).unwrap(), "x") - 2.5).abs() < 1e-12);
}

#[test]
fn a_network_with_exchanged_units_is_the_same_function_behind_a_hill() {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let (fc1, fc2) = (linear(6, 16, vb.pp("fc1")).unwrap(), linear(16, 3, vb.pp("fc2")).unwrap());
    let fill = |seed: u64, shape: &[usize]| noise(seed, shape);
    let one = Weights::from([
        ("fc1.weight".to_string(), fill(1, &[16, 6])),
        ("fc1.bias".to_string(), fill(2, &[16])),
        ("fc2.weight".to_string(), fill(3, &[3, 16])),
        ("fc2.bias".to_string(), fill(4, &[3])),
    ]);
    let order = Tensor::from_vec((0..16u32).rev().collect::<Vec<_>>(), 16, &Device::Cpu).unwrap();
    let mut other = one.clone();
    for (name, dim) in [("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)] {
        other.insert(name.into(), one[name].index_select(&order, dim).unwrap().contiguous().unwrap());
    }
    let x = noise(5, &[200, 6]);
    set_weights(&variables, &one).unwrap();
    let labels = fc2.forward(&fc1.forward(&x).unwrap().relu().unwrap()).unwrap().argmax(1).unwrap();
    let mut calls = 0;
    let error = |w: &Weights| {
        calls += 1;
        set_weights(&variables, w).unwrap();
        let right = fc2.forward(&fc1.forward(&x)?.relu()?)?.argmax(1)?.eq(&labels)?.to_dtype(DType::F32)?;
        Ok(1.0 - f64::from(right.mean_all()?.to_scalar::<f32>()?))
    };
    let barrier = error_barrier(&one, &other, &[0.25, 0.5, 0.75], error).unwrap();
    assert_eq!(calls, 5);
    assert!(barrier.path[0].error < 1e-6 && barrier.path[4].error < 1e-6, "{barrier:?}");
    assert!(barrier.height > 0.1, "{barrier:?}");
    // The copies are copies: what was set since has not changed them, and comes back as it was set.
    set_weights(&variables, &one).unwrap();
    let copy = weights(&variables).unwrap();
    set_weights(&variables, &other).unwrap();
    for (name, tensor) in &one {
        assert_eq!(numbers(&copy[name]), numbers(tensor), "{name}");
    }
    assert_eq!(numbers(&weights(&variables).unwrap()["fc1.weight"]), numbers(&other["fc1.weight"]));
}

#[test]
fn weights_that_do_not_belong_together_are_refused() {
    let zero = |_: &Weights| Ok(0.0);
    let (mut fewer, mut wider) = (point(1.0, 2.0), point(1.0, 2.0));
    fewer.remove("y");
    wider.insert("x".into(), Tensor::new(&[1.0f64, 2.0], &Device::Cpu).unwrap());
    for (a, b) in [(&point(0.0, 0.0), &fewer), (&fewer, &point(0.0, 0.0))] {
        let error = error_barrier(a, b, &[0.5], zero).unwrap_err();
        assert!(matches!(&error, ConnectivityError::Names { name } if name == "y"), "{error}");
    }
    let error = error_barrier(&point(0.0, 0.0), &wider, &[0.5], zero).unwrap_err();
    assert!(matches!(&error, ConnectivityError::Shapes { name, .. } if name == "x"), "{error}");
    for alpha in [-0.1, 1.1, f64::NAN] {
        let error = error_barrier(&point(0.0, 0.0), &point(1.0, 1.0), &[alpha], zero).unwrap_err();
        assert!(matches!(error, ConnectivityError::Alpha { .. }), "{error}");
    }
    let error = error_barrier(&point(0.0, 0.0), &point(1.0, 1.0), &[0.5], |_| Ok(f64::NAN)).unwrap_err();
    assert!(matches!(error, ConnectivityError::NotFinite { .. }), "{error}");
}
