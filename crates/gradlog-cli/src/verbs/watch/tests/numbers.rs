//! The numbers against those of the questions, which read the whole log.

use super::super::curve::{Curve, Recent, Sums};
use super::super::examples::{Examples, Seen};
use super::super::outside::process;
use super::super::pace::Pace;
use super::super::reading::Reached;
use super::super::words::overview;
use super::*;
use gradlog_analysis::{CurveQuestion, Score, ScoreQuestion};
use gradlog_format::log::{QueueFile, QueueFill};

#[test]
fn forgetting_margins_and_means_are_those_of_the_questions() {
    let all = visits(&mut Draws(11), 60, 6, 7);
    let written = gradlog_testing::run_of(&all, 23);
    let opened = written.run();
    let mut session = Session::new(&opened);
    assert_eq!(session.refresh(), Reached::End);
    let examples = &session.figures.examples;

    let forgetting = ScoreQuestion::new(Score::Forgetting).compute(&opened).unwrap();
    let finite = || forgetting.rows.iter().map(|row| row.score).filter(|score| score.is_finite());
    assert_eq!(examples.forgotten as f64, finite().sum::<f64>());
    assert_eq!(examples.never_right, (forgetting.rows.len() - finite().count()) as u64);
    assert_eq!(examples.predicted, 60);
    // Wrong at the last visit, and right before.
    let is_last = |at: &usize| !all[at + 1..].iter().any(|later| later.example == all[*at].example);
    let was_right = |visit: &Visit| all.iter().any(|other| other.example == visit.example && other.correct == 1.0);
    let wrong_now = (0..all.len()).filter(is_last).filter(|at| all[*at].correct == 0.0 && was_right(&all[*at]));
    assert_eq!(examples.forgotten_now, wrong_now.count() as u64);

    let aum = ScoreQuestion::new(Score::Aum).compute(&opened).unwrap();
    let mut below: Vec<(f64, u64)> =
        aum.rows.iter().filter(|row| row.score < 0.0).map(|row| (row.score, row.example)).collect();
    below.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (count, with_margin, lowest) = examples.lowest(7);
    assert_eq!((count, with_margin), (below.len() as u64, 60));
    assert_eq!(lowest.iter().map(|low| (low.margin, low.id)).collect::<Vec<_>>(), below[..7]);

    let curves = CurveQuestion::new().compute(&opened).unwrap();
    for (epoch, sums) in &session.figures.epochs {
        let point = &curves.points[*epoch as usize];
        assert!((sums.loss().unwrap() - point.loss).abs() < 1e-12, "{epoch}");
        assert_eq!(sums.accuracy(), point.correct);
    }
    assert_eq!(session.figures.epochs.keys().copied().collect::<Vec<_>>(), [4, 5]);
}

#[test]
fn visits_that_are_not_finite_are_counted_and_left_out() {
    let mut all = visits(&mut Draws(5), 10, 2, 4);
    all[5].loss = f32::NAN;
    all[9].flags = gradlog_format::log::Column::FLAG_NOT_FINITE;
    let written = gradlog_testing::run_of(&all, 100);
    let opened = written.run();
    let mut session = Session::new(&opened);
    session.refresh();
    assert_eq!(session.figures.not_finite, Some((2, all[5].step)));
    let recent = session.figures.recent.sums().loss().unwrap();
    let losses: Vec<f64> =
        all.iter().enumerate().filter(|(at, _)| ![5, 9].contains(at)).map(|(_, row)| f64::from(row.loss)).collect();
    assert!((recent - losses.iter().sum::<f64>() / losses.len() as f64).abs() < 1e-12);
}

#[test]
fn the_last_probes_of_a_set_count_and_the_plain_ones_alone() {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    let mut draws = Draws(2);
    let rows = |draws: &mut Draws, step: u64, count: u64| -> Vec<Visit> {
        (0..count).map(|id| draws.visit(id, step, 0)).collect()
    };
    run.probes(&rows(&mut draws, 0, 9));
    let last = rows(&mut draws, 4, 6);
    run.probes(&last[..4]);
    run.probes(&last[4..]);
    let mut curvature = rows(&mut draws, 5, 3);
    curvature.iter_mut().for_each(|row| row.curvature_weight = Some(0.5));
    run.probes(&curvature);
    let written = run.finish();
    let opened = written.run();
    let mut session = Session::new(&opened);
    session.refresh();
    let probes = &session.figures.probes[0];
    assert_eq!((probes.name.as_str(), probes.step, probes.count), ("test", Some(4), 6));
    let right = last.iter().map(|row| f64::from(row.correct)).sum::<f64>() / 6.0;
    assert_eq!(probes.sums.accuracy(), Some(right));
}

#[test]
fn a_curve_has_few_points_and_loses_no_visit() {
    let mut curve = Curve::default();
    for step in 0..10_000u64 {
        let mut sums = Sums::default();
        sums.add(Some(step as f32), None);
        curve.add(step, &sums);
    }
    // 10,000 steps in 128 points at most: 128 steps each.
    let losses = curve.losses(1000);
    assert_eq!(losses.len(), 79);
    assert_eq!(losses[0], Some((0..128).sum::<u64>() as f64 / 128.0));
    assert_eq!(curve.losses(10).len(), 10);
    // A forged step is no reason to grow.
    curve.add(u64::MAX, &Sums::default());
    assert!(curve.losses(1000).len() <= 128);
    let mut recent = Recent::default();
    (0..1000).for_each(|step| recent.add(step, &Sums::default()));
    assert_eq!(recent.steps(), 100);
}

#[test]
fn the_speed_is_that_of_the_last_half_minute() {
    let mut pace = Pace::default();
    assert_eq!(pace.speed(), None);
    // A step a second, then ten a second for a minute.
    (0..100).for_each(|step| pace.add(1_000_000 + 1000 * step, Some(64)));
    (1..=600).for_each(|step| pace.add(1_099_000 + 100 * step, Some(64)));
    let speed = pace.speed().unwrap();
    assert_eq!((speed.steps, speed.visits, speed.seconds), (10.0, Some(640.0), 30.0));
    assert_eq!(pace.span_ms(), Some(159_000));
    // A clock that was set back tells no speed.
    pace.add(1_159_001, None);
    assert_eq!(pace.speed().unwrap().visits, None);
    pace.add(5, Some(64));
    assert_eq!((pace.speed(), pace.span_ms()), (None, None));
    assert_eq!(pace.no_speed(), "not known: the clock was set back");
}

#[test]
fn steps_of_one_millisecond_are_too_fast_to_tell() {
    let mut pace = Pace::default();
    assert_eq!(pace.no_speed(), "not known before the second step");
    pace.add(1_000_000, Some(64));
    assert_eq!(pace.no_speed(), "not known before the second step");
    pace.add(1_000_000, Some(64));
    assert_eq!(pace.speed(), None);
    assert!(pace.no_speed().starts_with("more than 1 step a millisecond"), "{}", pace.no_speed());
}

#[test]
fn no_more_examples_are_followed_than_the_limit() {
    let mut examples = Examples::new(3);
    let seen = |step, right| Seen { step, right: Some(right), margin: Some(-1.0), ..Seen::default() };
    (0..5).for_each(|id| examples.add(id, &seen(0, true)));
    (0..5).for_each(|id| examples.add(id, &seen(1, false)));
    assert_eq!((examples.predicted, examples.passed_over, examples.forgotten), (3, 4, 3));
    assert_eq!(examples.lowest(9).0, 3);
    examples.add(1, &seen(0, true));
    assert_eq!((examples.out_of_order, examples.forgotten_now), (1, 2));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_that_holds_a_lock_is_found() {
    let locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:42 0 EOF\n2: FLOCK  ADVISORY  READ  12 fe:00:42 0 EOF\n\
                 3: FLOCK  ADVISORY  WRITE 13 fe:00:42 0 EOF\n4: FLOCK  ADVISORY  WRITE 14 103:05:42 0 EOF\n";
    // makedev(0xfe, 0) and makedev(0x103, 5), as sys/sysmacros.h lays them out.
    assert_eq!(process::find_holder(locks, 0xfe00, 42), Some(13));
    assert_eq!(process::find_holder(locks, 0x1_0305, 42), Some(14));
    assert_eq!(process::find_holder(locks, 0x1_0305, 43), None);
    assert_eq!(process::resident_bytes("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1_263_616));
    assert_eq!(process::resident_bytes("VmRSS:\t  18446744073709551615 kB\n"), None);
    // Not every file system and container shows the holder; if it does, it is this process.
    let run = Synthetic::new(Encoding::Q8);
    if let Some((pid, bytes)) = process::holder(&run.dir.path().join("lock")) {
        assert_eq!(pid, std::process::id());
        assert!(bytes > 1_000_000);
    }
}

/// The lines on the queue of the run in `dir`, as `watch` shows them.
fn queue_lines(dir: &std::path::Path) -> Vec<String> {
    let opened = Run::open(dir).unwrap();
    let mut session = Session::new(&opened);
    session.refresh();
    let lines = overview(&session);
    let at = lines.iter().position(|(name, _)| *name == "queue").unwrap();
    let end = lines[at + 1..].iter().position(|(name, _)| !name.is_empty()).unwrap();
    lines[at..=at + end].iter().map(|(_, line)| line.clone()).collect()
}

#[test]
fn the_fill_of_a_queue_is_shown_while_somebody_records() {
    let run = Synthetic::new(Encoding::Q8);
    let dir = run.dir.clone();
    assert_eq!(queue_lines(dir.path()), ["not known: its recorder does not say"]);
    let mut file = QueueFile::create(dir.path());
    let mut fill = QueueFill::default();
    (fill.wall_clock_ms, fill.passes_peak, fill.passes_max) = (now_ms() + 60_000, 4, 16);
    (fill.bytes_peak, fill.bytes_max) = (24_000_000, 32_000_000);
    file.write(&fill);
    assert_eq!(queue_lines(dir.path()), ["up to 75 % full: 4 of 16 passes, 24.0 MB of 32.0 MB"]);
    (fill.bytes_peak, fill.waited_ms, fill.wall_clock_ms) = (1_000, 2_345, now_ms() - 200_500);
    file.write(&fill);
    let expected =
        ["up to 25 % full 3 min ago: 4 of 16 passes, 1.0 kB of 32.0 MB", "the training has waited 2.3 s for it"];
    assert_eq!(queue_lines(dir.path()), expected);
    (fill.bytes_peak, fill.passes_peak, fill.waited_ms) = (0, 0, 0);
    file.write(&fill);
    assert_eq!(queue_lines(dir.path()), ["empty"]);
    // A recorder that is killed leaves its file.
    file.write(&fill);
    drop(run.finish());
    assert_eq!(queue_lines(dir.path()), ["not known: nobody records"]);
}

/// Of several workers the fullest queue counts, whichever that is.
#[test]
fn the_fullest_queue_of_several_workers_is_shown() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let parts: Vec<_> = (0..2).map(|rank| Synthetic::part(dir.clone(), Some((rank, 2)), Encoding::Q8)).collect();
    let opened = Run::open(dir.path()).unwrap();
    assert_eq!(opened.queue_fill(), None, "each part has its own");
    let mut files: Vec<_> = opened.parts().iter().map(|part| QueueFile::create(part.dir())).collect();
    for (file, passes) in files.iter_mut().zip([3, 9]) {
        let mut fill = QueueFill::default();
        (fill.wall_clock_ms, fill.passes_peak, fill.passes_max, fill.waited_ms) =
            (now_ms() + 60_000, passes, 10, passes);
        file.write(&fill);
    }
    let expected =
        ["up to 90 % full, the fullest of 2: 9 of 10 passes, 0.0 kB of 0.0 kB", "the training has waited 0.0 s for it"];
    assert_eq!(queue_lines(dir.path()), expected);
    drop(parts);
}
