//! Shared by several examples: reproducible weights, and batches in a shuffled order.

use candle_core::{Result, Tensor};
use candle_nn::VarMap;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Sets every weight of two or more dimensions to normal numbers of variance 1 / (3 fan-in), as wide as PyTorch's
/// default. Sets every bias to zero. Scales of norms stay as they are.
///
/// candle's CPU generator has no seed, so a reproducible run draws its weights here.
pub fn seed_weights(variables: &VarMap, seed: u64) -> Result<()> {
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut named: Vec<_> = data.iter().collect();
    named.sort_by_key(|(name, _)| name.as_str());
    let mut rng = StdRng::seed_from_u64(seed);
    for (name, variable) in named {
        let dims = variable.dims();
        if dims.len() > 1 {
            let fan_in: usize = dims[1..].iter().product();
            let scale = (1.0 / (3.0 * fan_in as f64)).sqrt();
            let values: Vec<f32> = (0..variable.elem_count()).map(|_| (normal(&mut rng) * scale) as f32).collect();
            variable.set(&Tensor::from_vec(values, dims, variable.device())?)?;
        } else if name.ends_with("bias") {
            variable.set(&variable.zeros_like()?)?;
        }
    }
    Ok(())
}

/// A standard normal number (Box and Muller 1958).
pub fn normal(rng: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// The numbers `0..count` in batches of `size`, in an order that `seed` and `epoch` decide. The last batch may be
/// short.
pub fn batches(count: usize, size: usize, seed: u64, epoch: u32) -> Vec<Vec<u64>> {
    let mut order: Vec<u64> = (0..count as u64).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) + u64::from(epoch)));
    order.chunks(size).map(<[u64]>::to_vec).collect()
}
