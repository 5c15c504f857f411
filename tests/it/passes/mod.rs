//! Passes and steps: ways to record that must agree with each other and with the training.

mod depths;
mod steps;
mod training;

use crate::common::*;
use candle_core::{Module, Result, Tensor};
use candle_nn::{linear, Linear, VarMap};
use gradlog::taps::{Tapped, Taps};

struct Mlp {
    fc1: Tapped<Linear>,
    fc2: Tapped<Linear>,
}

impl Mlp {
    fn new(taps: &Taps, variables: &VarMap) -> Self {
        let vb = builder(variables);
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

/// The variables in the order of their names.
fn all_by_name(variables: &VarMap) -> Vec<candle_core::Var> {
    let data = variables.data().lock().unwrap();
    let by_name: std::collections::BTreeMap<_, _> = data.iter().collect();
    by_name.into_values().cloned().collect()
}
