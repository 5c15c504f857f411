//! Normalised scores, scores of some layers, of groups of probes and in parts, against their definitions.

use super::super::{Influence, InfluenceQuestion, Normalization, Part, SplitBy};
use super::{story, Story, TEST};
use crate::influence::Probes;
use crate::Window;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, Visit};
use std::collections::BTreeMap;

/// Names of the blocks, in the order of their parts: the only folded layer has its own name.
pub(super) const LAYERS: [&str; 3] = ["fc", "head", "conv"];

/// By layer, the dot products of two gradients as they come back from disk.
fn dots(a: &[Vec<f32>; 5], b: &[Vec<f32>; 5]) -> [f64; 3] {
    let dot = |part: usize| a[part].iter().zip(&b[part]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    [(dot(0) + 1.0) * dot(1), dot(2) * dot(3), dot(4)]
}

/// One term of a score.
pub(super) struct Term {
    example: u64,
    epoch: u32,
    /// By layer, 0 for those that do not count; without the divisor of RelatIF.
    scores: [f64; 3],
    own: f64,
    /// What cosine divides it by.
    by: f64,
}

impl Story {
    /// The terms of a question on one probe.
    fn terms(&self, question: &InfluenceQuestion, id: u64) -> Vec<Term> {
        let counts = LAYERS.map(|name| question.layers.is_empty() || question.layers.iter().any(|l| l == name));
        let norm = |visit: &Visit| -> f64 {
            if counts == [true; 3] {
                return f64::from(visit.squared_norm).sqrt();
            }
            let own = decoded(visit, self.encoding);
            dots(&own, &own).iter().zip(counts).filter(|(_, counts)| *counts).map(|(n, _)| n).sum::<f64>().sqrt()
        };
        let probes: Vec<&Visit> = self.probes.iter().filter(|p| p.set == TEST && p.example == id).collect();
        let mut terms = Vec::new();
        for visit in &self.visits {
            let epochs = question.window.epochs.as_ref();
            let sweeps = question.window.is_on_sweeps();
            let Some(probe) = probes.iter().rfind(|p| if sweeps { p.step == visit.step } else { p.step <= visit.step })
            else {
                continue;
            };
            if epochs.is_some_and(|epochs| !epochs.contains(&visit.epoch)) {
                continue;
            }
            let step = if sweeps { 1.0 } else { f64::from(visit.clip) * f64::from(visit.coefficient) };
            let weight = f64::from(visit.learning_rate) * step;
            let by = if question.normalization == Normalization::Cosine { norm(visit) * norm(probe) } else { 1.0 };
            let mut scores = dots(&decoded(visit, self.encoding), &decoded(probe, self.encoding));
            scores.iter_mut().zip(counts).for_each(|(s, counts)| *s *= if counts { weight / by } else { 0.0 });
            let own = weight * norm(visit).powi(2);
            terms.push(Term { example: visit.example, epoch: visit.epoch, scores, own, by });
        }
        terms
    }

    /// By example, by epoch and layer: the parts of the scores.
    pub(super) fn parts(&self, question: &InfluenceQuestion, id: u64) -> BTreeMap<u64, BTreeMap<u32, [f64; 3]>> {
        let terms = self.terms(question, id);
        let mut own: BTreeMap<u64, f64> = BTreeMap::new();
        terms.iter().for_each(|term| *own.entry(term.example).or_default() += term.own);
        let mut parts: BTreeMap<u64, BTreeMap<u32, [f64; 3]>> = BTreeMap::new();
        for term in terms {
            let by = if question.normalization == Normalization::Relatif { own[&term.example].sqrt() } else { 1.0 };
            let sums = parts.entry(term.example).or_default().entry(term.epoch).or_default();
            sums.iter_mut().zip(term.scores).for_each(|(sum, score)| *sum += score / by);
        }
        parts
    }

    /// By example, the score.
    fn scores(&self, question: &InfluenceQuestion, id: u64) -> BTreeMap<u64, f64> {
        let sum = |epochs: BTreeMap<u32, [f64; 3]>| epochs.values().flatten().sum::<f64>();
        self.parts(question, id).into_iter().map(|(example, epochs)| (example, sum(epochs))).collect()
    }
}

pub(super) fn near(got: f64, want: f64) -> bool {
    (got - want).abs() < 2e-5 * (1.0 + want.abs())
}

pub(super) fn question(normalization: Normalization, layers: &[&str]) -> InfluenceQuestion {
    let layers = layers.iter().map(|name| (*name).to_owned()).collect();
    InfluenceQuestion { normalization, layers, ..InfluenceQuestion::new("test") }
}

const SELECTIONS: [&[&str]; 4] = [&[], &["head"], &["conv", "fc"], &["conv"]];

fn check(story: &Story, found: &Influence, question: &InfluenceQuestion) {
    for (column, probe) in found.probes.iter().enumerate() {
        let expected = story.scores(question, probe.id);
        for (row, about) in found.rows.iter().enumerate() {
            let got = found.score(row, column);
            match expected.get(&about.example) {
                Some(want) => assert!(near(got, *want), "{question:?} example {}: {got} {want}", about.example),
                None => assert!(got.is_nan()),
            }
        }
        assert_eq!(found.rows.iter().filter(|row| row.visits > 0).count(), expected.len());
    }
}

#[test]
fn normalized_scores_of_any_layers_are_as_defined() {
    for encoding in [Encoding::F32, Encoding::Q8, Encoding::Q4] {
        let story = story(encoding, &[2, 9], &[5, 17]);
        let written = story.write();
        let run = written.run();
        for normalization in Normalization::ALL {
            for layers in SELECTIONS {
                let asked = question(normalization, layers);
                let found = asked.compute(&run).unwrap();
                check(&story, &found, &asked);
                assert_eq!((found.normalization, found.layers.len()), (normalization, layers.len()));
                let words = found.variant();
                assert_eq!(words.contains("of these layers alone"), !layers.is_empty(), "{words}");
                assert_eq!(words.contains("at unit length"), normalization == Normalization::Cosine, "{words}");
                assert_eq!(words.contains("RelatIF"), normalization == Normalization::Relatif, "{words}");
            }
        }
    }
}

#[test]
fn on_sweeps_too() {
    use gradlog_testing::Synthetic;
    let mut story = story(Encoding::Q8, &[0, 6], &[5, 17]);
    // Every example once at each of three checkpoints, at two of which the probes were taken.
    let mut draws = gradlog_testing::Draws(8);
    story.visits = (0..90).map(|i| draws.visit(i % 30, 6 * (i / 30), (i / 30) as u32)).collect();
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(super::OTHER, "other");
    run.set(TEST, "test");
    run.probes(&story.probes);
    story.visits.chunks(17).for_each(|rows| run.sweeps(rows));
    run.end();
    let written = run.finish();
    for normalization in Normalization::ALL {
        for layers in SELECTIONS {
            let asked = question(normalization, layers).sweeps().steps(0..);
            let found = asked.compute(&written.run()).unwrap();
            assert_eq!((found.visits, found.left_out.without_probe), (60, 30));
            check(&story, &found, &asked);
            let plan_of = written.run();
            let plan = asked.plan(&plan_of).unwrap();
            let split = plan.split(0, SplitBy::Epoch, &[(7, 1)]).unwrap();
            let want = &story.parts(&asked, 17)[&7];
            assert_eq!(split.parts, [0, 1, 2].map(Part::Epoch));
            for (epoch, got) in split.pair_scores(0).iter().enumerate() {
                assert!(near(*got, want.get(&(epoch as u32)).map_or(0.0, |layers| layers.iter().sum())));
            }
        }
    }
}

#[test]
fn layers_add_up_and_all_of_them_are_no_choice() {
    let story = story(Encoding::Q8, &[0, 8], &[1, 2]);
    let written = story.write();
    let run = written.run();
    let whole = InfluenceQuestion::new("test").compute(&run).unwrap();
    let mut sums = vec![0.0; whole.scores.len()];
    for name in LAYERS {
        let part = question(Normalization::None, &[name]).compute(&run).unwrap();
        assert_eq!(part.layers, [name]);
        sums.iter_mut().zip(&part.scores).for_each(|(sum, score)| *sum += score);
    }
    assert!(sums.iter().zip(&whole.scores).all(|(sum, score)| near(*sum, *score)));
    for normalization in Normalization::ALL {
        let whole = question(normalization, &[]).compute(&run).unwrap();
        for all in [["head", "fc", "conv"], ["fc", "head", "folded"]] {
            assert_eq!(question(normalization, &all).compute(&run).unwrap().scores, whole.scores);
        }
    }
    let unknown = question(Normalization::None, &["fc", "fc9"]).compute(&run).unwrap_err().to_string();
    assert!(unknown.contains("`fc9`") && unknown.contains("`fc`, `head`, `conv`"), "{unknown}");
}

#[test]
fn a_visit_and_itself_have_a_cosine_of_one() {
    for encoding in [Encoding::F32, Encoding::Q8] {
        let mut story = story(encoding, &[0], &[1]);
        story.visits.truncate(9);
        for visit in &mut story.visits {
            (visit.learning_rate, visit.clip, visit.coefficient) = (1.0, 1.0, 1.0);
            let own = decoded(visit, encoding);
            visit.squared_norm = dots(&own, &own).iter().sum::<f64>() as f32;
        }
        story.visits.dedup_by_key(|visit| visit.example);
        story.probes = vec![Visit { set: TEST, example: 1, step: 0, ..story.visits[3].clone() }];
        let written = story.write();
        for layers in SELECTIONS {
            let asked = InfluenceQuestion { probes: Probes::Ids(vec![1]), ..question(Normalization::Cosine, layers) };
            let found = asked.compute(&written.run()).unwrap();
            for (row, about) in found.rows.iter().enumerate() {
                let score = found.score(row, 0);
                assert!(score.abs() < 1.0 + 1e-5);
                assert_eq!(about.example == story.visits[3].example, (score - 1.0).abs() < 1e-5, "{score}");
            }
        }
    }
}

#[test]
fn errors_are_divided_as_the_scores_are() {
    let story = story(Encoding::Q4, &[0], &[1, 2]);
    let written = story.write();
    let run = written.run();
    let with_errors =
        |question: &InfluenceQuestion| question.clone().sketch_errors().plan(&run).unwrap().pass(0).unwrap();
    for layers in SELECTIONS {
        let whole = Normalization::ALL.map(|normalization| with_errors(&question(normalization, layers)));
        let [plain, cosine, relatif] = &whole;
        // Each visit's own error, and what its term is divided by.
        let mut sums = vec![0f64; cosine.sketch_errors.len()];
        for probe in 0..2 {
            let terms = story.terms(&question(Normalization::Cosine, layers), probe as u64 + 1);
            for (number, visit) in story.visits.iter().enumerate() {
                let window = Window::steps(visit.step..visit.step + 1);
                let step = with_errors(&InfluenceQuestion { window, ..question(Normalization::None, layers) });
                let row = step.rows.iter().position(|row| row.example == visit.example).unwrap();
                let at = cosine.rows.iter().position(|row| row.example == visit.example).unwrap();
                let error = step.sketch_error(row, probe).unwrap() / step.rows[row].visits as f64;
                sums[at * 2 + probe] += error / terms[number].by;
            }
        }
        // Two visits of one step share its error by halves above, though theirs differ.
        let twice: Vec<u64> =
            story.visits.windows(2).filter(|w| w[0].example == w[1].example).map(|w| w[0].example).collect();
        for (place, (sum, error)) in sums.iter().zip(&cosine.sketch_errors).enumerate() {
            let near = (sum - error).abs() < 1e-5 * error;
            assert!(near || twice.contains(&cosine.rows[place / 2].example), "{sum} {error}");
        }
        for (place, (plain_error, error)) in plain.sketch_errors.iter().zip(&relatif.sketch_errors).enumerate() {
            let terms = story.terms(&question(Normalization::Relatif, layers), 1);
            let example = relatif.rows[place / 2].example;
            let own: f64 = terms.iter().filter(|term| term.example == example).map(|term| term.own).sum();
            assert!((plain_error / own.sqrt() - error).abs() < 1e-5 * error);
        }
    }
}

#[test]
fn streams_what_the_matrix_holds() {
    let ids: Vec<u64> = (0..70).collect();
    let story = story(Encoding::Q8, &[0, 9], &ids);
    let written = story.write();
    let run = written.run();
    for normalization in Normalization::ALL {
        for layers in SELECTIONS {
            let plan = question(normalization, layers).clone().sketch_errors().plan(&run).unwrap();
            let (whole, found) = (plan.pass(0).unwrap(), plan.strongest(0, 4).unwrap());
            for probe in 0..ids.len() {
                let ends =
                    [(&found.proponents, whole.proponents(probe, 4)), (&found.opponents, whole.opponents(probe, 4))];
                for (list, rows) in ends {
                    let got: Vec<_> =
                        list[probe].iter().map(|r| (found.influence.rows[r.row].example, r.score, r.error)).collect();
                    let of = |&row: &usize| {
                        (whole.rows[row].example, whole.score(row, probe), whole.sketch_error(row, probe))
                    };
                    assert_eq!(got, rows.iter().map(of).collect::<Vec<_>>());
                }
            }
        }
    }
}
