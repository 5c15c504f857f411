//! Tensors that are a part of something longer or that the loop fills anew: recorded are the numbers of the pass, and
//! no more.

use crate::common::*;
use candle_core::{CpuStorage, DType, Device, Module, Result, Storage, Tensor, Var};
use candle_nn::{linear, Linear, Optimizer, VarMap, SGD};
use gradlog::taps::{LayerSpec, Parameter, PerExample, Tap, TapError, Taps};
use gradlog::{Config, Recorder};
use gradlog_analysis::{Score, ScoreQuestion};
use gradlog_format::log::Column;
use gradlog_format::run::Run;
use std::path::Path;
use std::sync::{Arc, Mutex};

fn layer(variables: &VarMap, inputs: usize) -> Linear {
    linear(inputs, 3, builder(variables).pp("fc")).unwrap()
}

/// A layer that notes how many numbers lie in the memory of the inputs that are kept for it.
struct Noting {
    layer: Linear,
    kept: Arc<Mutex<Vec<usize>>>,
}

impl Tap for Noting {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let parameters = vec![Parameter::new("weight", self.layer.weight())];
        Ok(LayerSpec::new("noting", parameters))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward(x)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        if let Storage::Cpu(CpuStorage::F32(numbers)) = &*x.storage_and_layout().0 {
            self.kept.lock().unwrap().push(numbers.len());
        }
        Ok(PerExample::Dense(delta.unsqueeze(2)?.matmul(&x.unsqueeze(1)?)?.flatten_from(1)?))
    }
}

/// candle's own MNIST example cuts its batches so, and `Tensor::copy` of such a batch copies all images.
#[test]
fn of_a_batch_cut_out_of_all_the_data_only_the_batch_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables, kept) = (Taps::new(), VarMap::new(), Arc::new(Mutex::new(Vec::new())));
    let noting = Noting { layer: layer(&variables, 4), kept: kept.clone() };
    let fc = taps.tap("fc", noting);
    let mut recorder = Recorder::create(dir.path(), &taps, Config::default()).unwrap();
    let (data, y) = (noise(1, &[1000, 4]), Tensor::new(&[0u32, 1], &Device::Cpu).unwrap());
    for first in [0, 500, 998] {
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let x = data.narrow(0, first, 2).unwrap();
        pass.cross_entropy(&fc.forward(&x).unwrap(), &y).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(*kept.lock().unwrap(), [8, 8, 8]);
}

/// The run of a last layer whose features lie in a buffer that each step fills anew, or in tensors of their own.
fn features_in_a_buffer(dir: &Path, buffered: bool) {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let head = layer(&variables, 4);
    for var in variables.all_vars() {
        var.set(&noise(7, var.dims())).unwrap();
    }
    taps.declare_last_layer("head", gradlog::taps::LastLayer::new(4, 3));
    let buffer = Var::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
    let mut sgd = SGD::new(variables.all_vars(), 0.1).unwrap();
    let mut recorder = Recorder::create(dir, &taps, exact()).unwrap();
    let y = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    for step in 0..6 {
        let features = noise(step, &[2, 4]);
        buffer.set(&features).unwrap();
        let features = if buffered { buffer.as_detached_tensor() } else { features };
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        pass.features(&features);
        let grads = pass.cross_entropy(&head.forward(&features).unwrap(), &y).unwrap().backward().unwrap();
        pass.commit(sgd.learning_rate()).unwrap();
        sgd.step(&grads).unwrap();
    }
    recorder.finish().unwrap();
}

#[test]
fn features_in_a_buffer_are_recorded_as_they_were() {
    let [own, buffered] = [false, true].map(|buffered| {
        let dir = tempfile::tempdir().unwrap();
        features_in_a_buffer(dir.path(), buffered);
        let table = ScoreQuestion::new(Score::SelfInfluence).compute(&Run::open(dir.path()).unwrap()).unwrap();
        let scores: Vec<f64> = table.rows.iter().map(|row| row.score).collect();
        (scores, vectors(dir.path(), Column::Input, 0))
    });
    assert_eq!(own, buffered);
}
