//! The reference values of one training, and its model built with candle.

use crate::common::*;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{conv2d, linear, linear_no_bias, Conv2dConfig, Module, VarMap};
use gradlog::ops::{max_pool2d, relu};
use gradlog::Taps;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("agreement")
}

/// The reference values of one training, as `reference.py` or `ekfac.py` wrote them.
pub struct Reference {
    pub name: String,
    tensors: HashMap<String, Tensor>,
    about: serde_json::Value,
}

impl Reference {
    pub fn load(name: &str) -> Self {
        Self::load_described(name, "reference")
    }

    /// Reads `NAME.safetensors`, of which `DESCRIPTION.json` has versions and counts.
    pub fn load_described(name: &str, description: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{description}.json"))).unwrap();
        let file = folder().join(format!("{name}.safetensors"));
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        Self { name: name.into(), tensors, about: serde_json::from_str(&text).unwrap() }
    }

    /// What the table calls the training.
    pub fn title(&self) -> String {
        self.about["title"].as_str().map_or_else(|| self.name.to_uppercase(), str::to_owned)
    }

    pub fn count(&self, what: &str) -> usize {
        self.about[what].as_u64().unwrap() as usize
    }

    pub fn number(&self, what: &str) -> f64 {
        self.about["trainings"][&self.name][what].as_f64().unwrap()
    }

    /// The learning rate of each epoch.
    pub fn rates(&self) -> Vec<f64> {
        let rates = self.about["trainings"][&self.name]["rates"].as_array().unwrap();
        rates.iter().map(|rate| rate.as_f64().unwrap()).collect()
    }

    /// `PyTorch 2.0.0`, for the package `torch`.
    pub fn version(&self, package: &str) -> String {
        let version = self.about["versions"][package].as_str().unwrap();
        let name = match package {
            "torch" => "PyTorch",
            "captum" => "Captum",
            other => other,
        };
        format!("{name} {version}")
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn numbers(&self, name: &str) -> Vec<f32> {
        numbers(self.tensor(name))
    }

    fn integers(&self, name: &str) -> Tensor {
        self.tensor(name).to_dtype(DType::U32).unwrap()
    }

    /// The batches of an epoch.
    pub fn batches(&self, epoch: usize) -> Vec<Vec<u64>> {
        let order: Vec<u32> = self.integers("order").get(epoch).unwrap().to_vec1().unwrap();
        let order: Vec<u64> = order.into_iter().map(u64::from).collect();
        order.chunks(self.count("batch")).map(<[u64]>::to_vec).collect()
    }

    /// The weights before an epoch, or after the last one.
    pub fn weights(&self, epoch: usize) -> HashMap<String, Tensor> {
        let prefix = format!("epoch{epoch}.");
        let named = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| name.strip_prefix(&prefix).map(|name| (name.to_owned(), tensor.clone())));
        named.collect()
    }

    /// The model, tapped, with the data.
    pub fn network(&self) -> Network {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let forward = match self.name.as_str() {
            "mlp" => mlp(&taps, &variables),
            "ekfac" => tanh_mlp(&taps, &variables),
            _ => cnn(&taps, &variables),
        };
        let data =
            |part: &str| Data { x: self.tensor(&format!("{part}.x")).clone(), y: self.integers(&format!("{part}.y")) };
        Network::new(taps, variables, forward, data("train"), data("probe"))
    }

    pub fn set_weights(&self, network: &Network, epoch: usize) {
        let weights = self.weights(epoch);
        let named = network.named();
        assert_eq!(weights.len(), named.len());
        for (name, variable) in named {
            variable.set(&weights[&name]).unwrap();
        }
    }
}

type Forward = Box<dyn Fn(&Tensor, bool) -> Result<Tensor>>;

fn mlp(taps: &Taps, variables: &VarMap) -> Forward {
    let layer =
        |name: &str, inputs, outputs| taps.tap(name, linear(inputs, outputs, builder(variables).pp(name)).unwrap());
    let (fc1, fc2, fc3) = (layer("fc1", 196, 24), layer("fc2", 24, 16), layer("fc3", 16, 10));
    Box::new(move |x, _| fc3.forward(&relu(&fc2.forward(&relu(&fc1.forward(&x.flatten_from(1)?)?)?)?)?))
}

fn tanh_mlp(taps: &Taps, variables: &VarMap) -> Forward {
    let layer =
        |name: &str, inputs, outputs| taps.tap(name, linear(inputs, outputs, builder(variables).pp(name)).unwrap());
    let (fc1, fc2) = (layer("fc1", 12, 8), layer("fc2", 8, 4));
    Box::new(move |x, _| fc2.forward(&fc1.forward(x)?.tanh()?))
}

fn cnn(taps: &Taps, variables: &VarMap) -> Forward {
    let vb = builder(variables);
    let strided = Conv2dConfig { stride: 2, ..Conv2dConfig::default() };
    let padded = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let conv1 = taps.tap("conv1", conv2d(1, 6, 3, strided, vb.pp("conv1")).unwrap());
    let conv2 = taps.tap("conv2", conv2d(6, 8, 3, padded, vb.pp("conv2")).unwrap());
    let fc = taps.tap("fc", linear_no_bias(72, 10, vb.pp("fc")).unwrap());
    Box::new(move |x, _| {
        let x = max_pool2d(&relu(&conv1.forward(x)?)?, 2)?;
        fc.forward(&relu(&conv2.forward(&x)?)?.flatten_from(1)?)
    })
}
