//! Influence functions, DataInf and TRAK's estimator against their formulas, written out in f64.

use super::{blocks, close, dot, one, score_of, solve, WHOLE};
use crate::vectors::Shape;
use crate::{
    AnalysisError, Curvature, Damping, EstimateQuestion, InfluenceQuestion, Method, Normalization, ProbeTime, Window,
};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};
use std::collections::BTreeMap;

/// Visits of four epochs, whose losses are cross entropies, and the probes 900 and 901 at three times, 20 being the
/// end.
fn story() -> (Vec<Visit>, Vec<Visit>, Written) {
    let mut draws = Draws(17);
    let mut all = visits(&mut draws, 12, 4, 5);
    let mut probes: Vec<Visit> =
        [0, 7, 12].iter().flat_map(|time| [900, 901].map(|id| draws.visit(id, *time, 0))).collect();
    for visit in all.iter_mut().chain(&mut probes) {
        visit.confidence = (-visit.loss).exp();
    }
    all[4].flags = 1;
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&probes);
    for rows in all.chunks(9) {
        run.visits(rows);
    }
    run.end();
    (all, probes, run.finish())
}

fn by_example<'a>(visits: &[&'a Visit]) -> BTreeMap<u64, Vec<&'a Visit>> {
    let mut map: BTreeMap<u64, Vec<&Visit>> = BTreeMap::new();
    for visit in visits {
        map.entry(visit.example).or_default().push(visit);
    }
    map
}

/// `(1/m)·Σ g gᵀ` of one block.
fn second_moment(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = rows[0].len();
    let at = |i: usize, j: usize| rows.iter().map(|g| g[i] * g[j]).sum::<f64>() / rows.len() as f64;
    (0..n).map(|i| (0..n).map(|j| at(i, j)).collect()).collect()
}

fn lambda(damping: Damping, trace: f64, numbers: usize) -> f64 {
    match damping {
        Damping::Relative(factor) => factor * trace / numbers as f64,
        Damping::Absolute(lambda) => lambda,
    }
}

fn damped(mut h: Vec<Vec<f64>>, lambda: f64) -> Vec<Vec<f64>> {
    h.iter_mut().enumerate().for_each(|(i, row)| row[i] += lambda);
    h
}

/// `(1/m)·Σ g gᵀ + λI` of one block, and `λ`.
fn damped_moment(rows: &[Vec<f64>], damping: Damping) -> (Vec<Vec<f64>>, f64) {
    let h = second_moment(rows);
    let lambda = lambda(damping, (0..h.len()).map(|i| h[i][i]).sum(), h.len());
    (damped(h, lambda), lambda)
}

const DAMPINGS: [Damping; 3] = [Damping::Relative(0.1), Damping::Absolute(0.02), Damping::Relative(3.0)];

fn asked(method: Method, by_layer: bool, window: &Window, dampings: &[Damping]) -> EstimateQuestion {
    let shape = Shape { length: 64, by_layer };
    let mut asked = EstimateQuestion::new(one(900), method);
    asked.question.window = window.clone();
    EstimateQuestion { shape, dampings: dampings.to_vec(), ..asked }
}

/// The usable visits of an epoch and later, and the probe nearest to the end.
fn last_epochs(all: &[Visit], from: u32) -> Vec<&Visit> {
    all.iter().filter(|visit| visit.epoch >= from && visit.flags == 0).collect()
}

#[test]
fn influence_functions_are_their_formula() {
    let (all, probes, written) = story();
    let run = written.run();
    let probe = probes.iter().find(|probe| probe.example == 900 && probe.step == 12).unwrap();
    for (window, from) in [(Window::everything(), 0), (Window::epochs(3..4), 3)] {
        let used = last_epochs(&all, from);
        let examples = by_example(&used);
        for by_layer in [false, true] {
            // Many at once go by the eigenvalues, few by Cholesky.
            let many = DAMPINGS.repeat(4);
            let sweep = asked(Method::InfluenceFunction, by_layer, &window, &many).compute(&run).unwrap();
            let few = asked(Method::InfluenceFunction, by_layer, &window, &DAMPINGS).compute(&run).unwrap();
            assert_eq!((sweep.len(), few.len()), (12, 3));
            for (number, damping) in DAMPINGS.into_iter().enumerate() {
                let alone = &asked(Method::InfluenceFunction, by_layer, &window, &[damping]).compute(&run).unwrap()[0];
                let mut expected: BTreeMap<u64, f64> = BTreeMap::new();
                for block in 0..if by_layer { WHOLE.len() } else { 1 } {
                    let rows: Vec<Vec<f64>> = used.iter().map(|v| blocks(v, by_layer)[block].clone()).collect();
                    let (h, lambda) = damped_moment(&rows, damping);
                    let about = alone.estimate.as_ref().unwrap();
                    assert!(close(about.lambdas[block], lambda, 1e-6));
                    let u = solve(h, blocks(probe, by_layer)[block].clone());
                    for (example, visits) in &examples {
                        let sum: f64 = visits.iter().map(|v| dot(&u, &blocks(v, by_layer)[block])).sum();
                        *expected.entry(*example).or_default() += sum / used.len() as f64;
                    }
                }
                let about = alone.estimate.as_ref().unwrap();
                assert_eq!((about.curvature_rows, about.exact), (used.len() as u64, true));
                for (example, expected) in &expected {
                    for found in [alone, &sweep[number], &few[number]] {
                        let got = score_of(found, *example);
                        assert!(close(got, *expected, 1e-5), "{example}: {got} for {expected}");
                    }
                }
                assert_eq!(alone.rows.len(), examples.len());
                assert_eq!(alone.left_out.not_finite, u64::from(from == 0));
                assert!(alone.variant().contains("Koh and Liang"));
            }
        }
    }
}

#[test]
fn relatif_is_divided_by_the_root_of_self_influence_under_the_same_inverse() {
    let (all, probes, written) = story();
    let run = written.run();
    let probe = probes.iter().find(|probe| probe.example == 900 && probe.step == 12).unwrap();
    // Several visits of each example, whose gradients have products with each other, or one.
    for (window, from) in [(Window::everything(), 0), (Window::epochs(3..4), 3)] {
        let used = last_epochs(&all, from);
        let examples = by_example(&used);
        for by_layer in [false, true] {
            let answer = |dampings: &[Damping]| {
                let mut asked = asked(Method::InfluenceFunction, by_layer, &window, dampings);
                asked.question.normalization = Normalization::Relatif;
                asked.compute(&run).unwrap()
            };
            // By Cholesky, and by the eigenvalues.
            let (few, many) = (answer(&DAMPINGS), answer(&DAMPINGS.repeat(4)));
            for (number, damping) in DAMPINGS.into_iter().enumerate() {
                let mut expected: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
                for block in 0..if by_layer { WHOLE.len() } else { 1 } {
                    let rows: Vec<Vec<f64>> = used.iter().map(|v| blocks(v, by_layer)[block].clone()).collect();
                    let (h, _) = damped_moment(&rows, damping);
                    let u = solve(h.clone(), blocks(probe, by_layer)[block].clone());
                    for (example, visits) in &examples {
                        // What an example weighs that has as many visits as the mean.
                        let each = used.len() as f64 / examples.len() as f64;
                        let mut mean = vec![0.0; rows[0].len()];
                        for visit in visits {
                            let gradient = &blocks(visit, by_layer)[block];
                            mean.iter_mut().zip(gradient).for_each(|(mean, g)| *mean += g / each);
                        }
                        let entry = expected.entry(*example).or_default();
                        entry.0 += dot(&u, &mean) / examples.len() as f64;
                        entry.1 += dot(&solve(h.clone(), mean.clone()), &mean);
                    }
                }
                for (example, (score, own)) in expected {
                    for found in [&few[number], &many[number], &many[number + 9]] {
                        let got = score_of(found, example);
                        assert!(close(got, score / own.sqrt(), 1e-5), "{example}: {got} for {score} / √{own}");
                    }
                }
                assert_eq!(few[number].normalization, Normalization::Relatif);
                assert!(few[number].variant().contains("RelatIF"));
            }
        }
    }
}

#[test]
fn datainf_is_its_formula() {
    let (all, probes, written) = story();
    let run = written.run();
    let probe = probes.iter().find(|probe| probe.example == 900 && probe.step == 12).unwrap();
    let window = Window::epochs(2..4);
    let used = last_epochs(&all, 2);
    let examples = by_example(&used);
    for by_layer in [false, true] {
        let found = asked(Method::DataInf, by_layer, &window, &DAMPINGS).compute(&run).unwrap();
        for (found, damping) in found.iter().zip(DAMPINGS) {
            let mut expected: BTreeMap<u64, f64> = BTreeMap::new();
            for block in 0..if by_layer { WHOLE.len() } else { 1 } {
                let rows: Vec<Vec<f64>> = used.iter().map(|v| blocks(v, by_layer)[block].clone()).collect();
                let v = blocks(probe, by_layer)[block].clone();
                let trace = rows.iter().map(|g| dot(g, g)).sum::<f64>() / rows.len() as f64;
                let lambda = lambda(damping, trace, v.len());
                // The mean of the inverses, each solved as it stands.
                let mut u = vec![0.0; v.len()];
                for g in &rows {
                    let one = solve(damped(second_moment(std::slice::from_ref(g)), lambda), v.clone());
                    u.iter_mut().zip(one).for_each(|(u, one)| *u += one / rows.len() as f64);
                }
                for (example, visits) in &examples {
                    let sum: f64 = visits.iter().map(|v| dot(&u, &blocks(v, by_layer)[block])).sum();
                    *expected.entry(*example).or_default() += sum / used.len() as f64;
                }
            }
            for (example, expected) in expected {
                let got = score_of(found, example);
                assert!(close(got, expected, 2e-5), "{example}: {got} for {expected}");
            }
        }
    }
}

#[test]
fn traks_estimator_is_its_formula() {
    let (all, probes, written) = story();
    let run = written.run();
    let damping = Damping::Relative(0.3);
    let found = &asked(Method::Trak, false, &Window::everything(), &[damping]).compute(&run).unwrap()[0];
    let log_odds = |visit: &Visit| -> (Vec<f64>, f64) {
        let doubt = 1.0 - (-f64::from(visit.loss)).exp();
        (blocks(visit, false)[0].iter().map(|g| g / doubt).collect(), doubt)
    };
    let mut sums: BTreeMap<u64, (f64, f64, f64)> = BTreeMap::new();
    for epoch in 0..4 {
        let used: Vec<&Visit> = all.iter().filter(|visit| visit.epoch == epoch && visit.flags == 0).collect();
        let end = used.iter().map(|visit| visit.step + 1).max().unwrap();
        let near = probes.iter().filter(|probe| probe.example == 900);
        let probe = near.min_by_key(|probe| (probe.step.abs_diff(end), u64::MAX - probe.step)).unwrap();
        let rows: Vec<Vec<f64>> = used.iter().map(|visit| log_odds(visit).0).collect();
        let u = solve(damped_moment(&rows, damping).0, log_odds(probe).0);
        for visit in &used {
            let (phi, doubt) = log_odds(visit);
            let entry = sums.entry(visit.example).or_default();
            *entry = (entry.0 + dot(&u, &phi) / rows.len() as f64, entry.1 + doubt, entry.2 + 1.0);
        }
    }
    for (example, (products, doubts, count)) in sums {
        let (got, expected) = (score_of(found, example), products / 4.0 * doubts / count);
        assert!(close(got, expected, 2e-5), "{example}: {got} for {expected}");
    }
    assert_eq!(found.estimate.as_ref().unwrap().epochs, 4);

    // Pulled towards 0 by a threshold between the smallest and the largest, and 0 where they do not reach it.
    let sizes: Vec<f64> = found.scores.iter().map(|score| score.abs()).collect();
    let threshold = sizes.iter().sum::<f64>() / sizes.len() as f64;
    let sparse = EstimateQuestion {
        soft_threshold: Some(threshold),
        ..asked(Method::Trak, false, &Window::everything(), &[damping])
    };
    let sparse = &sparse.compute(&run).unwrap()[0];
    for (score, left) in found.scores.iter().zip(&sparse.scores) {
        assert!((left - score.signum() * (score.abs() - threshold).max(0.0)).abs() < 1e-12, "{left} of {score}");
    }
    let zeros = sparse.scores.iter().filter(|score| **score == 0.0).count();
    assert!(zeros > 0 && zeros < sparse.scores.len() && found.scores.iter().any(|score| *score < -threshold));
    assert!(sparse.variant().contains("soft threshold"), "{}", sparse.variant());

    // Losses that are no cross entropy have no log-odds.
    let mut other = Synthetic::new(Encoding::F32);
    other.set(0, "test");
    other.probes(&[Draws(3).visit(900, 0, 0)]);
    other.visits(&[Draws(4).visit(1, 0, 0)]);
    other.end();
    let error = asked(Method::Trak, false, &Window::everything(), &[damping]).compute(&other.finish().run());
    assert!(matches!(error, Err(AnalysisError::Missing { .. })));
}

/// Vectors that would be folded are solved by examples: the same as unfolded vectors give, under one damping.
#[test]
fn trak_solved_by_examples_is_that_by_numbers() {
    let (_, _, written) = story();
    let run = written.run();
    let dampings = [Damping::Absolute(0.02), Damping::Absolute(3.0)];
    let whole = asked(Method::Trak, false, &Window::everything(), &dampings).compute(&run).unwrap();
    let folded = asked(Method::Trak, false, &Window::everything(), &dampings).length(20).compute(&run).unwrap();
    for (whole, folded) in whole.iter().zip(&folded) {
        let about = folded.estimate.as_ref().unwrap();
        assert!(about.solved_by_examples && about.exact && !whole.estimate.as_ref().unwrap().solved_by_examples);
        assert!(folded.variant().contains("solved by examples"), "{}", folded.variant());
        assert_eq!((&whole.rows, whole.visits, &whole.left_out), (&folded.rows, folded.visits, &folded.left_out));
        for (a, b) in whole.scores.iter().zip(&folded.scores) {
            assert!(close(*b, *a, 2e-5), "{b} for {a}");
        }
    }
    // A relative damping goes by the numbers that were asked for.
    let relative = asked(Method::Trak, false, &Window::everything(), &[Damping::Relative(0.3)]);
    let of = |length| relative.clone().length(length).compute(&run).unwrap()[0].estimate.clone().unwrap().lambdas[0];
    assert!((of(20) / of(33) - 33.0 / 20.0).abs() < 1e-4);
}

/// Each damping of a sweep is answered as if it alone had been asked.
#[test]
fn a_sweep_of_dampings_is_each_of_them_alone() {
    let (_, _, written) = story();
    let run = written.run();
    let dampings = [0.01, 0.1, 1.0, 10.0].map(Damping::Relative).into_iter().chain([Damping::Absolute(0.02)]);
    let dampings: Vec<Damping> = dampings.collect();
    for method in Method::ALL.into_iter().filter(|method| *method != Method::Adjoint) {
        for by_layer in [false, true] {
            let of =
                |dampings: &[Damping]| asked(method, by_layer, &Window::everything(), dampings).compute(&run).unwrap();
            for count in [2, dampings.len()] {
                let swept = of(&dampings[..count]);
                assert_eq!(swept.len(), count);
                for (damping, answer) in dampings.iter().zip(&swept) {
                    let alone = &of(&[*damping])[0];
                    let size = alone.scores.iter().fold(0.0, |largest: f64, score| largest.max(score.abs()));
                    for (a, b) in answer.scores.iter().zip(&alone.scores) {
                        assert!((a - b).abs() < 1e-5 * size, "{method:?}, {damping:?} of {count}: {a} for {b}");
                    }
                    assert!(size > 0.0 && answer.scores.len() == alone.scores.len());
                }
                let same = swept[0].scores.iter().zip(&swept[1].scores).filter(|(a, b)| a == b).count();
                assert!(same < swept[0].scores.len(), "{method:?}: the damping makes no difference");
            }
        }
    }
}

#[test]
fn curvature_can_come_from_a_probe_set_and_many_probes_take_several_passes() {
    let (all, probes, _) = story();
    let rows: Vec<Visit> = (0..40).map(|id| Visit { set: 1, ..Draws(id + 50).visit(id, 12, 0) }).collect();
    let many: Vec<Visit> = (0..40).map(|id| Visit { step: 12, ..Draws(id + 99).visit(id + 500, 12, 0) }).collect();
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.set(1, "fisher");
    run.probes(&probes);
    run.probes(&many);
    run.probes(&rows);
    for visits in all.chunks(9) {
        run.visits(visits);
    }
    run.end();
    let written = run.finish();
    let run = written.run();
    let mut asked = asked(Method::InfluenceFunction, false, &Window::everything(), &DAMPINGS[1..2]);
    asked.curvature = Curvature::Set("fisher".into());
    let found = &asked.compute(&run).unwrap()[0];
    let probe = probes.iter().find(|probe| probe.example == 900 && probe.step == 12).unwrap();
    let rows: Vec<Vec<f64>> = rows.iter().map(|row| blocks(row, false)[0].clone()).collect();
    let u = solve(damped(second_moment(&rows), 0.02), blocks(probe, false)[0].clone());
    let used = last_epochs(&all, 0);
    let examples = by_example(&used);
    for (example, visits) in &examples {
        let sum: f64 = visits.iter().map(|v| dot(&u, &blocks(v, false)[0])).sum();
        let expected = sum / used.len() as f64;
        assert!(close(score_of(found, *example), expected, 1e-5));
    }
    asked.curvature = Curvature::Set("nothing of the kind".into());
    assert!(matches!(asked.compute(&run), Err(AnalysisError::NoSuchSet { .. })));

    // A plan in pieces says the same as each of its probes alone.
    for method in Method::ALL {
        let mut asked = EstimateQuestion::new(InfluenceQuestion::new("test"), method);
        asked.question.window = Window::everything();
        if method == Method::Trak {
            asked.question.probes = crate::influence::Probes::Ids(vec![900, 901]);
        }
        let mut plan = asked.plan(&run).unwrap();
        let whole = plan.whole().unwrap();
        let ids: Vec<u64> = plan.passes.concat();
        plan.passes = ids.chunks(3).map(<[u64]>::to_vec).collect();
        let pieces = plan.whole().unwrap();
        for (whole, pieces) in whole.iter().zip(&pieces) {
            assert_eq!((&whole.rows, &whole.probes), (&pieces.rows, &pieces.probes));
            for (a, b) in whole.scores.iter().zip(&pieces.scores) {
                assert!(close(*a, *b, 1e-5), "{method:?}");
            }
        }
    }
}

#[test]
fn settings_without_sense_are_refused() {
    let (_, _, written) = story();
    let run = written.run();
    let base = asked(Method::InfluenceFunction, false, &Window::everything(), &DAMPINGS);
    let normalized = |normalization| InfluenceQuestion { normalization, ..base.question.clone() };
    let wrong = [
        EstimateQuestion { dampings: vec![], ..base.clone() },
        EstimateQuestion { dampings: vec![Damping::Absolute(0.0)], ..base.clone() },
        EstimateQuestion { dampings: vec![Damping::Relative(f64::NAN)], ..base.clone() },
        EstimateQuestion { shape: Shape::whole(0), ..base.clone() },
        EstimateQuestion { curvature: Curvature::Nothing, ..base.clone() },
        EstimateQuestion { method: Method::DataInf, curvature: Curvature::Set("test".into()), ..base.clone() },
        EstimateQuestion { method: Method::Adjoint, ..base.clone() },
        EstimateQuestion { soft_threshold: Some(0.1), ..base.clone() },
        EstimateQuestion { soft_threshold: Some(-0.1), method: Method::Trak, ..base.clone() },
        EstimateQuestion { soft_threshold: Some(f64::INFINITY), method: Method::Trak, ..base.clone() },
        EstimateQuestion { question: base.question.clone().sketch_errors(), ..base.clone() },
        EstimateQuestion { question: base.question.clone().probe_time(ProbeTime::Nearest), ..base.clone() },
        EstimateQuestion { question: normalized(Normalization::Cosine), ..base.clone() },
        EstimateQuestion { question: normalized(Normalization::Relatif), method: Method::DataInf, ..base.clone() },
    ];
    for asked in wrong {
        let error = asked.compute(&run).unwrap_err();
        assert!(matches!(error, AnalysisError::OutOfRange { .. }), "{error}");
    }
    let nowhere =
        EstimateQuestion { question: InfluenceQuestion { window: Window::epochs(8..9), ..one(900) }, ..base.clone() };
    assert!(matches!(nowhere.compute(&run), Err(AnalysisError::OutsideRun { .. })));
    let plan = base.plan(&run).unwrap();
    assert!(matches!(plan.pass(plan.passes()), Err(AnalysisError::OutOfRange { .. })));
    let nobody = EstimateQuestion { question: one(1), ..base };
    assert!(matches!(nobody.compute(&run), Err(AnalysisError::NoSuchProbe { .. })));
}
