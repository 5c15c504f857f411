//! Watching runs that grow, end, are killed, resumed and damaged; and how that looks.

mod looks;
mod numbers;

use super::reading::Reached;
use super::session::Session;
use super::words::State;
use crate::tests::typed;
use gradlog_format::run::Run;
use gradlog_format::sketch::Encoding;
use gradlog_testing::{visits, Draws, Synthetic, Visit};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Twelve steps of five visits, by step.
fn training() -> Vec<Vec<Visit>> {
    let all = visits(&mut Draws(3), 14, 4, 5);
    all.chunk_by(|a, b| a.step == b.step).map(<[Visit]>::to_vec).collect()
}

/// Writes steps and their visits, ten steps a second up to now.
fn write(run: &mut Synthetic, steps: &[Vec<Visit>]) {
    let clock = now_ms();
    let ago = |at: usize| clock - 100 * (steps.len() - 1 - at) as u64;
    let rows: Vec<_> = steps.iter().enumerate().map(|(at, rows)| (rows[0].step, rows[0].epoch, 0.1, ago(at))).collect();
    run.steps(&rows);
    steps.iter().for_each(|rows| run.visits(rows));
}

fn bytes(run: &Run) -> u64 {
    run.scan().map(|block| block.bytes()).sum()
}

#[test]
fn a_growing_run_is_read_once_and_its_end_is_said() {
    let steps = training();
    let mut run = Synthetic::new(Encoding::Q8);
    let dir = run.dir.clone();
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    assert_eq!(session.refresh(), Reached::End);
    assert!(matches!(session.state(), State::Recording { age_ms: None, has_lock: true }), "{:?}", session.state());

    write(&mut run, &steps[..5]);
    assert_eq!(session.refresh(), Reached::End);
    assert!(matches!(session.state(), State::Recording { age_ms: Some(0..60_000), has_lock: true }));
    let count = |steps: &[Vec<Visit>]| steps.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!((session.figures.visits, session.figures.last_step), (count(&steps[..5]), Some(4)));
    // Five steps of a tenth of a second have four gaps.
    let speed = session.figures.paces[0].speed().unwrap();
    assert!((speed.steps - 10.0).abs() < 1e-9 && (speed.seconds - 0.4).abs() < 1e-9, "{speed:?}");

    // Every byte is read once, however often one looks.
    write(&mut run, &steps[5..]);
    session.refresh();
    session.refresh();
    assert_eq!(session.figures.visits, count(&steps));
    assert_eq!(session.figures.bytes, bytes(&opened));

    run.end();
    session.refresh();
    assert_eq!(session.state(), State::Held);
    drop(run.finish());
    session.refresh();
    assert_eq!(session.state(), State::Finished);
}

#[test]
fn a_look_stops_when_its_time_is_up_and_goes_on_at_the_next() {
    let steps = training();
    let mut run = Synthetic::new(Encoding::Q8);
    steps.iter().for_each(|rows| run.visits(rows));
    run.end();
    let written = run.finish();
    let opened = written.run();
    let mut reading = super::reading::Reading::new(&opened);
    let mut figures = super::figures::Figures::new(1);
    for done in 1..=steps.len() {
        assert_eq!(reading.look(&mut figures, |_| true), Reached::More);
        let visits: usize = steps[..done].iter().map(Vec::len).sum();
        assert_eq!(figures.visits, visits as u64);
    }
    assert!(!reading.is_finished());
    assert_eq!(reading.look(&mut figures, |_| true), Reached::More);
    assert_eq!(reading.look(&mut figures, |_| true), Reached::End);
    assert!(reading.is_finished());
}

#[test]
fn a_killed_a_silent_and_a_damaged_run_are_called_so() {
    let steps = training();
    let mut run = Synthetic::new(Encoding::Q8);
    let dir = run.dir.clone();
    // The clock of its steps is that of 1970.
    run.steps(&[(0, 0, 0.1, 1000), (1, 0, 0.1, 1100)]);
    run.visits(&steps[0]);
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    session.refresh();
    assert!(matches!(session.state(), State::Silent { age_ms } if age_ms > 1_000_000_000));

    // The process is gone and its lock with it, though the run grew a moment ago.
    run.visits(&steps[1]);
    let written = run.finish();
    session.refresh();
    assert_eq!(session.state(), State::Ended);
    let (code, out, _) = typed(&["watch", dir.path().to_str().unwrap(), "--once"]);
    assert!(code == 0 && out.contains("not finished, and nobody records it"), "{out}");

    written.damage(1, 70);
    let opened = written.run();
    let mut session = Session::new(&opened);
    session.refresh();
    assert!(matches!(session.state(), State::Damaged { is_recorded: false, .. }), "{:?}", session.state());
    assert_eq!((session.figures.visits, session.figures.last_step), (0, Some(1)));
    let (code, out, words) = typed(&["watch", dir.path().to_str().unwrap(), "--once"]);
    assert_eq!(code, 3, "{words}");
    assert!(out.contains("damaged: the numbers are of what is before") && words.contains("block 1"), "{out}{words}");
}

#[test]
fn damage_in_a_column_ends_the_numbers_before_its_block() {
    let steps = training();
    let mut run = Synthetic::new(Encoding::Q8);
    steps[..3].iter().for_each(|rows| run.visits(rows));
    let written = run.finish();
    let opened = written.run();
    // The last bytes before the next block are those of a column that is not watched, so all columns are hit in turn.
    let (start, end) = (written.offsets[1], written.offsets[2]);
    let mut damaged = 0;
    for at in (64..end - start).step_by(16) {
        written.damage(1, at);
        let mut session = Session::new(&opened);
        session.refresh();
        if matches!(session.state(), State::Damaged { .. }) {
            damaged += 1;
            assert_eq!(session.figures.visits, steps[0].len() as u64);
        } else {
            assert_eq!(session.figures.visits, steps[..3].iter().map(Vec::len).sum::<usize>() as u64);
        }
        written.damage(1, at);
    }
    assert!(damaged > 20, "{damaged}");
}

#[test]
fn a_resumed_run_is_read_anew() {
    let steps = training();
    let mut run = Synthetic::new(Encoding::Q8);
    let dir = run.dir.clone();
    write(&mut run, &steps[..6]);
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    assert_eq!(session.refresh(), Reached::End);
    assert_eq!(session.figures.last_step, Some(5));
    let mut run = run.resume(2);
    assert_eq!(session.refresh(), Reached::End);
    write(&mut run, &steps[2..4]);
    assert_eq!(session.refresh(), Reached::Outdated);
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    assert_eq!(session.refresh(), Reached::End);
    // The steps of both sessions that count, and not the superseded ones.
    let visits: usize = steps[..4].iter().map(Vec::len).sum();
    assert_eq!((session.figures.visits, session.figures.last_step), (visits as u64, Some(3)));
}

#[test]
fn workers_are_watched_together() {
    let dir = Arc::new(TempDir::new().unwrap());
    let steps = training();
    let mut parts: Vec<Synthetic> =
        (0..2).map(|rank| Synthetic::part(dir.clone(), Some((rank, 3)), Encoding::Q8)).collect();
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    for step in &steps[..4] {
        for (rank, part) in parts.iter_mut().enumerate() {
            part.steps(&[(step[0].step, step[0].epoch, 0.1, now_ms())]);
            part.visits(&step.iter().skip(rank).step_by(2).cloned().collect::<Vec<_>>());
        }
    }
    assert_eq!(session.refresh(), Reached::End);
    let visits: usize = steps[..4].iter().map(Vec::len).sum();
    assert_eq!((session.figures.visits, session.outside.recorders), (visits as u64, 2));
    let text = typed(&["watch", dir.path().to_str().unwrap(), "--once"]).1;
    assert!(text.contains("2 of 3 workers have a part, 2 record"), "{text}");
    // The third comes late, and the run is opened anew.
    parts.push(Synthetic::part(dir.clone(), Some((2, 3)), Encoding::Q8));
    assert_eq!(session.refresh(), Reached::Outdated);
    // All of them must have finished.
    parts.iter_mut().take(2).for_each(Synthetic::end);
    parts.drain(..).for_each(|part| drop(part.finish()));
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    session.refresh();
    assert_eq!(session.state(), State::Ended);
}
