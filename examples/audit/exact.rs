//! Logistic regression for `audit::ExactInfluence`, in f64 at the trained weights: the reference for what comes from
//! the log.
//!
//! With `x` ending in a 1 for the bias, `p = softmax(W x)` and `e` the label as a vector: `∇_W ℓ = (p − e) xᵀ` and
//! `∇_x ℓ = Wᵀ (p − e)`. The objective is `(1/n)·Σ ℓ_i + (λ/2)·‖W‖²`.

use crate::images::Images;
use crate::task::{probabilities, Model};
use anyhow::Result;
use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use gradlog_analysis::audit::{Differentiable, ExactInfluence, Prediction, Solver, TrainingError};
use indicatif::ProgressBar;

const CLASSES: usize = 10;

/// Images with a 1 after the pixels of each, `[images, features]`, and their labels.
struct Inputs {
    features: usize,
    x: Vec<f64>,
    labels: Vec<usize>,
}

impl Inputs {
    fn from_images(images: &Images) -> Self {
        let row = |id: u64| images.pixels(id).iter().map(|x| f64::from(*x)).chain([1.0]);
        let x: Vec<f64> = (0..images.len() as u64).flat_map(row).collect();
        Self {
            features: x.len() / images.len().max(1),
            x,
            labels: images.labels.iter().map(|label| *label as usize).collect(),
        }
    }

    fn row(&self, id: u64) -> Result<(&[f64], usize), TrainingError> {
        let id = id as usize;
        let label = *self.labels.get(id).ok_or("there is no such image")?;
        Ok((&self.x[id * self.features..(id + 1) * self.features], label))
    }

    /// `p − e` of an image.
    fn error(&self, weights: &[f64], id: u64) -> Result<Vec<f64>, TrainingError> {
        let (x, label) = self.row(id)?;
        let logits: Vec<f64> = weights.chunks(self.features).map(|w| dot(w, x)).collect();
        let mut error = probabilities(&logits);
        error[label] -= 1.0;
        Ok(error)
    }

    fn gradient(&self, weights: &[f64], id: u64) -> Result<Vec<f64>, TrainingError> {
        let error = self.error(weights, id)?;
        let (x, _) = self.row(id)?;
        Ok(error.iter().flat_map(|error| x.iter().map(move |x| error * x)).collect())
    }
}

/// A trained logistic regression, its training images and its probes.
pub struct Regression {
    /// `[classes, features]`, the bias last in each row.
    weights: Vec<f64>,
    train: Inputs,
    probes: Inputs,
    weight_decay: f64,
}

impl Regression {
    pub fn from_model(model: &Model, train: &Images, probes: &Images, weight_decay: f64) -> Result<Self> {
        let (weights, bias) = (model.read_variable("fc1.weight")?, model.read_variable("fc1.bias")?);
        let rows = weights.chunks(weights.len() / CLASSES).zip(&bias);
        let weights = rows.flat_map(|(row, bias)| row.iter().chain([bias]).map(|w| f64::from(*w))).collect();
        Ok(Self { weights, train: Inputs::from_images(train), probes: Inputs::from_images(probes), weight_decay })
    }

    /// Influence functions of every training image on every probe, positive if it helped. Returns the intermediate
    /// results of each probe, and the scores.
    pub fn influence_functions(&mut self, bar: &ProgressBar) -> Result<(Vec<ExactInfluence>, Prediction)> {
        let (examples, probes) = (self.train.labels.len(), self.probes.labels.len());
        let ids: Vec<u64> = (0..examples as u64).collect();
        let mut scores = vec![0.0; examples * probes];
        let mut solved = Vec::with_capacity(probes);
        bar.set_length(probes as u64);
        for probe in 0..probes {
            let influence = ExactInfluence::solve(self, probe as u64, &Solver::new())?;
            for id in &ids {
                scores[*id as usize * probes + probe] = influence.example_influence(self, *id)?;
            }
            solved.push(influence);
            bar.inc(1);
        }
        Ok((solved, Prediction::new(&ids, probes, scores)?))
    }
}

impl Differentiable for Regression {
    fn weights(&self) -> Vec<f64> {
        self.weights.clone()
    }

    fn example_count(&self) -> usize {
        self.train.labels.len()
    }

    /// Computes all images at once, with two matrix products.
    fn objective_gradient(&mut self, weights: &[f64]) -> Result<Vec<f64>, TrainingError> {
        let (count, features) = (self.example_count(), self.train.features);
        let x = MatRef::from_row_major_slice(&self.train.x, count, features);
        let w = MatRef::from_row_major_slice(weights, CLASSES, features);
        // One column of logits for each image, so that the logits of one image are contiguous.
        let mut errors: Mat<f64> = Mat::zeros(CLASSES, count);
        matmul(errors.rb_mut(), Accum::Replace, w, x.transpose(), 1.0, Par::rayon(0));
        for (image, label) in self.train.labels.iter().enumerate() {
            let logits: Vec<f64> = (0..CLASSES).map(|class| errors[(class, image)]).collect();
            for (class, p) in probabilities(&logits).into_iter().enumerate() {
                errors[(class, image)] = p - f64::from(u8::from(class == *label));
            }
        }
        let mut gradient: Vec<f64> = weights.iter().map(|w| self.weight_decay * w).collect();
        let sum = MatMut::from_row_major_slice_mut(&mut gradient, CLASSES, features);
        matmul(sum, Accum::Add, errors.as_ref(), x, 1.0 / count as f64, Par::rayon(0));
        Ok(gradient)
    }

    fn example_gradient(&mut self, weights: &[f64], example: u64) -> Result<Vec<f64>, TrainingError> {
        self.train.gradient(weights, example)
    }

    fn probe_gradient(&mut self, weights: &[f64], probe: u64) -> Result<Vec<f64>, TrainingError> {
        self.probes.gradient(weights, probe)
    }

    /// The gradient by the pixels alone: the 1 after them is not part of the image.
    fn input_gradient(&mut self, weights: &[f64], example: u64) -> Result<Vec<f64>, TrainingError> {
        let error = self.train.error(weights, example)?;
        let features = self.train.features;
        let of = |pixel: usize| error.iter().enumerate().map(|(class, e)| e * weights[class * features + pixel]).sum();
        Ok((0..features - 1).map(of).collect())
    }
}

/// Uses eight sums, so that the compiler can add several at a time.
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
