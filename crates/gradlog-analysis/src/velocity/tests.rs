//! Kernel velocity against whole gradients, written out.

use super::*;
use crate::{Score, ScoreQuestion, VelocityQuestion};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, visits, Draws, Opened, Synthetic, Visit};
use std::collections::BTreeMap;

const TIMES: [u64; 4] = [0, 5, 9, 20];

/// Probes 0..12 at four times; probe 3 is missing at step 9, probe 4 is not finite at step 5.
fn probes() -> Vec<Visit> {
    let mut draws = Draws(7);
    let mut all = Vec::new();
    for step in TIMES {
        for id in 0..12 {
            let mut probe = draws.visit(100 + 7 * id, step, 0);
            probe.label = probe.example as u32 % 5;
            if id == 4 && step == 5 {
                probe.flags = Column::FLAG_NOT_FINITE;
            }
            if !(id == 3 && step == 9) {
                all.push(probe);
            }
        }
    }
    all
}

fn run(encoding: Encoding) -> Opened {
    let mut run = Synthetic::new(encoding);
    run.set(0, "train");
    probes().chunks(5).for_each(|block| run.probes(block));
    let labeled = |visit: Visit| Visit { label: visit.example as u32 % 5, ..visit };
    run.visits(&visits(&mut Draws(8), 12, 2, 4).into_iter().map(labeled).collect::<Vec<_>>());
    run.end();
    run.finish().run()
}

/// The whole gradient of a row: of each factored layer the outer product with its bias, and the folded vector.
fn gradient(visit: &Visit, encoding: Encoding) -> Vec<f64> {
    let parts = decoded(visit, encoding);
    let mut whole = Vec::new();
    for (number, bias) in [(0, true), (2, false)] {
        let mut input: Vec<f64> = parts[number].iter().map(|x| f64::from(*x)).collect();
        input.extend(bias.then_some(1.0));
        for delta in &parts[number + 1] {
            whole.extend(input.iter().map(|x| x * f64::from(*delta)));
        }
    }
    whole.extend(parts[4].iter().map(|x| f64::from(*x)));
    whole
}

fn naive(ids: &[u64], from: u64, to: u64, encoding: Encoding) -> f64 {
    let all = probes();
    let kernel = |step: u64| -> Vec<f64> {
        let own: Vec<Vec<f64>> = ids
            .iter()
            .map(|id| gradient(all.iter().find(|p| p.example == *id && p.step == step).unwrap(), encoding))
            .collect();
        own.iter().flat_map(|a| own.iter().map(|b| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>())).collect()
    };
    let (a, b) = (kernel(from), kernel(to));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    1.0 - product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

fn velocity(run: &Run, groups: VelocityGroups<'_>) -> Result<Velocity, AnalysisError> {
    VelocityQuestion::new("train").groups(groups).compute(run)
}

#[test]
fn it_is_that_of_the_whole_gradients() {
    for encoding in [Encoding::F32, Encoding::Q8] {
        let run = run(encoding);
        let given = [
            VelocityGroup { name: "a".into(), ids: vec![100, 107, 114, 107] },
            VelocityGroup { name: "b".into(), ids: vec![177, 121, 128, 9999] },
        ];
        let result = velocity(&run, VelocityGroups::Given(&given)).unwrap();
        assert_eq!((result.times, result.left_out.examples, result.left_out.probe_records), (4, 1, 1));
        let expected: [&[&[u64]]; 2] = [
            &[&[100, 107, 114], &[100, 107, 114], &[100, 107, 114]],
            // 121 is missing at step 9, 128 not usable at step 5.
            &[&[121, 177], &[177], &[128, 177]],
        ];
        for (group, expected) in result.groups.iter().zip(expected) {
            assert_eq!(group.steps.len(), 3);
            for ((step, ids), pair) in group.steps.iter().zip(expected).zip(TIMES.windows(2)) {
                assert_eq!((step.from, step.to, step.examples), (pair[0], pair[1], ids.len() as u64));
                let naive = naive(ids, pair[0], pair[1], encoding);
                assert!((step.velocity - naive).abs() < 1e-5, "{} {step:?} {naive}", group.name);
                assert!(ids.len() == 1 || step.velocity > 0.01);
            }
        }
        let whole = velocity(&run, VelocityGroups::Whole).unwrap();
        assert_eq!((whole.groups.len(), whole.groups[0].examples), (1, 12));
    }
}

#[test]
fn groups_by_score_are_contiguous_ranks() {
    let run = run(Encoding::F32);
    let table = ScoreQuestion::new(Score::El2n).compute_over(&[&run]).unwrap();
    let result = velocity(&run, VelocityGroups::Ranked { table: &table, size: 5 }).unwrap();
    assert_eq!((result.groups.len(), result.left_out.examples), (2, 2));
    for (number, group) in result.groups.iter().enumerate() {
        let ids: Vec<u64> = table.rows[5 * number..5 * number + 5].iter().map(|row| row.example).collect();
        let given = [VelocityGroup { name: String::new(), ids }];
        let same = velocity(&run, VelocityGroups::Given(&given)).unwrap();
        assert_eq!(group.steps, same.groups[0].steps);
        let mean = table.rows[5 * number..5 * number + 5].iter().map(|row| row.score).sum::<f64>() / 5.0;
        assert!((group.mean_score.unwrap() - mean).abs() < 1e-12);
    }
    assert_eq!(result.groups[1].name, "el2n 5 to 9");
    for size in [0, 13] {
        let error = velocity(&run, VelocityGroups::Ranked { table: &table, size }).unwrap_err();
        assert!(matches!(error, AnalysisError::OutOfRange { .. }), "{error}");
    }
}

#[test]
fn a_geometry_that_only_grows_stands_still_and_one_of_zeros_has_none() {
    let mut draws = Draws(9);
    let first: Vec<Visit> = (0..4).map(|id| draws.visit(id, 0, 0)).collect();
    let mut grown = first.clone();
    for probe in &mut grown {
        probe.step = 1;
        // Deltas of factored layers and the folded vector: the whole gradient is three times as long.
        [1, 3, 4].into_iter().for_each(|part| probe.parts[part].iter_mut().for_each(|x| *x *= 3.0));
    }
    let mut gone = grown.clone();
    gone.iter_mut().for_each(|probe| probe.step = 2);
    gone.iter_mut().for_each(|probe| probe.parts.iter_mut().for_each(|part| part.fill(0.0)));
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "train");
    [first, grown, gone].iter().for_each(|probes| run.probes(probes));
    let run = run.finish().run();
    let steps = velocity(&run, VelocityGroups::Whole).unwrap().groups.remove(0).steps;
    assert!(steps[0].velocity.abs() < 1e-6 && steps[1].velocity.is_nan(), "{steps:?}");
}

/// Three sets of logits, of which one lacks an example at one time: all kernels by whole gradients.
#[test]
fn kernels_of_logits_are_those_of_the_whole_gradients() {
    const CLASSES: usize = 3;
    let ids: Vec<u64> = (0..5).collect();
    let mut draws = Draws(31);
    let mut run = Synthetic::new(Encoding::F32);
    let mut all: BTreeMap<(u64, usize, u64), Vec<f64>> = BTreeMap::new();
    (0..CLASSES).for_each(|class| run.set(class as u32, &format!("ntk/{class}")));
    run.set(3, "ntk");
    for step in [0, 4, 8] {
        for class in 0..CLASSES {
            let probe = |id: &u64| Visit {
                set: class as u32,
                scored: Some((PredictionScore::Logit, class as u32)),
                ..draws.visit(*id, step, 0)
            };
            let mut rows: Vec<Visit> = ids.iter().map(probe).collect();
            if (step, class) == (8, 1) {
                rows.pop();
            }
            for row in &rows {
                all.insert((row.example, class, step), gradient(row, Encoding::F32));
            }
            run.probes(&rows);
        }
    }
    run.probes(&[Visit { set: 3, ..draws.visit(0, 0, 0) }]);
    run.end();
    let run = run.finish().run();
    let kernel = |form, ids: &[u64], step: u64| -> Vec<f64> {
        let of = |id: &u64, class: usize| all[&(*id, class, step)].clone();
        let sum = |vectors: Vec<Vec<f64>>| -> Vec<f64> {
            (0..vectors[0].len()).map(|at| vectors.iter().map(|vector| vector[at]).sum()).collect()
        };
        let rows: Vec<Vec<f64>> = match form {
            VelocityKernel::Tangent => ids.iter().flat_map(|id| (0..CLASSES).map(move |class| of(id, class))).collect(),
            VelocityKernel::MeanLogit => {
                ids.iter().map(|id| sum((0..CLASSES).map(|class| of(id, class)).collect())).collect()
            }
            _ => (0..CLASSES).map(|class| sum(ids.iter().map(|id| of(id, class)).collect())).collect(),
        };
        rows.iter().flat_map(|a| rows.iter().map(|b| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>())).collect()
    };
    for form in [VelocityKernel::Tangent, VelocityKernel::MeanLogit, VelocityKernel::MeanExample] {
        let found = VelocityQuestion::new("ntk").kernel(form).compute(&run).unwrap();
        assert_eq!((found.kernel, found.logits, found.times, found.scored), (form, 3, 3, None));
        let steps = &found.groups[0].steps;
        assert_eq!((steps.len(), found.groups[0].examples), (2, 5));
        for (step, ids) in steps.iter().zip([&ids[..], &ids[..4]]) {
            let (a, b) = (kernel(form, ids, step.from), kernel(form, ids, step.to));
            let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            let expected = 1.0 - product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
            assert!((step.velocity - expected).abs() < 1e-5 && expected > 0.01, "{form} {step:?}: {expected}");
        }
    }
    // One class alone is a set like any other, and says of which score it is.
    let one = VelocityQuestion::new("ntk/1").compute(&run).unwrap();
    assert_eq!((one.kernel, one.scored, one.logits), (VelocityKernel::Recorded, Some(PredictionScore::Logit), 0));
    // Sets that hold no logits.
    let error = VelocityQuestion::new("other").kernel(VelocityKernel::Tangent).compute(&run).unwrap_err();
    assert!(error.to_string().contains("recorder.tangents"), "{error}");
    let mut losses = Synthetic::new(Encoding::F32);
    losses.set(0, "ntk/0");
    losses.probes(&[draws.visit(1, 0, 0), draws.visit(1, 1, 0)]);
    let error =
        VelocityQuestion::new("ntk").kernel(VelocityKernel::Tangent).compute(&losses.finish().run()).unwrap_err();
    assert!(error.to_string().contains("gradients of logits"), "{error}");
}

#[test]
fn questions_without_an_answer_say_why() {
    let run = run(Encoding::F32);
    let error = VelocityQuestion::new("nope").groups(VelocityGroups::Whole).compute(&run).unwrap_err();
    assert!(matches!(error, AnalysisError::NoSuchSet { .. }), "{error}");
    let strangers = [VelocityGroup { name: "x".into(), ids: vec![1, 2] }];
    let error = velocity(&run, VelocityGroups::Given(&strangers)).unwrap_err();
    assert!(error.to_string().contains("`x`") && error.to_string().contains("`train`"), "{error}");
    let mut once = Synthetic::new(Encoding::F32);
    once.set(0, "train");
    once.probes(&probes()[..5]);
    let once = once.finish().run();
    let error = velocity(&once, VelocityGroups::Whole).unwrap_err();
    assert!(error.to_string().contains("is 1, but must be at least 2"), "{error}");
    let mut bare = Synthetic::new(Encoding::F32);
    bare.without = vec![Column::Input, Column::Delta, Column::Folded];
    bare.set(0, "train");
    bare.probes(&probes());
    let bare = bare.finish().run();
    let error = velocity(&bare, VelocityGroups::Whole).unwrap_err();
    assert!(error.to_string().contains("kernel velocity cannot be computed"), "{error}");
}
