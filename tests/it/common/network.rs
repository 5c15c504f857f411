//! Small models with their data, and the one training that tests record.

use super::{noise, noisy_labels, numbers, row, rows};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Module, Result, Tensor, Var, D};
use candle_nn::{conv2d, linear, Conv2dConfig, Linear, Optimizer, VarBuilder, VarMap, SGD};
use gradlog::taps::{Tapped, Taps};
use gradlog::{RecordError, Recorder};
use std::collections::BTreeMap;

/// One tapped linear layer of four inputs, with random weights.
pub struct OneLayer {
    pub taps: Taps,
    pub layer: Tapped<Linear>,
    pub variables: VarMap,
}

pub fn one_layer(outputs: usize) -> OneLayer {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer = taps.tap("fc", linear(4, outputs, builder(&variables).pp("fc")).unwrap());
    OneLayer { taps, layer, variables }
}

/// Records a pass over noise, whose seed is the first id.
pub fn record_noise<M: Module>(
    recorder: &mut Recorder,
    model: &M,
    ids: &[u64],
) -> std::result::Result<(), RecordError> {
    let mut pass = recorder.pass(ids)?;
    let x = noise(ids[0], &[ids.len(), 4]);
    pass.cross_entropy(&model.forward(&x).unwrap(), &super::labels(ids.len()))?.backward().unwrap();
    pass.commit(0.1).map(drop)
}

pub fn builder(variables: &VarMap) -> VarBuilder<'static> {
    VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu)
}

/// A linear layer without bias over a variable of noise.
pub fn noise_linear(seed: u64, outputs: usize, inputs: usize) -> Linear {
    Linear::new(Var::from_tensor(&noise(seed, &[outputs, inputs])).unwrap().into_inner(), None)
}

/// Inputs and labels.
#[derive(Clone)]
pub struct Data {
    pub x: Tensor,
    pub y: Tensor,
}

impl Data {
    /// `n` inputs of noise and their labels, of which `seed` is the first seed.
    pub fn noise(seed: u64, n: usize, shape: &[usize]) -> Self {
        Self { x: noise(seed, &[&[n], shape].concat()), y: noisy_labels(seed + 1, n) }
    }

    pub fn select(&self, ids: &[u64]) -> Self {
        Self { x: rows(&self.x, ids), y: rows(&self.y, ids) }
    }
}

type Forward = Box<dyn Fn(&Tensor, bool) -> Result<Tensor>>;

/// A tapped model with training examples and probes. Ids are places in the data.
pub struct Network {
    pub taps: Taps,
    pub variables: VarMap,
    pub examples: Data,
    pub probes: Data,
    forward: Forward,
}

/// One step of a training.
pub struct Step {
    pub number: u64,
    pub epoch: u32,
    pub ids: Vec<u64>,
    pub rate: f64,
}

/// Drops half of the numbers in training mode, the same half each time.
fn drop_half(h: &Tensor, training: bool) -> Result<Tensor> {
    let width = h.dim(D::Minus1)?;
    let kept: Vec<f32> = (0..width).map(|i| if training && i % 2 == 0 { 0.0 } else { 1.0 }).collect();
    h.broadcast_mul(&Tensor::from_vec(kept, width, h.device())?)
}

impl Network {
    /// A model whose `forward` takes an input and whether it trains.
    pub fn new(
        taps: Taps,
        variables: VarMap,
        forward: impl Fn(&Tensor, bool) -> Result<Tensor> + 'static,
        examples: Data,
        probes: Data,
    ) -> Self {
        Self { taps, variables, examples, probes, forward: Box::new(forward) }
    }

    /// Layers of 6, 8 and 3 numbers with a tanh between. With `dropout` it drops half of the hidden numbers in
    /// training.
    pub fn mlp(examples: usize, probes: usize, dropout: bool) -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let fc1 = taps.tap("fc1", linear(6, 8, builder(&variables).pp("fc1")).unwrap());
        let fc2 = taps.tap("fc2", linear(8, 3, builder(&variables).pp("fc2")).unwrap());
        let forward =
            move |x: &Tensor, training| fc2.forward(&drop_half(&fc1.forward(x)?.tanh()?, training && dropout)?);
        Self::new(taps, variables, forward, Data::noise(1, examples, &[6]), Data::noise(3, probes, &[6]))
    }

    /// A convolution over images of 6 by 6 and a linear layer, with a ReLU between; dropout as in [`Network::mlp`].
    ///
    /// The convolution is folded, and shorter than the folded vector; the linear layer is factored. So both are exact.
    pub fn cnn(filters: usize, classes: usize, examples: usize, probes: usize, dropout: bool) -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = builder(&variables);
        let conv = taps.tap("conv", conv2d(1, filters, 3, Conv2dConfig::default(), vb.pp("conv")).unwrap());
        let fc = taps.tap("fc", linear(filters * 16, classes, vb.pp("fc")).unwrap());
        let forward = move |x: &Tensor, training| {
            fc.forward(&drop_half(&conv.forward(x)?.relu()?.flatten_from(1)?, training && dropout)?)
        };
        let data = |seed, n| Data::noise(seed, n, &[1, 6, 6]);
        Self::new(taps, variables, forward, data(1, examples), data(3, probes))
    }

    /// Sets all weights to noise times `scale`.
    pub fn fill(self, seed: u64, scale: f64) -> Self {
        self.fill_with(seed, |_| scale)
    }

    /// Sets all weights to noise times what `scale` says for each variable.
    pub fn fill_with(self, seed: u64, scale: impl Fn(&Var) -> f64) -> Self {
        for var in self.variables.all_vars() {
            var.set(&(noise(seed + var.elem_count() as u64, var.dims()) * scale(&var)).unwrap()).unwrap();
        }
        self
    }

    /// The logits in evaluation mode.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        (self.forward)(x, false)
    }

    /// The logits in training mode.
    pub fn training_logits(&self, x: &Tensor) -> Result<Tensor> {
        (self.forward)(x, true)
    }

    /// The variables by name.
    pub fn named(&self) -> BTreeMap<String, Var> {
        self.variables.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// The numbers of all variables, in the order of their names.
    pub fn weights(&self) -> Vec<Vec<f32>> {
        self.named().values().map(|var| numbers(var)).collect()
    }

    pub fn set_weights(&self, weights: &[Vec<f32>]) {
        for (var, values) in self.named().values().zip(weights) {
            var.set(&Tensor::from_vec(values.clone(), var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }

    /// A gradient by all variables in the order of their names.
    pub fn flatten(&self, grads: &GradStore) -> Vec<f32> {
        self.named().values().flat_map(|var| numbers(grads.get(var).unwrap())).collect()
    }

    /// By candle alone: the gradient of `f` of one input's logits, in evaluation mode.
    pub fn gradient(&self, x: &Tensor, i: usize, f: impl Fn(&Tensor) -> Tensor) -> Vec<f32> {
        self.flatten(&f(&self.logits(&row(x, i).unwrap()).unwrap()).backward().unwrap())
    }

    /// By candle alone: the gradient of the loss of one example, in evaluation mode.
    pub fn loss_gradient(&self, data: &Data, i: usize) -> Vec<f32> {
        self.gradient(&data.x, i, |z| candle_nn::loss::cross_entropy(z, &data.y.narrow(0, i, 1).unwrap()).unwrap())
    }

    /// By candle alone: the loss of one example, in evaluation mode.
    pub fn loss(&self, data: &Data, i: usize) -> f32 {
        let logits = self.logits(&row(&data.x, i).unwrap()).unwrap();
        candle_nn::loss::cross_entropy(&logits, &data.y.narrow(0, i, 1).unwrap()).unwrap().to_scalar().unwrap()
    }

    /// Records probes in evaluation mode.
    pub fn record_probes(&self, recorder: &mut Recorder, set: &str, ids: &[u64]) {
        let data = self.probes.select(ids);
        let mut probe = recorder.probe(set, ids).unwrap();
        probe.cross_entropy(&self.logits(&data.x).unwrap(), &data.y).unwrap().backward().unwrap();
        probe.commit().unwrap();
    }

    /// Records a pass in training mode, and returns its gradient.
    pub fn record_pass(&self, recorder: &mut Recorder, ids: &[u64], weights: Option<&[f32]>, rate: f64) -> GradStore {
        let data = self.examples.select(ids);
        let mut pass = recorder.pass(ids).unwrap();
        if let Some(weights) = weights {
            pass.weights(weights);
        }
        let loss = pass.cross_entropy(&(self.forward)(&data.x, true).unwrap(), &data.y).unwrap();
        let grads = loss.backward().unwrap();
        pass.commit(rate).unwrap();
        grads
    }

    /// One step of SGD, recorded.
    pub fn step(&self, recorder: &mut Recorder, step: &Step) {
        recorder.set_epoch(step.epoch);
        let grads = self.record_pass(recorder, &step.ids, None, step.rate);
        SGD::new(self.variables.all_vars(), step.rate).unwrap().step(&grads).unwrap();
    }

    /// Trains with SGD. Before each step, at the weights that it will change, `before` may record and compute.
    pub fn train(
        &self,
        recorder: &mut Recorder,
        steps: impl IntoIterator<Item = Step>,
        mut before: impl FnMut(&mut Recorder, &Step),
    ) {
        for step in steps {
            recorder.set_epoch(step.epoch);
            before(recorder, &step);
            self.step(recorder, &step);
        }
    }
}
