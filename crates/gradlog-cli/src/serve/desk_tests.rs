use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

type Found = Result<Arc<u64>, Unanswered<String>>;

fn kept(value: u64) -> Result<Kept<u64>, String> {
    Ok(Kept { value, bytes: 8 })
}

fn waits_until(what: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came");
        thread::yield_now();
    }
}

#[test]
fn equal_questions_are_computed_once() {
    let (desk, computed) = (Desk::new(1 << 20), AtomicUsize::new(0));
    let (open, gate) = sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    let ask = || -> Found {
        desk.answer(Lane::Long, "a", &|| true, || {
            computed.fetch_add(1, Ordering::SeqCst);
            gate.lock().unwrap().recv_timeout(Duration::from_secs(10)).map_err(|_| "computed again".to_owned())?;
            kept(7)
        })
    };
    thread::scope(|scope| {
        let askers: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        open.send(()).unwrap();
        assert!(askers.into_iter().all(|asker| *asker.join().unwrap().unwrap() == 7));
    });
    assert_eq!(computed.load(Ordering::SeqCst), 1);
    let again: Found = desk.answer(Lane::Long, "a", &|| true, || unreachable!());
    assert_eq!(*again.unwrap(), 7);
}

/// Fills both lanes, and returns what the questions beyond the queue hear.
#[test]
fn a_lane_runs_few_lets_some_wait_and_refuses_the_rest() {
    let desk = Desk::new(1 << 20);
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_open = AtomicBool::new(false);
    let ask = |name: String| -> Found {
        desk.answer(Lane::Long, &name, &|| true, || {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            waits_until(|| is_open.load(Ordering::SeqCst));
            running.fetch_sub(1, Ordering::SeqCst);
            kept(1)
        })
    };
    thread::scope(|scope| {
        let ask = &ask;
        let askers: Vec<_> =
            (0..LONG_RUNNING_MAX + LONG_WAITING_MAX).map(|n| scope.spawn(move || ask(n.to_string()))).collect();
        waits_until(|| {
            let state = desk.lock();
            let line = &state.lines[Lane::Long as usize];
            (line.running, line.waiting.len()) == (LONG_RUNNING_MAX, LONG_WAITING_MAX)
        });
        assert_eq!(ask("one more".into()), Err(Unanswered::Busy));
        // The other lane is not held up.
        assert_eq!(desk.answer(Lane::Quick, "quick", &|| true, || kept(5)).as_deref(), Ok(&5));
        is_open.store(true, Ordering::SeqCst);
        assert!(askers.into_iter().all(|asker| asker.join().unwrap().is_ok()));
    });
    assert_eq!(most.load(Ordering::SeqCst), LONG_RUNNING_MAX);
    assert_eq!(desk.answer(Lane::Long, "later", &|| true, || kept(2)).as_deref(), Ok(&2));
}

#[test]
fn a_question_that_nobody_awaits_leaves_the_queue() {
    let desk = Desk::new(1 << 20);
    let is_open = AtomicBool::new(false);
    let is_there = AtomicBool::new(true);
    thread::scope(|scope| {
        for n in 0..LONG_RUNNING_MAX {
            let (desk, is_open) = (&desk, &is_open);
            scope.spawn(move || -> Found {
                desk.answer(Lane::Long, &n.to_string(), &|| true, || {
                    waits_until(|| is_open.load(Ordering::SeqCst));
                    kept(1)
                })
            });
        }
        waits_until(|| desk.lock().lines[Lane::Long as usize].running == LONG_RUNNING_MAX);
        let gone = scope.spawn(|| -> Found {
            desk.answer(Lane::Long, "x", &|| is_there.load(Ordering::SeqCst), || unreachable!())
        });
        waits_until(|| desk.lock().is_waiting(Lane::Long, "x"));
        is_there.store(false, Ordering::SeqCst);
        assert_eq!(gone.join().unwrap(), Err(Unanswered::Gone));
        assert!(!desk.lock().is_waiting(Lane::Long, "x"));
        is_open.store(true, Ordering::SeqCst);
    });
}

#[test]
fn errors_and_panics_are_told_and_not_kept() {
    let desk = Desk::new(1 << 20);
    let failed: Found = desk.answer(Lane::Quick, "a", &|| true, || Err("no".to_owned()));
    assert_eq!(failed, Err(Unanswered::Error("no".into())));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked: Found = desk.answer(Lane::Quick, "a", &|| true, || panic!("a fault"));
    std::panic::set_hook(hook);
    assert_eq!(panicked, Err(Unanswered::Panicked));
    assert_eq!(desk.answer(Lane::Quick, "a", &|| true, || kept(3)).as_deref(), Ok(&3));
    assert_eq!(desk.lock().lines[Lane::Quick as usize].running, 0);
}

#[test]
fn answers_take_no_more_room_than_they_may() {
    let desk = Desk::new(1000);
    let ask = |name: &str, bytes: usize| -> Found {
        desk.answer(Lane::Quick, name, &|| true, || Ok(Kept { value: 1, bytes }))
    };
    let is_kept = |name: &str| desk.lock().places.contains_key(name);
    for name in ["a", "b", "c"] {
        ask(name, 200).unwrap();
    }
    ask("a", 200).unwrap();
    ask("d", 200).unwrap();
    // `b` was not used for longest.
    assert!(is_kept("a") && is_kept("d") && !is_kept("b"));
    ask("whole", 2000).unwrap();
    assert!(!is_kept("whole") && is_kept("a"));
    assert!(desk.lock().bytes <= 1000);
    let all: usize = desk
        .lock()
        .places
        .values()
        .map(|place| match place {
            Place::Answered { bytes, .. } => *bytes,
            Place::Running => 0,
        })
        .sum();
    assert_eq!(all, desk.lock().bytes);
}
