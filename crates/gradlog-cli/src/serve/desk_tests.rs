use super::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::thread;

type Found = Result<Arc<u64>, Unanswered<String>>;

fn kept(value: u64) -> Result<Kept<u64>, String> {
    Ok(Kept { value, bytes: 8 })
}

/// An asker who stays.
fn always() -> IsAwaited {
    Arc::new(|| true)
}

/// An asker who is there as long as this is set.
fn while_set(is_there: &Arc<AtomicBool>) -> IsAwaited {
    let is_there = is_there.clone();
    Arc::new(move || is_there.load(Ordering::SeqCst))
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
        desk.answer(Lane::Long, "a", &always(), |_| {
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
    let again: Found = desk.answer(Lane::Long, "a", &always(), |_| unreachable!());
    assert_eq!(*again.unwrap(), 7);
}

/// Fills a lane, and asks for more.
#[test]
fn a_lane_runs_few_lets_some_wait_and_refuses_the_rest() {
    for (lane, other, running_max, waiting_max) in [
        (Lane::Long, Lane::Quick, LONG_RUNNING_MAX, LONG_WAITING_MAX),
        (Lane::Quick, Lane::Long, QUICK_RUNNING_MAX, QUICK_WAITING_MAX),
    ] {
        let desk = Desk::new(1 << 20);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let is_open = AtomicBool::new(false);
        let ask = |name: String| -> Found {
            desk.answer(lane, &name, &always(), |_| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                waits_until(|| is_open.load(Ordering::SeqCst));
                running.fetch_sub(1, Ordering::SeqCst);
                kept(1)
            })
        };
        thread::scope(|scope| {
            let ask = &ask;
            let askers: Vec<_> =
                (0..running_max + waiting_max).map(|n| scope.spawn(move || ask(n.to_string()))).collect();
            waits_until(|| {
                let state = desk.lock();
                let line = &state.lines[lane as usize];
                (line.running, line.waiting.len()) == (running_max, waiting_max)
            });
            assert_eq!(ask("one more".into()), Err(Unanswered::Busy));
            // The other lane is not held up.
            assert_eq!(desk.answer(other, "other", &always(), |_| kept(5)).as_deref(), Ok(&5));
            is_open.store(true, Ordering::SeqCst);
            assert!(askers.into_iter().all(|asker| asker.join().unwrap().is_ok()));
        });
        assert_eq!(most.load(Ordering::SeqCst), running_max);
        assert_eq!(desk.answer(lane, "later", &always(), |_| kept(2)).as_deref(), Ok(&2));
    }
}

#[test]
fn a_question_that_nobody_awaits_leaves_the_queue() {
    let desk = Desk::new(1 << 20);
    let is_open = AtomicBool::new(false);
    let is_there = Arc::new(AtomicBool::new(true));
    let asker = while_set(&is_there);
    thread::scope(|scope| {
        for n in 0..LONG_RUNNING_MAX {
            let (desk, is_open) = (&desk, &is_open);
            scope.spawn(move || -> Found {
                desk.answer(Lane::Long, &n.to_string(), &always(), |_| {
                    waits_until(|| is_open.load(Ordering::SeqCst));
                    kept(1)
                })
            });
        }
        waits_until(|| desk.lock().lines[Lane::Long as usize].running == LONG_RUNNING_MAX);
        let gone = scope.spawn(|| -> Found { desk.answer(Lane::Long, "x", &asker, |_| unreachable!()) });
        waits_until(|| desk.lock().is_waiting(Lane::Long, "x"));
        is_there.store(false, Ordering::SeqCst);
        assert_eq!(gone.join().unwrap(), Err(Unanswered::Gone));
        assert!(!desk.lock().is_waiting(Lane::Long, "x"));
        is_open.store(true, Ordering::SeqCst);
    });
}

/// Questions begin in the order in which they came. One that two await keeps its place when one of them leaves.
#[test]
fn who_waits_keeps_the_place() {
    let desk = Desk::new(1 << 20);
    let is_open: Vec<AtomicBool> = (0..LONG_RUNNING_MAX).map(|_| AtomicBool::new(false)).collect();
    let order = Mutex::new(Vec::new());
    let is_there = Arc::new(AtomicBool::new(true));
    let queue = || -> Vec<(String, usize)> {
        desk.lock().lines[Lane::Long as usize].waiting.iter().map(|(name, askers)| (name.clone(), *askers)).collect()
    };
    let ask = |name: &'static str, asker: IsAwaited| -> Found {
        desk.answer(Lane::Long, name, &asker, |_| {
            order.lock().unwrap().push(name);
            kept(1)
        })
    };
    thread::scope(|scope| {
        for (n, is_open) in is_open.iter().enumerate() {
            let desk = &desk;
            scope.spawn(move || -> Found {
                desk.answer(Lane::Long, &n.to_string(), &always(), |_| {
                    waits_until(|| is_open.load(Ordering::SeqCst));
                    kept(1)
                })
            });
        }
        waits_until(|| desk.lock().lines[Lane::Long as usize].running == LONG_RUNNING_MAX);
        let gone = scope.spawn(|| ask("x", while_set(&is_there)));
        waits_until(|| queue() == [("x".to_owned(), 1)]);
        scope.spawn(|| ask("x", always()));
        waits_until(|| queue() == [("x".to_owned(), 2)]);
        for (place, name) in ["y", "z", "u", "v"].into_iter().enumerate() {
            let ask = &ask;
            scope.spawn(move || ask(name, always()));
            waits_until(|| queue().len() == place + 2);
        }
        is_there.store(false, Ordering::SeqCst);
        assert_eq!(gone.join().unwrap(), Err(Unanswered::Gone));
        assert_eq!(queue()[..2], [("x".to_owned(), 1), ("y".to_owned(), 1)]);
        // One place becomes free, so that they run one after another.
        is_open[0].store(true, Ordering::SeqCst);
        waits_until(|| order.lock().unwrap().len() == 5);
        is_open.iter().for_each(|is_open| is_open.store(true, Ordering::SeqCst));
    });
    assert_eq!(*order.lock().unwrap(), ["x", "y", "z", "u", "v"]);
}

/// Two clients ask the same question. It goes on when the first leaves, and stops when both have left.
#[test]
fn a_running_question_stops_when_nobody_awaits_it() {
    let desk = Desk::new(1 << 20);
    let (first, second) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let looks = AtomicUsize::new(0);
    let run = |stop: &Stop| -> Result<Kept<u64>, String> {
        waits_until(|| {
            looks.fetch_add(1, Ordering::SeqCst);
            stop()
        });
        Err("stopped".into())
    };
    let others = || match desk.lock().places.get("a") {
        Some(Place::Running(others)) => others.load(Ordering::SeqCst),
        _ => 0,
    };
    thread::scope(|scope| {
        let asker = scope.spawn(|| -> Found { desk.answer(Lane::Long, "a", &while_set(&first), run) });
        waits_until(|| looks.load(Ordering::SeqCst) > 0);
        let other = scope.spawn(|| -> Found { desk.answer(Lane::Long, "a", &while_set(&second), |_| unreachable!()) });
        waits_until(|| others() == 1);
        first.store(false, Ordering::SeqCst);
        let before = looks.load(Ordering::SeqCst);
        waits_until(|| looks.load(Ordering::SeqCst) > before + 1000);
        assert!(!asker.is_finished(), "somebody still awaits it");
        second.store(false, Ordering::SeqCst);
        assert_eq!(other.join().unwrap(), Err(Unanswered::Gone));
        assert_eq!(asker.join().unwrap(), Err(Unanswered::Error("stopped".into())));
    });
    assert_eq!(desk.lock().lines[Lane::Long as usize].running, 0);
    assert_eq!(desk.answer(Lane::Long, "a", &always(), |_| kept(3)).as_deref(), Ok(&3), "it was not kept");
}

#[test]
fn errors_and_panics_are_told_and_not_kept() {
    let desk = Desk::new(1 << 20);
    let failed: Found = desk.answer(Lane::Quick, "a", &always(), |_| Err("no".to_owned()));
    assert_eq!(failed, Err(Unanswered::Error("no".into())));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let panicked: Found = desk.answer(Lane::Quick, "a", &always(), |_| panic!("a fault"));
    std::panic::set_hook(hook);
    assert_eq!(panicked, Err(Unanswered::Panicked));
    assert_eq!(desk.answer(Lane::Quick, "a", &always(), |_| kept(3)).as_deref(), Ok(&3));
    assert_eq!(desk.lock().lines[Lane::Quick as usize].running, 0);
}

#[test]
fn answers_take_no_more_room_than_they_may() {
    let desk = Desk::new(1000);
    let ask = |name: &str, bytes: usize| -> Found {
        desk.answer(Lane::Quick, name, &always(), |_| Ok(Kept { value: 1, bytes }))
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
            Place::Running(_) => 0,
        })
        .sum();
    assert_eq!(all, desk.lock().bytes);
    // A name and what is kept beside an answer count, too.
    let desk = Desk::new(1 << 30);
    let ask = |name: &str| desk.answer(Lane::Quick, name, &always(), |_| kept(1)).map(drop);
    ask("name").unwrap();
    assert_eq!(desk.lock().bytes, 8 + 4 + 128);
    for n in 0..ANSWERS_MAX + 10 {
        ask(&n.to_string()).unwrap();
    }
    assert_eq!(desk.lock().places.len(), ANSWERS_MAX);
}
