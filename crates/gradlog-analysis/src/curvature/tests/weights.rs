//! Weights of examples: what they make of each method, by its formula in f64 and by the trained minimum.

use super::softmax::{delta, examples, gradient, hessian, loss, row, weighted_rows, Example, WEIGHTS};
use super::{blocks, close, dot, one, score_of, solve};
use crate::{Curvature, Damping, EstimateQuestion, Influence, InfluenceQuestion, Method, Normalization};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::collections::BTreeMap;

/// Weight of `½‖w‖²`, which stands for the damping.
const RIDGE: f64 = 0.05;

/// The minimum of `Σ W_i ℓ_i / n + RIDGE/2·‖w‖²` by Newton's method.
fn train(all: &[Example], weights: &[f64], n: f64) -> Vec<f64> {
    let mut w = vec![0.0; WEIGHTS];
    for _ in 0..60 {
        let mut g: Vec<f64> = w.iter().map(|w| RIDGE * w).collect();
        let mut h = vec![vec![0.0; WEIGHTS]; WEIGHTS];
        for (example, weight) in all.iter().zip(weights) {
            g.iter_mut().zip(gradient(&w, example)).for_each(|(sum, value)| *sum += weight * value / n);
            for (sum, row) in h.iter_mut().zip(hessian(&w, example)) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value / n);
            }
        }
        h.iter_mut().enumerate().for_each(|(i, row)| row[i] += RIDGE);
        let by = solve(h, g);
        w.iter_mut().zip(by).for_each(|(w, by)| *w -= by);
    }
    w
}

const LOSS_WEIGHTS: [f64; 6] = [10.0, 1.0, 1.0, 10.0, 1.0, 0.2];

/// A run at the minimum: `draws` are the examples in the order of their visits, in batches of 5 whose last is short,
/// and the curvature has rows of `set`, under ids from `first_id`.
fn at_the_minimum(
    all: &[Example],
    draws: &[usize],
    loss_weights: &[f64],
    is_sum: bool,
    first_id: u64,
) -> (Written, Vec<f64>) {
    let mut totals = vec![0.0; all.len()];
    draws.iter().for_each(|i| totals[*i] += loss_weights[*i]);
    let n: f64 = totals.iter().sum();
    let w = train(all, &totals, n);
    let probe = &examples(61, 6)[60];
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.set(1, "curvature");
    run.probes(&[row(7, 1, &probe.x, &delta(&w, probe))]);
    let drawn: Vec<&Example> = draws.iter().map(|i| &all[*i]).collect();
    let mut rows = weighted_rows(&w, &drawn, 1, 1);
    rows.iter_mut().for_each(|row| row.example = first_id + draws[row.example as usize] as u64);
    run.probes(&rows);
    for (step, batch) in draws.chunks(5).enumerate() {
        let visit = |&i: &usize| {
            let mut visit = row(i as u64, step as u64, &all[i].x, &delta(&w, &all[i]));
            visit.coefficient = (loss_weights[i] / if is_sum { 1.0 } else { batch.len() as f64 }) as f32;
            visit
        };
        run.visits(&batch.iter().map(visit).collect::<Vec<Visit>>());
    }
    run.end();
    let truth = (0..all.len()).map(|i| {
        let at = |factor: f64| {
            let mut changed = totals.clone();
            changed[i] *= factor;
            loss(&train(all, &changed, n), probe)
        };
        (at(1.0 - 1e-4) - at(1.0 + 1e-4)) / 2e-4
    });
    let truth = truth.collect();
    (run.finish(), truth)
}

fn ask(written: &Written, method: Method, curvature: &Curvature) -> Influence {
    let asked = EstimateQuestion::new(one(7), method).curvature(curvature.clone());
    let asked = if method == Method::Adjoint { asked } else { asked.damping(Damping::Absolute(RIDGE)) };
    asked.compute(&written.run()).unwrap().remove(0)
}

#[test]
fn influence_functions_are_the_derivative_of_the_minimum_under_weights_of_the_loss() {
    let all = examples(6, 21);
    let set = Curvature::Set("curvature".into());
    let twice = [0, 1, 2, 3, 4, 5, 4, 3, 5, 2, 0, 1];
    // A loss that is a mean over its batch, and one that is a sum.
    for is_sum in [false, true] {
        let (written, truth) = at_the_minimum(&all, &twice, &LOSS_WEIGHTS, is_sum, 0);
        let found = ask(&written, Method::InfluenceFunction, &set);
        for (id, truth) in truth.iter().enumerate() {
            let got = score_of(&found, id as u64);
            assert!(close(got, *truth, 1e-4), "sum {is_sum}, {id}: {got} for {truth}");
        }
        let said = found.basis.to_string();
        assert!(said.contains("weights of the loss, 0.052 to 2.586 times their mean"), "{said}");
        assert!(!said.contains("without the weights"), "{said}");
    }
    // Rows of other examples have no weights, and the answer says so.
    let (written, _) = at_the_minimum(&all, &twice, &LOSS_WEIGHTS, false, 1000);
    for method in [Method::InfluenceFunction, Method::Adjoint] {
        let said = ask(&written, method, &set).basis.to_string();
        assert!(
            said.contains("the curvature `curvature` takes each example without the weights of the loss"),
            "{said}"
        );
    }
}

#[test]
fn an_example_that_is_drawn_three_times_counts_three_times() {
    let all = examples(6, 21);
    let draws = [0, 0, 0, 1, 2, 3, 4, 5];
    for loss_weights in [[1.0; 6], LOSS_WEIGHTS] {
        let (written, truth) = at_the_minimum(&all, &draws, &loss_weights, false, 0);
        let found = ask(&written, Method::InfluenceFunction, &Curvature::Set("curvature".into()));
        for (id, truth) in truth.iter().enumerate() {
            let got = score_of(&found, id as u64);
            assert!(close(got, *truth, 1e-4), "{id}: {got} for {truth}");
        }
        let said = found.basis.to_string();
        assert!(said.contains("1 to 3 visits an example"), "{said}");
        assert!(said.contains("as often as it was recorded, and not as often as it was visited"), "{said}");
    }
    // Of equal weights, nothing is said.
    let (written, _) = at_the_minimum(&all, &[0, 1, 2, 3, 4, 5], &[1.0; 6], false, 0);
    let said = ask(&written, Method::InfluenceFunction, &Curvature::Set("curvature".into())).basis.to_string();
    assert!(!said.contains("count by") && !said.contains("takes each example"), "{said}");
}

/// Visits with weights between 0.2 and 2, and their weights.
fn story() -> (Vec<Visit>, Vec<f64>, Visit, Written) {
    let mut draws = Draws(17);
    let mut all = visits(&mut draws, 12, 3, 5);
    let mut probe = draws.visit(900, 40, 0);
    let mut weights = Vec::new();
    probe.confidence = (-probe.loss).exp();
    for visit in &mut all {
        visit.confidence = (-visit.loss).exp();
        let weight = [0.2f32, 1.0, 2.0, 0.5][draws.below(4) as usize];
        visit.coefficient *= weight;
        weights.push(f64::from(weight));
    }
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(std::slice::from_ref(&probe));
    run.visits(&all);
    run.end();
    (all, weights, probe, run.finish())
}

/// `Σ w g gᵀ / Σ w + λI`.
fn damped(rows: &[Vec<f64>], weights: &[f64], lambda: f64) -> Vec<Vec<f64>> {
    let total: f64 = weights.iter().sum();
    let at = |i: usize, j: usize| rows.iter().zip(weights).map(|(g, w)| w * g[i] * g[j]).sum::<f64>() / total;
    let n = rows[0].len();
    let mut h: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| at(i, j)).collect()).collect();
    h.iter_mut().enumerate().for_each(|(i, row)| row[i] += lambda);
    h
}

const LAMBDA: f64 = 0.3;

#[test]
fn every_method_is_its_formula_under_weights() {
    let (all, weights, probe, written) = story();
    let run = written.run();
    let ask_at = |method, normalization, length| {
        let question = InfluenceQuestion::new("test").id(900).normalization(normalization);
        let asked = EstimateQuestion::new(question, method).length(length).damping(Damping::Absolute(LAMBDA));
        asked.compute(&run).unwrap().remove(0)
    };
    let ask = |method, normalization| ask_at(method, normalization, 64);
    let total: f64 = weights.iter().sum();
    let rows: Vec<Vec<f64>> = all.iter().map(|visit| blocks(visit, false)[0].clone()).collect();
    let v = blocks(&probe, false)[0].clone();
    let h = damped(&rows, &weights, LAMBDA);
    let by_inverse = solve(h.clone(), v.clone());
    let mut by_mean = vec![0.0; v.len()];
    for (g, weight) in rows.iter().zip(&weights) {
        let one = solve(damped(std::slice::from_ref(g), &[1.0], LAMBDA), v.clone());
        by_mean.iter_mut().zip(one).for_each(|(sum, one)| *sum += weight * one / total);
    }
    let mut sums: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for ((visit, g), weight) in all.iter().zip(&rows).zip(&weights) {
        let sum = sums.entry(visit.example).or_insert_with(|| vec![0.0; v.len()]);
        sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += weight * g / total);
    }
    let inverse = ask(Method::InfluenceFunction, Normalization::None);
    let relatif = ask(Method::InfluenceFunction, Normalization::Relatif);
    let datainf = ask(Method::DataInf, Normalization::None);
    for (example, sum) in &sums {
        let score = dot(&by_inverse, sum);
        assert!(close(score_of(&inverse, *example), score, 1e-5), "{example}: {score}");
        let score = score / dot(&solve(h.clone(), sum.clone()), sum).sqrt() / sums.len() as f64;
        assert!(close(score_of(&relatif, *example), score, 1e-5), "relatif {example}: {score}");
        let score = dot(&by_mean, sum);
        assert!(close(score_of(&datainf, *example), score, 1e-5), "DataInf {example}: {score}");
    }

    let doubt = |visit: &Visit| 1.0 - (-f64::from(visit.loss)).exp();
    let phi = |visit: &Visit| -> Vec<f64> { blocks(visit, false)[0].iter().map(|g| g / doubt(visit)).collect() };
    let mut sums: BTreeMap<u64, (f64, f64, f64)> = BTreeMap::new();
    for epoch in 0..3 {
        let of_epoch = || all.iter().zip(&weights).filter(|(visit, _)| visit.epoch == epoch);
        let rows: Vec<Vec<f64>> = of_epoch().map(|(visit, _)| phi(visit)).collect();
        let weights: Vec<f64> = of_epoch().map(|(_, weight)| *weight).collect();
        let u = solve(damped(&rows, &weights, LAMBDA), phi(&probe));
        for (visit, weight) in of_epoch() {
            let entry = sums.entry(visit.example).or_default();
            let product = weight * dot(&u, &phi(visit)) / weights.iter().sum::<f64>();
            *entry = (entry.0 + product / 3.0, entry.1 + doubt(visit), entry.2 + 1.0);
        }
    }
    // By numbers, and by examples where vectors would be folded.
    let (trak, by_examples) = (ask(Method::Trak, Normalization::None), ask_at(Method::Trak, Normalization::None, 20));
    assert!(by_examples.estimate.as_ref().unwrap().solved_by_examples);
    for (example, (products, doubts, count)) in sums {
        let expected = products * doubts / count;
        for found in [&trak, &by_examples] {
            assert!(close(score_of(found, example), expected, 2e-5), "TRAK {example}: {expected}");
        }
    }
}

/// A gradient that f32 cannot hold leaves a row of zeros in `Φ`: the curvature is a mean over it, too.
#[test]
fn traks_estimator_keeps_the_rows_of_examples_that_the_model_is_sure_of() {
    let mut draws = Draws(5);
    let mut all: Vec<Visit> = (0..8).map(|id| Visit { coefficient: 0.125, ..draws.visit(id, 0, 0) }).collect();
    let mut probe = draws.visit(900, 1, 0);
    for visit in all.iter_mut().chain([&mut probe]) {
        visit.confidence = (-visit.loss).exp();
    }
    for sure in &mut all[5..] {
        (sure.loss, sure.confidence) = (0.0, 1.0);
        sure.parts.iter_mut().flatten().for_each(|value| *value = 0.0);
    }
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(std::slice::from_ref(&probe));
    run.visits(&all);
    run.end();
    let asked = EstimateQuestion::new(InfluenceQuestion::new("test").id(900), Method::Trak);
    let (asked, written) = (asked.damping(Damping::Absolute(LAMBDA)), run.finish());
    let of = |length| asked.clone().length(length).compute(&written.run()).unwrap().remove(0);
    let (by_numbers, by_examples) = (of(64), of(20));
    let doubt = |visit: &Visit| 1.0 - (-f64::from(visit.loss)).exp();
    let scaled = |visit: &Visit, by: f64| -> Vec<f64> { blocks(visit, false)[0].iter().map(|g| g * by).collect() };
    let phi = |visit: &Visit| scaled(visit, if doubt(visit) > 0.0 { 1.0 / doubt(visit) } else { 0.0 });
    let rows: Vec<Vec<f64>> = all.iter().map(phi).collect();
    let u = solve(damped(&rows, &[1.0; 8], LAMBDA), phi(&probe));
    for found in [&by_numbers, &by_examples] {
        for (visit, row) in all.iter().zip(&rows) {
            let expected = doubt(visit) * dot(&u, row) / 8.0;
            let got = score_of(found, visit.example);
            assert!(close(got, expected, 1e-5), "{}: {got} for {expected}", visit.example);
        }
        assert_eq!(found.left_out.without_log_odds, 3);
        let said = found.basis.to_string();
        assert!(said.contains("3 gradients of log-odds (the probability of the label rounds to 1)"), "{said}");
    }
}

/// A matrix by examples has no place for a visit of negative weight, so such a run is solved by numbers.
#[test]
fn negative_weights_are_solved_by_numbers() {
    let (mut all, _, probe, _) = story();
    all[2].coefficient *= -1.0;
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(std::slice::from_ref(&probe));
    run.visits(&all);
    run.end();
    let asked = EstimateQuestion::new(InfluenceQuestion::new("test").id(900), Method::Trak).length(20);
    let found = &asked.damping(Damping::Absolute(LAMBDA)).compute(&run.finish().run()).unwrap()[0];
    assert!(!found.estimate.as_ref().unwrap().solved_by_examples);
    assert!(found.basis.to_string().contains("those below 0 without curvature"), "{}", found.basis);
}
