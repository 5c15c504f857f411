//! The adjoint under Adam and AdamW against finite differences of whole trainings.

use super::softmax::{curvature_rows, delta, examples, gradient, loss, row, shuffled_batches, Example, WEIGHTS};
use super::{one, score_of};
use crate::vectors::Shape;
use crate::{spearman, AnalysisError, Curvature, EstimateQuestion, InfluenceQuestion, Method, OptimizerChoice};
use gradlog_format::log::UpdateRule;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Synthetic, Written};

const BETAS: (f32, f32) = (0.9, 0.97);
const EPSILON: f32 = 1e-6;

/// A training of the softmax regression by AdamW, with clip factors.
struct Training {
    all: Vec<Example>,
    batches: Vec<Vec<usize>>,
    decay: f32,
    /// The step at which the optimizer begins anew.
    anew: usize,
}

fn rate(step: usize) -> f32 {
    if step < 20 {
        0.03
    } else {
        0.015
    }
}

fn clip(step: usize) -> f64 {
    if step % 4 == 1 {
        0.75
    } else {
        1.0
    }
}

impl Training {
    fn new() -> Self {
        let all = examples(30, 11);
        let batches = shuffled_batches(all.len());
        Self { all, batches, decay: 0.125, anew: usize::MAX }
    }

    fn taken(&self, step: usize) -> u64 {
        (if step >= self.anew { step - self.anew } else { step }) as u64 + 1
    }

    /// Trains with the loss of one example multiplied by `factor`, telling `each` of the weights before every step.
    fn run(&self, reweighted: usize, factor: f64, mut each: impl FnMut(usize, &[f64])) -> Vec<f64> {
        let mut draws = Draws(13);
        let mut w: Vec<f64> = (0..WEIGHTS).map(|_| 0.3 * f64::from(draws.number())).collect();
        let (mut m, mut v) = ([0.0; WEIGHTS], [0.0; WEIGHTS]);
        let (beta1, beta2) = (f64::from(BETAS.0), f64::from(BETAS.1));
        for (step, batch) in self.batches.iter().enumerate() {
            each(step, &w);
            let mut g = [0.0; WEIGHTS];
            for &i in batch {
                let weight = clip(step) / batch.len() as f64 * if i == reweighted { factor } else { 1.0 };
                g.iter_mut().zip(gradient(&w, &self.all[i])).for_each(|(sum, g)| *sum += weight * g);
            }
            if step == self.anew {
                (m, v) = ([0.0; WEIGHTS], [0.0; WEIGHTS]);
            }
            let (rate, taken) = (f64::from(rate(step)), self.taken(step) as i32);
            for k in 0..WEIGHTS {
                m[k] = beta1 * m[k] + (1.0 - beta1) * g[k];
                v[k] = beta2 * v[k] + (1.0 - beta2) * g[k] * g[k];
                let (m, v) = (m[k] / (1.0 - beta1.powi(taken)), v[k] / (1.0 - beta2.powi(taken)));
                w[k] = (1.0 - rate * f64::from(self.decay)) * w[k] - rate * m / (v.sqrt() + f64::from(EPSILON));
            }
        }
        w
    }

    /// The log of the training, with a probe before each step and at the end, and exact curvature rows of each batch.
    fn record(&self, probe: &Example, rule: UpdateRule) -> Written {
        let (mut visits, mut probes, mut steps, mut curvature) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let w = self.run(usize::MAX, 1.0, |step, w| {
            let (batch, at) = (&self.batches[step], step as u64);
            probes.push(row(7, at, &probe.x, &delta(w, probe)));
            let examples: Vec<&Example> = batch.iter().map(|i| &self.all[*i]).collect();
            curvature.extend(curvature_rows(w, &examples, at, 1));
            for &i in batch {
                let mut visit = row(i as u64, at, &self.all[i].x, &delta(w, &self.all[i]));
                visit.learning_rate = rate(step);
                visit.clip = clip(step) as f32;
                visit.coefficient = 1.0 / batch.len() as f32;
                visits.push(visit);
            }
            steps.push((at, rate(step), self.decay, self.taken(step)));
        });
        probes.push(row(7, self.batches.len() as u64, &probe.x, &delta(&w, probe)));
        let mut run = Synthetic::new(Encoding::F32);
        run.set(0, "test");
        run.set(1, "curvature");
        run.probes(&probes);
        run.probes(&curvature);
        run.adam(&steps, BETAS, EPSILON, rule);
        for rows in visits.chunks(11) {
            run.visits(rows);
        }
        run.end();
        run.finish()
    }

    /// By how much the probe's final loss falls as the weight of each example grows.
    fn derivatives(&self, probe: &Example) -> Vec<f64> {
        let end = |example, factor| loss(&self.run(example, factor, |_, _| {}), probe);
        (0..self.all.len()).map(|example| -(end(example, 1.0 + 1e-4) - end(example, 1.0 - 1e-4)) / 2e-4).collect()
    }
}

fn asked(by_layer: bool, curvature: Curvature) -> EstimateQuestion {
    let shape = Shape { length: 64, by_layer };
    EstimateQuestion { shape, curvature, ..EstimateQuestion::new(one(7), Method::Adjoint) }
}

#[test]
fn with_exact_curvature_it_is_the_derivative_of_the_final_loss() {
    let probe = &examples(100, 77)[98];
    let exact = || Curvature::Set("curvature".into());
    for (rule, decay, anew) in
        [(UpdateRule::AdamW, 0.125, usize::MAX), (UpdateRule::AdamW, 0.125, 22), (UpdateRule::Adam, 0.0, usize::MAX)]
    {
        let training = Training { decay, anew, ..Training::new() };
        let run = training.record(probe, rule);
        let expected = training.derivatives(probe);
        let largest = expected.iter().fold(0f64, |largest, score| largest.max(score.abs()));
        for by_layer in [false, true] {
            let found = &asked(by_layer, exact()).compute(&run.run()).unwrap()[0];
            for (example, expected) in expected.iter().enumerate() {
                let got = score_of(found, example as u64);
                assert!((got - expected).abs() < 1e-3 * (largest + expected.abs()), "{example}: {got} for {expected}");
            }
            let about = found.estimate.as_ref().unwrap();
            assert_eq!((about.steps, about.steps_without_record), (training.batches.len() as u64, 0));
            assert!(found.basis.to_string().contains("moments of the recorded visits"), "{}", found.basis);
        }
        // As if the steps had been plain SGD, the order is another.
        let mut plain = asked(true, exact());
        plain.question.optimizer = OptimizerChoice::PlainSgd;
        let plain = &plain.compute(&run.run()).unwrap()[0];
        assert!(plain.basis.to_string().contains("plain SGD"), "{}", plain.basis);
        let scores: Vec<f64> = (0..expected.len() as u64).map(|example| score_of(plain, example)).collect();
        assert!(spearman(&scores, &expected) < 0.9);
    }
}

#[test]
fn what_the_moments_would_need_is_refused() {
    let (training, probe) = (Training::new(), &examples(100, 77)[98]);
    let refused = |run: &Written, said: &str| {
        let error = asked(true, Curvature::Visits).compute(&run.run()).unwrap_err();
        assert!(matches!(error, AnalysisError::OutOfRange { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    };
    refused(&training.record(probe, UpdateRule::Adam), "the weight decay of Adam");
    // A recording that begins in the middle of the training.
    let late = |first: u64| {
        let mut run = Synthetic::new(Encoding::F32);
        run.set(0, "test");
        run.probes(&[Draws(1).visit(7, 9, 0)]);
        run.adam(&[(4, 0.1, 0.0, first), (5, 0.1, 0.0, first + 1)], BETAS, EPSILON, UpdateRule::AdamW);
        run.visits(&[Draws(2).visit(1, 4, 0), Draws(3).visit(2, 5, 0)]);
        run.end();
        run.finish()
    };
    refused(&late(5), "the optimizer's count of its steps");
    refused(&late(0), "AdamW");
    assert!(asked(true, Curvature::Visits).compute(&late(1).run()).is_ok());
    let chosen = InfluenceQuestion::new("test").optimizer(OptimizerChoice::PlainSgd);
    let error = EstimateQuestion::new(chosen, Method::InfluenceFunction).compute(&late(1).run()).unwrap_err();
    assert!(error.to_string().contains("no step plays a part"), "{error}");
}
