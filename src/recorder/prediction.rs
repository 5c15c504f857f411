//! Scores of a prediction in closed form, for probes without a label.
//!
//! The loss is minus the score. A step that lowers this loss raises the score, so positive influence means *helped*
//! here too.

use super::outputs::{to_f32, ClosedForm, Outputs, Weighing};
use gradlog_format::log::{Column, PredictionScore};
use num_traits::Float;

/// `ℓ_i = −f(z_i, c_i)` of `[batch, classes]` logits. Without given classes, each class is the predicted one.
///
/// With `z` the logits and `c` the class, `∂f/∂z` is `e_c` for the logit. It is `e_c − e_r` for the margin, with `r`
/// the largest other class. It is `e_c − softmax over the others` for the log-odds `z_c − log Σ_{k≠c} exp z_k`.
pub(super) fn prediction_score<T: Float>(
    logits: &[T],
    given: Option<&[u32]>,
    batch: usize,
    classes: usize,
    score: PredictionScore,
    weighing: &Weighing,
) -> Result<ClosedForm<T>, String> {
    check_classes(classes)?;
    if given.is_some_and(|given| given.len() != batch) {
        return Err(format!("{} classes for a batch of {batch}", given.map_or(0, <[u32]>::len)));
    }
    let mut delta = vec![T::zero(); logits.len()];
    let (mut losses, mut scored, mut predicted) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (z, delta)) in logits.chunks(classes).zip(delta.chunks_mut(classes)).enumerate() {
        let prediction = largest(z, None);
        let class = given.map_or(prediction, |given| given[i] as usize);
        refuse_class(class, classes)?;
        let value = score_example(z, class, score, delta)
            .ok_or_else(|| format!("the score {score} has no formula here: use another score"))?;
        losses.push(-value);
        scored.push(class as u32);
        predicted.push(if z.iter().any(|z| z.is_nan()) { Column::NO_CLASS } else { prediction as u32 });
    }
    let coefficients: Vec<T> = weighing.coefficients(&vec![1; batch]);
    let value = coefficients.iter().zip(&losses).fold(T::zero(), |sum, (c, l)| sum + *c * *l);
    let outputs = Outputs {
        loss: losses.iter().map(|l| to_f32(*l)).collect(),
        prediction: Some(predicted),
        scored: Some((score, scored)),
        ..Outputs::default()
    };
    Ok(ClosedForm { outputs, delta, coefficients, value })
}

/// Refuses logits with fewer classes than two.
pub(super) fn check_classes(classes: usize) -> Result<(), String> {
    if classes < 2 {
        return Err(format!("the logits have {classes} classes: a score of a prediction needs one class and another"));
    }
    Ok(())
}

/// Refuses a class beyond the classes.
pub(super) fn refuse_class(class: usize, classes: usize) -> Result<(), String> {
    if class >= classes {
        return Err(format!("class {class} with {classes} classes: classes count from 0"));
    }
    Ok(())
}

/// The score of one example; `None` for a score without a formula here. Writes minus its gradient into `delta`.
fn score_example<T: Float>(z: &[T], class: usize, score: PredictionScore, delta: &mut [T]) -> Option<T> {
    delta[class] = -T::one();
    Some(match score {
        PredictionScore::Logit => z[class],
        PredictionScore::Margin => {
            let rival = largest(z, Some(class));
            delta[rival] = T::one();
            z[class] - z[rival]
        }
        PredictionScore::LogOdds => {
            let rival = z[largest(z, Some(class))];
            let others = || (0..z.len()).filter(|k| *k != class);
            let sum = others().fold(T::zero(), |sum, k| sum + (z[k] - rival).exp());
            for k in others() {
                delta[k] = (z[k] - rival).exp() / sum;
            }
            // p and 1 − p would cancel for an example that the model is sure of.
            z[class] - rival - sum.ln()
        }
        _ => return None,
    })
}

/// The index of the largest number other than `without`; the first of equal ones.
fn largest<T: Float>(z: &[T], without: Option<usize>) -> usize {
    let mut found = usize::from(without == Some(0));
    for k in (0..z.len()).filter(|k| Some(*k) != without) {
        if z[k] > z[found] {
            found = k;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 9] = [1.5, -0.5, 0.25, -3.0, 2.0, 1.75, 40.0, -2.0, 0.0];

    /// The definitions, in f64.
    fn score(z: &[f64], c: usize, which: PredictionScore) -> f64 {
        let others = || z.iter().enumerate().filter(|(k, _)| *k != c).map(|(_, z)| *z);
        match which {
            PredictionScore::Logit => z[c],
            PredictionScore::Margin => z[c] - others().fold(f64::NEG_INFINITY, f64::max),
            PredictionScore::LogOdds => {
                let sum: f64 = z.iter().map(|z| z.exp()).sum();
                // p / (1 - p), with 1 - p as the sum of the others.
                ((z[c].exp() / sum) / (others().map(f64::exp).sum::<f64>() / sum)).ln()
            }
            other => panic!("no formula for {other:?}"),
        }
    }

    #[test]
    fn scores_and_gradients_are_those_of_the_definitions() {
        for which in [PredictionScore::Logit, PredictionScore::Margin, PredictionScore::LogOdds] {
            for given in [None, Some([2u32, 0, 1])] {
                let weighing = Weighing::default();
                let form = prediction_score(&LOGITS, given.as_ref().map(|g| &g[..]), 3, 3, which, &weighing).unwrap();
                let classes = given.unwrap_or([0, 1, 0]);
                assert_eq!(form.outputs.scored, Some((which, classes.to_vec())));
                assert_eq!(form.outputs.prediction, Some(vec![0, 1, 0]));
                assert_eq!(form.coefficients, [1.0 / 3.0; 3]);
                let mut sum = 0.0;
                for (i, class) in classes.iter().enumerate() {
                    let z = &LOGITS[3 * i..3 * i + 3];
                    let f = |z: &[f64]| score(z, *class as usize, which);
                    assert!((f64::from(form.outputs.loss[i]) + f(z)).abs() < 1e-5, "{which} {i}");
                    sum -= f(z) / 3.0;
                    for k in 0..3 {
                        let shifted = |by: f64| {
                            let mut z = z.to_vec();
                            z[k] += by;
                            f(&z)
                        };
                        let slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                        assert!((form.delta[3 * i + k] + slope).abs() < 1e-6, "{which} {i} {k}: {slope}");
                    }
                }
                assert!((form.value - sum).abs() < 1e-9, "{which}");
            }
        }
    }

    #[test]
    fn classes_that_do_not_fit_are_refused() {
        let refusal = |given: &[u32], batch, classes| {
            prediction_score(&LOGITS, Some(given), batch, classes, PredictionScore::Logit, &Weighing::default()).err()
        };
        assert!(refusal(&[0, 1, 3], 3, 3).is_some_and(|why| why.contains("class 3")));
        assert!(refusal(&[0, 1], 3, 3).is_some_and(|why| why.contains("2 classes for a batch of 3")));
        assert!(refusal(&[0; 9], 9, 1).is_some_and(|why| why.contains("another")));
        assert!(refusal(&[0, 1, 2], 3, 3).is_none());
    }
}
