//! Distances in feature space against those of planted features.

use crate::influence::InfluenceQuestion;
use crate::{AnalysisError, DistanceQuestion, Window};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Synthetic, Visit};

#[test]
fn distances_are_those_of_the_last_visits_and_near_ones_carry_more() {
    let mut draws = Draws(3);
    let probe = Visit { step: 9, ..draws.visit(500, 9, 0) };
    let mut visits = Vec::new();
    for step in 0..2 {
        for example in 0..30u64 {
            let mut visit = draws.visit(example, step, step as u32);
            // In the second epoch example i stands i away from the probe, and its score falls with i.
            visit.parts[2] = probe.parts[2].iter().map(|x| x + 0.5 * example as f32).collect();
            visit.parts[0] = vec![0.0; 5];
            visit.parts[1] = probe.parts[1].iter().map(|d| d / (1.0 + example as f32)).collect();
            visit.parts[3] = vec![0.0; 2];
            visit.parts[4] = vec![0.0; 7];
            (visit.learning_rate, visit.clip, visit.coefficient) = (0.1, 1.0, 1.0);
            if step == 0 {
                visit.parts[2].fill(100.0);
            }
            visits.push(visit);
        }
    }
    visits[35].flags = 1;
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&[Visit { step: 0, ..probe.clone() }, probe.clone()]);
    run.visits(&visits);
    run.end();
    let written = run.finish();
    let run = written.run();
    let scores = InfluenceQuestion::new("test").id(500).compute(&run).unwrap();
    let window = Window::epochs(1..2);
    let found = &DistanceQuestion::new(&scores).window(window.clone()).compute(&run).unwrap()[0];
    assert_eq!((found.layer.as_str(), found.width, found.examples), ("head", 4, 29));
    for (row, distance) in scores.rows.iter().zip(&found.distances) {
        if row.example == 5 {
            assert!(distance.is_nan());
            continue;
        }
        // Four numbers, each 0.5·i away.
        assert!((distance - row.example as f64).abs() < 1e-5, "{} {distance}", row.example);
    }
    assert!((found.size + 1.0).abs() < 1e-9 && (found.score + 1.0).abs() < 1e-9, "{found:?}");
    // The nearest are the strongest, in the same order; of the far ones none is.
    for count in [1, 4, 1000] {
        let both = found.compare(&scores, count).unwrap();
        let known = count.min(29);
        assert_eq!((both.nearest.len(), both.also_proponents + both.also_opponents), (known, known));
        assert_eq!(both.nearest[..known.min(4)], both.proponents[..known.min(4)]);
        let same = |rows: &[usize]| {
            let same = rows.iter().filter(|&&row| scores.rows[row].label == scores.probes[0].label).count();
            Some(same as f64 / rows.len() as f64)
        };
        assert_eq!(both.same_label_nearest, same(&both.nearest));
        assert_eq!(both.same_label_proponents, same(&both.proponents));
        assert_eq!(both.same_label_opponents.is_none(), both.opponents.is_empty());
    }
    // An influence that the distances were not made of.
    let mut other = scores.clone();
    other.probes[0].id = 501;
    let mut shorter = scores.clone();
    shorter.rows.pop();
    for other in [&other, &shorter] {
        let error = found.compare(other, 1).unwrap_err();
        assert!(matches!(error, AnalysisError::OutOfRange { .. }), "{error}");
    }
    // The same examples, swept at a checkpoint.
    let mut swept = Synthetic::new(Encoding::F32);
    swept.set(0, "test");
    swept.probes(std::slice::from_ref(&probe));
    swept.sweeps(&visits[30..].iter().map(|visit| Visit { step: 9, ..visit.clone() }).collect::<Vec<_>>());
    swept.end();
    let swept = swept.finish();
    let question = InfluenceQuestion::new("test").id(500).sweeps();
    let at_checkpoints = question.compute(&swept.run()).unwrap();
    let sweeps =
        &DistanceQuestion::new(&at_checkpoints).window(question.window.clone()).compute(&swept.run()).unwrap()[0];
    assert_eq!((sweeps.examples, format!("{:?}", sweeps.distances)), (29, format!("{:?}", found.distances)));
    let mixed = DistanceQuestion::new(&at_checkpoints).window(window.clone()).compute(&swept.run()).unwrap_err();
    assert!(matches!(mixed, AnalysisError::OutOfRange { .. }), "{mixed}");
    let named = &DistanceQuestion::new(&scores).window(window.clone()).layer("fc").compute(&run).unwrap()[0];
    assert_eq!((named.layer.as_str(), named.width), ("fc", 5));
    assert!(named.size.is_nan() || named.size.abs() <= 1.0);
    let error = DistanceQuestion::new(&scores).window(window.clone()).layer("conv").compute(&run).unwrap_err();
    assert!(matches!(error, AnalysisError::Missing { .. }));
}
