//! Shows the progress of a training.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// One line on the terminal with the progress of a training. It prints nothing if stderr is not a terminal.
pub struct ProgressLine {
    start: Instant,
    shown: Option<Instant>,
    enabled: bool,
}

impl ProgressLine {
    /// A terminal is slow compared with a step, so the line changes five times a second.
    const INTERVAL: Duration = Duration::from_millis(200);

    pub fn new() -> Self {
        Self { start: Instant::now(), shown: None, enabled: std::io::stderr().is_terminal() }
    }

    /// Shows the number of steps done, and the loss of the last one.
    pub fn show(&mut self, done: u64, steps: u64, loss: f32) {
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= Self::INTERVAL);
        if !self.enabled || done == 0 || !due {
            return;
        }
        self.shown = Some(Instant::now());
        let left = self.start.elapsed().as_secs_f64() * steps.saturating_sub(done) as f64 / done as f64;
        let _ = write!(std::io::stderr(), "\r\x1b[Kstep {done} of {steps}, loss {loss:.3}, {left:.0} s left");
    }

    /// Clears the line, so that another line can be printed.
    pub fn clear(&mut self) {
        if self.enabled && self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
