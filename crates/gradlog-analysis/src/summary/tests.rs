use super::*;
use crate::SummaryQuestion;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit};

#[test]
fn counts_what_was_written() {
    let all = visits(&mut Draws(1), 10, 3, 4);
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.set(1, "never taken");
    run.set(2, "curvature");
    for rows in all.chunks(9) {
        run.visits(rows);
    }
    let probes: Vec<Visit> = [(1, 0), (2, 0), (1, 5)].map(|(id, step)| Draws(2).visit(id, step, 0)).to_vec();
    run.probes(&probes);
    let row = |class: u32| Visit { set: 2, label: class, curvature_weight: Some(0.25), ..Draws(3).visit(4, 2, 0) };
    run.probes(&[row(0), row(1)]);
    run.steps(&[(0, 0, 0.5, 1000), (1, 0, 0.25, 4500)]);
    run.dropped(64);
    run.dropped(6);
    run.end();
    let written = run.finish();
    let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = told.clone();
    let count = move |bytes| {
        counter.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let summary = SummaryQuestion::new().progress(count).compute(&written.run()).unwrap();
    assert_eq!(summary.visits, all.len() as u64);
    assert_eq!(summary.examples, 10);
    assert_eq!(summary.epochs, Some(0..=2));
    assert_eq!(summary.steps, Some(0..=all[all.len() - 1].step));
    assert_eq!((summary.recorded_steps, summary.dropped, summary.finished), (2, 70, true));
    assert_eq!(summary.learning_rates, Some(0.25..=0.5));
    assert_eq!(summary.wall_clock_ms, Some(1000..=4500));
    assert_eq!(summary.bytes, told.load(std::sync::atomic::Ordering::Relaxed));
    assert!(summary.visit_bytes < summary.bytes);
    assert_eq!(summary.probes.len(), 2);
    let test = &summary.probes[0];
    assert_eq!((test.name.as_str(), test.visits, test.examples, test.times.as_slice()), ("test", 3, 2, &[0, 5][..]));
    assert_eq!(summary.probes[1].visits, 0);
    assert_eq!(summary.probes[1].name, "never taken");
    let rows = &summary.curvature[0];
    assert_eq!((rows.name.as_str(), rows.visits, rows.examples, rows.times.as_slice()), ("curvature", 2, 1, &[2][..]));
    let checked = written.run().verify().unwrap();
    assert_eq!((checked.probes, checked.curvature), (3, 2));
    let forms: Vec<LayerForm> = summary.layers.iter().map(|layer| layer.form).collect();
    let factored = |inputs, outputs| LayerForm::Factored { inputs, outputs };
    assert_eq!(forms, [factored(5, 3), LayerForm::Folded { width: 7 }, factored(4, 2)]);
    let columns: u64 = summary.visit_bytes_by_group.iter().map(|(_, bytes)| bytes).sum();
    assert!(columns < summary.visit_bytes);
    assert_eq!(summary.visit_bytes_by_group.len(), 6);
    assert!(summary.coverage.is_some_and(|share| share > 0.0));
}

#[test]
fn what_is_no_number_is_counted_and_the_optimizer_told() {
    let mut all = visits(&mut Draws(1), 10, 2, 4);
    let steps: Vec<u64> = all.iter().map(|visit| visit.step).collect();
    all[6].flags = Column::FLAG_NOT_FINITE;
    all[13].learning_rate = f32::NAN;
    all[3].flags = Column::FLAG_NORM_ESTIMATED;
    let mut run = Synthetic::new(Encoding::F32);
    all.chunks(5).for_each(|rows| run.visits(rows));
    run.optimizer(&[(0, 0.1, 0.0, 0.25), (1, 0.1, 0.5, 0.0)]);
    run.end();
    let summary = SummaryQuestion::new().compute(&run.finish().run()).unwrap();
    assert_eq!((summary.not_finite, summary.first_not_finite), (2, Some(steps[6])));
    assert_eq!((summary.momentum, summary.weight_decay), (Some(0.0..=0.5), Some(0.0..=0.25)));
}

#[test]
fn an_unfinished_or_damaged_run_says_so() {
    let all = visits(&mut Draws(1), 10, 2, 4);
    let write = || {
        let mut run = Synthetic::new(Encoding::F32);
        all.chunks(5).for_each(|rows| run.visits(rows));
        run.finish()
    };
    let summary = SummaryQuestion::new().compute(&write().run()).unwrap();
    assert!(!summary.finished && summary.damage.is_none());
    let written = write();
    written.damage(2, 30);
    let summary = SummaryQuestion::new().compute(&written.run()).unwrap();
    assert_eq!(summary.visits, 10);
    assert_eq!(summary.damage.and_then(|damage| damage.block), Some(2));
}
