//! Groups of probes, and scores in parts, against their definitions.

use super::super::{Influence, InfluenceQuestion, Normalization, Part, ProbeTime, Ranked, Split, SplitBy};
use super::definition::{near, question, LAYERS};
use super::story;
use crate::influence::Probes;
use crate::AnalysisError;
use crate::Window;
use gradlog_format::sketch::Encoding;
use std::collections::BTreeMap;

/// The mean of some columns of a matrix, by example; a probe without a score adds nothing.
fn mean(whole: &Influence, ids: &[u64], of: impl Fn(usize, usize) -> f64) -> BTreeMap<u64, f64> {
    let columns: Vec<usize> =
        ids.iter().map(|id| whole.probes.iter().position(|probe| probe.id == *id).unwrap()).collect();
    let rows = whole.rows.iter().enumerate().map(|(row, about)| {
        let known: Vec<f64> = columns.iter().map(|&column| of(row, column)).filter(|score| !score.is_nan()).collect();
        let mean = if known.is_empty() { f64::NAN } else { known.iter().sum::<f64>() / ids.len() as f64 };
        (about.example, mean)
    });
    rows.collect()
}

#[test]
fn a_group_is_the_mean_of_its_probes() {
    let ids: Vec<u64> = (0..130).collect();
    for encoding in [Encoding::F32, Encoding::Q4] {
        let mut story = story(encoding, &[0, 9], &ids);
        // Some have but the later time, so that two passes make the group, and some visits have no time for these.
        story.probes.retain(|probe| probe.step > 0 || probe.example % 3 > 0);
        for probe in &mut story.probes {
            probe.label = (probe.example % 4) as u32;
        }
        let written = story.write();
        let run = written.run();
        for normalization in Normalization::ALL {
            let all = question(normalization, &[]);
            let (mut whole, mut errors): (Option<Influence>, Option<Influence>) = (None, None);
            let plan = all.clone().sketch_errors().plan(&run).unwrap();
            assert!(plan.passes() > 1 && plan.columns() == 130);
            for number in 0..plan.passes() {
                let part = plan.pass(number).unwrap();
                match &mut whole {
                    Some(whole) => whole.merge(part),
                    None => whole = Some(part),
                }
            }
            let whole = whole.unwrap();
            let groups = [
                (Probes::Ids(vec![8, 3, 120, 5]), vec![3, 5, 8, 120]),
                (Probes::Ids(vec![120, 5, 3, 8, 5]), vec![3, 5, 8, 120]),
                (Probes::Label(2), ids.iter().copied().filter(|id| id % 4 == 2).collect()),
                (Probes::All, ids.clone()),
            ];
            for (probes, members) in groups {
                let asked = InfluenceQuestion { probes: probes.clone(), ..all.clone() }.mean();
                let plan = asked.clone().sketch_errors().plan(&run).unwrap();
                assert_eq!((plan.passes(), plan.columns(), plan.probes()), (1, 1, members.len()));
                let found = plan.pass(0).unwrap();
                assert_eq!((&found.group, found.probes.len()), (&members, 1));
                let label = if probes == Probes::Label(2) { Some(2) } else { None };
                assert_eq!(found.probes[0].label, label.or(if members.len() == 4 { None } else { label }));
                let want = mean(&whole, &members, |row, column| whole.score(row, column));
                let want_errors = mean(&whole, &members, |row, column| whole.sketch_error(row, column).unwrap());
                for (row, about) in found.rows.iter().enumerate() {
                    let (score, error) = (found.score(row, 0), found.sketch_error(row, 0).unwrap());
                    let (want, want_error) = (want[&about.example], want_errors[&about.example]);
                    assert!(near(score, want) || score.is_nan() && want.is_nan(), "{normalization:?} {score} {want}");
                    assert!(near(error, want_error) || error.is_nan() && want_error.is_nan(), "{error} {want_error}");
                }
                let strongest = plan.strongest(0, 3).unwrap();
                let rows = |list: &[Ranked]| -> Vec<(u64, f64)> {
                    list.iter().map(|r| (strongest.influence.rows[r.row].example, r.score)).collect()
                };
                let of = |row: usize| (found.rows[row].example, found.score(row, 0));
                let first: Vec<_> = found.proponents(0, 3).into_iter().map(of).collect();
                let last: Vec<_> = found.opponents(0, 3).into_iter().map(of).collect();
                assert_eq!((rows(&strongest.proponents[0]), rows(&strongest.opponents[0])), (first, last));
                if let Some(errors) = &errors {
                    // In whatever order the ids are said, and however often.
                    if members.len() == 4 {
                        assert_eq!(errors.scores, found.scores);
                    }
                }
                if members.len() == 4 {
                    errors = Some(found);
                }
            }
        }
        let nobody = InfluenceQuestion { probes: Probes::Label(9), ..InfluenceQuestion::new("test") };
        let error = nobody.compute(&run).unwrap_err();
        assert!(matches!(error, AnalysisError::NoProbeGradient { .. }));
        assert!(error.to_string().contains("class 9 of `test`") && error.to_string().contains("0, 1, 2, 3"), "{error}");
    }
}

fn check_split(found: &Split, by: SplitBy, want: &BTreeMap<u32, [f64; 3]>, pair: usize, counted: &[&str]) {
    for (part, got) in found.parts.iter().zip(found.pair_scores(pair)) {
        let want: f64 = match part {
            Part::Epoch(epoch) => want.get(epoch).map_or(0.0, |layers| layers.iter().sum()),
            Part::Layer(name) => {
                let layer = LAYERS.iter().position(|other| other == name).unwrap();
                want.values().map(|layers| layers[layer]).sum()
            }
        };
        assert!(near(*got, want), "{by:?} {part}: {got} {want}");
    }
    if by == SplitBy::Layer {
        let names: Vec<String> = found.parts.iter().map(ToString::to_string).collect();
        assert_eq!(names, counted);
    }
}

#[test]
fn parts_are_as_defined_and_add_up() {
    let ids: Vec<u64> = (0..60).collect();
    for encoding in [Encoding::F32, Encoding::Q4] {
        let story = story(encoding, &[0, 9], &ids);
        let written = story.write();
        let run = written.run();
        for normalization in Normalization::ALL {
            for (layers, counted) in [(&[][..], &LAYERS[..]), (&["conv", "head"], &["head", "conv"])] {
                let asked = InfluenceQuestion { window: Window::epochs(1..4), ..question(normalization, layers) };
                let plan = asked.clone().sketch_errors().plan(&run).unwrap();
                let whole = plan.pass(0).unwrap();
                // Probes of two panels, one example twice, one that has no visit.
                let example = whole.rows[4].example;
                let pairs = [(example, 3), (whole.rows[9].example, 55), (example, 55), (9999, 0)];
                for by in [SplitBy::Layer, SplitBy::Epoch] {
                    let found = plan.split(0, by, &pairs).unwrap();
                    assert_eq!(found.parts.len(), if by == SplitBy::Epoch { 3 } else { counted.len() });
                    assert!(found.pair_scores(3).iter().all(|part| *part == 0.0));
                    for (pair, &(example, probe)) in pairs.iter().enumerate().take(3) {
                        let want = &story.parts(&asked, probe as u64)[&example];
                        check_split(&found, by, want, pair, counted);
                        let row = whole.rows.iter().position(|row| row.example == example).unwrap();
                        assert!(near(found.pair_scores(pair).iter().sum(), whole.score(row, probe)));
                        let (errors, whole) =
                            (found.pair_errors(pair).unwrap(), whole.sketch_error(row, probe).unwrap());
                        let sum: f64 = errors.iter().sum();
                        match by {
                            SplitBy::Epoch => assert!((sum - whole).abs() < 1e-5 * whole),
                            SplitBy::Layer => assert!(sum > (1.0 - 1e-5) * whole && sum < 1.8 * whole, "{sum} {whole}"),
                        }
                    }
                    let group = asked.clone().mean().plan(&run).unwrap();
                    let scores = group.pass(0).unwrap();
                    let split = group.split(0, by, &[(example, 0)]).unwrap();
                    assert!(split.errors.is_empty() && split.pair_errors(0).is_none());
                    let row = scores.rows.iter().position(|row| row.example == example).unwrap();
                    assert!(near(split.pair_scores(0).iter().sum(), scores.score(row, 0)));
                    let mut want: BTreeMap<u32, [f64; 3]> = BTreeMap::new();
                    for id in &ids {
                        for (epoch, layers) in &story.parts(&asked, *id)[&example] {
                            let sums = want.entry(*epoch).or_default();
                            sums.iter_mut().zip(layers).for_each(|(sum, layer)| *sum += layer / ids.len() as f64);
                        }
                    }
                    check_split(&split, by, &want, 0, counted);
                }
            }
        }
    }
}

#[test]
fn a_visit_whose_product_is_not_finite_is_in_no_part() {
    let mut story = story(Encoding::F32, &[0], &[1]);
    story.probes.iter_mut().for_each(|probe| probe.parts[4].fill(1.0));
    let clean = story.visits.clone();
    let example = clean[12].example;
    let mut bad = clean[12].clone();
    bad.parts[4].fill(3e38);
    story.visits.insert(13, bad);
    let written = story.write();
    let run = written.run();
    story.visits = clean;
    let asked = InfluenceQuestion { time: ProbeTime::Earlier, ..InfluenceQuestion::new("test").id(1) };
    let plan = asked.plan(&run).unwrap();
    let want = &story.parts(&asked, 1)[&example];
    for by in [SplitBy::Layer, SplitBy::Epoch] {
        let found = plan.split(0, by, &[(example, 0)]).unwrap();
        check_split(&found, by, want, 0, &LAYERS);
    }
}
