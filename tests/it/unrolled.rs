//! The adjoint of recorded trainings with parameter groups, against finite differences of whole trainings in f64.
//!
//! The model is linear in its parameters, so that recorded curvature is its Hessian. One layer is factored, the other
//! sees several positions and is folded.

use crate::common::*;
use candle_core::{Module, Result, Tensor};
use candle_nn::{linear, Linear, Optimizer, VarMap};
use gradlog::optim::{AdamConfig, AdamW, ParameterGroup, Sgd, SgdConfig};
use gradlog::taps::{Tapped, Taps};
use gradlog::{Config, Recorder, StepReport, Worker};
use gradlog_analysis::{Curvature, EstimateQuestion, InfluenceQuestion, Method};
use gradlog_format::run::Run;
use std::path::Path;

const EXAMPLES: usize = 24;
const CLASSES: usize = 5;
const WIDE: usize = 300;
const POSITIONS: usize = 4;
const NARROW: usize = 120;
const BATCH: usize = 6;
const STEPS: usize = 28;
/// Parameters: `wide` with its bias, then `narrow` with its bias.
const SIZES: [usize; 4] = [CLASSES * WIDE, CLASSES, CLASSES * NARROW, CLASSES];

struct Model {
    taps: Taps,
    variables: VarMap,
    wide: Tapped<Linear>,
    narrow: Tapped<Linear>,
    x: Tensor,
    z: Tensor,
    y: Tensor,
}

impl Model {
    /// The layer that is tapped first lies first in the folded vector. There it is placed, and behind the other, which
    /// is factored, it is hashed.
    fn new(narrow_first: bool) -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = builder(&variables);
        let make = |name: &str, width: usize| taps.tap(name, linear(width, CLASSES, vb.pp(name)).unwrap());
        let (wide, narrow) = match narrow_first {
            true => {
                let narrow = make("narrow", NARROW);
                (make("wide", WIDE), narrow)
            }
            false => (make("wide", WIDE), make("narrow", NARROW)),
        };
        let model = Self {
            taps,
            wide,
            narrow,
            // The last example is the probe.
            x: (noise(1, &[EXAMPLES + 1, WIDE]) * 0.3).unwrap(),
            z: (noise(2, &[EXAMPLES + 1, POSITIONS, NARROW]) * 0.3).unwrap(),
            y: (noisy_labels(3, EXAMPLES + 1)),
            variables,
        };
        for (seed, (_, variable)) in model.named().into_iter().enumerate() {
            variable.set(&(noise(seed as u64 + 5, variable.dims()) * 0.2).unwrap()).unwrap();
        }
        model
    }

    /// In the order of [`SIZES`].
    fn named(&self) -> Vec<(&'static str, candle_core::Var)> {
        let data = self.variables.data().lock().unwrap();
        ["wide.weight", "wide.bias", "narrow.weight", "narrow.bias"].map(|name| (name, data[name].clone())).to_vec()
    }

    fn weights(&self) -> Vec<f64> {
        self.named().iter().flat_map(|(_, variable)| numbers(variable)).map(f64::from).collect()
    }

    fn logits(&self, ids: &[u64]) -> Result<Tensor> {
        let at_positions = self.narrow.forward(&rows(&self.z, ids))?.sum(1)?;
        self.wide.forward(&rows(&self.x, ids))? + (at_positions / POSITIONS as f64)?
    }
}

/// What trains it.
#[derive(Clone, Copy, PartialEq)]
enum Descent {
    AdamW,
    Nesterov,
}

const RATE: f64 = 0.01;
const DECAY: f64 = 0.25;
/// Of `narrow`, whose learning rate is its own.
const FACTOR: f64 = 0.5;
const BETAS: (f64, f64) = (0.875, 0.96875);
const EPSILON: f64 = 1.0 / 1048576.0;
const MOMENTUM: f64 = 0.75;

fn rate(step: usize) -> f64 {
    RATE * if step < 10 { 1.0 } else { 0.5 }
}

fn batch(step: usize) -> Vec<u64> {
    (0..BATCH).map(|i| ((step * BATCH + i * 5 + step / 4) % EXAMPLES) as u64).collect()
}

/// Biases have no weight decay, and `narrow` has a rate of its own.
fn groups(model: &Model) -> Vec<ParameterGroup> {
    let of = |name: &str| model.named().into_iter().find(|(own, _)| *own == name).unwrap().1;
    vec![
        ParameterGroup::new(vec![of("wide.weight")]),
        ParameterGroup::new(vec![of("wide.bias")]).weight_decay(0.0),
        ParameterGroup::new(vec![of("narrow.weight")]).rate_factor(FACTOR),
        ParameterGroup::new(vec![of("narrow.bias")]).rate_factor(FACTOR).weight_decay(0.0),
    ]
}

fn train<O: Optimizer + StepReport>(model: &Model, mut optimizer: O, dir: &Path, workers: u32) {
    let config = |rank| Config { worker: (workers > 1).then(|| Worker::new(rank, workers)), ..exact() };
    // Each worker has a model of its own, with the same weights.
    let others: Vec<Model> = (1..workers).map(|_| Model::new(false)).collect();
    let models = || std::iter::once(model).chain(&others);
    let mut recorders: Vec<Recorder> =
        (0..).zip(models()).map(|(rank, model)| Recorder::create(dir, &model.taps, config(rank)).unwrap()).collect();
    for step in 0..STEPS {
        optimizer.set_learning_rate(rate(step));
        let (ids, share) = (batch(step), BATCH / workers as usize);
        recorders[0].curvature("curvature", &ids).unwrap().cross_entropy(|_, ids| model.logits(ids)).unwrap();
        if workers == 1 {
            let mut pass = recorders[0].pass(&ids).unwrap();
            let loss = pass.cross_entropy(&model.logits(&ids).unwrap(), &rows(&model.y, &ids)).unwrap();
            pass.backward_step(&mut optimizer, &loss).unwrap();
            continue;
        }
        let mut sums: Vec<Tensor> = Vec::new();
        for ((recorder, model), ids) in recorders.iter_mut().zip(models()).zip(ids.chunks(share)) {
            let mut pass = recorder.pass(ids).unwrap();
            let loss = pass.cross_entropy(&model.logits(ids).unwrap(), &rows(&model.y, ids)).unwrap();
            let grads = loss.backward().unwrap();
            pass.commit(optimizer.step_info()).unwrap();
            let own =
                model.named().into_iter().map(|(_, var)| (grads.get(&var).unwrap() / f64::from(workers)).unwrap());
            sums = match sums.is_empty() {
                true => own.collect(),
                false => sums.iter().zip(own).map(|(sum, own)| (sum + own).unwrap()).collect(),
            };
        }
        let any = model.named()[0].1.sum_all().unwrap();
        let mut grads = any.backward().unwrap();
        for ((_, var), sum) in model.named().into_iter().zip(sums) {
            grads.insert(&var, sum);
        }
        optimizer.step(&grads).unwrap();
        for other in &others {
            let pairs = model.named().into_iter().zip(other.named());
            pairs.for_each(|((_, from), (_, to))| to.set(&from.as_detached_tensor().copy().unwrap()).unwrap());
        }
    }
    let probe = [EXAMPLES as u64];
    let mut pass = recorders[0].probe("test", &probe).unwrap();
    pass.cross_entropy(&model.logits(&probe).unwrap(), &rows(&model.y, &probe)).unwrap().backward().unwrap();
    pass.commit().unwrap();
    for recorder in recorders {
        recorder.finish().unwrap();
    }
}

/// The training in f64.
struct Twin {
    start: Vec<f64>,
    x: Vec<Vec<f64>>,
    /// Sums over positions, divided by their number.
    z: Vec<Vec<f64>>,
    y: Vec<usize>,
    descent: Descent,
}

impl Twin {
    fn new(model: &Model, descent: Descent) -> Self {
        let wide =
            |tensor: &Tensor| -> Vec<Vec<f64>> { tensor.to_dtype(candle_core::DType::F64).unwrap().to_vec2().unwrap() };
        let z = (model.z.sum(1).unwrap() / POSITIONS as f64).unwrap();
        let y = model.y.to_vec1::<u32>().unwrap().into_iter().map(|y| y as usize).collect();
        Self { start: model.weights(), x: wide(&model.x), z: wide(&z), y, descent }
    }

    fn probabilities(&self, w: &[f64], i: usize) -> Vec<f64> {
        let (wide, rest) = w.split_at(SIZES[0]);
        let (wide_bias, rest) = rest.split_at(SIZES[1]);
        let (narrow, narrow_bias) = rest.split_at(SIZES[2]);
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let logit = |c: usize| {
            dot(&wide[c * WIDE..(c + 1) * WIDE], &self.x[i])
                + wide_bias[c]
                + dot(&narrow[c * NARROW..(c + 1) * NARROW], &self.z[i])
                + narrow_bias[c]
        };
        let powers: Vec<f64> = (0..CLASSES).map(|c| logit(c).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    fn loss(&self, w: &[f64], i: usize) -> f64 {
        -self.probabilities(w, i)[self.y[i]].ln()
    }

    /// Adds `weight` times the gradient of an example's loss.
    fn add_gradient(&self, w: &[f64], i: usize, weight: f64, sum: &mut [f64]) {
        let mut delta = self.probabilities(w, i);
        delta[self.y[i]] -= 1.0;
        let (wide, rest) = sum.split_at_mut(SIZES[0]);
        let (wide_bias, rest) = rest.split_at_mut(SIZES[1]);
        let (narrow, narrow_bias) = rest.split_at_mut(SIZES[2]);
        for (c, delta) in delta.iter().enumerate() {
            let delta = weight * delta;
            wide[c * WIDE..(c + 1) * WIDE].iter_mut().zip(&self.x[i]).for_each(|(g, x)| *g += delta * x);
            narrow[c * NARROW..(c + 1) * NARROW].iter_mut().zip(&self.z[i]).for_each(|(g, z)| *g += delta * z);
            wide_bias[c] += delta;
            narrow_bias[c] += delta;
        }
    }

    /// Trains with the loss of one example multiplied by `factor`.
    fn train(&self, reweighted: usize, factor: f64) -> Vec<f64> {
        let mut w = self.start.clone();
        let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        let group = |k: usize| match k {
            k if k < SIZES[0] => (1.0, DECAY),
            k if k < SIZES[0] + SIZES[1] => (1.0, 0.0),
            k if k < SIZES[0] + SIZES[1] + SIZES[2] => (FACTOR, DECAY),
            _ => (FACTOR, 0.0),
        };
        for step in 0..STEPS {
            let mut g = vec![0.0; w.len()];
            for id in batch(step) {
                let weight = if id as usize == reweighted { factor } else { 1.0 };
                self.add_gradient(&w, id as usize, weight / BATCH as f64, &mut g);
            }
            for k in 0..w.len() {
                let (factor, decay) = group(k);
                let rate = rate(step) * factor;
                match self.descent {
                    Descent::AdamW => {
                        let taken = step as i32 + 1;
                        m[k] = BETAS.0 * m[k] + (1.0 - BETAS.0) * g[k];
                        v[k] = BETAS.1 * v[k] + (1.0 - BETAS.1) * g[k] * g[k];
                        let (m, v) = (m[k] / (1.0 - BETAS.0.powi(taken)), v[k] / (1.0 - BETAS.1.powi(taken)));
                        w[k] = (1.0 - rate * decay) * w[k] - rate * m / (v.sqrt() + EPSILON);
                    }
                    Descent::Nesterov => {
                        let d = g[k] + decay * w[k];
                        m[k] = if step == 0 { d } else { MOMENTUM * m[k] + d };
                        w[k] -= rate * (d + MOMENTUM * m[k]);
                    }
                }
            }
        }
        w
    }

    /// By how much the probe's final loss falls as the weight of each example grows.
    fn derivatives(&self) -> Vec<f64> {
        let end = |example, factor| self.loss(&self.train(example, factor), EXAMPLES);
        (0..EXAMPLES).map(|example| -(end(example, 1.0 + 1e-6) - end(example, 1.0 - 1e-6)) / 2e-6).collect()
    }
}

fn adjoint(dir: &Path) -> (Vec<f32>, String) {
    let asked = EstimateQuestion::new(InfluenceQuestion::new("test"), Method::Adjoint).length(1 << 14);
    let asked = asked.curvature(Curvature::Set("curvature".into()));
    let answer = &asked.compute(&Run::open(dir).unwrap()).unwrap()[0];
    (influence_by_example(answer, 0, EXAMPLES), answer.basis.to_string())
}

#[test]
fn the_adjoint_with_parameter_groups_equals_finite_differences() {
    for descent in [Descent::AdamW, Descent::Nesterov] {
        let mut found = Vec::new();
        for workers in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let model = Model::new(workers == 1);
            let twin = Twin::new(&model, descent);
            match descent {
                Descent::AdamW => {
                    let config = AdamConfig::new(RATE).betas(BETAS.0, BETAS.1).epsilon(EPSILON).weight_decay(DECAY);
                    train(&model, AdamW::with_groups(groups(&model), config).unwrap(), dir.path(), workers);
                }
                Descent::Nesterov => {
                    let config = SgdConfig::new(RATE).momentum(MOMENTUM).weight_decay(DECAY).nesterov();
                    train(&model, Sgd::with_groups(groups(&model), config).unwrap(), dir.path(), workers);
                }
            }
            // The twin trains the same.
            let (ours, theirs) = (model.weights(), twin.train(usize::MAX, 1.0));
            let distance = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(distance < 1e-5, "{distance}");
            let (scores, basis) = adjoint(dir.path());
            let truth: Vec<f32> = twin.derivatives().into_iter().map(|score| score as f32).collect();
            let error = relative_error(&scores, &truth);
            assert!(error < 2e-3, "{workers} workers: {error}: {scores:?} for {truth:?}");
            assert!(basis.contains("weight decay up to 0.25"), "{basis}");
            assert!(descent != Descent::AdamW || basis.contains("moments of the recorded visits"), "{basis}");
            found.push(scores);
        }
        assert!(relative_error(&found[1], &found[0]) < 1e-3);
    }
}
