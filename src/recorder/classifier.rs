//! What logits say of each example against its target: cross entropy, EL2N, margin, confidence, correctness.
//!
//! A target is a class number, or a probability for each class (a soft target). Residuals are computed without
//! cancellation: `1 − p_y` is the sum of the other probabilities.

use super::outputs::{ClosedForm, Outputs, Weighing};
use gradlog_format::log::Column;
use num_traits::Float;
use rayon::prelude::*;

/// The sizes of logits `[batch, positions, classes]`. `is_sequence` says whether the tensor has the second dimension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub positions: usize,
    pub classes: usize,
    pub is_sequence: bool,
}

/// The targets of all positions.
pub(super) enum Targets<T> {
    /// Class numbers; `None` at positions that do not count.
    Classes(Vec<Option<u32>>),
    /// Probabilities of the classes, `[batch, positions, classes]`. `counted` is false at positions that do not count.
    Shares { shares: Vec<T>, counted: Option<Vec<bool>> },
}

/// The target of one position.
enum Target<'a, T> {
    Class(usize),
    Shares(&'a [T]),
}

/// One position. Sums and residuals are f64, because their squares underflow in f32.
pub(super) struct Row {
    pub loss: f64,
    pub el2n: f64,
    pub margin: f64,
    pub confidence: f64,
    pub label: u32,
    /// [`Column::NO_CLASS`] if a logit is NaN.
    pub prediction: u32,
}

/// The error of soft targets whose numbers are no probabilities.
const SOFT: &str = "soft targets are probabilities, so each is 0 or more and those of a prediction add up to 1: normalize them, or give \
                    your own losses to `pass.losses` and class numbers to `pass.logits`";

impl<T: Float + Send + Sync> Targets<T> {
    pub(super) fn check(&self, sizes: Sizes) -> Result<(), String> {
        let classes = sizes.classes;
        if let Self::Classes(numbers) = self {
            refuse_large_label(numbers, classes)?;
        }
        if classes == 0 {
            return Err("the logits have 0 classes: give at least one".into());
        }
        for place in 0..sizes.batch * sizes.positions {
            let Some(Target::Shares(shares)) = self.get(place, classes) else { continue };
            let example = place / sizes.positions;
            let bad = shares.iter().find(|share| !(**share >= T::zero() && share.is_finite()));
            refuse_shares(example, bad.map(|bad| wide(*bad)), || shares.iter().map(|share| wide(*share)).sum())?;
        }
        Ok(())
    }

    fn get(&self, place: usize, classes: usize) -> Option<Target<'_, T>> {
        match self {
            Self::Classes(numbers) => numbers[place].map(|class| Target::Class(class as usize)),
            Self::Shares { shares, counted } => {
                let counts = counted.as_ref().is_none_or(|counted| counted[place]);
                counts.then(|| Target::Shares(&shares[place * classes..(place + 1) * classes]))
            }
        }
    }
}

/// Refuses a label beyond the classes.
pub(super) fn refuse_large_label(labels: &[Option<u32>], classes: usize) -> Result<(), String> {
    match labels.iter().flatten().find(|label| **label as usize >= classes) {
        Some(bad) => Err(format!("label {bad} with {classes} classes: labels count from 0")),
        None => Ok(()),
    }
}

/// Refuses a soft target with a share that is `bad`, or with another sum than 1.
pub(super) fn refuse_shares(example: usize, bad: Option<f64>, sum: impl FnOnce() -> f64) -> Result<(), String> {
    if let Some(bad) = bad {
        return Err(format!("a target of example {example} is {}: {SOFT}", bad as f32));
    }
    // Half precision rounds each of a thousand numbers by up to a half in 256.
    match sum() {
        sum if (sum - 1.0).abs() > 0.01 => Err(format!("the targets of example {example} add up to {sum:.4}: {SOFT}")),
        _ => Ok(()),
    }
}

/// Logits from which several threads compute.
const PARALLEL_FROM: usize = 1 << 15;

/// Cross entropy in closed form. `ℓ_i` is the mean over the example's counted positions of `−Σ_k t_k log p_k`, which is
/// `−log p_y` for a class number `y`.
pub(super) fn cross_entropy<T: Float + Send + Sync>(
    logits: &[T],
    targets: &Targets<T>,
    sizes: Sizes,
    weighing: &Weighing,
) -> Result<ClosedForm<T>, String> {
    targets.check(sizes)?;
    let classes = sizes.classes;
    let mut delta = vec![T::zero(); logits.len()];
    let row = |(place, (logits, delta)): (usize, (&[T], &mut [T]))| {
        targets.get(place, classes).map(|target| read_row(logits, target, delta))
    };
    let rows: Vec<Option<Row>> = if logits.len() > PARALLEL_FROM {
        logits.par_chunks(classes).zip(delta.par_chunks_mut(classes)).enumerate().map(row).collect()
    } else {
        logits.chunks(classes).zip(delta.chunks_mut(classes)).enumerate().map(row).collect()
    };
    let (mut outputs, counts) = summarize(&rows, sizes);
    for (delta, count) in delta.chunks_mut((sizes.positions * classes).max(1)).zip(&counts) {
        if *count > 1 {
            let share = T::one() / T::from(*count).unwrap_or_else(T::one);
            delta.iter_mut().for_each(|d| *d = *d * share);
        }
    }
    let losses = own_means(&rows, sizes, |row| row.loss);
    let coefficients: Vec<T> = weighing.coefficients(&counts);
    let terms = coefficients.iter().zip(&losses).filter(|(c, _)| **c != T::zero());
    let value = terms.fold(T::zero(), |sum, (c, l)| sum + *c * T::from(*l).unwrap_or_else(T::nan));
    outputs.loss = losses.iter().map(|loss| *loss as f32).collect();
    Ok(ClosedForm { outputs, delta, coefficients, value })
}

/// The columns of the prediction, without a loss.
pub(super) fn describe_logits<T: Float + Send + Sync>(
    logits: &[T],
    targets: &Targets<T>,
    sizes: Sizes,
) -> Result<Outputs, String> {
    targets.check(sizes)?;
    let classes = sizes.classes;
    let scratch = || vec![T::zero(); classes];
    let row = |scratch: &mut Vec<T>, (place, logits): (usize, &[T])| {
        targets.get(place, classes).map(|target| read_row(logits, target, scratch))
    };
    let rows: Vec<Option<Row>> = if logits.len() > PARALLEL_FROM {
        logits.par_chunks(classes).enumerate().map_init(scratch, row).collect()
    } else {
        let mut scratch = scratch();
        logits.chunks(classes).enumerate().map(|one| row(&mut scratch, one)).collect()
    };
    Ok(summarize(&rows, sizes).0)
}

/// The columns of the prediction, and the number of counted positions of each example.
pub(super) fn summarize(rows: &[Option<Row>], sizes: Sizes) -> (Outputs, Vec<usize>) {
    let Sizes { positions, is_sequence, .. } = sizes;
    let counts: Vec<usize> = rows.chunks(positions.max(1)).map(|rows| rows.iter().flatten().count()).collect();
    let mean = |value: fn(&Row) -> f64| Some(own_means(rows, sizes, value).into_iter().map(|v| v as f32).collect());
    // A sequence has no single label. The labels of its positions are the data itself.
    let class = |value: fn(&Row) -> u32| {
        let classes = || rows.iter().map(|row| row.as_ref().map_or(Column::NO_CLASS, value)).collect();
        (!is_sequence).then(classes)
    };
    let outputs = Outputs {
        el2n: mean(|row| row.el2n),
        margin: mean(|row| row.margin),
        confidence: mean(|row| row.confidence),
        correct: mean(|row| match row.prediction {
            Column::NO_CLASS => f64::NAN,
            prediction => f64::from(u8::from(prediction == row.label)),
        }),
        label: class(|row| row.label),
        prediction: class(|row| row.prediction),
        positions: (is_sequence || counts.iter().any(|n| *n != 1)).then(|| counts.iter().map(|n| *n as u32).collect()),
        ..Outputs::default()
    };
    (outputs, counts)
}

/// Each example's mean over its counted positions. It is NaN without any, and scores leave NaN out.
pub(super) fn own_means(rows: &[Option<Row>], sizes: Sizes, value: impl Fn(&Row) -> f64) -> Vec<f64> {
    let mean = |rows: &[Option<Row>]| {
        let (sum, count) = rows.iter().flatten().fold((0.0, 0usize), |(sum, n), row| (sum + value(row), n + 1));
        sum / count as f64
    };
    rows.chunks(sizes.positions.max(1)).map(mean).collect()
}

/// Computes one position and writes `∂ℓ/∂z` into `delta`: `p − t`, where `t` is one at the class or the soft target.
fn read_row<T: Float>(logits: &[T], target: Target<'_, T>, delta: &mut [T]) -> Row {
    let label = match &target {
        Target::Class(class) => *class,
        Target::Shares(shares) => largest_share(shares),
    };
    let (mut largest, mut prediction, mut rival) = (T::neg_infinity(), 0, T::neg_infinity());
    let mut has_nan = false;
    for (k, z) in logits.iter().enumerate() {
        has_nan |= z.is_nan();
        if *z > largest {
            (largest, prediction) = (*z, k);
        }
        if k != label && *z > rival {
            rival = *z;
        }
    }
    // The sum leaves out the label: `p_y − 1` would cancel for an example that the model is sure of.
    let mut others = 0.0;
    for (k, (d, z)) in delta.iter_mut().zip(logits).enumerate() {
        *d = (*z - largest).exp();
        if k != label {
            others += wide(*d);
        }
    }
    let own = wide(delta[label]);
    let sum = own + others;
    // log Σ exp(z − largest)
    let spread = if prediction == label { others.ln_1p() } else { sum.ln() };
    let (mut loss, mut squared_error) = (0.0, 0.0);
    match target {
        Target::Class(_) => {
            loss = spread + if prediction == label { 0.0 } else { wide(largest) - wide(logits[label]) };
            let divisor = narrow(sum);
            delta[label] = T::zero();
            for d in delta.iter_mut() {
                *d = *d / divisor;
                squared_error += wide(*d).powi(2);
            }
            squared_error += (others / sum).powi(2);
            delta[label] = narrow(-others / sum);
        }
        Target::Shares(shares) => {
            let total: f64 = shares.iter().map(|share| wide(*share)).sum();
            let rest: f64 = shares.iter().enumerate().map(|(k, s)| if k == label { 0.0 } else { wide(*s) }).sum();
            let doubt = others / sum;
            for (k, (d, (share, z))) in delta.iter_mut().zip(shares.iter().zip(logits)).enumerate() {
                let (share, p) = (wide(*share), wide(*d) / sum);
                // A class without a share has no part in the loss, even where its logit is −∞.
                if share > 0.0 {
                    loss += share * (wide(largest) - wide(*z) + spread);
                }
                let error = if k == label { rest - doubt + (1.0 - total) } else { p - share };
                squared_error += error.powi(2);
                *d = narrow(if k == label { rest - total * doubt } else { total * p - share });
            }
        }
    }
    Row {
        loss,
        el2n: squared_error.sqrt(),
        margin: wide(logits[label]) - wide(rival),
        confidence: own / sum,
        label: label as u32,
        // Nothing is larger than NaN, and NaN is larger than nothing.
        prediction: if has_nan { Column::NO_CLASS } else { prediction as u32 },
    }
}

/// The class with the largest share; the first of equal ones.
fn largest_share<T: Float>(shares: &[T]) -> usize {
    (1..shares.len()).fold(0, |best, k| if shares[k] > shares[best] { k } else { best })
}

fn wide<T: Float>(value: T) -> f64 {
    value.to_f64().unwrap_or(f64::NAN)
}

fn narrow<T: Float>(value: f64) -> T {
    T::from(value).unwrap_or_else(T::nan)
}

#[cfg(test)]
mod tests;
