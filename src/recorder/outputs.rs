//! The outputs of each example, computed once from logits and targets in closed form.

use super::error::RecordError;
use gradlog_format::log::{Column, PredictionScore};
use num_traits::Float;
use rayon::prelude::*;

/// How the examples' losses become the one that is differentiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reduction {
    /// The mean over all counted predictions, as in candle_nn's losses.
    #[default]
    Mean,
    /// The sum.
    Sum,
}

/// The output columns of a pass. Each has one entry per example, or is absent.
#[derive(Debug, Clone, Default)]
pub(super) struct Outputs {
    pub loss: Vec<f32>,
    pub el2n: Option<Vec<f32>>,
    pub margin: Option<Vec<f32>>,
    pub confidence: Option<Vec<f32>>,
    pub correct: Option<Vec<f32>>,
    pub label: Option<Vec<u32>>,
    pub prediction: Option<Vec<u32>>,
    pub target: Option<Vec<f32>>,
    pub output: Option<Vec<f32>>,
    pub positions: Option<Vec<u32>>,
    /// The score and its classes, if the loss is minus a score of the prediction.
    pub scored: Option<(PredictionScore, Vec<u32>)>,
}

/// A loss in closed form.
pub(super) struct ClosedForm<T> {
    pub outputs: Outputs,
    /// `∂ℓ_i/∂output`, each example's own, `[batch, ...]`.
    pub delta: Vec<T>,
    /// `c_i = ∂L/∂ℓ_i`.
    pub coefficients: Vec<T>,
    /// `L = Σ c_i ℓ_i`.
    pub value: T,
}

/// How a pass weighs its examples.
#[derive(Debug, Clone, Default)]
pub(super) struct Weighing {
    pub reduction: Reduction,
    pub weights: Option<Vec<f32>>,
}

impl Weighing {
    /// `c_i` for examples whose loss is a mean over `counts[i]` predictions: `w_i n_i / N` under a mean over all `N = Σ
    /// n_i` predictions, `w_i n_i` under a sum.
    pub(super) fn coefficients<T: Float>(&self, counts: &[usize]) -> Vec<T> {
        let total = match self.reduction {
            Reduction::Mean => counts.iter().sum::<usize>().max(1) as f64,
            Reduction::Sum => 1.0,
        };
        let weight = |i: usize| self.weights.as_ref().map_or(1.0, |w| f64::from(w[i]));
        let number = |x: f64| T::from(x).unwrap_or_else(T::zero);
        counts.iter().enumerate().map(|(i, n)| number(weight(i) * *n as f64 / total)).collect()
    }
}

struct Row<T> {
    loss: T,
    squared_error: T,
    margin: T,
    confidence: T,
    prediction: u32,
}

/// Cross entropy of `[batch, positions, classes]` logits. `targets` is `[batch, positions]`, `None` at positions
/// without a target.
///
/// `ℓ_i` is the mean over the example's counted positions of `−log p_y`.
pub(super) fn cross_entropy<T: Float + Send + Sync>(
    logits: &[T],
    targets: &[Option<u32>],
    batch: usize,
    classes: usize,
    weighing: &Weighing,
    is_sequence: bool,
) -> Result<ClosedForm<T>, String> {
    let positions = targets.len() / batch.max(1);
    if let Some(bad) = targets.iter().flatten().find(|label| **label as usize >= classes) {
        return Err(format!("label {bad} with {classes} classes: labels count from 0"));
    }
    if classes == 0 {
        return Err("the logits have 0 classes: give at least one".into());
    }
    let mut delta = vec![T::zero(); logits.len()];
    let row = |((logits, delta), target): ((&[T], &mut [T]), &Option<u32>)| {
        target.map(|label| softmax_row(logits, label as usize, delta))
    };
    let rows: Vec<Option<Row<T>>> = if logits.len() > 1 << 15 {
        logits.par_chunks(classes).zip(delta.par_chunks_mut(classes)).zip(targets).map(row).collect()
    } else {
        logits.chunks(classes).zip(delta.chunks_mut(classes)).zip(targets).map(row).collect()
    };
    let own: Vec<&[Option<Row<T>>]> = rows.chunks(positions.max(1)).collect();
    let counts: Vec<usize> = own.iter().map(|rows| rows.iter().flatten().count()).collect();
    for (delta, count) in delta.chunks_mut((positions * classes).max(1)).zip(&counts) {
        if *count > 1 {
            let share = T::one() / T::from(*count).unwrap_or_else(T::one);
            delta.iter_mut().for_each(|d| *d = *d * share);
        }
    }
    let mean = |value: fn(&Row<T>) -> T| -> Vec<f32> { own.iter().map(|rows| rounded_mean(rows, value)).collect() };
    let losses: Vec<T> = own.iter().map(|rows| exact_mean(rows, |r| r.loss)).collect();
    let coefficients: Vec<T> = weighing.coefficients(&counts);
    let value = coefficients
        .iter()
        .zip(&losses)
        .fold(T::zero(), |sum, (c, l)| if *c == T::zero() { sum } else { sum + *c * *l });
    let correct = own.iter().enumerate().map(|(i, rows)| {
        let hits = rows
            .iter()
            .zip(&targets[i * positions..])
            .filter(|(r, t)| r.as_ref().map(|r| r.prediction) == **t && t.is_some());
        hits.count() as f32 / counts[i] as f32
    });
    let outputs = Outputs {
        loss: losses.iter().map(|l| to_f32(*l)).collect(),
        el2n: Some(mean(|r| r.squared_error.sqrt())),
        margin: Some(mean(|r| r.margin)),
        confidence: Some(mean(|r| r.confidence)),
        correct: Some(correct.collect()),
        // A sequence has no single label. The labels of its positions are the data itself.
        label: (!is_sequence).then(|| targets.iter().map(|t| t.unwrap_or(Column::NO_CLASS)).collect()),
        prediction: (!is_sequence)
            .then(|| rows.iter().map(|r| r.as_ref().map_or(Column::NO_CLASS, |r| r.prediction)).collect()),
        positions: (is_sequence || counts.iter().any(|n| *n != 1)).then(|| counts.iter().map(|n| *n as u32).collect()),
        ..Outputs::default()
    };
    Ok(ClosedForm { outputs, delta, coefficients, value })
}

/// Computes one position and writes `p − onehot(y)` into `delta`.
fn softmax_row<T: Float>(logits: &[T], label: usize, delta: &mut [T]) -> Row<T> {
    let (mut largest, mut prediction, mut rival) = (T::neg_infinity(), 0, T::neg_infinity());
    for (k, z) in logits.iter().enumerate() {
        if *z > largest {
            (largest, prediction) = (*z, k);
        }
        if k != label && *z > rival {
            rival = *z;
        }
    }
    // The sum leaves out the label: `p_y − 1` would cancel for an example that the model is sure of.
    let mut others = T::zero();
    for (k, (d, z)) in delta.iter_mut().zip(logits).enumerate() {
        *d = (*z - largest).exp();
        if k != label {
            others = others + *d;
        }
    }
    let own = delta[label];
    let sum = own + others;
    delta[label] = -others;
    let mut squared_error = T::zero();
    for d in delta.iter_mut() {
        *d = *d / sum;
        squared_error = squared_error + *d * *d;
    }
    let confidence = own / sum;
    let loss = if prediction == label { others.ln_1p() } else { sum.ln() + largest - logits[label] };
    Row { loss, squared_error, margin: logits[label] - rival, confidence, prediction: prediction as u32 }
}

/// The mean over an example's counted predictions. It is NaN without any, and scores leave NaN out.
fn exact_mean<T: Float>(rows: &[Option<Row<T>>], value: impl Fn(&Row<T>) -> T) -> T {
    let (sum, count) = rows.iter().flatten().fold((T::zero(), 0usize), |(sum, n), row| (sum + value(row), n + 1));
    sum / T::from(count).unwrap_or_else(T::one)
}

fn rounded_mean<T: Float>(rows: &[Option<Row<T>>], value: impl Fn(&Row<T>) -> T) -> f32 {
    to_f32(exact_mean(rows, value))
}

pub(super) fn to_f32<T: Float>(value: T) -> f32 {
    value.to_f32().unwrap_or(f32::NAN)
}

/// Mean squared error of `[batch, width]` outputs: `ℓ_i = mean_d (o − t)²`.
pub(super) fn mean_squared_error<T: Float>(
    outputs: &[T],
    targets: &[T],
    batch: usize,
    weighing: &Weighing,
) -> ClosedForm<T> {
    let two = T::one() + T::one();
    let mut form =
        elementwise_loss(outputs, targets, batch, weighing, |o, t| ((o - t) * (o - t), two * (o - t), o - t));
    if outputs.len() == batch {
        form.outputs.target = Some(targets.iter().map(|t| to_f32(*t)).collect());
        form.outputs.output = Some(outputs.iter().map(|o| to_f32(*o)).collect());
    }
    form
}

/// Binary cross entropy of `[batch, width]` logits: `ℓ_i = mean_d softplus(z) − t z`.
pub(super) fn binary_cross_entropy<T: Float>(
    logits: &[T],
    targets: &[T],
    batch: usize,
    weighing: &Weighing,
) -> ClosedForm<T> {
    let sigmoid = |z: T| T::one() / (T::one() + (-z).exp());
    let half = T::from(0.5).unwrap_or_else(T::zero);
    let width = logits.len() / batch.max(1);
    let mut form = elementwise_loss(logits, targets, batch, weighing, |z, t| {
        // This form of softplus does not overflow for large z and keeps the tail for very negative z.
        let loss = z.max(T::zero()) - z * t + (-z.abs()).exp().ln_1p();
        (loss, sigmoid(z) - t, sigmoid(z) - t)
    });
    let signed = |z: T, t: T| if t >= half { z } else { -z };
    let mean = |value: &dyn Fn(T, T) -> T| -> Vec<f32> {
        let rows = logits.chunks(width.max(1)).zip(targets.chunks(width.max(1)));
        rows.map(|(z, t)| {
            let sum = z.iter().zip(t).fold(T::zero(), |sum, (z, t)| sum + value(*z, *t));
            to_f32(sum) / width.max(1) as f32
        })
        .collect()
    };
    form.outputs.margin = Some(mean(&signed));
    form.outputs.confidence = Some(mean(&|z, t| sigmoid(signed(z, t))));
    form.outputs.correct = Some(mean(&|z, t| if (z > T::zero()) == (t >= half) { T::one() } else { T::zero() }));
    if width == 1 {
        form.outputs.label = Some(targets.iter().map(|t| u32::from(*t >= half)).collect());
        form.outputs.prediction = Some(logits.iter().map(|z| u32::from(*z > T::zero())).collect());
    }
    form
}

/// A loss that is the mean over an example's outputs. `f(output, target)` returns loss, `∂loss/∂output` and error.
fn elementwise_loss<T: Float>(
    outputs: &[T],
    targets: &[T],
    batch: usize,
    weighing: &Weighing,
    f: impl Fn(T, T) -> (T, T, T),
) -> ClosedForm<T> {
    let width = outputs.len() / batch.max(1);
    let share = T::one() / T::from(width.max(1)).unwrap_or_else(T::one);
    let mut delta = Vec::with_capacity(outputs.len());
    let (mut losses, mut el2n) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
    for (o, t) in outputs.chunks(width.max(1)).zip(targets.chunks(width.max(1))) {
        let (mut loss, mut squared) = (T::zero(), T::zero());
        for (o, t) in o.iter().zip(t) {
            let (l, d, e) = f(*o, *t);
            loss = loss + l;
            squared = squared + e * e;
            delta.push(d * share);
        }
        losses.push(loss * share);
        el2n.push(to_f32(squared.sqrt()));
    }
    let coefficients: Vec<T> = weighing.coefficients(&vec![width; losses.len()]);
    let value = coefficients
        .iter()
        .zip(&losses)
        .fold(T::zero(), |sum, (c, l)| if *c == T::zero() { sum } else { sum + *c * *l });
    let outputs = Outputs {
        loss: losses.iter().map(|l| to_f32(*l)).collect(),
        el2n: Some(el2n),
        positions: (width != 1).then(|| vec![width as u32; losses.len()]),
        ..Outputs::default()
    };
    ClosedForm { outputs, delta, coefficients, value }
}

impl Outputs {
    /// The columns if only the losses are known.
    pub(super) fn from_losses(loss: Vec<f32>) -> Self {
        Self { loss, ..Self::default() }
    }

    /// Whether every number of example `i` is finite.
    pub(super) fn is_finite(&self, i: usize) -> bool {
        if self.positions.as_ref().is_some_and(|positions| positions[i] == 0) {
            return true; // nothing was predicted, so NaN is the right value
        }
        let columns = [&self.el2n, &self.margin, &self.confidence, &self.output];
        self.loss[i].is_finite() && columns.into_iter().flatten().all(|column| column[i].is_finite())
    }

    /// Bytes of all columns.
    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.el2n, &self.margin, &self.confidence, &self.correct, &self.target, &self.output];
        let integers = [&self.label, &self.prediction, &self.positions];
        let lengths = floats.into_iter().flatten().map(Vec::len).chain(integers.into_iter().flatten().map(Vec::len));
        let scored = self.scored.as_ref().map_or(0, |(_, classes)| classes.len());
        4 * (self.loss.len() + lengths.sum::<usize>() + scored)
    }

    /// Refuses columns whose length is not that of the batch.
    pub(super) fn check_batch(&self, batch: usize, step: u64) -> Result<(), RecordError> {
        if self.loss.len() == batch {
            return Ok(());
        }
        let what = format!(
            "{} losses for {batch} ids: give logits and targets with the batch as first dimension",
            self.loss.len()
        );
        Err(RecordError::Pass { step, what })
    }

    /// The f32 columns; `None` for those that are absent.
    pub(super) fn float_columns(&self) -> [(Column, Option<&Vec<f32>>); 7] {
        [
            (Column::Loss, Some(&self.loss)),
            (Column::El2n, self.el2n.as_ref()),
            (Column::Margin, self.margin.as_ref()),
            (Column::Confidence, self.confidence.as_ref()),
            (Column::Correct, self.correct.as_ref()),
            (Column::Target, self.target.as_ref()),
            (Column::Output, self.output.as_ref()),
        ]
    }

    /// The integer columns; `None` for those that are absent.
    pub(super) fn integer_columns(&self) -> [(Column, Option<&Vec<u32>>); 3] {
        [
            (Column::Label, self.label.as_ref()),
            (Column::Prediction, self.prediction.as_ref()),
            (Column::Positions, self.positions.as_ref()),
        ]
    }
}
