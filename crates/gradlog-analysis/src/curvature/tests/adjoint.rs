//! The adjoint against DVEmb's own definition, against finite differences of whole trainings, and against leaving out.

use super::softmax::{
    curvature_rows, delta, examples, gradient, loss, row, shuffled_batches, weighted_rows, Example, WEIGHTS,
};
use super::{blocks, close, dot, one, score_of, WHOLE};
use crate::vectors::Shape;
use crate::{pearson, spearman};
use crate::{AnalysisError, Curvature, EstimateQuestion, Method, Window};
use gradlog_format::log::UpdateRule;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::collections::BTreeMap;

fn asked(id: u64, by_layer: bool, curvature: Curvature) -> EstimateQuestion {
    let shape = Shape { length: 64, by_layer };
    EstimateQuestion { shape, curvature, ..EstimateQuestion::new(one(id), Method::Adjoint) }
}

/// DVEmb, Wang et al. 2024: `e_s = g_s − M g_s`, `M ← M + Σ_i w_i e_i g_iᵀ`, from the last step to the first; score
/// `Σ_s w_s·⟨e_s, g'⟩` with `w = η·clip·c`.
fn dvemb(all: &[&Visit], probe: &Visit, by_layer: bool) -> BTreeMap<u64, f64> {
    let mut scores = BTreeMap::new();
    for block in 0..if by_layer { WHOLE.len() } else { 1 } {
        let of = |visit: &Visit| blocks(visit, by_layer)[block].clone();
        let target = of(probe);
        let n = target.len();
        let mut m = vec![vec![0.0; n]; n];
        let last = all.iter().map(|visit| visit.step).max().unwrap();
        for step in (0..=last).rev() {
            let mut update = vec![vec![0.0; n]; n];
            for visit in all.iter().filter(|visit| visit.step == step) {
                let g = of(visit);
                let e: Vec<f64> = (0..n).map(|i| g[i] - dot(&m[i], &g)).collect();
                let weight = f64::from(visit.learning_rate) * f64::from(visit.clip) * f64::from(visit.coefficient);
                *scores.entry(visit.example).or_default() += weight * dot(&e, &target);
                for (row, e) in update.iter_mut().zip(&e) {
                    row.iter_mut().zip(&g).for_each(|(slot, g)| *slot += weight * e * g);
                }
            }
            for (row, update) in m.iter_mut().zip(update) {
                row.iter_mut().zip(update).for_each(|(slot, value)| *slot += value);
            }
        }
    }
    scores
}

#[test]
fn without_momentum_it_is_dvemb() {
    let mut all = visits(&mut Draws(23), 15, 4, 4);
    for visit in &mut all {
        // A step has one rate and one clip.
        (visit.learning_rate, visit.clip) =
            (0.02 + 0.003 * (visit.step % 5) as f32, 0.5 + 0.1 * (visit.step % 3) as f32);
    }
    all[7].flags = 1;
    let end = all.iter().map(|visit| visit.step + 1).max().unwrap();
    let probes: Vec<Visit> =
        [(3, 0), (4, 0), (3, end)].iter().map(|(id, step)| Draws(*id + step).visit(*id, *step, 0)).collect();
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&probes);
    // Blocks end in the middle of a step.
    for rows in all.chunks(7) {
        run.visits(rows);
    }
    run.end();
    let written = run.finish();
    let usable: Vec<&Visit> = all.iter().filter(|visit| visit.flags == 0).collect();
    for by_layer in [false, true] {
        let found = &asked(3, by_layer, Curvature::Visits).compute(&written.run()).unwrap()[0];
        let expected = dvemb(&usable, &probes[2], by_layer);
        assert_eq!(found.rows.len(), expected.len());
        for (example, expected) in expected {
            let got = score_of(found, example);
            assert!(close(got, expected, 1e-5), "{example}: {got} for {expected}");
        }
        let about = found.estimate.as_ref().unwrap();
        assert_eq!((about.steps, about.steps_without_record, about.curvature_rows), (end, end, usable.len() as u64));
        assert_eq!((found.visits, found.left_out.not_finite), (usable.len() as u64, 1));
    }
    // The window says whose scores are wanted; what the other visits did is unrolled all the same.
    let mut narrow = asked(3, false, Curvature::Visits);
    narrow.question.window = Window::epochs(1..2);
    let found = &narrow.compute(&written.run()).unwrap()[0];
    let whole = &asked(3, false, Curvature::Visits).compute(&written.run()).unwrap()[0];
    let mut some = 0;
    for row in &found.rows {
        let inside = usable.iter().filter(|visit| visit.epoch == 1 && visit.example == row.example).count() as u64;
        assert_eq!(row.visits, inside);
        some += u64::from(score_of(found, row.example) != score_of(whole, row.example));
    }
    assert!(some > 0 && found.visits < whole.visits);
    // A probe that was taken before the first step has nothing to be unrolled.
    let early = asked(4, false, Curvature::Visits).compute(&written.run());
    assert!(matches!(early, Err(AnalysisError::NoProbeGradient { .. })));
}

/// A training of the softmax regression by SGD with momentum, weight decay and clipping factors.
struct Training {
    all: Vec<Example>,
    batches: Vec<Vec<usize>>,
    momentum: f64,
    nesterov: bool,
    /// The step at which a new optimizer begins, with an empty velocity.
    anew: usize,
}

const DECAY: f64 = 0.01;

fn rate(step: usize) -> f64 {
    f64::from(if step < 20 { 0.25f32 } else { 0.125 })
}

fn clip(step: usize) -> f64 {
    if step % 4 == 1 {
        0.75
    } else {
        1.0
    }
}

impl Training {
    fn new(momentum: f64) -> Self {
        let all = examples(30, 11);
        let batches = shuffled_batches(all.len());
        Self { all, batches, momentum, nesterov: false, anew: usize::MAX }
    }

    /// Trains with the loss of one example multiplied by `factor`, telling `each` of the weights before every step.
    fn run(&self, reweighted: usize, factor: f64, mut each: impl FnMut(usize, &[f64])) -> Vec<f64> {
        let mut draws = Draws(13);
        let mut w: Vec<f64> = (0..WEIGHTS).map(|_| 0.3 * f64::from(draws.number())).collect();
        let mut v = vec![0.0; WEIGHTS];
        for (step, batch) in self.batches.iter().enumerate() {
            each(step, &w);
            let mut update: Vec<f64> = w.iter().map(|w| DECAY * w).collect();
            for &i in batch {
                let weight = clip(step) / batch.len() as f64 * if i == reweighted { factor } else { 1.0 };
                update.iter_mut().zip(gradient(&w, &self.all[i])).for_each(|(u, g)| *u += weight * g);
            }
            let kept = if step == self.anew { 0.0 } else { self.momentum };
            v.iter_mut().zip(&update).for_each(|(v, u)| *v = kept * *v + u);
            for ((w, v), u) in w.iter_mut().zip(&v).zip(&update) {
                *w -= rate(step) * if self.nesterov { u + self.momentum * v } else { *v };
            }
        }
        w
    }

    /// The log of the training, with a probe before each step and at the end, and exact curvature rows of each batch.
    fn record(&self, probe: &Example) -> Written {
        let (mut visits, mut probes, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        let (mut curvature, mut weighted) = (Vec::new(), Vec::new());
        let w = self.run(usize::MAX, 1.0, |step, w| {
            let batch = &self.batches[step];
            let at = step as u64;
            probes.push(row(7, at, &probe.x, &delta(w, probe)));
            let examples: Vec<&Example> = batch.iter().map(|i| &self.all[*i]).collect();
            curvature.extend(curvature_rows(w, &examples, at, 1));
            weighted.extend(weighted_rows(w, &examples, at, 2));
            for &i in batch {
                let mut visit = row(i as u64, at, &self.all[i].x, &delta(w, &self.all[i]));
                visit.learning_rate = rate(step) as f32;
                visit.clip = clip(step) as f32;
                visit.coefficient = 1.0 / batch.len() as f32;
                visits.push(visit);
            }
            steps.push((at, rate(step) as f32, self.momentum as f32, DECAY as f32));
        });
        probes.push(row(7, self.batches.len() as u64, &probe.x, &delta(&w, probe)));
        let mut run = Synthetic::new(Encoding::F32);
        run.set(0, "test");
        run.set(1, "curvature");
        run.set(2, "weighted");
        run.probes(&probes);
        run.probes(&curvature);
        run.probes(&weighted);
        let count = |step: u64| (if step as usize >= self.anew { step - self.anew as u64 } else { step }) + 1;
        let counts: Vec<u64> = steps.iter().map(|step| count(step.0)).collect();
        let rule = if self.nesterov { UpdateRule::NesterovSgd } else { UpdateRule::Sgd };
        run.optimizer_counted(&steps, Some(rule), &counts);
        for rows in visits.chunks(11) {
            run.visits(rows);
        }
        run.end();
        run.finish()
    }
}

#[test]
fn with_exact_curvature_it_is_the_derivative_of_the_final_loss() {
    let never = usize::MAX;
    let cases = [(0.0, false, never), (0.9, false, never), (0.8, true, never), (0.9, false, 17), (0.8, true, 17)];
    for (momentum, nesterov, anew) in cases {
        let training = Training { nesterov, anew, ..Training::new(momentum) };
        let probe = &examples(100, 77)[98];
        let written = training.record(probe);
        // Short batches have few rows and long ones many: both ways of applying the curvature are taken.
        for (length, set) in [(64, "curvature"), (18, "curvature"), (64, "weighted"), (18, "weighted")] {
            let asked =
                EstimateQuestion { shape: Shape::by_layer(length), ..asked(7, true, Curvature::Set(set.into())) };
            let found = &asked.compute(&written.run()).unwrap()[0];
            for example in 0..training.all.len() {
                let end = |factor: f64| loss(&training.run(example, factor, |_, _| {}), probe);
                let expected = -(end(1.0 + 1e-4) - end(1.0 - 1e-4)) / 2e-4;
                let got = score_of(found, example as u64);
                assert!((got - expected).abs() < 2e-4 * (0.01 + expected.abs()), "{example}: {got} for {expected}");
            }
            assert_eq!(found.estimate.as_ref().unwrap().steps_without_record, 0);
            assert!(!found.basis.to_string().contains("taken to go on"), "{}", found.basis);
        }
    }
}

/// Each of two optimizers in turn has a velocity of its own.
#[test]
fn a_velocity_that_is_not_that_of_the_step_before_is_refused() {
    let of = |counts: &[u64]| {
        let mut run = Synthetic::new(Encoding::F32);
        run.set(0, "test");
        let steps: Vec<(u64, f32, f32, f32)> = (0..counts.len() as u64).map(|step| (step, 0.1, 0.9, 0.0)).collect();
        run.optimizer_counted(&steps, Some(UpdateRule::Sgd), counts);
        run.visits(&(0..counts.len() as u64).map(|step| Draws(step).visit(1, step, 0)).collect::<Vec<Visit>>());
        run.probes(&[Draws(1).visit(7, counts.len() as u64, 0)]);
        run.end();
        asked(7, false, Curvature::Visits).compute(&run.finish().run())
    };
    assert!(of(&[1, 2, 3, 1, 2]).is_ok() && of(&[4, 5, 6]).is_ok(), "begun anew, and recorded from the middle on");
    // The second takes up an older state, whose velocity is not that of the step before.
    for (counts, said) in [([1, 1, 2, 2], "2 at step 3, after 2"), ([4, 5, 2, 3], "2 at step 2, after 5")] {
        let error = of(&counts).unwrap_err();
        assert!(matches!(error, AnalysisError::OutOfRange { .. }) && error.to_string().contains(said), "{error}");
    }
    // Without a count the answer says what it takes for granted.
    let words = of(&[0, 0, 0]).unwrap()[0].basis.to_string();
    assert!(words.contains("the momentum taken to go on through the run"), "{words}");
}

#[test]
fn it_predicts_leaving_out_better_than_tracin() {
    let training = Training::new(0.9);
    let (mut adjoint, mut fisher, mut tracin, mut count) = (0.0, 0.0, 0.0, 0.0);
    for probe in &examples(100, 77)[90..96] {
        let written = training.record(probe);
        let run = written.run();
        let base = loss(&training.run(usize::MAX, 1.0, |_, _| {}), probe);
        let truth: Vec<f64> =
            (0..training.all.len()).map(|example| loss(&training.run(example, 0.0, |_, _| {}), probe) - base).collect();
        let scores = |found: &crate::Influence| -> Vec<f64> {
            (0..truth.len()).map(|example| score_of(found, example as u64)).collect()
        };
        let exact = &asked(7, false, Curvature::Set("curvature".into())).compute(&run).unwrap()[0];
        let empirical = &asked(7, false, Curvature::Visits).compute(&run).unwrap()[0];
        assert!(pearson(&scores(exact), &truth) > 0.95);
        adjoint += spearman(&scores(exact), &truth);
        fisher += spearman(&scores(empirical), &truth);
        tracin += spearman(&scores(&one(7).compute(&run).unwrap()), &truth);
        count += 1.0;
    }
    let (adjoint, fisher, tracin) = (adjoint / count, fisher / count, tracin / count);
    assert!(adjoint > 0.97 && adjoint > tracin + 0.02, "{adjoint} {fisher} {tracin}");
    assert!(fisher > tracin, "{adjoint} {fisher} {tracin}");
}

#[test]
fn steps_whose_visits_were_dropped_are_unrolled_all_the_same() {
    let training = Training::new(0.9);
    let probe = &examples(100, 77)[98];
    let whole = training.record(probe);
    // The same log without the visits of some steps.
    let (mut run, mut kept) = (Synthetic::new(Encoding::F32), Vec::new());
    let mut steps = Vec::new();
    let w = training.run(usize::MAX, 1.0, |step, w| {
        steps.push((step as u64, rate(step) as f32, 0.9f32, DECAY as f32));
        for &i in training.batches[step].iter().filter(|_| step % 3 == 0) {
            let mut visit = row(i as u64, step as u64, &training.all[i].x, &delta(w, &training.all[i]));
            (visit.learning_rate, visit.clip) = (rate(step) as f32, clip(step) as f32);
            visit.coefficient = 1.0 / training.batches[step].len() as f32;
            kept.push(visit);
        }
    });
    run.set(0, "test");
    run.optimizer(&steps);
    run.dropped(99);
    run.probes(&[row(7, training.batches.len() as u64, &probe.x, &delta(&w, probe))]);
    run.visits(&kept);
    run.end();
    let nothing = asked(7, false, Curvature::Nothing);
    let found = &nothing.compute(&run.finish().run()).unwrap()[0];
    let whole = &nothing.compute(&whole.run()).unwrap()[0];
    let about = found.estimate.as_ref().unwrap();
    assert_eq!((about.dropped, about.steps_without_record), (99, 0));
    // Without curvature the walk does not depend on the other visits, so those that are left keep their scores.
    let mut expected: BTreeMap<u64, f64> = BTreeMap::new();
    let (mut a, mut b) = (gradient(&w, probe), vec![0.0; WEIGHTS]);
    for step in (0..training.batches.len()).rev() {
        b.iter_mut().zip(&a).for_each(|(b, a)| *b -= rate(step) * a);
        a.iter_mut().zip(&b).for_each(|(a, b)| *a += f64::from(DECAY as f32) * b);
        for visit in kept.iter().filter(|visit| visit.step == step as u64) {
            let weight = f64::from(visit.clip) * f64::from(visit.coefficient);
            *expected.entry(visit.example).or_default() -= weight * dot(&b, &blocks(visit, true)[0]);
        }
        b.iter_mut().for_each(|b| *b *= f64::from(0.9f32));
    }
    for (example, expected) in expected {
        assert!(close(score_of(found, example), expected, 1e-5), "{example}");
    }
    assert!(found.visits < whole.visits);
}

#[test]
fn damage_cuts_the_story_and_steps_out_of_order_are_damage() {
    let training = Training::new(0.9);
    let probe = &examples(100, 77)[98];
    let written = training.record(probe);
    // Blocks 0 to 6 are sets, probes, curvature of two kinds and steps; visits follow.
    written.damage(11, 900);
    // The damage is in a column, which a reader meets when it opens the column: a walk back would meet it too late.
    let run = written.run();
    let mut scan = run.scan();
    assert!(scan.by_ref().count() > 12 && scan.damage().unwrap().is_none());
    let found = &asked(7, false, Curvature::Visits).compute(&written.run()).unwrap()[0];
    assert_eq!(found.damage.as_ref().and_then(|damage| damage.block), Some(11));
    assert_eq!(found.visits, 4 * 11);

    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&[Draws(1).visit(7, 30, 0)]);
    run.visits(&[Draws(2).visit(1, 9, 0), Draws(3).visit(2, 4, 0)]);
    run.end();
    let written = run.finish();
    assert!(asked(7, false, Curvature::Visits).compute(&written.run()).is_err());
    let damage = written.run().verify().unwrap().damage.unwrap().to_string();
    assert!(damage.contains("steps that fall from row to row"), "{damage}");
}

#[test]
fn what_grows_past_all_numbers_is_said() {
    let mut all = Vec::new();
    for step in 0..200 {
        let mut visit = Draws(step).visit(1, step, 0);
        visit.learning_rate = 1e6;
        visit.coefficient = 1.0;
        all.push(visit);
    }
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&[Draws(500).visit(7, 200, 0)]);
    run.visits(&all);
    run.end();
    let written = run.finish();
    let error = asked(7, false, Curvature::Visits).compute(&written.run()).unwrap_err();
    assert!(matches!(error, AnalysisError::Diverged { .. }), "{error}");
    let without = asked(7, false, Curvature::Nothing).compute(&written.run()).unwrap();
    assert_eq!(without[0].estimate.as_ref().unwrap().growth, 1.0);
}

/// One example and one probe with gradients along the same `g`: each step multiplies the derivative by `1 − η·c·|g|²`.
/// Of a probe whose gradient is so small that no `f32` holds its square, too.
#[test]
fn growth_is_that_of_the_derivative() {
    let visit = Draws(1).visit(7, 6, 0);
    let whole = &blocks(&visit, false)[0];
    let squared = dot(whole, whole);
    for (factor, expected) in [(-3.0f64, 3f64.powi(5)), (-0.5, 1.0), (-1.5, 1.5f64.powi(5))] {
        let rate = ((1.0 - factor) / squared) as f32;
        let trained =
            |step| Visit { example: 1, step, learning_rate: rate, coefficient: 1.0, clip: 1.0, ..visit.clone() };
        let visits: Vec<Visit> = (0..6).map(trained).collect();
        for scale in [1.0, 1e-24] {
            let mut probe = visit.clone();
            for part in [1, 3, 4] {
                probe.parts[part].iter_mut().for_each(|value| *value *= scale);
            }
            let mut run = Synthetic::new(Encoding::F32);
            run.set(0, "test");
            run.probes(&[probe]);
            run.visits(&visits);
            run.end();
            let found = &asked(7, false, Curvature::Visits).compute(&run.finish().run()).unwrap()[0];
            let growth = found.estimate.as_ref().unwrap().growth;
            assert!((growth / expected - 1.0).abs() < 1e-3, "{factor}, {scale}: {growth} for {expected}");
        }
    }
}
