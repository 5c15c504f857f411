//! The outputs of each example, computed once from logits and targets in closed form.

use gradlog_format::log::{Column, PredictionScore};
use num_traits::Float;

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
///
/// The residual `σ(z) − t` is computed as `(1 − t) σ(z) − t σ(−z)`, which does not cancel for an example that the model
/// is sure of.
pub(super) fn binary_cross_entropy<T: Float>(
    logits: &[T],
    targets: &[T],
    batch: usize,
    weighing: &Weighing,
) -> ClosedForm<T> {
    let sigmoid = |z: T| {
        let small = (-z.abs()).exp();
        if z >= T::zero() {
            T::one() / (T::one() + small)
        } else {
            small / (T::one() + small)
        }
    };
    let half = T::from(0.5).unwrap_or_else(T::zero);
    let width = logits.len() / batch.max(1);
    let mut form = elementwise_loss(logits, targets, batch, weighing, |z, t| {
        // This form of softplus does not overflow for large z and keeps the tail for very negative z.
        let loss = z.max(T::zero()) - z * t + (-z.abs()).exp().ln_1p();
        let error = (T::one() - t) * sigmoid(z) - t * sigmoid(-z);
        (loss, error, error)
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
    // A logit that is NaN predicts nothing.
    form.outputs.correct = Some(mean(&|z, t| match (z.is_nan(), (z > T::zero()) == (t >= half)) {
        (true, _) => T::nan(),
        (_, true) => T::one(),
        _ => T::zero(),
    }));
    if width == 1 {
        form.outputs.label = Some(targets.iter().map(|t| u32::from(*t >= half)).collect());
        let prediction = |z: &T| if z.is_nan() { Column::NO_CLASS } else { u32::from(*z > T::zero()) };
        form.outputs.prediction = Some(logits.iter().map(prediction).collect());
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
        // Squares of small errors underflow in f32.
        let (mut loss, mut squared) = (T::zero(), 0f64);
        for (o, t) in o.iter().zip(t) {
            let (l, d, e) = f(*o, *t);
            loss = loss + l;
            squared += e.to_f64().unwrap_or(f64::NAN).powi(2);
            delta.push(d * share);
        }
        losses.push(loss * share);
        el2n.push(squared.sqrt() as f32);
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

    /// Whether these columns say how the model predicts a class.
    pub(super) fn describe_a_prediction(&self) -> bool {
        self.margin.is_some() || self.scored.is_some()
    }

    /// Takes the columns of the prediction from `described`, and keeps the loss.
    pub(super) fn take_prediction(&mut self, described: Outputs) {
        let Outputs { el2n, margin, confidence, correct, label, prediction, positions, .. } = described;
        (self.el2n, self.margin, self.confidence, self.correct) = (el2n, margin, confidence, correct);
        (self.label, self.prediction, self.positions) = (label, prediction, positions);
    }

    /// Whether every number of example `i` is finite. A margin of +∞ is right where all other classes have the logit
    /// −∞: then only the scores made of margins leave the example out.
    pub(super) fn is_finite(&self, i: usize) -> bool {
        if self.positions.as_ref().is_some_and(|positions| positions[i] == 0) {
            return true; // nothing was predicted, so NaN is the right value
        }
        let columns = [&self.el2n, &self.confidence, &self.output];
        let has_margin = self.margin.as_ref().is_none_or(|m| m[i].is_finite() || m[i] == f32::INFINITY);
        self.loss[i].is_finite() && has_margin && columns.into_iter().flatten().all(|column| column[i].is_finite())
    }

    /// Bytes of all columns.
    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.el2n, &self.margin, &self.confidence, &self.correct, &self.target, &self.output];
        let integers = [&self.label, &self.prediction, &self.positions];
        let lengths = floats.into_iter().flatten().map(Vec::len).chain(integers.into_iter().flatten().map(Vec::len));
        let scored = self.scored.as_ref().map_or(0, |(_, classes)| classes.len());
        4 * (self.loss.len() + lengths.sum::<usize>() + scored)
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
