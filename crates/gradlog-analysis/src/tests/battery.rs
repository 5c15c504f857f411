//! The common battery: one driver through which every score of the table passes, alone, over runs, as a keep-list, and
//! with it every list that is made of scores. A score that is added to the table is in it.

use crate::{
    AnalysisError, Basis, DistanceQuestion, InfluenceQuestion, KeepRule, MapQuestion, Score, ScoreQuestion,
    SuspectQuestion, ThresholdIds, ThresholdQuestion, VectorQuestion, Window,
};
use gradlog_format::log::Column;
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{run_of, visits, Draws, Opened, Synthetic, Visit};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of an answer: who, and the number, in the answer's order.
type Answer = Vec<(u64, f64)>;

type Ask = Box<dyn Fn(&[&Run]) -> Result<Answer, AnalysisError>>;

/// One question that is asked of one or several runs.
struct Subject {
    name: String,
    ask: Ask,
    /// Whether the order of an example's visits does not matter.
    order_free: bool,
    /// What the number is multiplied by if every visit is there twice.
    doubled: f64,
}

fn subjects() -> Vec<Subject> {
    let everything = Window::everything;
    let mut all: Vec<Subject> = Vec::new();
    let mut add = |name: String, order_free, doubled, ask: Ask| {
        all.push(Subject { name, ask, order_free, doubled });
    };
    for score in Score::ALL {
        let order_free = score != Score::Forgetting;
        let doubled = if score == Score::SelfInfluence { 2.0 } else { 1.0 };
        let alone = move |runs: &[&Run]| {
            let table = ScoreQuestion::new(score).window(everything()).compute(runs[0])?;
            Ok(table.rows.iter().map(|row| (row.example, row.score)).collect())
        };
        add(format!("{score}"), order_free, doubled, Box::new(alone));
        let mean = move |runs: &[&Run]| {
            let table = ScoreQuestion::new(score).window(everything()).compute_over(runs)?;
            Ok(table.rows.iter().map(|row| (row.example, row.score)).collect())
        };
        add(format!("mean of {score}"), order_free, doubled, Box::new(mean));
        let keep = move |runs: &[&Run]| {
            let table = ScoreQuestion::new(score).window(everything()).compute_over(runs)?;
            let list = table.keep(&KeepRule { skip_hardest: 0.2, ..KeepRule::hardest(0.5) })?;
            Ok(list.kept.iter().map(|kept| (kept.example, kept.score)).collect())
        };
        add(format!("keep-list by {score}"), order_free, doubled, Box::new(keep));
    }
    let list = move |runs: &[&Run]| {
        let list = SuspectQuestion::new().window(everything()).compute_over(runs)?;
        Ok(list.rows.iter().map(|row| (row.example, row.suspicion)).collect())
    };
    add("suspects".into(), false, 1.0, Box::new(list));
    let map = move |runs: &[&Run]| {
        let map = MapQuestion::new().window(everything()).share(0.3).compute_over(runs)?;
        let region = |row: &crate::DataMapRow| {
            f64::from(4 * u8::from(row.easy) + 2 * u8::from(row.ambiguous) + u8::from(row.hard))
        };
        Ok(map.rows.iter().map(|row| (row.example, region(row))).collect())
    };
    add("map".into(), true, 1.0, Box::new(map));
    let flagged = move |runs: &[&Run]| {
        let sets = ThresholdIds::Sets(vec![vec![100, 107, 114, 3]; runs.len()]);
        let verdict = ThresholdQuestion::new(sets.clone()).percentile(99.0).window(everything()).compute_over(runs)?;
        Ok(verdict.rows.iter().map(|row| (row.example, row.above_cut)).collect())
    };
    add("threshold samples".into(), true, 1.0, Box::new(flagged));
    all
}

/// Visits in which each example has one label.
fn labeled(seed: u64) -> Vec<Visit> {
    let mut all = visits(&mut Draws(seed), 40, 4, 8);
    all.iter_mut().for_each(|visit| visit.label = visit.example as u32 % 5);
    all
}

fn close(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

fn by_id(answer: &Answer) -> BTreeMap<u64, f64> {
    answer.iter().copied().collect()
}

fn opened(visits: &[Visit], rows: usize) -> Opened {
    run_of(visits, rows).run()
}

#[test]
fn visits_of_a_step_and_blocks_of_a_run_may_be_permuted() {
    let all = labeled(1);
    let mut within_steps = all.clone();
    within_steps.sort_by_key(|v| (v.step, std::cmp::Reverse(v.example)));
    let mut blocks: Vec<&[Visit]> = all.chunks(7).collect();
    let mut draws = Draws(2);
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, draws.below(i as u64 + 1) as usize);
    }
    let shuffled: Vec<Visit> = blocks.concat();
    assert_ne!(shuffled.iter().map(|v| v.step).collect::<Vec<_>>(), all.iter().map(|v| v.step).collect::<Vec<_>>());
    let (a, b, c) = (opened(&all, 9), opened(&within_steps, 13), opened(&shuffled, 7));
    for subject in subjects() {
        let expected = (subject.ask)(&[&a]).unwrap();
        assert_eq!((subject.ask)(&[&b]).unwrap(), expected, "{}", subject.name);
        if subject.order_free {
            let permuted = by_id(&(subject.ask)(&[&c]).unwrap());
            for (example, value) in by_id(&expected) {
                assert!(close(permuted[&example], value), "{} of {example}", subject.name);
            }
        }
    }
}

#[test]
fn an_empty_run_is_refused_and_one_example_has_one_row() {
    let nothing = opened(&[], 1);
    let one = Visit { label: 2, ..Draws(3).visit(u64::MAX, 0, 0) };
    let one = opened(&[one], 1);
    for subject in subjects() {
        let error = (subject.ask)(&[&nothing]).unwrap_err();
        assert!(matches!(error, AnalysisError::NoVisits), "{}: {error}", subject.name);
        match (subject.ask)(&[&one]) {
            Ok(answer) => assert!(
                answer.len() == 1 && answer[0].0 == u64::MAX && !answer[0].1.is_nan(),
                "{}: {answer:?}",
                subject.name
            ),
            // Without threshold samples there is no cut.
            Err(error) => assert!(matches!(error, AnalysisError::NoThreshold { .. }), "{}: {error}", subject.name),
        }
    }
}

#[test]
fn rows_of_nan_and_infinity_change_nothing_for_the_others() {
    let clean = labeled(4);
    let mut dirty: Vec<Visit> = Vec::new();
    for (i, visit) in clean.iter().enumerate() {
        let mut bad = visit.clone();
        if i % 2 == 0 {
            bad.flags = Column::FLAG_NOT_FINITE;
        } else {
            for number in [&mut bad.loss, &mut bad.el2n, &mut bad.margin, &mut bad.confidence, &mut bad.correct] {
                *number = if i % 4 == 1 { f32::NAN } else { f32::INFINITY };
            }
            (bad.squared_norm, bad.prediction) = (f32::NEG_INFINITY, visit.prediction);
        }
        dirty.push(visit.clone());
        dirty.push(bad);
    }
    dirty.push(Visit { flags: Column::FLAG_NOT_FINITE, ..Draws(5).visit(3, 99, 3) });
    let (clean, dirty) = (opened(&clean, 16), opened(&dirty, 16));
    for subject in subjects() {
        let expected = by_id(&(subject.ask)(&[&clean]).unwrap());
        let mut answer = by_id(&(subject.ask)(&[&dirty]).unwrap());
        assert!(answer.remove(&3).is_none_or(f64::is_nan), "{}", subject.name);
        assert_eq!(answer.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{}", subject.name);
        // The predictions of bad rows without the flag are in the log as any other; they are those of their neighbors.
        let same = |(example, value): (&u64, &f64)| subject.name == "suspects" || close(*value, expected[example]);
        assert!(answer.iter().all(same), "{}", subject.name);
    }
}

#[test]
fn examples_that_come_twice_in_a_step_count_twice() {
    let all = labeled(6);
    let twice: Vec<Visit> = all.iter().flat_map(|visit| [visit.clone(), visit.clone()]).collect();
    let (once, twice) = (opened(&all, 16), opened(&twice, 16));
    for subject in subjects() {
        let (a, b) = ((subject.ask)(&[&once]).unwrap(), (subject.ask)(&[&twice]).unwrap());
        let ids = |answer: &Answer| answer.iter().map(|(example, _)| *example).collect::<Vec<_>>();
        assert_eq!(ids(&a), ids(&b), "{}", subject.name);
        for ((example, once), (_, twice)) in a.iter().zip(&b) {
            assert!(close(subject.doubled * once, *twice), "{} of {example}: {once} {twice}", subject.name);
        }
    }
}

#[test]
fn several_runs_cover_the_examples_of_each_in_any_order() {
    let short: Vec<Visit> = labeled(8).into_iter().filter(|visit| visit.example < 300).collect();
    let (a, b) = (opened(&labeled(7), 16), opened(&short, 16));
    for subject in subjects() {
        let answer = |runs: &[&Run]| (subject.ask)(runs).unwrap();
        let (both, swapped) = (answer(&[&a, &b]), answer(&[&b, &a]));
        let covers = |answer: &Answer| answer.iter().map(|(example, _)| *example).collect::<BTreeSet<u64>>();
        if subject.name.starts_with("keep-list") {
            assert_eq!(both.len(), 20, "{}", subject.name);
        } else {
            assert!(covers(&both).is_superset(&covers(&answer(&[&b]))), "{}", subject.name);
            assert_eq!(covers(&both), covers(&answer(&[&a])), "{}", subject.name);
        }
        // A score of one run is about the first.
        if !Score::ALL.iter().any(|score| score.name() == subject.name) {
            let same = both.iter().zip(&swapped).all(|(x, y)| x.0 == y.0 && close(x.1, y.1));
            assert!(same, "{}", subject.name);
        }
    }
}

/// A run of `rows` with probes, and of sweeps of the same examples with other numbers, if it is to have any.
fn run_with(rows: &[Visit], sweeps: &[Visit]) -> Opened {
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(&[Visit { step: 0, ..Draws(5).visit(500, 0, 0) }]);
    rows.chunks(9).for_each(|rows| run.visits(rows));
    run.probes(&[Visit { step: 15, ..Draws(6).visit(500, 15, 3) }]);
    run.end();
    sweeps.chunks(9).for_each(|rows| run.sweeps(rows));
    run.finish().run()
}

/// Two sweeps over the examples of `labeled`.
fn sweeps() -> Vec<Visit> {
    let mut draws = Draws(91);
    let mut all = Vec::new();
    for (step, epoch) in [(15, 3), (5, 1)] {
        for id in (0..40).map(|id| 100 + 7 * id) {
            all.push(Visit { label: id as u32 % 5, ..draws.visit(id, step, epoch) });
        }
    }
    all
}

#[cfg(feature = "curvature")]
fn no_method_takes_sweeps_for_visits(plain: &Run, swept: &Run, question: &InfluenceQuestion) {
    use crate::{EstimateQuestion, Method};
    for method in Method::ALL {
        let asked = EstimateQuestion::new(question.clone(), method);
        let scores = |run: &Run| asked.compute(run).map(|answers| answers[0].scores.clone());
        assert_eq!(format!("{:?}", scores(plain)), format!("{:?}", scores(swept)), "{method}");
        let asked = EstimateQuestion::new(question.clone().sweeps(), method);
        assert!(matches!(asked.compute(swept), Err(AnalysisError::OnlyVisits { .. })), "{method}");
    }
}

#[test]
fn nothing_takes_sweeps_for_visits() {
    let rows = labeled(3);
    let (plain, swept) = (run_with(&rows, &[]), run_with(&rows, &sweeps()));
    for Subject { name, ask, .. } in subjects() {
        assert_eq!(format!("{:?}", ask(&[&plain])), format!("{:?}", ask(&[&swept])), "{name}");
    }
    let question = InfluenceQuestion::new("test").id(500);
    let near = |run: &Run| DistanceQuestion::new(&question.compute(run)?).window(Window::everything()).compute(run);
    assert_eq!(near(&plain).unwrap(), near(&swept).unwrap());
    let means = VectorQuestion::new(16);
    let flat = |run: &Run, question: &VectorQuestion| question.compute(run);
    assert_eq!(flat(&plain, &means).unwrap(), flat(&swept, &means).unwrap());
    #[cfg(feature = "curvature")]
    no_method_takes_sweeps_for_visits(&plain, &swept, &question);
    // What cannot be said of sweeps is refused, and not answered with visits.
    let on_sweeps = means.window(Window::sweeps());
    assert!(matches!(flat(&swept, &on_sweeps), Err(AnalysisError::OnlyVisits { .. })));
    assert!(matches!(
        SuspectQuestion::new().window(Window::sweeps()).compute(&swept),
        Err(AnalysisError::OnlyVisits { .. })
    ));
    let scores = question.compute(&swept).unwrap();
    let far = DistanceQuestion::new(&scores).window(Window::sweeps()).compute(&swept).unwrap_err();
    assert!(
        matches!(far, AnalysisError::OnlyVisits { .. }) && far.to_string().contains("give a window on visits"),
        "{far}"
    );
}

#[test]
fn what_is_made_of_scores_stands_on_sweeps_where_it_is_asked_to_and_says_so() {
    let rows = sweeps();
    let run = run_with(&labeled(3), &rows);
    let mean = |id: u64, of: fn(&Visit) -> f32| {
        rows.iter().filter(|row| row.example == id).map(|row| f64::from(of(row))).sum::<f64>() / 2.0
    };
    let said = "sweeps at 2 checkpoints, steps 5 to 15, evaluation mode";
    let map = MapQuestion::new().window(Window::sweeps()).share(0.3).compute(&run).unwrap();
    assert_eq!((map.rows.len(), map.visits, Basis::describe_all(&map.bases).as_str()), (40, 80, said));
    assert!(map.rows.iter().all(|row| close(row.confidence, mean(row.example, |row| row.confidence))));
    let samples = ThresholdIds::Sets(vec![vec![100, 107, 114]]);
    let verdict =
        ThresholdQuestion::new(samples.clone()).percentile(99.0).window(Window::sweeps()).compute(&run).unwrap();
    let line = Basis::describe_all(verdict.runs.iter().map(|part| &part.basis));
    assert!(line.starts_with(&format!("{said}; left out: 3 examples (")), "{line}");
    assert!(verdict.rows.iter().all(|row| close(row.aum, mean(row.example, |row| row.margin))));
    let table = ScoreQuestion::new(Score::El2n).window(Window::sweep_at(15)).compute_over(&[&run]).unwrap();
    assert_eq!((table.basis_words().as_str(), table.visits()), ("sweep at checkpoint step 15, evaluation mode", 40));
    let visits = ScoreQuestion::new(Score::El2n).compute_over(&[&run]).unwrap();
    assert_eq!((visits.basis_words().as_str(), visits.is_on_sweeps()), ("visits, training mode", false));
}
