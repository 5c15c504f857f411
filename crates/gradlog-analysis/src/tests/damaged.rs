//! A bit that flips on disk changes no answer without a word: every analysis, with every part of a block damaged.

use crate::{
    AnalysisError, DistanceQuestion, InfluenceQuestion, MapQuestion, Score, ScoreQuestion, SplitBy, SuspectQuestion,
    VectorQuestion, Window,
};
use gradlog_format::log::BlockKind;
use gradlog_format::run::{Damage, Run};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit, Written};

/// What an analysis says, and where it says that the run stopped being readable.
type Told = Result<(String, Option<Damage>), AnalysisError>;

type Ask = Box<dyn Fn(&Run) -> Told>;

fn subjects() -> Vec<(String, Ask)> {
    let everything = Window::everything;
    let question = || InfluenceQuestion::new("test").id(500);
    let mut all: Vec<(String, Ask)> = Vec::new();
    let mut add = |name: &str, ask: Ask| all.push((name.into(), ask));
    for score in Score::ALL {
        let ask = move |run: &Run| {
            let mut table = ScoreQuestion::new(score).window(everything()).compute_over(&[run])?;
            let damage = table.runs.iter_mut().find_map(|part| part.damage.take());
            Ok((format!("{table:?}"), damage))
        };
        add(score.name(), Box::new(ask));
    }
    let ask = move |run: &Run| {
        let mut map = MapQuestion::new().window(everything()).share(0.3).compute(run)?;
        let damage = map.damage.take();
        Ok((format!("{map:?}"), damage))
    };
    add("map", Box::new(ask));
    let ask = move |run: &Run| {
        let mut list = SuspectQuestion::new().window(everything()).compute(run)?;
        let damage = list.damage.take();
        Ok((format!("{list:?}"), damage))
    };
    add("suspects", Box::new(ask));
    let ask = |run: &Run| {
        let mut flat = VectorQuestion::new(16).compute(run)?;
        let damage = flat.damage.take();
        Ok((format!("{flat:?}"), damage))
    };
    add("vectors", Box::new(ask));
    for layers in [&[][..], &["head"]] {
        let asked = InfluenceQuestion { layers: layers.iter().map(|name| (*name).to_string()).collect(), ..question() };
        let of_layers = asked.clone();
        let ask = move |run: &Run| {
            let mut found = of_layers.compute(run)?;
            let damage = found.damage.take();
            Ok((format!("{found:?}"), damage))
        };
        add("influence", Box::new(ask));
        for by in [SplitBy::Epoch, SplitBy::Layer] {
            let asked = asked.clone();
            let ask = move |run: &Run| {
                let mut parts = asked.plan(run)?.split(0, by, &[(100, 0), (114, 0)])?;
                let damage = parts.damage.take();
                Ok((format!("{parts:?}"), damage))
            };
            add("influence in parts", Box::new(ask));
        }
        let ask = move |run: &Run| {
            let mut scores = asked.compute(run)?;
            let damage = scores.damage.take();
            // Of another layer than may have been asked for.
            let mut far = DistanceQuestion::new(&scores).window(everything()).layer("fc").compute(run)?;
            let damage = far.iter_mut().filter_map(|far| far.damage.take()).chain(damage).next();
            Ok((format!("{far:?}"), damage))
        };
        add("distance", Box::new(ask));
    }
    #[cfg(feature = "curvature")]
    add_methods(&question(), &mut add);
    all
}

#[cfg(feature = "curvature")]
fn add_methods(question: &InfluenceQuestion, add: &mut impl FnMut(&str, Ask)) {
    use crate::{Curvature, Damping, EstimateQuestion, Method};
    for method in Method::ALL {
        for curvature in [Curvature::Visits, Curvature::Set("curvature".into())] {
            let asked = EstimateQuestion {
                shape: crate::vectors::Shape { length: 16, by_layer: false },
                dampings: if method == Method::Adjoint { Vec::new() } else { vec![Damping::Relative(0.1)] },
                curvature: curvature.clone(),
                ..EstimateQuestion::new(question.clone(), method)
            };
            let ask = move |run: &Run| {
                let mut found = asked.compute(run)?.remove(0);
                let damage = found.damage.take();
                Ok((format!("{found:?}"), damage))
            };
            add(&format!("{method} by {curvature:?}"), Box::new(ask));
        }
    }
}

/// A run of cross entropies with probes and rows of curvature beside the visits, a block of these for each epoch.
fn written() -> Written {
    let mut draws = Draws(7);
    let mut all = visits(&mut draws, 9, 4, 6);
    let mut probes: Vec<Visit> = [0, 20].iter().map(|time| draws.visit(500, *time, 0)).collect();
    let mut curvature: Vec<Visit> = (0..12).map(|id| Visit { set: 1, ..draws.visit(700 + id, id, 0) }).collect();
    for visit in all.iter_mut().chain(&mut probes).chain(&mut curvature) {
        visit.confidence = (-visit.loss).exp();
        visit.learning_rate *= 0.01;
    }
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.set(1, "curvature");
    run.probes(&probes);
    run.probes(&curvature[..6]);
    all.chunk_by(|a, b| a.epoch == b.epoch).for_each(|rows| run.visits(rows));
    run.probes(&curvature[6..]);
    run.end();
    run.finish()
}

#[test]
fn no_flipped_bit_changes_an_answer_without_a_word() {
    let written = written();
    let blocks: Vec<(usize, u64)> = {
        let run = written.run();
        let of = |(number, block): (usize, gradlog_format::run::Block)| {
            let wanted = matches!(block.kind(), Some(BlockKind::Visits | BlockKind::Probes));
            wanted.then(|| (number, block.bytes()))
        };
        run.scan().enumerate().filter_map(of).collect()
    };
    let subjects = subjects();
    let intact: Vec<Option<String>> =
        subjects.iter().map(|(_, ask)| ask(&written.run()).ok().map(|(text, _)| text)).collect();
    assert!(intact.iter().filter(|text| text.is_some()).count() > 20, "hardly anything was answered");
    let mut said = 0;
    for (block, bytes) in blocks {
        for distance in (4..bytes).step_by(7) {
            written.damage(block, distance);
            let run = written.run();
            for ((name, ask), intact) in subjects.iter().zip(&intact) {
                match ask(&run) {
                    Ok((text, None)) => {
                        assert_eq!(Some(&text), intact.as_ref(), "{name}: byte {distance} of block {block}");
                    }
                    Ok((_, Some(_))) | Err(_) => said += 1,
                }
            }
            written.damage(block, distance);
        }
    }
    assert!(said > 5000, "{said}");
}
