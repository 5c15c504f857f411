//! A softmax regression of 5 features and 3 classes in f64, small enough to train again for every example.

use gradlog_testing::{Draws, Visit};

pub(super) const FEATURES: usize = 5;
pub(super) const CLASSES: usize = 3;
/// Weights `[classes, features + 1]`, the bias last, as `fc` of a synthetic run has them.
pub(super) const WEIGHTS: usize = CLASSES * (FEATURES + 1);

#[derive(Clone)]
pub(super) struct Example {
    pub x: Vec<f64>,
    pub label: usize,
}

/// Examples of three overlapping classes; the numbers are f32, so that a log holds them exactly.
pub(super) fn examples(count: usize, seed: u64) -> Vec<Example> {
    let mut draws = Draws(seed);
    (0..count)
        .map(|i| {
            let label = i % CLASSES;
            let x = (0..FEATURES).map(|f| f64::from(draws.number()) + if f == label { 0.7 } else { 0.0 }).collect();
            // Some labels are wrong, so that there is something to find.
            Example { x, label: if i % 7 == 3 { (label + 1) % CLASSES } else { label } }
        })
        .collect()
}

/// Batches of four of six epochs over so many examples, each in an order of its own.
pub(super) fn shuffled_batches(examples: usize) -> Vec<Vec<usize>> {
    let mut draws = Draws(12);
    let mut batches = Vec::new();
    for _ in 0..6 {
        let mut order: Vec<usize> = (0..examples).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, draws.below(i as u64 + 1) as usize);
        }
        batches.extend(order.chunks(4).map(<[usize]>::to_vec));
    }
    batches
}

fn with_bias(x: &[f64]) -> Vec<f64> {
    x.iter().copied().chain([1.0]).collect()
}

pub(super) fn probabilities(w: &[f64], x: &[f64]) -> Vec<f64> {
    let a = with_bias(x);
    let logits: Vec<f64> = w.chunks(FEATURES + 1).map(|w| super::dot(w, &a)).collect();
    let max = logits.iter().copied().fold(f64::MIN, f64::max);
    let exps: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

pub(super) fn loss(w: &[f64], example: &Example) -> f64 {
    -probabilities(w, &example.x)[example.label].ln()
}

/// Gradient of the loss by the logits.
pub(super) fn delta(w: &[f64], example: &Example) -> Vec<f64> {
    let mut delta = probabilities(w, &example.x);
    delta[example.label] -= 1.0;
    delta
}

pub(super) fn gradient(w: &[f64], example: &Example) -> Vec<f64> {
    let a = with_bias(&example.x);
    delta(w, example).iter().flat_map(|d| a.iter().map(move |a| d * a)).collect()
}

/// Hessian of the loss: `(diag p − p pᵀ) ⊗ a aᵀ`.
pub(super) fn hessian(w: &[f64], example: &Example) -> Vec<Vec<f64>> {
    let (p, a) = (probabilities(w, &example.x), with_bias(&example.x));
    let n = FEATURES + 1;
    let at = |i: usize, j: usize| {
        let (c, d) = (i / n, j / n);
        (if c == d { p[c] } else { 0.0 } - p[c] * p[d]) * a[i % n] * a[j % n]
    };
    (0..WEIGHTS).map(|i| (0..WEIGHTS).map(|j| at(i, j)).collect()).collect()
}

/// A row of a log with this gradient: factors of `fc`, and nothing in the other layers.
pub(super) fn row(id: u64, step: u64, x: &[f64], delta: &[f64]) -> Visit {
    let mut visit = Draws(1).visit(id, step, 0);
    visit.parts = [
        x.iter().map(|x| *x as f32).collect(),
        delta.iter().map(|d| *d as f32).collect(),
        vec![0.0; 4],
        vec![0.0; 2],
        vec![0.0; 7],
    ];
    (visit.clip, visit.coefficient) = (1.0, 1.0);
    visit
}

/// Rows whose mean of `w wᵀ` is the mean Hessian of the examples: `√(C·p_c)·(e_c − p)` for each class.
pub(super) fn curvature_rows(w: &[f64], examples: &[&Example], step: u64, set: u32) -> Vec<Visit> {
    let mut rows = Vec::new();
    for example in examples {
        let p = probabilities(w, &example.x);
        for class in 0..CLASSES {
            let root = (CLASSES as f64 * p[class]).sqrt();
            let delta: Vec<f64> = (0..CLASSES).map(|d| root * (f64::from(u8::from(d == class)) - p[d])).collect();
            rows.push(Visit { set, ..row(rows.len() as u64, step, &example.x, &delta) });
        }
    }
    rows
}

/// The same as rows of curvature: the gradient by each class with the class's probability for weight, all under the id
/// of their example.
pub(super) fn weighted_rows(w: &[f64], examples: &[&Example], step: u64, set: u32) -> Vec<Visit> {
    let mut rows = Vec::new();
    for (id, example) in examples.iter().enumerate() {
        for (label, p) in probabilities(w, &example.x).into_iter().enumerate() {
            let delta = delta(w, &Example { label, ..(*example).clone() });
            let row = row(id as u64, step, &example.x, &delta);
            rows.push(Visit { set, curvature_weight: Some(p as f32), ..row });
        }
    }
    rows
}

#[test]
fn the_model_is_what_it_says() {
    let all = examples(6, 1);
    let mut draws = Draws(8);
    let w: Vec<f64> = (0..WEIGHTS).map(|_| f64::from(draws.number())).collect();
    for example in &all {
        let (g, h) = (gradient(&w, example), hessian(&w, example));
        for i in 0..WEIGHTS {
            let step =
                |by: f64| -> Vec<f64> { w.iter().enumerate().map(|(j, w)| if i == j { w + by } else { *w }).collect() };
            let (up, down) = (step(1e-5), step(-1e-5));
            assert!((g[i] - (loss(&up, example) - loss(&down, example)) / 2e-5).abs() < 1e-8);
            for (j, h) in h[i].iter().enumerate() {
                assert!((h - (gradient(&up, example)[j] - gradient(&down, example)[j]) / 2e-5).abs() < 1e-8);
            }
        }
    }
}
