//! Exact influence functions of logistic regression, the oracle beside what comes from the log.
//!
//! The Hessian of `(1/n)·Σ ℓ_i + (λ/2)·‖W‖²` by the weights of one layer is known in closed form:
//! `(H + λ)V = (1/n)·Σ_i [diag(p_i) − p_i p_iᵀ] (V x_i) x_iᵀ + λV`. In f64, at the trained weights, inverted by conjugate gradients.

use crate::task::{probabilities, Images, Model};
use anyhow::Result;
use gradlog::audit::{conjugate_gradient, Prediction};
use indicatif::ProgressBar;

const CLASSES: usize = 10;
/// The relative residual at which a solution is good enough.
const TOLERANCE: f64 = 1e-5;

/// `(1/n)·g_z'ᵀ (H + λ)⁻¹ g_z` of every training example on every probe, positive where it helped; and the largest residual.
pub fn influence_functions(
    model: &Model,
    train: &Images,
    probes: &Images,
    weight_decay: f64,
    bar: &ProgressBar,
) -> Result<(Prediction, f64)> {
    let (weights, bias) = (model.numbers("fc1.weight")?, model.numbers("fc1.bias")?);
    let features = weights.len() / CLASSES + 1;
    let row = |images: &Images, id: usize| -> Vec<f64> {
        images.pixels(id as u64).iter().map(|x| f64::from(*x)).chain([1.0]).collect()
    };
    let predict = |x: &[f64]| {
        let logit = |class: usize| {
            let weights = &weights[class * (features - 1)..(class + 1) * (features - 1)];
            (weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>() + f64::from(bias[class])) as f32
        };
        probabilities(&(0..CLASSES).map(logit).collect::<Vec<f32>>())
    };
    let error = |images: &Images, id: usize, p: &[f64]| -> Vec<f64> {
        let one = |class: usize| f64::from(u8::from(images.labels[id] as usize == class));
        (0..CLASSES).map(|class| p[class] - one(class)).collect()
    };
    let xs: Vec<Vec<f64>> = (0..train.len()).map(|id| row(train, id)).collect();
    let ps: Vec<Vec<f64>> = xs.iter().map(|x| predict(x)).collect();
    let count = train.len() as f64;

    let multiply = |v: &[f64]| {
        let mut product: Vec<f64> = v.iter().map(|v| weight_decay * v).collect();
        for (x, p) in xs.iter().zip(&ps) {
            let u: Vec<f64> = v.chunks(features).map(|v| dot(v, x)).collect();
            let mean = dot(p, &u);
            for (class, product) in product.chunks_mut(features).enumerate() {
                let factor = p[class] * (u[class] - mean) / count;
                product.iter_mut().zip(x).for_each(|(product, x)| *product += factor * x);
            }
        }
        product
    };
    let mut scores = vec![0.0; train.len() * probes.len()];
    let mut worst: f64 = 0.0;
    bar.set_length(probes.len() as u64);
    for probe in 0..probes.len() {
        let x = row(probes, probe);
        let error_of_probe = error(probes, probe, &predict(&x));
        let gradient: Vec<f64> = error_of_probe.iter().flat_map(|e| x.iter().map(move |x| e * x)).collect();
        let (solved, residual) = conjugate_gradient(multiply, &gradient, TOLERANCE, 300);
        worst = worst.max(residual);
        for (id, (x, p)) in xs.iter().zip(&ps).enumerate() {
            let error = error(train, id, p);
            let of = |(class, solved): (usize, &[f64])| error[class] * dot(solved, x);
            scores[id * probes.len() + probe] = solved.chunks(features).enumerate().map(of).sum::<f64>() / count;
        }
        bar.inc(1);
    }
    let ids: Vec<u64> = (0..train.len() as u64).collect();
    Ok((Prediction::new(&ids, probes.len(), scores)?, worst))
}

/// In eight sums, so that the compiler may add several at a time.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    rest + sums.iter().sum::<f64>()
}
