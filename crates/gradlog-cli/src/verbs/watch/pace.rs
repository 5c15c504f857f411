//! How fast steps come, by the clock in their rows.

use crate::report::count;
use std::collections::VecDeque;

/// The stretch over which speed is measured.
const STRETCH_MS: u64 = 30_000;
/// Steps that are kept for it.
const STEPS_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Tick {
    clock_ms: u64,
    /// Visits of the step, if its row says so.
    batch: Option<u64>,
}

/// The clock of one worker's steps.
#[derive(Debug, Default)]
pub(super) struct Pace {
    ticks: VecDeque<Tick>,
    first_ms: Option<u64>,
}

/// Steps and visits a second, and the seconds over which they were counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    pub steps: f64,
    /// `None` if the rows do not say how many visits a step has.
    pub visits: Option<f64>,
    pub seconds: f64,
}

impl Pace {
    pub(super) fn add(&mut self, clock_ms: u64, batch: Option<u64>) {
        self.first_ms = self.first_ms.or(Some(clock_ms));
        self.ticks.push_back(Tick { clock_ms, batch });
        let old = |tick: &Tick| clock_ms.saturating_sub(tick.clock_ms) > STRETCH_MS;
        while self.ticks.len() > STEPS_MAX || self.ticks.len() > 2 && self.ticks.front().is_some_and(old) {
            self.ticks.pop_front();
        }
    }

    /// Why there is no speed, in words.
    pub(super) fn no_speed(&self) -> String {
        match (self.ticks.front(), self.ticks.back(), self.ticks.len()) {
            (Some(first), Some(last), steps) if steps > 1 && first.clock_ms == last.clock_ms => {
                let steps = count(steps - 1, "step");
                format!("more than {steps} a millisecond, which is as fine as the clock of the steps")
            }
            (Some(first), Some(last), _) if last.clock_ms < first.clock_ms => {
                "not known: the clock was set back".into()
            }
            _ => "not known before the second step".into(),
        }
    }

    /// `None` before the second step, while all steps share a millisecond, and if the clock was set back.
    pub(super) fn speed(&self) -> Option<Speed> {
        let (first, last) = (self.ticks.front()?, self.ticks.back()?);
        let seconds = last.clock_ms.checked_sub(first.clock_ms).filter(|ms| *ms > 0)? as f64 / 1000.0;
        // The first step began before its clock was read.
        let visits = self.ticks.iter().skip(1).try_fold(0u64, |sum, tick| Some(sum.saturating_add(tick.batch?)));
        let visits = visits.map(|visits| visits as f64 / seconds);
        Some(Speed { steps: (self.ticks.len() - 1) as f64 / seconds, visits, seconds })
    }

    /// When the last step was taken, in milliseconds since the Unix epoch.
    pub(super) fn last_ms(&self) -> Option<u64> {
        Some(self.ticks.back()?.clock_ms)
    }

    /// Milliseconds from the first step to the last.
    pub(super) fn span_ms(&self) -> Option<u64> {
        self.last_ms()?.checked_sub(self.first_ms?)
    }
}
