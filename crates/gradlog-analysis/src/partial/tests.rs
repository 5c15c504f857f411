//! Parts against the whole: any split gives the same answer, and what does not belong together is refused by name.

use super::{PartialAnswer, WholeAnswer};
use crate::Influence;
use crate::{ExampleShare, InfluenceQuestion, OverRuns, Run, Score, ScoreQuestion, Strongest, Total};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Opened, Synthetic, Visit};
use std::fmt::Debug;

/// A run with probes at three times, visits that do not count for several reasons, and blocks without some columns.
fn random_run(seed: u64, replayed: bool) -> Opened {
    let mut draws = Draws(seed);
    let (examples, batch) = (5 + draws.below(40), 3 + draws.below(9) as usize);
    let mut all = visits(&mut draws, examples, 4, batch);
    for visit in &mut all {
        match draws.below(12) {
            0 => visit.loss = f32::NAN,
            1 => visit.flags = Column::FLAG_NOT_FINITE,
            2 => (visit.flags, visit.coefficient) = (Column::FLAG_NO_WEIGHT, 0.0),
            _ => {}
        }
    }
    let mut run = Synthetic::with_seed(Encoding::Q8, seed);
    run.set(0, "test");
    let probe = |id: u64, step: u64| Visit { label: id as u32 % 2, ..Draws(900 + id).visit(id, step, 0) };
    run.probes(&[probe(3, 0), probe(4, 0), probe(5, 0)]);
    let half = all.len() / 2;
    for (number, rows) in all[..half].chunks(7 + draws.below(20) as usize).enumerate() {
        run.without = if number % 3 == 2 { vec![Column::El2n] } else { Vec::new() };
        run.visits(rows);
    }
    run.without = Vec::new();
    run.probes(&[probe(3, all[half].step), probe(4, all[half].step)]);
    all[half..].chunks(23).for_each(|rows| run.visits(rows));
    run.end();
    if replayed {
        run = run.replay();
        for step in [0, 4, 9] {
            let mut rows: Vec<Visit> = (0..examples).map(|id| draws.visit(100 + 7 * id, step, 0)).collect();
            rows.push(draws.visit(100, step, 0));
            run.sweeps(&rows);
        }
        run.probes(&[probe(3, 4), probe(3, 9)]);
    }
    let written = run.finish();
    written.run()
}

/// Through its file.
fn filed(part: &PartialAnswer) -> PartialAnswer {
    let mut bytes = Vec::new();
    part.write(&mut bytes).unwrap();
    let read = PartialAnswer::read(bytes.as_slice()).unwrap();
    assert_eq!(text(part), text(&read));
    read
}

/// Every number, NaN among them.
fn text(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn merged(parts: impl DoubleEndedIterator<Item = PartialAnswer>) -> WholeAnswer {
    // In any order.
    let named = parts.rev().map(|part| (format!("part {}", part.share()), filed(&part))).collect();
    PartialAnswer::merge(named).unwrap().answer
}

fn shares(of: u32) -> impl DoubleEndedIterator<Item = ExampleShare> {
    (1..=of).map(move |number| ExampleShare::new(number, of).unwrap())
}

#[test]
fn any_split_of_a_score_gives_the_same_table() {
    for seed in 0..4 {
        let run = random_run(seed, true);
        for (of, score) in (1..=7).flat_map(|of| Score::ALL.map(|score| (of, score))) {
            let questions = [
                ScoreQuestion::new(score),
                ScoreQuestion::new(score).epochs(1..3).steps(2..),
                ScoreQuestion::new(score).sweeps(),
            ];
            for question in questions {
                if score == Score::Forgetting && question.window.is_on_sweeps() {
                    continue;
                }
                let part = |share| PartialAnswer::of_scores(&question.clone().share(share), &[&run], None).unwrap();
                let WholeAnswer::Scores(table) = merged(shares(of).map(part)) else { panic!() };
                assert_eq!(text(&*table), text(&question.compute(&run).unwrap()), "{score} {of} {seed}");
            }
        }
    }
}

#[test]
fn any_split_of_several_runs_gives_the_same_table() {
    let opened = [5, 6, 7].map(|seed| random_run(seed, false));
    let runs: Vec<&Run> = opened.iter().map(|run| &**run).collect();
    for (of, over) in (1..=7).flat_map(|of| OverRuns::ALL.map(|over| (of, over))) {
        for score in [Score::Forgetting, Score::El2n, Score::SelfInfluence, Score::Correctness] {
            let question = ScoreQuestion::new(score).over_runs(over);
            let part = |share| PartialAnswer::of_scores(&question.clone().share(share), &runs, Some(over)).unwrap();
            let WholeAnswer::ScoresOverRuns(table) = merged(shares(of).map(part)) else { panic!() };
            assert_eq!(text(&table), text(&question.compute_over(&runs).unwrap()), "{score} {of} {over}");
        }
    }
}

/// The numbers of an answer, by example, and everything else.
fn canonical(influence: &Influence) -> (Vec<String>, String) {
    let probes = influence.probes.len();
    let mut rows: Vec<String> = (0..influence.rows.len())
        .map(|row| {
            let part = |all: &[f64]| text(&all.get(row * probes..(row + 1) * probes));
            let row = (&influence.rows[row], part(&influence.scores), part(&influence.sketch_errors));
            format!("{:020} {row:?}", row.0.example)
        })
        .collect();
    rows.sort();
    let rest = Influence {
        rows: Vec::new(),
        scores: Vec::new(),
        sketch_errors: Vec::new(),
        totals: Vec::<Total>::new(),
        ..influence.clone()
    };
    (rows, text(&rest))
}

/// The lists of the strongest, with the examples that they name.
fn lists(found: &Strongest) -> String {
    let named = |list: &Vec<crate::Ranked>| {
        list.iter().map(|one| text(&(&found.influence.rows[one.row], one.score, one.error))).collect::<Vec<_>>()
    };
    let ends: Vec<Vec<String>> = found.proponents.iter().chain(&found.opponents).map(named).collect();
    text(&(ends, found.examples, canonical(&found.influence).1))
}

fn questions() -> Vec<InfluenceQuestion> {
    use crate::{Normalization, ProbeTime};
    let test = || InfluenceQuestion::new("test").sketch_errors();
    vec![
        test(),
        test().id(3),
        test().ids([3, 4]).mean(),
        test().mean().normalization(Normalization::Cosine),
        test().label(0).probe_time(ProbeTime::Nearest),
        test().normalization(Normalization::Relatif).epochs(1..),
        test().layers(["fc"]).steps(3..20),
        test().id(3).sweeps(),
    ]
}

#[test]
fn any_split_of_influence_gives_the_same_scores() {
    for seed in 10..13 {
        let run = random_run(seed, true);
        for (number, question) in questions().into_iter().enumerate() {
            let plan = question.plan(&run).unwrap();
            let whole: Vec<Influence> = (0..plan.passes()).map(|pass| plan.pass(pass).unwrap()).collect();
            for of in 1..=7 {
                let part = |share| PartialAnswer::of_influence(&question.clone().share(share), &run, None).unwrap();
                let WholeAnswer::Influence(found) = merged(shares(of).map(part)) else { panic!() };
                assert_eq!(found.len(), whole.len());
                for (found, whole) in found.iter().zip(&whole) {
                    assert_eq!(canonical(found), canonical(whole), "question {number}, {of} parts, seed {seed}");
                    // All of its examples say how concentrated it is.
                    for probe in 0..whole.probes.len() {
                        assert_eq!(text(&found.concentration(probe)), text(&whole.concentration(probe)));
                        assert_eq!(
                            found.ranking(probe).iter().map(|row| found.rows[*row].example).collect::<Vec<_>>(),
                            whole.ranking(probe).iter().map(|row| whole.rows[*row].example).collect::<Vec<_>>()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn any_split_gives_the_same_strongest() {
    for (seed, top) in [(20, 1), (21, 3), (22, 1000)] {
        let run = random_run(seed, false);
        let question = InfluenceQuestion::new("test").sketch_errors();
        let plan = question.plan(&run).unwrap().keep_strongest();
        let whole: Vec<Strongest> = (0..plan.passes()).map(|pass| plan.strongest(pass, top).unwrap()).collect();
        for of in 1..=7 {
            let part = |share| PartialAnswer::of_influence(&question.clone().share(share), &run, Some(top)).unwrap();
            let WholeAnswer::Strongest(found) = merged(shares(of).map(part)) else { panic!() };
            let text = |all: &[Strongest]| all.iter().map(lists).collect::<Vec<_>>();
            assert_eq!(text(&found), text(&whole), "{of} parts, seed {seed}");
        }
    }
}

fn loss_part(run: &Run, number: u32, of: u32) -> (String, PartialAnswer) {
    let question = ScoreQuestion::new(Score::Loss).share(ExampleShare::new(number, of).unwrap());
    (format!("{number}.part"), PartialAnswer::of_scores(&question, &[run], None).unwrap())
}

fn refusal(parts: Vec<(String, PartialAnswer)>) -> String {
    PartialAnswer::merge(parts).unwrap_err().to_string()
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let (run, other) = (random_run(30, false), random_run(31, false));
    assert_eq!(refusal(Vec::new()), "there are no parts to merge");
    let said = refusal(vec![loss_part(&run, 4, 5), loss_part(&run, 1, 5), loss_part(&run, 2, 5)]);
    assert_eq!(said, "of 5 parts 3, 5 are missing: make them with the same question");
    let said = refusal(vec![loss_part(&run, 2, 2)]);
    assert_eq!(said, "of 2 parts 1 is missing: make it with the same question");
    let (_, again) = loss_part(&run, 1, 2);
    let said = refusal(vec![loss_part(&run, 1, 2), ("copy.part".into(), again)]);
    assert_eq!(said, "1.part and copy.part are both part 1/2: leave out one of them");
    let said = refusal(vec![loss_part(&run, 1, 2), loss_part(&run, 2, 3)]);
    assert!(said.starts_with("1.part is part 1/2 and 2.part is part 2/3"), "{said}");
    let said = refusal(vec![loss_part(&run, 1, 2), loss_part(&other, 2, 2)]);
    assert!(said.contains("1.part is about ") && said.contains("and 2.part about "), "{said}");
    assert!(said.contains(&run.dir().display().to_string()) && said.contains(&other.dir().display().to_string()));

    let share = ExampleShare::new(2, 2).unwrap();
    let asked = |question: ScoreQuestion| {
        let part = PartialAnswer::of_scores(&question.share(share), &[&run], None).unwrap();
        refusal(vec![loss_part(&run, 1, 2), ("other.part".into(), part)])
    };
    let said = asked(ScoreQuestion::new(Score::Aum));
    assert!(said.starts_with("1.part asks for the score loss and other.part for aum"), "{said}");
    let said = asked(ScoreQuestion::new(Score::Loss).epochs(1..));
    assert!(said.contains("the window the whole run and other.part for epochs 1.."), "{said}");
    let question = InfluenceQuestion::new("test").share(share);
    let part = PartialAnswer::of_influence(&question, &run, None).unwrap();
    let said = refusal(vec![loss_part(&run, 1, 2), ("other.part".into(), part)]);
    assert!(said.contains("the kind of answer a score and other.part for influence"), "{said}");
    assert!(PartialAnswer::of_scores(&ScoreQuestion::new(Score::Loss), &[&run], None).is_err());
}

#[test]
fn a_run_that_grew_between_its_parts_is_refused() {
    let mut written = Synthetic::new(Encoding::F32);
    let all = visits(&mut Draws(1), 20, 2, 5);
    written.visits(&all[..20]);
    let folder = written.dir.path().to_owned();
    let first = loss_part(&Run::open(&folder).unwrap(), 1, 2);
    written.visits(&all[20..]);
    let second = loss_part(&Run::open(&folder).unwrap(), 2, 2);
    let said = refusal(vec![first, second]);
    assert!(said.contains("1.part was made of 1 blocks of") && said.contains("and 2.part of 2"), "{said}");
}

#[test]
fn a_damaged_run_has_the_same_prefix_or_is_refused() {
    let all = visits(&mut Draws(4), 20, 4, 5);
    let damaged = |rows: usize| {
        let mut run = Synthetic::new(Encoding::F32);
        all.chunks(rows).for_each(|rows| run.visits(rows));
        run.end();
        let written = run.finish();
        // A byte of the losses of a block in the middle.
        let run = written.run();
        let block = run.scan().nth(2).unwrap();
        written.damage(2, block.bytes() / 2);
        written
    };
    // Every part meets a block in which it has examples.
    let written = damaged(20);
    let run = written.run();
    let whole = ScoreQuestion::new(Score::Loss).compute(&run).unwrap();
    match PartialAnswer::merge(vec![loss_part(&run, 1, 2), loss_part(&run, 2, 2)]) {
        Ok(merged) => {
            let WholeAnswer::Scores(table) = merged.answer else { panic!() };
            assert_eq!(text(&*table), text(&whole));
        }
        Err(error) => assert!(error.to_string().contains("where the run is damaged"), "{error}"),
    }
}

#[test]
fn no_damage_of_a_file_makes_an_answer() {
    let run = random_run(40, false);
    let question = InfluenceQuestion::new("test").share(ExampleShare::new(1, 3).unwrap());
    let parts = [
        loss_part(&run, 1, 3).1,
        PartialAnswer::of_influence(&question, &run, None).unwrap(),
        PartialAnswer::of_influence(&question, &run, Some(2)).unwrap(),
    ];
    for part in parts {
        let mut bytes = Vec::new();
        part.write(&mut bytes).unwrap();
        for end in (0..bytes.len()).step_by(1 + bytes.len() / 500) {
            assert!(PartialAnswer::read(&bytes[..end]).is_err(), "{end}");
        }
        for bit in (0..8 * bytes.len()).step_by(1 + bytes.len() / 300) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(PartialAnswer::read(damaged.as_slice()).is_err(), "{bit}");
        }
    }
    assert!(PartialAnswer::read(&b"not a part"[..]).is_err());
}
