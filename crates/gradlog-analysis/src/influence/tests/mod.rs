//! Influence against a double loop over visits and probes.

use super::{Influence, InfluenceQuestion, ProbeTime};
use crate::influence::Probes;
use crate::tests::many_blocks;
use crate::{AnalysisError, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, visits, Draws, Synthetic, Visit, Written};
use std::collections::BTreeMap;

mod definition;
mod distance;
mod parts;
mod passes;

/// Visits and probes of a run, as they were handed to the writer.
struct Story {
    encoding: Encoding,
    visits: Vec<Visit>,
    /// Of sets 0 (`other`) and 1 (`test`).
    probes: Vec<Visit>,
}

const OTHER: u32 = 0;
const TEST: u32 = 1;

fn story(encoding: Encoding, times: &[u64], ids: &[u64]) -> Story {
    let mut draws = Draws(42);
    let visits = visits(&mut draws, 25, 5, 6);
    let mut probes = Vec::new();
    for &time in times {
        for &id in ids {
            for set in [OTHER, TEST] {
                probes.push(Visit { set, ..draws.visit(id, time, 0) });
            }
        }
    }
    Story { encoding, visits, probes }
}

impl Story {
    /// Visit blocks that end anywhere, each after the probes taken up to its last step, as a recorder must seal them:
    /// were it the other way round, a cut between the two would leave visits whose own probe is lost and nobody
    /// knows.
    fn write(&self) -> Written {
        let mut run = Synthetic::new(self.encoding);
        run.set(OTHER, "other");
        run.set(TEST, "test");
        let mut probes = self.probes.as_slice();
        for rows in self.visits.chunks(self.visits.len().div_ceil(many_blocks())) {
            let taken = probes.partition_point(|probe| probe.step <= rows[rows.len() - 1].step);
            if taken > 0 {
                run.probes(&probes[..taken]);
            }
            probes = &probes[taken..];
            run.visits(rows);
        }
        if !probes.is_empty() {
            run.probes(probes);
        }
        run.end();
        run.finish()
    }

    fn dot(&self, a: &Visit, b: &Visit) -> f64 {
        let (a, b) = (decoded(a, self.encoding), decoded(b, self.encoding));
        let dot = |part: usize| a[part].iter().zip(&b[part]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        (dot(0) + 1.0) * dot(1) + dot(2) * dot(3) + dot(4)
    }

    /// The definition: score and visits of each example.
    fn oracle(&self, visits: &[Visit], id: u64, rule: ProbeTime) -> BTreeMap<u64, (f64, u64)> {
        let probes: Vec<&Visit> = self.probes.iter().filter(|p| p.set == TEST && p.example == id).collect();
        let mut scores: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
        for visit in visits {
            let entry = scores.entry(visit.example).or_insert((0.0, 0));
            let candidates = probes.iter().filter(|p| rule == ProbeTime::Nearest || p.step <= visit.step);
            let Some(probe) = candidates.min_by_key(|p| (p.step.abs_diff(visit.step), p.step)) else { continue };
            let weight = f64::from(visit.learning_rate) * f64::from(visit.clip) * f64::from(visit.coefficient);
            entry.0 += weight * self.dot(visit, probe);
            entry.1 += 1;
        }
        scores
    }

    fn check(&self, found: &Influence, visits: &[Visit]) {
        for (column, probe) in found.probes.iter().enumerate() {
            let expected = self.oracle(visits, probe.id, found.time);
            assert_eq!(found.rows.len(), expected.len());
            for (position, row) in found.rows.iter().enumerate() {
                let (score, count) = expected[&row.example];
                let got = found.score(position, column);
                assert_eq!(row.visits, count, "example {}", row.example);
                let fits = if count == 0 { got.is_nan() } else { (got - score).abs() < 1e-5 * (1.0 + score.abs()) };
                assert!(fits, "example {} probe {}: {got} for {score}", row.example, probe.id);
                let last = visits.iter().rfind(|v| v.example == row.example).unwrap();
                assert_eq!((row.label, row.prediction), (Some(last.label), Some(last.prediction)));
            }
        }
    }
}

fn ask(ids: &[u64], window: Window, time: ProbeTime) -> InfluenceQuestion {
    InfluenceQuestion { probes: Probes::Ids(ids.to_vec()), window, time, ..InfluenceQuestion::new("test") }
}

#[test]
fn equals_a_double_loop() {
    for encoding in [Encoding::F32, Encoding::Q8, Encoding::Q4] {
        for times in [&[0, 4, 11, 20][..], &[3, 9][..], &[1000][..]] {
            let story = story(encoding, times, &[5, 900, 17]);
            let written = story.write();
            let run = written.run();
            for time in [ProbeTime::Earlier, ProbeTime::Nearest] {
                for window in [Window::everything(), Window::epochs(1..3), Window::steps(2..13)] {
                    let inside: Vec<Visit> = story
                        .visits
                        .iter()
                        .filter(|v| window.epochs.as_ref().is_none_or(|e| e.contains(&v.epoch)))
                        .filter(|v| window.steps.as_ref().is_none_or(|s| s.contains(&v.step)))
                        .cloned()
                        .collect();
                    let found = ask(&[900], window.clone(), time).compute(&run).unwrap();
                    story.check(&found, &inside);
                    let early =
                        inside.iter().filter(|v| time == ProbeTime::Earlier && v.step < times[0]).count() as u64;
                    assert_eq!(found.left_out.before_first_probe, early);
                    assert_eq!(found.visits, inside.len() as u64 - early);
                    let all =
                        InfluenceQuestion { probes: Probes::All, ..ask(&[], window, time) }.compute(&run).unwrap();
                    assert_eq!(all.probes.iter().map(|p| p.id).collect::<Vec<_>>(), [5, 17, 900]);
                    story.check(&all, &inside);
                }
            }
        }
    }
}

#[test]
fn says_which_variant_it_is() {
    let every_step: Vec<u64> = (0..40).collect();
    let some_steps = [0, 7];
    let words = |times: &[u64], time| {
        let written = story(Encoding::F32, times, &[1]).write();
        ask(&[1], Window::everything(), time).compute(&written.run()).unwrap().variant()
    };
    assert!(words(&every_step, ProbeTime::Earlier).contains("idealised TracIn"));
    assert_eq!(
        words(&some_steps, ProbeTime::Earlier),
        "probes at 2 times, nearest earlier: TracInCP on visited gradients, steps taken as plain SGD"
    );
    assert_eq!(
        words(&[3], ProbeTime::Nearest),
        "probes at 1 time, nearest: TracInCP on visited gradients, steps taken as plain SGD"
    );
    assert_eq!(words(&[3000], ProbeTime::Earlier), "no visit counts");
}

#[test]
fn probes_taken_at_different_times_keep_their_own() {
    let mut story = story(Encoding::F32, &[0, 6, 12], &[1, 2, 3]);
    // Probe 2 misses one time, probe 3 was not finite at another and had no weight at a third.
    story.probes.retain(|p| !(p.example == 2 && p.step == 6));
    for probe in story.probes.iter_mut().filter(|p| p.example == 3) {
        probe.flags = match probe.step {
            0 => Column::FLAG_NOT_FINITE,
            6 => Column::FLAG_NO_WEIGHT,
            _ => 0,
        };
    }
    let written = story.write();
    story.probes.retain(|p| p.flags == 0);
    let run = written.run();
    for id in [1, 2, 3] {
        let found = ask(&[id], Window::everything(), ProbeTime::Earlier).compute(&run).unwrap();
        story.check(&found, &story.visits);
        assert_eq!(found.left_out.probe_records, if id == 3 { 2 } else { 0 });
    }
    let question = InfluenceQuestion::new("test");
    let plan = question.plan(&run).unwrap();
    assert_eq!((plan.passes(), plan.probes()), (3, 3));
    let whole = question.compute(&run).unwrap();
    for (column, probe) in whole.probes.iter().enumerate() {
        for (position, row) in whole.rows.iter().enumerate() {
            let (score, count) = story.oracle(&story.visits, probe.id, ProbeTime::Earlier)[&row.example];
            let got = whole.score(position, column);
            assert!(if count == 0 { got.is_nan() } else { (got - score).abs() < 1e-5 * (1.0 + score.abs()) });
        }
    }
}

#[test]
fn the_last_record_of_a_probe_at_one_time_counts() {
    let mut story = story(Encoding::F32, &[0], &[1]);
    let again = story.probes.iter().map(|p| Visit { set: p.set, ..Draws(77).visit(1, 0, 0) }).collect::<Vec<_>>();
    let first = std::mem::take(&mut story.probes);
    story.probes = first.iter().chain(&again).cloned().collect();
    let written = story.write();
    story.probes = again;
    let found = InfluenceQuestion::new("test").id(1).compute(&written.run()).unwrap();
    assert_eq!(found.left_out.probe_records_replaced, 1);
    story.check(&found, &story.visits);
}

#[test]
fn what_is_not_finite_is_left_out_and_poisons_nobody() {
    let mut story = story(Encoding::F32, &[0, 8], &[1]);
    story.probes.iter_mut().for_each(|probe| probe.parts[4].fill(1.0));
    let clean = story.visits.clone();
    let mut dirty = Vec::new();
    for (i, visit) in clean.iter().enumerate() {
        let mut bad = visit.clone();
        match i % 3 {
            0 => bad.flags = Column::FLAG_NOT_FINITE,
            1 => bad.learning_rate = f32::NAN,
            _ => {
                // Finite numbers whose product is not.
                bad.parts[4].fill(3e38);
            }
        }
        dirty.extend([visit.clone(), bad]);
    }
    let mut hopeless = Draws(1).visit(3, 0, 0);
    hopeless.flags = Column::FLAG_NOT_FINITE;
    dirty.push(hopeless);
    story.visits = dirty;
    let written = story.write();
    let mut found = InfluenceQuestion::new("test").id(1).compute(&written.run()).unwrap();
    assert_eq!(found.left_out.not_finite, clean.len() as u64 + 1);
    let ranking = found.ranking(0);
    let last = ranking[ranking.len() - 1];
    assert!(found.rows[last].example == 3 && found.score(last, 0).is_nan());
    found.rows.remove(last);
    found.scores.remove(last);
    story.check(&found, &clean);
}

#[test]
fn rankings_keep_to_their_sign() {
    let story = story(Encoding::F32, &[0], &[1]);
    let found = InfluenceQuestion::new("test").id(1).compute(&story.write().run()).unwrap();
    let score = |row: &usize| found.score(*row, 0);
    let ranking: Vec<f64> = found.ranking(0).iter().map(score).collect();
    assert!(ranking.windows(2).all(|w| w[0] >= w[1]));
    let (helped, hurt) = (found.proponents(0, 1000), found.opponents(0, 1000));
    assert_eq!(helped.len() + hurt.len(), found.rows.len());
    assert!(!helped.is_empty() && helped.iter().map(score).all(|s| s > 0.0));
    assert!(!hurt.is_empty() && hurt.iter().map(score).all(|s| s < 0.0));
    assert_eq!(score(&helped[0]), ranking[0]);
    assert_eq!(score(&hurt[0]), ranking[ranking.len() - 1]);
    assert_eq!(found.proponents(0, 2).len(), 2);
}

#[test]
fn damage_leaves_the_scores_of_what_came_before() {
    let story = story(Encoding::F32, &[0, 4, 11, 20], &[1, 2]);
    let rows = story.visits.len().div_ceil(many_blocks());
    let kinds: Vec<Option<BlockKind>> = story.write().run().scan().map(|b| b.kind()).collect();
    let mut seen = 0;
    for (block, kind) in kinds.into_iter().enumerate().skip(2) {
        let is_visits = kind == Some(BlockKind::Visits);
        // In the header; and far inside, where the vectors are.
        let bytes = story.write().run().scan().nth(block).unwrap().bytes();
        for distance in [20, bytes - 24] {
            let written = story.write();
            written.damage(block, distance);
            let found = InfluenceQuestion::new("test").id(1).compute(&written.run());
            if block == 2 {
                // The first probes: without them there is nothing to be asked about.
                let Err(AnalysisError::Cut { source, damage }) = found else { panic!("{found:?}") };
                assert!(matches!(*source, AnalysisError::NoSuchProbe { count: 0, .. }) && damage.block == Some(2));
                continue;
            }
            if seen == 0 && is_visits && distance == 20 {
                // Nothing came before the first visits.
                let Err(AnalysisError::Cut { source, .. }) = found else { panic!("{found:?}") };
                assert!(matches!(*source, AnalysisError::NoVisits));
                continue;
            }
            let found = found.unwrap();
            if kind == Some(BlockKind::End) {
                continue;
            }
            assert_eq!(found.damage.as_ref().and_then(|d| d.block), Some(block as u64), "{distance}");
            story.check(&found, &story.visits[..(seen * rows).min(story.visits.len())]);
        }
        seen += usize::from(is_visits);
    }
    assert!(seen > 10);
}

#[test]
fn unknown_sets_and_ids_are_answered_with_what_there_is() {
    let written = story(Encoding::F32, &[0], &[1, 5, 9, 12, 40, 41, 42]).write();
    let error = InfluenceQuestion::new("tset").id(1).compute(&written.run()).unwrap_err().to_string();
    assert!(error.contains("`other`, `test`"), "{error}");
    let error = InfluenceQuestion::new("test").id(10).compute(&written.run()).unwrap_err();
    match &error {
        AnalysisError::NoSuchProbe { near, count, .. } => {
            assert_eq!((near.as_slice(), *count), (&[1, 5, 9, 12, 40][..], 7))
        }
        other => panic!("{other}"),
    }
    let empty = Synthetic::new(Encoding::F32).finish();
    let error = InfluenceQuestion::new("test").id(1).compute(&empty.run()).unwrap_err().to_string();
    assert!(error.contains("recorder.probe"), "{error}");
}

#[test]
fn visits_and_probes_need_gradients_of_the_same_layers() {
    let story = story(Encoding::F32, &[0], &[1]);
    let gradients = [Column::Input, Column::Delta, Column::Folded];
    let write = |visits_without: &[Column], probes_without: &[Column]| {
        let mut run = Synthetic::new(Encoding::F32);
        run.set(OTHER, "other");
        run.set(TEST, "test");
        run.without = probes_without.to_vec();
        run.probes(&story.probes);
        run.without = visits_without.to_vec();
        run.visits(&story.visits[..9]);
        run.without.clear();
        run
    };
    let outcome = |run: Synthetic| InfluenceQuestion::new("test").id(1).compute(&run.finish().run());

    let outputs_only = outcome(write(&gradients, &gradients)).unwrap_err();
    assert!(matches!(outputs_only, AnalysisError::Missing { .. }), "{outputs_only}");
    let visits_bare = outcome(write(&gradients, &[])).unwrap_err();
    assert!(matches!(visits_bare, AnalysisError::Missing { .. }) && visits_bare.to_string().contains("outputs only"));
    let other = outcome(write(&[Column::Folded], &[])).unwrap_err().to_string();
    assert!(
        other.contains("fc factored 5x3, head factored 4x2; the probes fc") || other.contains("folded to 7"),
        "{other}"
    );

    // Some visits that fit are enough; the others are counted.
    let mut mixed = write(&[Column::Folded], &[]);
    mixed.visits(&story.visits[9..]);
    let found = outcome(mixed).unwrap();
    assert_eq!((found.left_out.other_layers, found.visits), (9, story.visits.len() as u64 - 9));
    let mut mixed = write(&gradients, &[]);
    mixed.visits(&story.visits[9..]);
    assert_eq!(outcome(mixed).unwrap().left_out.without_gradient, 9);
}

#[test]
fn rows_and_probes_are_found_by_their_ids() {
    let written = story(Encoding::F32, &[0], &[1, 2]).write();
    let found = InfluenceQuestion::new("test").compute(&written.run()).unwrap();
    for (position, row) in found.rows.iter().enumerate() {
        assert_eq!(found.row_position(row.example), Some(position));
        for (probe, about) in found.probes.iter().enumerate() {
            assert_eq!(found.probe_position(about.id), Some(probe));
            let score = found.score_of(row.example, about.id).unwrap();
            assert_eq!(score.to_bits(), found.score(position, probe).to_bits());
        }
    }
    assert_eq!(
        (found.row_position(u64::MAX), found.probe_position(9), found.score_of(u64::MAX, 1)),
        (None, None, None)
    );
}
