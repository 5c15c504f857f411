//! Optimizers against candle's own, the definitions in f64, and PyTorch.

mod adam;
mod by_ops;
mod sgd;
mod state;
mod torch;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

/// A small variable, one that is large enough to be shared out, and one in f64, which uses candle's ops. The first
/// number is -0.
fn variables(seed: f32) -> Vec<Var> {
    let make = |rows: usize, columns: usize, dtype: DType| {
        let number = |i| if i == 0 { -0.0 } else { (i as f32 * 0.37 + seed).sin() };
        let numbers: Vec<f32> = (0..rows * columns).map(number).collect();
        let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
        Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
    };
    vec![make(3, 5, DType::F32), make(211, 307, DType::F32), make(7, 11, DType::F64)]
}

/// Gradients that depend on the weights. That of the second variable is not contiguous.
fn gradients(variables: &[Var]) -> GradStore {
    let mut losses = variables.iter().map(|v| v.sqr().unwrap().sum_all().unwrap().to_dtype(DType::F64).unwrap());
    let first = losses.next().unwrap();
    let mut grads = losses.fold(first, |sum, loss| (sum + loss).unwrap()).backward().unwrap();
    let turned = grads.get(&variables[1]).unwrap().t().unwrap().contiguous().unwrap().t().unwrap();
    assert!(!turned.is_contiguous());
    grads.insert(&variables[1], turned);
    grads
}

fn bits(variables: &[Var]) -> Vec<Vec<u64>> {
    numbers(variables).into_iter().map(|own| own.into_iter().map(f64::to_bits).collect()).collect()
}

fn numbers(variables: &[Var]) -> Vec<Vec<f64>> {
    let all = |v: &Var| v.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    variables.iter().map(all).collect()
}
