//! The curve of an example is what was written of it.

use crate::{AnalysisError, ExampleQuestion, ExampleVisit, Source};
use gradlog_format::log::Column;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{run_of, visits, Draws, Synthetic, Visit};

fn expected(visit: &Visit) -> ExampleVisit {
    ExampleVisit {
        step: visit.step,
        epoch: visit.epoch,
        loss: Some(visit.loss),
        margin: Some(visit.margin),
        el2n: Some(visit.el2n),
        confidence: Some(visit.confidence),
        correct: Some(visit.correct),
        label: Some(visit.label),
        prediction: Some(visit.prediction),
        squared_norm: Some(visit.squared_norm.into()),
        is_norm_estimated: false,
        learning_rate: Some(visit.learning_rate),
        coefficient: Some(visit.coefficient),
    }
}

fn curve<'a>(all: impl IntoIterator<Item = &'a Visit>, example: u64) -> Vec<ExampleVisit> {
    all.into_iter().filter(|visit| visit.example == example).map(expected).collect()
}

#[test]
fn it_has_every_number_of_every_visit_inside_the_window() {
    let all = visits(&mut Draws(4), 12, 5, 4);
    let id = all[3].example;
    for block_rows in [1, 5, 1000] {
        let run = run_of(&all, block_rows).run();
        let found = ExampleQuestion::new(id).compute(&run).unwrap();
        assert_eq!((found.example, found.visits.len()), (id, 5));
        assert_eq!(found.visits, curve(&all, id));
        assert!(found.left_out.is_empty() && found.damage.is_none());
        let narrow = ExampleQuestion::new(id).epochs(1..3).steps(5..).compute(&run).unwrap();
        let inside = all.iter().filter(|visit| (1..3).contains(&visit.epoch) && visit.step >= 5);
        assert_eq!(narrow.visits, curve(inside, id));
    }
}

#[test]
fn what_was_not_recorded_is_none() {
    let all = visits(&mut Draws(4), 6, 2, 3);
    let mut run = Synthetic::new(Encoding::Q8);
    run.without = vec![Column::Margin, Column::El2n, Column::Label, Column::SquaredNorm];
    run.visits(&all);
    let found = ExampleQuestion::new(all[0].example).compute(&run.finish().run()).unwrap();
    for visit in &found.visits {
        assert_eq!((visit.margin, visit.el2n, visit.label, visit.squared_norm), (None, None, None, None));
        assert!(visit.loss.is_some() && visit.prediction.is_some());
    }
}

#[test]
fn a_number_that_is_not_finite_is_shown() {
    let mut all = visits(&mut Draws(4), 3, 2, 3);
    let id = all[0].example;
    all[0].loss = f32::NAN;
    let found = ExampleQuestion::new(id).compute(&run_of(&all, 2).run()).unwrap();
    assert_eq!(found.visits.len(), all.iter().filter(|visit| visit.example == id).count());
    assert!(found.visits[0].loss.is_some_and(f32::is_nan) && found.visits[0].margin == Some(all[0].margin));
}

#[test]
fn sweeps_are_in_the_order_of_their_steps_and_the_last_row_counts() {
    let mut draws = Draws(9);
    let mut run = Synthetic::new(Encoding::Q8);
    run.visits(&visits(&mut draws, 3, 1, 3));
    let swept: Vec<Visit> = [8, 2, 2].into_iter().map(|step| draws.visit(100, step, 0)).collect();
    swept.iter().for_each(|row| run.sweeps(std::slice::from_ref(row)));
    let run = run.finish();
    let found = ExampleQuestion::new(100).source(Source::Sweeps).compute(&run.run()).unwrap();
    let losses: Vec<(u64, Option<f32>)> = found.visits.iter().map(|visit| (visit.step, visit.loss)).collect();
    assert_eq!(losses, [(2, Some(swept[2].loss)), (8, Some(swept[0].loss))]);
    assert_eq!((found.left_out.replaced, found.basis.is_sweeps()), (1, true));
}

#[test]
fn an_example_without_visits_is_an_error_with_those_that_have_some() {
    let all = visits(&mut Draws(4), 12, 2, 4);
    let (least, most) = (all.iter().map(|v| v.example).min().unwrap(), all.iter().map(|v| v.example).max().unwrap());
    let run = run_of(&all, 5).run();
    let error = ExampleQuestion::new(most + 1).compute(&run).unwrap_err();
    let known = Some(least..=most);
    assert!(matches!(&error, AnalysisError::NotVisited { count: 12, known: found, .. } if *found == known), "{error}");
    assert!(error.to_string().ends_with(&format!("12 examples, with ids {least} to {most}")), "{error}");
    let error = ExampleQuestion::new(1).epochs(7..).compute(&run).unwrap_err();
    assert!(matches!(error, AnalysisError::OutsideRun { .. }), "{error}");
    let error = ExampleQuestion::new(1).compute(&run_of(&[], 1).run()).unwrap_err();
    assert!(error.to_string().contains("no visits at all"), "{error}");
}

#[test]
fn damage_leaves_the_visits_before_it() {
    let all = visits(&mut Draws(4), 6, 4, 3);
    let written = run_of(&all, 6);
    written.damage(2, 70);
    let id = all[0].example;
    let found = ExampleQuestion::new(id).compute(&written.run()).unwrap();
    assert_eq!(found.visits, curve(&all[..12], id));
    assert!(found.damage.is_some());
    let error = ExampleQuestion::new(1).compute(&written.run()).unwrap_err();
    assert!(matches!(error, AnalysisError::Cut { .. }), "{error}");
}
