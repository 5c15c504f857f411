//! The curves of many examples are those of each alone, and a probe has its records.

use crate::{AnalysisError, ExampleQuestion, HistoryQuestion};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{run_of, visits, Draws, Synthetic};

#[test]
fn each_history_is_that_of_the_example_alone() {
    let all = visits(&mut Draws(4), 12, 5, 4);
    for block_rows in [1, 5, 1000] {
        let run = run_of(&all, block_rows).run();
        let found = HistoryQuestion::new().compute(&run).unwrap();
        assert_eq!(found.histories.len(), 12);
        for history in &found.histories {
            assert_eq!(history.visits, ExampleQuestion::new(history.id).compute(&run).unwrap().visits);
        }
        let some = HistoryQuestion::new().examples([all[0].example, 5]).epochs(1..3).compute(&run).unwrap();
        assert_eq!(some.histories.iter().map(|history| history.id).collect::<Vec<_>>(), [all[0].example]);
        assert!(some.histories[0].visits.iter().all(|visit| (1..3).contains(&visit.epoch)));
    }
}

#[test]
fn a_probe_has_its_last_record_of_each_step() {
    let mut draws = Draws(2);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.set(1, "other");
    let mut record = |set, step, loss| {
        let mut visit = draws.visit(7, step, step as u32);
        (visit.set, visit.loss) = (set, loss);
        visit
    };
    let rows = [record(0, 0, 9.0), record(0, 0, 2.0), record(1, 0, 5.0), record(0, 3, 1.0)];
    run.probes(&rows);
    let mut curvature = record(0, 4, 1.0);
    curvature.curvature_weight = Some(1.0);
    run.probes(&[curvature]);
    run.visits(&visits(&mut Draws(3), 4, 2, 4));
    let run = run.finish().run();
    let found = HistoryQuestion::probes("test").compute(&run).unwrap();
    let losses: Vec<(u64, Option<f32>)> = found.histories[0].visits.iter().map(|v| (v.step, v.loss)).collect();
    assert_eq!((found.histories.len(), losses), (1, vec![(0, Some(2.0)), (3, Some(1.0))]));
    let missing = HistoryQuestion::probes("none").compute(&run);
    assert!(matches!(missing, Err(AnalysisError::NoSuchSet { .. })));
}
