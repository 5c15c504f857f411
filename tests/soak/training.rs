//! The training that the harnesses run: a tiny tapped MLP whose every step is a function of the step's number.
//!
//! Inputs, labels and first weights are functions of ids and steps, and candle on one machine repeats itself bit for
//! bit. So a run that was cut off anywhere holds the first rows of the run that nobody cut, and whatever else it holds
//! was torn or invented.

use candle_core::{Device, Module, Result, Tensor, Var};
use candle_nn::{Linear, Optimizer, SGD};
use gradlog::{RecordError, Recorder, SketchConfig, Tapped, Taps};

/// Examples in a batch.
pub const BATCH: u64 = 8;
/// Examples in an epoch.
pub const EXAMPLES: u64 = 96;
/// Width of an input.
pub const INPUTS: usize = 64;
/// Width of the hidden layer.
const HIDDEN: usize = 32;
/// Number of classes.
const CLASSES: usize = 4;
/// The optimizer's learning rate.
pub const LEARNING_RATE: f64 = 0.05;

/// SplitMix64 of `x`: the only randomness in here.
pub fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Number `index` of a stream, in -1..1.
pub fn noise(stream: u64, index: u64) -> f32 {
    (mix(mix(stream) ^ index) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// The ids of a step's batch: each epoch visits each example once.
pub fn ids(step: u64) -> Vec<u64> {
    // 37 has no factor in common with the number of examples, so this is a permutation.
    (step * BATCH..(step + 1) * BATCH).map(|place| place * 37 % EXAMPLES).collect()
}

/// The epoch of a step.
pub fn epoch(step: u64) -> u32 {
    (step * BATCH / EXAMPLES) as u32
}

/// What the model sees of example `id` at `step`: as with augmented data, never the same twice.
pub fn input(id: u64, step: u64) -> Vec<f32> {
    (0..INPUTS as u64).map(|i| noise(1 << 40 | step << 16 | id, i)).collect()
}

/// The sketches of a harness: nothing is rounded, so that every bit of a row can be compared.
pub fn sketch() -> SketchConfig {
    SketchConfig::exact()
}

/// A model in training.
pub struct Training {
    pub taps: Taps,
    first: Tapped<Linear>,
    second: Tapped<Linear>,
    variables: Vec<Var>,
    optimizer: SGD,
    step: u64,
}

impl Training {
    pub fn new() -> Result<Self> {
        let taps = Taps::new();
        let mut variables = Vec::new();
        let mut layer = |stream: u64, inputs: usize, outputs: usize| -> Result<Linear> {
            let mut parameter = |stream: u64, shape: &[usize]| -> Result<Tensor> {
                let values: Vec<f32> =
                    (0..shape.iter().product::<usize>()).map(|i| noise(stream, i as u64) / 4.0).collect();
                let var = Var::from_vec(values, shape, &Device::Cpu)?;
                variables.push(var.clone());
                Ok(var.as_tensor().clone())
            };
            Ok(Linear::new(parameter(stream, &[outputs, inputs])?, Some(parameter(stream + 1, &[outputs])?)))
        };
        let first = taps.tap("first", layer(1, INPUTS, HIDDEN)?);
        let second = taps.tap("second", layer(3, HIDDEN, CLASSES)?);
        let optimizer = SGD::new(variables.clone(), LEARNING_RATE)?;
        Ok(Self { taps, first, second, variables, optimizer, step: 0 })
    }

    /// Steps done so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step over as many examples as `batches` batches have, recorded; the optimizer steps whatever the recorder
    /// says. Returns the loss.
    pub fn step(
        &mut self,
        recorder: &mut Recorder,
        batches: u64,
    ) -> Result<(f32, std::result::Result<(), RecordError>)> {
        let step = self.step;
        self.step += 1;
        // A larger batch has ids of its own, so that it has inputs of its own, which no compressor makes small.
        let ids = if batches == 1 { ids(step) } else { (0..BATCH * batches).map(|id| EXAMPLES + id).collect() };
        let (x, y) = batch(&ids, step)?;
        recorder.set_epoch(epoch(step));
        let (loss, grads, recorded) = match recorder.pass(&ids) {
            Ok(mut pass) => {
                let loss = pass.cross_entropy(&self.forward(&x)?, &y)?;
                let grads = loss.backward()?;
                (loss, grads, pass.commit(LEARNING_RATE))
            }
            // A guest that has failed is shown out; the training goes on in the same way without it.
            Err(error) => {
                let mut disabled = Recorder::disabled();
                let loss = disabled.pass(&ids)?.cross_entropy(&self.forward(&x)?, &y)?;
                let grads = loss.backward()?;
                (loss, grads, Err(error))
            }
        };
        self.optimizer.step(&grads)?;
        Ok((loss.to_scalar::<f32>()?, recorded.map(drop)))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.first.forward(x)?.relu()?)
    }

    /// All weights, as bits.
    pub fn weights(&self) -> Result<Vec<u32>> {
        let mut bits = Vec::new();
        for variable in &self.variables {
            bits.extend(variable.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
        }
        Ok(bits)
    }
}

/// Inputs and labels of a batch.
fn batch(ids: &[u64], step: u64) -> Result<(Tensor, Tensor)> {
    let x: Vec<f32> = ids.iter().flat_map(|id| input(*id, step)).collect();
    let y: Vec<u32> = ids.iter().map(|id| (id % CLASSES as u64) as u32).collect();
    Ok((Tensor::from_vec(x, (ids.len(), INPUTS), &Device::Cpu)?, Tensor::from_vec(y, ids.len(), &Device::Cpu)?))
}
