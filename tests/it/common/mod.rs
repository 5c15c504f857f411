//! What the tests share: numbers, models and their training, readers of a log, the command, and bounded waits.

mod command;
mod log;
mod network;
mod wait;

pub use command::*;
pub use log::*;
pub use network::*;
pub use wait::*;

use candle_core::{Device, Result, Tensor};
use gradlog::Config;
use gradlog_format::sketch::SketchConfig;

/// A deterministic tensor of numbers in -1..1, another for each seed.
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Labels 0, 1, 2, 0, 1, ...
pub fn labels(n: usize) -> Tensor {
    Tensor::from_vec((0..n as u32).map(|i| i % 3).collect::<Vec<_>>(), n, &Device::Cpu).unwrap()
}

/// Deterministic labels of three classes, others for each seed.
pub fn noisy_labels(seed: u64, n: usize) -> Tensor {
    let y: Vec<u32> = numbers(&noise(seed, &[n])).iter().map(|v| ((v + 1.0) * 1.499) as u32).collect();
    Tensor::from_vec(y, n, &Device::Cpu).unwrap()
}

/// A recorder that rounds and folds nothing of the small models here.
pub fn exact() -> Config {
    Config { sketch: SketchConfig::exact(), ..Config::default() }
}

pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn row(tensor: &Tensor, i: usize) -> Result<Tensor> {
    tensor.narrow(0, i, 1)?.contiguous()
}

/// The rows of a tensor with these numbers.
pub fn rows(tensor: &Tensor, ids: &[u64]) -> Tensor {
    let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    tensor.index_select(&Tensor::new(ids.as_slice(), &Device::Cpu).unwrap(), 0).unwrap()
}

pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

pub fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// `‖a − b‖ / ‖b‖`, and `‖a‖` where `b` is zero.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f32> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    norm(&difference) / if norm(b) == 0.0 { 1.0 } else { norm(b) }
}
