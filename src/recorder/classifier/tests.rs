//! Closed forms against their definitions in f64, and against finite differences.

use super::*;

fn sizes(batch: usize, classes: usize) -> Sizes {
    Sizes { batch, positions: 1, classes, is_sequence: false }
}

fn form<T: Float + Send + Sync>(logits: &[T], targets: Targets<T>, batch: usize) -> ClosedForm<T> {
    cross_entropy(logits, &targets, sizes(batch, logits.len() / batch), &Weighing::default()).unwrap()
}

/// `p_k` of three logits in which each sum is of positive terms.
fn probabilities(z: &[f64]) -> Vec<f64> {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
    z.iter().map(|z| (z - largest).exp() / sum).collect()
}

#[test]
fn residuals_of_sure_examples_keep_their_digits() {
    for margin in [1.0, 20.0, 51.0, 60.0, 80.0] {
        let z = [margin, 0.0, -1.0];
        let p = probabilities(&z);
        let doubt = p[1] + p[2];
        let el2n = (doubt * doubt + p[1] * p[1] + p[2] * p[2]).sqrt();
        let narrow = z.map(|z| z as f32);
        for targets in [Targets::Classes(vec![Some(0)]), Targets::Shares { shares: vec![1.0, 0.0, 0.0], counted: None }]
        {
            let form = form(&narrow, targets, 1);
            let got = f64::from(form.outputs.el2n.unwrap()[0]);
            assert!((got / el2n - 1.0).abs() < 1e-5, "margin {margin}: {got} {el2n}");
            let loss = f64::from(form.outputs.loss[0]);
            assert!((loss / doubt.ln_1p().max(-(-doubt).ln_1p()) - 1.0).abs() < 1e-5, "margin {margin}: {loss}");
            for (d, right) in form.delta.iter().zip([-doubt, p[1], p[2]]) {
                assert!((f64::from(*d) / right - 1.0).abs() < 1e-5, "margin {margin}: {d} {right}");
            }
        }
    }
}

#[test]
fn soft_targets_have_the_gradient_of_their_loss() {
    let z = [0.3, -1.2, 2.0, 0.7, 5.0, -3.0, 0.0, 1.0, 1.0, 1.0, 4.0, -2.0];
    let t = [0.7, 0.1, 0.1, 0.1, 0.0, 1.0, 0.0, 0.0, 0.25, 0.25, 0.25, 0.25];
    let loss = |z: &[f64]| -> f64 {
        let own = |(z, t): (&[f64], &[f64])| -> f64 {
            let p = probabilities(z);
            t.iter().zip(p).map(|(t, p)| if *t > 0.0 { -t * p.ln() } else { 0.0 }).sum()
        };
        z.chunks(4).zip(t.chunks(4)).map(own).sum()
    };
    let form = form(&z, Targets::Shares { shares: t.to_vec(), counted: None }, 3);
    assert!((form.value - loss(&z) / 3.0).abs() < 1e-12);
    for place in 0..z.len() {
        let moved = |by: f64| {
            let mut z = z;
            z[place] += by;
            loss(&z)
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((form.delta[place] - slope).abs() < 1e-8, "{place}: {} {slope}", form.delta[place]);
    }
    assert_eq!(form.outputs.label.unwrap(), [0, 1, 0], "of equal shares the first");
    assert_eq!(form.outputs.correct.unwrap(), [0.0, 0.0, 0.0]);
}

#[test]
fn a_class_without_a_share_may_have_the_logit_minus_infinity() {
    let masked = f64::NEG_INFINITY;
    let form = form(&[1.0, masked, 0.5], Targets::Shares { shares: vec![0.5, 0.0, 0.5], counted: None }, 1);
    let p = probabilities(&[1.0, 0.5]);
    assert!((form.value + 0.5 * (p[0].ln() + p[1].ln())).abs() < 1e-12);
    assert!(form.delta.iter().all(|d| d.is_finite()) && form.delta[1] == 0.0);
}

#[test]
fn soft_targets_that_are_no_probabilities_are_refused() {
    let refusal = |shares: [f32; 2]| {
        let targets = Targets::Shares { shares: shares.to_vec(), counted: None };
        describe_logits(&[0.0, 0.0], &targets, sizes(1, 2)).err()
    };
    assert!(refusal([0.5, 0.6]).is_some_and(|why| why.contains("add up to 1.1000")));
    assert!(refusal([1.5, -0.5]).is_some_and(|why| why.contains("-0.5") && why.contains("`pass.losses`")));
    assert!(refusal([f32::NAN, 1.0]).is_some_and(|why| why.contains("NaN")));
    assert!(refusal([0.5, 0.503]).is_none(), "half precision rounds");
    let uncounted = Targets::Shares { shares: vec![7.0, 7.0], counted: Some(vec![false]) };
    assert!(describe_logits(&[0.0, 0.0], &uncounted, sizes(1, 2)).is_ok());
}
