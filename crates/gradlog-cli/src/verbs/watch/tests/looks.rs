//! The screen, drawn on ratatui's own test terminal.

use super::super::follow::{follow, Keys, Typed};
use super::super::view::draw;
use super::super::{parse_seconds, screen};
use super::*;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use std::io;
use std::time::Duration;

/// The lines of a screen.
fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let width = buffer.area.width.max(1) as usize;
    let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    buffer.content.chunks(width).map(|cells| row(cells).trim_end().to_owned()).collect()
}

fn drawn(session: &Session<'_>, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, session)).unwrap();
    lines(&terminal)
}

#[test]
fn a_screen_of_80_columns_shows_everything() {
    let mut run = Synthetic::new(Encoding::Q8);
    run.set(0, "test");
    run.probes(&(0..4).map(|id| Draws(id).visit(id, 0, 0)).collect::<Vec<_>>());
    let steps = training();
    write(&mut run, &steps);
    run.dropped(3);
    run.end();
    let written = run.finish();
    let opened = written.run();
    let mut session = Session::new(&opened);
    session.refresh();
    let screen = drawn(&session, 80, 24);
    println!("{}", screen.join("\n"));
    assert!(screen[0].starts_with(" FINISHED  ") && screen[23].starts_with("q or Ctrl-C ends"), "{screen:?}");
    for expected in [
        "state       finished",
        "step        11, epoch 3, 1.1 s after the first recorded step",
        "speed       10.0 steps a second",
        "over the last 12 steps",
        " in epoch 3",
        "probes      `test`: loss",
        "recorded    95.08 % of the visits (58), 96.2 % of the parameters",
        "missing     3 visits dropped",
        "queue       not known: nobody records",
        "memory      not known: nobody records",
        "forgetting  ",
        "of 14 examples have a mean margin below 0",
        "predicted",
        "mean loss, steps 0 to 11; the highest bar is ",
    ] {
        assert!(screen.iter().any(|line| line.contains(expected)), "{expected} in\n{}", screen.join("\n"));
    }
    // The highest bar is a full block somewhere in the curve.
    assert!(screen.iter().any(|line| line.contains('█')));
}

#[test]
fn small_screens_show_the_first_lines() {
    let mut run = Synthetic::new(Encoding::Q8);
    write(&mut run, &training());
    let dir = run.dir.clone();
    let opened = Run::open(dir.path()).unwrap();
    let mut session = Session::new(&opened);
    session.refresh();
    for (width, height) in [(0, 0), (1, 1), (1, 30), (80, 1), (80, 2), (13, 5), (20, 4), (40, 16), (200, 3), (300, 100)]
    {
        let screen = drawn(&session, width, height);
        if width >= 80 && height > 1 {
            assert!(screen[0].contains("RECORDING"), "{width} x {height}: {screen:?}");
        }
    }
    assert!(drawn(&session, 40, 16).iter().any(|line| line.contains('…')));
}

#[test]
fn nothing_of_a_run_reaches_the_terminal_as_a_command() {
    let (_parent, dir, _written) = crate::tests::hostile::evil();
    let opened = Run::open(&dir).unwrap();
    let mut session = Session::new(&opened);
    session.refresh();
    let screen = drawn(&session, 200, 40);
    // What was taken out is shown as such.
    assert!(screen.iter().any(|line| line.starts_with("probes") && line.contains('\u{FFFD}')), "{screen:?}");
    for line in screen {
        crate::tests::hostile::assert_tame(&line, "watch");
    }
}

/// Keys that come with what happens meanwhile.
struct Played<'a>(Vec<Box<dyn FnMut() -> Option<Typed> + 'a>>);

impl Keys for Played<'_> {
    fn next(&mut self, wait: Duration) -> io::Result<Option<Typed>> {
        if wait.is_zero() {
            return Ok(None);
        }
        match self.0.is_empty() {
            true => Err(io::Error::other("the terminal is gone")),
            false => Ok(self.0.remove(0)()),
        }
    }
}

#[test]
fn a_run_is_followed_until_a_key_ends_it() {
    let steps = training();
    let run = std::cell::RefCell::new(Some(Synthetic::new(Encoding::Q8)));
    let dir = run.borrow().as_ref().unwrap().dir.clone();
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let every = Duration::from_secs(1);
    let mut keys = Played(vec![
        Box::new(|| {
            write(run.borrow_mut().as_mut().unwrap(), &steps[..6]);
            None
        }),
        // The training resumes at an earlier step, and is watched on.
        Box::new(|| {
            let resumed = run.borrow_mut().take().unwrap().resume(2);
            *run.borrow_mut() = Some(resumed);
            write(run.borrow_mut().as_mut().unwrap(), &steps[2..5]);
            Some(Typed::Other)
        }),
        Box::new(|| None),
        Box::new(|| {
            run.borrow_mut().as_mut().unwrap().end();
            run.borrow_mut().take();
            None
        }),
        Box::new(|| Some(Typed::Quit)),
    ]);
    let last = follow(&mut terminal, &mut keys, dir.path(), every).unwrap();
    assert!(keys.0.is_empty());
    let shown = lines(&terminal);
    assert!(shown[0].starts_with(" FINISHED "), "{shown:?}");
    let step = last.pairs.iter().find(|(name, _)| *name == "step").unwrap();
    assert!(step.1.starts_with("4, epoch"), "{step:?}");
    // The same lines are on the screen and in the last words.
    for (name, value) in last.pairs.iter().filter(|(name, value)| !name.is_empty() && value.len() < 60) {
        assert!(shown.iter().any(|line| line.contains(value.as_str())), "{name}: {value}");
    }
    // A terminal that fails ends it with an error, and so does a folder that is gone.
    let error = follow(&mut terminal, &mut Played(Vec::new()), dir.path(), every).unwrap_err();
    assert!(error.to_string().contains("terminal"), "{error}");
    assert!(follow(&mut terminal, &mut Played(Vec::new()), &dir.path().join("none"), every).is_err());
}

#[test]
fn keys_and_options_mean_what_they_say() {
    let key = |code, modifiers| screen::typed(&Event::Key(KeyEvent::new(code, modifiers)));
    assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Typed::Quit);
    assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Typed::Quit);
    assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Typed::Other);
    assert_eq!(screen::typed(&Event::Resize(3, 4)), Typed::Other);
    for (text, expected) in
        [("1", Some(1.0)), ("0.2", Some(0.2)), ("0", None), ("-1", None), ("NaN", None), ("x", None)]
    {
        assert_eq!(parse_seconds(text).ok(), expected, "{text}");
    }
}
