//! Influence functions of a softmax regression at its minimum, with exact curvature rows, against their closed form and
//! against training without each example.

use super::softmax::{curvature_rows, delta, examples, gradient, hessian, loss, row, weighted_rows, Example, WEIGHTS};
use super::{close, dot, one, score_of, solve};
use crate::{pearson, Curvature, Damping, EstimateQuestion, InfluenceQuestion, Method};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Synthetic, Visit};

/// Weight of `½‖w‖²`, which stands for the damping.
const RIDGE: f64 = 0.02;

/// Hessian of the mean loss over `n` of the examples, and of the ridge.
fn total_hessian(w: &[f64], all: &[&Example], n: f64) -> Vec<Vec<f64>> {
    let mut sum = vec![vec![0.0; WEIGHTS]; WEIGHTS];
    for example in all {
        for (sum, row) in sum.iter_mut().zip(hessian(w, example)) {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / n);
        }
    }
    sum.iter_mut().enumerate().for_each(|(i, row)| row[i] += RIDGE);
    sum
}

/// The minimum of `(1/n)·Σ ℓ + RIDGE/2·‖w‖²`, by Newton's method.
fn train(all: &[&Example], n: f64) -> Vec<f64> {
    let mut w = vec![0.0; WEIGHTS];
    for _ in 0..50 {
        let mut g: Vec<f64> = w.iter().map(|w| RIDGE * w).collect();
        for example in all {
            g.iter_mut().zip(gradient(&w, example)).for_each(|(sum, value)| *sum += value / n);
        }
        let by = solve(total_hessian(&w, all, n), g);
        w.iter_mut().zip(by).for_each(|(w, by)| *w -= by);
    }
    w
}

#[test]
fn predict_what_training_without_an_example_does() {
    let all = examples(60, 5);
    let everyone: Vec<&Example> = all.iter().collect();
    let n = all.len() as f64;
    let w = train(&everyone, n);
    let probe = &examples(61, 6)[60];

    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.set(1, "curvature");
    run.set(2, "weighted");
    run.probes(&[row(7, 1, &probe.x, &delta(&w, probe))]);
    run.probes(&curvature_rows(&w, &everyone, 1, 1));
    run.probes(&weighted_rows(&w, &everyone, 1, 2));
    let visits: Vec<Visit> =
        all.iter().enumerate().map(|(id, example)| row(id as u64, 0, &example.x, &delta(&w, example))).collect();
    run.visits(&visits);
    run.end();
    let mut asked = EstimateQuestion::new(one(7), Method::InfluenceFunction);
    asked.dampings = vec![Damping::Absolute(RIDGE)];
    asked.curvature = Curvature::Set("curvature".into());
    let written = run.finish();
    let found = &asked.compute(&written.run()).unwrap()[0];
    asked.curvature = Curvature::Set("weighted".into());
    let weighted = &asked.compute(&written.run()).unwrap()[0];
    assert_eq!(weighted.estimate.as_ref().unwrap().curvature_rows, 3 * all.len() as u64);
    // Its rows are no probes.
    let error = InfluenceQuestion::new("weighted").compute(&written.run()).unwrap_err();
    assert!(error.to_string().contains("rows of curvature"), "{error}");

    let u = solve(total_hessian(&w, &everyone, n), gradient(&w, probe));
    let (mut predicted, mut truth) = (Vec::new(), Vec::new());
    for (id, example) in all.iter().enumerate() {
        let got = score_of(found, id as u64);
        let closed = dot(&u, &gradient(&w, example)) / n;
        assert!(close(got * n, closed * n, 1e-4), "{id}: {got} for {closed}");
        let got = score_of(weighted, id as u64);
        assert!(close(got * n, closed * n, 1e-4), "weighted, {id}: {got} for {closed}");
        let others: Vec<&Example> = all.iter().enumerate().filter(|(i, _)| *i != id).map(|(_, e)| e).collect();
        predicted.push(got);
        truth.push(loss(&train(&others, n), probe) - loss(&w, probe));
    }
    let correlation = pearson(&predicted, &truth);
    assert!(correlation > 0.98, "{correlation}");
}
