//! From gradients of the loss to gradients of the log-odds.

use crate::curvature::detail::Outputs;
use crate::curvature::probes::ProbeRows;
use crate::AnalysisError;

/// How far `1 − e⁻ˡ` may be from that of the recorded probability of the label, if the loss is a cross entropy: a share
/// of the larger, and what f32 rounds of a probability. A focal loss agrees better where the model is sure, so a share.
const CONFIDENCE_TOLERANCE: (f64, f64) = (1e-3, 1e-6);

/// Below this `1 − p`, gradients are too small for the digits of f32, or are 0.
const DOUBT_MIN: f64 = 1e-30;

/// What makes a gradient of the log-odds of one of the loss, but for the sign; 0 if it is not known.
pub(super) fn to_scale(doubt: f64) -> f64 {
    if is_known(doubt) {
        1.0 / doubt
    } else {
        0.0
    }
}

/// `1 − p` of the label, if the loss is the cross entropy of one prediction.
fn doubt_of(loss: f32, confidence: Option<f32>) -> Option<f64> {
    let loss = f64::from(loss);
    let doubt = -(-loss).exp_m1();
    let fits = |confidence: f32| {
        let recorded = 1.0 - f64::from(confidence);
        let (share, rounding) = CONFIDENCE_TOLERANCE;
        (doubt - recorded).abs() < share * doubt.max(recorded) + rounding
    };
    confidence.is_some_and(fits).then_some(doubt)
}

fn not_cross_entropy() -> AnalysisError {
    AnalysisError::Missing {
        score: "TRAK's estimator",
        what: "plain cross entropies, of which p is e to the minus loss",
        how: "it is for classifiers with one prediction an example: record the loss with `pass.cross_entropy`, or take another method",
    }
}

/// `1 − p` of the label of a visit.
///
/// # Errors
/// [`AnalysisError::Missing`] if the loss is no cross entropy of one prediction.
pub(super) fn doubt(outputs: &Outputs) -> Result<f64, AnalysisError> {
    doubt_of(outputs.loss, outputs.confidence).ok_or_else(not_cross_entropy)
}

/// Whether the gradient of the log-odds is known.
pub(super) fn is_known(doubt: f64) -> bool {
    doubt >= DOUBT_MIN
}

/// What makes gradients of the log-odds of those of probes; 0 where it is not known.
///
/// # Errors
/// As [`doubt`].
pub(super) fn scales_of_probes(probes: &ProbeRows) -> Result<Vec<f64>, AnalysisError> {
    let pairs = probes.losses.iter().zip(&probes.confidences);
    pairs.map(|(loss, confidence)| doubt_of(*loss, *confidence).map(to_scale).ok_or_else(not_cross_entropy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss beside logits need not be their cross entropy, and a focal loss is nearly zero where the model is sure.
    #[test]
    fn a_loss_that_is_not_a_cross_entropy_is_told_by_the_probability() {
        for p in [0.3f64, 0.9, 0.9999, 1.0 - 1e-6] {
            let own = doubt_of(-p.ln() as f32, Some(p as f32)).unwrap();
            assert!((own - (1.0 - p)).abs() < 1e-6 + 1e-6 * own, "{p}: {own}");
            let focal = -(1.0 - p).powi(2) * p.ln();
            assert!(doubt_of(focal as f32, Some(p as f32)).is_none() || 1.0 - p < 1e-5, "{p}");
        }
        assert_eq!(doubt_of(0.5, None), None);
    }
}
