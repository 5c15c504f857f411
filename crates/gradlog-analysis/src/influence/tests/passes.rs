//! A question in several passes, and the strongest of each probe found while visits stream by.

use super::super::{InfluenceQuestion, Ranked, Strongest};
use super::story;
use crate::tests::many_blocks;
use crate::{AnalysisError, SplitBy, Window};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::Visit;

#[test]
fn many_probes_take_several_passes_and_add_up() {
    let ids: Vec<u64> = (0..600).collect();
    let story = story(Encoding::F32, &[0], &ids);
    let written = story.write();
    let run = written.run();
    let mut plan = InfluenceQuestion::new("test").plan(&run).unwrap();
    assert_eq!(plan.passes(), 1);
    plan.cut(256, usize::MAX);
    assert_eq!(plan.passes(), 3);
    let mut whole = plan.pass(0).unwrap();
    whole.merge(plan.pass(1).unwrap());
    whole.merge(plan.pass(2).unwrap());
    assert_eq!(whole.probes.len(), 600);
    for id in [0, 255, 256, 599] {
        let one = InfluenceQuestion::new("test").id(id).compute(&run).unwrap();
        for row in 0..one.rows.len() {
            let (a, b) = (one.score(row, 0), whole.score(row, id as usize));
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

/// Where each example is visited in one block only, its scores are given up there, and the memory for those of a block
/// is enough.
#[test]
fn scores_that_are_given_up_make_room_for_more_probes() {
    let run_of = |own_examples: bool| {
        let mut story = story(Encoding::Q4, &[0], &(0..100).collect::<Vec<_>>());
        if own_examples {
            story.visits.iter_mut().enumerate().for_each(|(number, visit)| visit.example = number as u64);
        }
        (story.visits.len(), story.write())
    };
    let (visits, written) = run_of(true);
    let run = written.run();
    let of_block = visits.div_ceil(many_blocks());
    let plan = |errors: bool| {
        let question = InfluenceQuestion::new("test");
        let question = if errors { question.sketch_errors() } else { question };
        question.plan(&run).unwrap()
    };
    for (errors, pair_bytes) in [(false, 8), (true, 16)] {
        let enough = 100 * of_block * pair_bytes;
        let (mut all, mut few) = (plan(errors), plan(errors).keep_strongest());
        all.cut(4096, enough);
        few.cut(4096, enough);
        assert_eq!(few.passes(), 1);
        assert_eq!(all.passes(), 100usize.div_ceil((enough / (2 * pair_bytes * visits)).max(16)));
        assert!(all.passes() > 1);
        few.cut(4096, enough - 1);
        assert_eq!(few.passes(), 2, "a byte less is not enough");
        few.cut(4096, enough);
        let found = few.strongest(0, 4).unwrap();
        let named = |found: &Strongest, list: &[Vec<Ranked>], probe: usize| -> Vec<(u64, f64, Option<f64>)> {
            list[probe].iter().map(|r| (found.influence.rows[r.row].example, r.score, r.error)).collect()
        };
        let mut first = 0;
        for pass in 0..all.passes() {
            let part = all.strongest(pass, 4).unwrap();
            for probe in 0..part.influence.probes.len() {
                for lists in [(&found.proponents, &part.proponents), (&found.opponents, &part.opponents)] {
                    assert_eq!(named(&found, lists.0, first + probe), named(&part, lists.1, probe));
                }
            }
            first += part.influence.probes.len();
        }
        assert_eq!(first, 100);
    }
    // Examples that come back are under way all the while.
    let (_, written) = run_of(false);
    let run = written.run();
    let mut plan = InfluenceQuestion::new("test").plan(&run).unwrap().keep_strongest();
    plan.cut(4096, 100 * of_block * 8);
    assert!(of_block < 25 && plan.passes() > 1);
}

#[test]
fn the_strongest_are_those_of_the_whole_matrix() {
    let run_of = |encoding, ids: u64| {
        let mut story = story(encoding, &[0, 9], &(0..ids).collect::<Vec<_>>());
        // Two examples with the same scores, one that never counts, and one that helps nobody and hurts nobody.
        let twins: Vec<Visit> =
            story.visits.iter().filter(|v| v.example == 100).map(|v| Visit { example: 50, ..v.clone() }).collect();
        story.visits.extend(twins.iter().map(|twin| Visit { step: 100, ..twin.clone() }));
        story.visits.extend(twins.iter().map(|twin| Visit { example: 60, step: 100, ..twin.clone() }));
        story.visits.push(Visit { example: 3, step: 101, flags: Column::FLAG_NOT_FINITE, ..twins[0].clone() });
        story.visits.push(Visit { example: 4, step: 101, coefficient: 0.0, ..twins[0].clone() });
        story.write()
    };
    // Few probes, of which no visits are counted; enough that examples are given up; enough that threads share them.
    for ids in [3, 40, 260] {
        for encoding in [Encoding::F32, Encoding::Q4] {
            let written = run_of(encoding, ids);
            let run = written.run();
            for window in [Window::everything(), Window::epochs(1..3)] {
                let question = InfluenceQuestion { window, ..InfluenceQuestion::new("test") };
                let plan = question.clone().sketch_errors().plan(&run).unwrap();
                let whole = plan.pass(0).unwrap();
                for count in [1, 3, 1000] {
                    let found = plan.strongest(0, count).unwrap();
                    assert_eq!(found.examples, whole.rows.len() as u64);
                    assert_eq!(
                        (found.influence.visits, found.influence.left_out.not_finite),
                        (whole.visits, whole.left_out.not_finite)
                    );
                    for probe in 0..ids as usize {
                        let lists = [
                            (&found.proponents[probe], whole.proponents(probe, count)),
                            (&found.opponents[probe], whole.opponents(probe, count)),
                        ];
                        for (list, expected) in lists {
                            let list: Vec<_> =
                                list.iter().map(|r| (&found.influence.rows[r.row], r.score, r.error)).collect();
                            let expected: Vec<_> = expected
                                .into_iter()
                                .map(|row| (&whole.rows[row], whole.score(row, probe), whole.sketch_error(row, probe)))
                                .collect();
                            assert_eq!(list, expected, "{encoding:?}, {ids} probes, {count} strongest");
                        }
                    }
                    let named = found.proponents.iter().chain(&found.opponents).flatten().map(|ranked| ranked.row);
                    assert_eq!(named.collect::<std::collections::BTreeSet<_>>().len(), found.influence.rows.len());
                }
            }
        }
    }
}

#[test]
fn errors_add_up_over_visits_and_are_only_there_when_asked_for() {
    let story = story(Encoding::Q4, &[0], &[1, 2]);
    let written = story.write();
    let run = written.run();
    let plain = InfluenceQuestion::new("test").plan(&run).unwrap().pass(0).unwrap();
    assert!(plain.sketch_errors.is_empty() && plain.sketch_error(0, 0).is_none());
    for plan in [InfluenceQuestion::new("test"), InfluenceQuestion::new("test").mean()].map(|asked| asked.plan(&run)) {
        let (plan, by) = (plan.unwrap(), SplitBy::Layer);
        let refused = |error| assert!(matches!(error, Some(AnalysisError::OutOfRange { .. })), "{error:?}");
        refused(plan.pass(plan.passes()).err());
        refused(plan.strongest(plan.passes(), 1).err());
        refused(plan.strongest(0, 0).err());
        refused(plan.split(plan.passes(), by, &[(0, 0)]).err());
        refused(plan.split(0, by, &[(0, plan.columns())]).err());
    }
    let whole = InfluenceQuestion::new("test").sketch_errors().plan(&run).unwrap().pass(0).unwrap();
    assert_eq!(whole.scores, plain.scores);
    // A window of one step has the error of one visit; those of an example's visits add up.
    let mut sums = vec![0f64; whole.sketch_errors.len()];
    for step in 0..=story.visits[story.visits.len() - 1].step {
        let question = InfluenceQuestion { window: Window::steps(step..step + 1), ..InfluenceQuestion::new("test") };
        let one = question.clone().sketch_errors().plan(&run).unwrap().pass(0).unwrap();
        for (row, about) in one.rows.iter().enumerate() {
            let at = whole.rows.iter().position(|other| other.example == about.example).unwrap();
            for probe in 0..2 {
                assert!(one.sketch_error(row, probe).unwrap() > 0.0);
                sums[at * 2 + probe] += one.sketch_error(row, probe).unwrap();
            }
        }
    }
    for (sum, error) in sums.iter().zip(&whole.sketch_errors) {
        assert!((sum - error).abs() < 1e-9 * error, "{sum} {error}");
    }
    // Twice the steps move the scores twice as far, and their errors with them, also when they go uphill.
    let mut doubled = story;
    doubled.visits.iter_mut().for_each(|visit| visit.learning_rate *= -2.0);
    let written = doubled.write();
    let run = written.run();
    let plan = InfluenceQuestion::new("test").clone().sketch_errors().plan(&run).unwrap();
    let found = plan.pass(0).unwrap();
    for (error, double) in whole.sketch_errors.iter().zip(&found.sketch_errors) {
        assert!((2.0 * error - double).abs() < 1e-9 * double, "{error} {double}");
    }
}
