//! One run while it is watched: its readers, its numbers, and how it stands.

use super::figures::Figures;
use super::outside::Outside;
use super::reading::{Reached, Reading};
use super::words::{self, State};
use super::Last;
use crate::error::CliError;
use gradlog_analysis::Progress;
use gradlog_format::log::worker_folders;
use gradlog_format::run::Run;
use std::time::{Duration, Instant};

/// The longest that a refresh reads, but for the block that it is at.
const READ_MAX: Duration = Duration::from_millis(150);
/// If no lock was ever seen, a run counts as being recorded for so long after it grew.
const GROWING: Duration = Duration::from_secs(10);

/// A run that is watched.
#[derive(Debug)]
pub(super) struct Session<'run> {
    run: &'run Run,
    reading: Reading<'run>,
    pub figures: Figures,
    pub outside: Outside,
    reached: Reached,
    /// When it grew after its end had been reached once.
    grew: Option<Instant>,
    had_end: bool,
    had_lock: bool,
}

impl<'run> Session<'run> {
    pub(super) fn new(run: &'run Run) -> Self {
        let reading = Reading::new(run);
        let figures = Figures::new(reading.parts());
        let (outside, reached) = (Outside::default(), Reached::More);
        Self { run, reading, figures, outside, reached, grew: None, had_end: false, had_lock: false }
    }

    pub(super) fn run(&self) -> &'run Run {
        self.run
    }

    /// Reads what was appended, for a bounded time.
    pub(super) fn refresh(&mut self) -> Reached {
        let until = Instant::now() + READ_MAX;
        self.look(|_| Instant::now() >= until)
    }

    /// Reads all that is there.
    ///
    /// # Errors
    /// What the file system refused.
    pub(super) fn read_all(&mut self, progress: &Progress) -> Result<(), CliError> {
        self.look(|bytes| {
            progress.report(bytes);
            false
        });
        if self.reading.is_outdated() {
            return Err(CliError::Watch(
                "the training resumed at an earlier step while the run was read: ask again".into(),
            ));
        }
        match self.reading.trouble.take() {
            Some(trouble) => Err(CliError::Watch(trouble)),
            None => Ok(()),
        }
    }

    fn look(&mut self, progress: impl FnMut(u64) -> bool) -> Reached {
        self.outside = Outside::ask(self.run);
        self.had_lock |= self.outside.recorders > 0;
        let before = self.figures.bytes;
        self.reached = self.reading.look(&mut self.figures, progress);
        if self.had_end && self.figures.bytes > before {
            self.grew = Some(Instant::now());
        }
        self.had_end |= self.reached == Reached::End;
        if self.reached == Reached::End && self.has_new_workers() {
            self.reached = Reached::Outdated;
        }
        self.reached
    }

    /// Whether a worker began its part after the run was opened.
    fn has_new_workers(&self) -> bool {
        let parts = self.run.parts().len();
        parts > 0 && worker_folders(self.run.dir()).is_ok_and(|folders| folders.len() != parts)
    }

    /// How the run stands.
    pub(super) fn state(&self) -> State {
        let workers =
            self.run.parts().first().and_then(|part| part.manifest().worker).map_or(1, |w| w.workers as usize);
        if let Some(damage) = self.reading.damage() {
            return State::Damaged { what: damage.to_string(), is_recorded: self.outside.recorders > 0 };
        }
        if let Some(why) = self.reading.failure().or(self.reading.trouble.as_deref()) {
            return State::Unreadable(why.to_owned());
        }
        if self.reached == Reached::More {
            return State::Reading;
        }
        if self.outside.recorders == 0 {
            if self.reading.is_finished() && self.reading.parts() >= workers {
                return State::Finished;
            }
            // A lock that was there and is gone was let go of.
            let grows = !self.had_lock && self.grew.is_some_and(|grew| grew.elapsed() < GROWING);
            return if grows { State::Recording { age_ms: self.age_ms(), has_lock: false } } else { State::Ended };
        }
        if self.reading.is_finished() {
            return State::Held;
        }
        match self.age_ms() {
            Some(age_ms) if age_ms > self.silence_ms() => State::Silent { age_ms },
            age_ms => State::Recording { age_ms, has_lock: true },
        }
    }

    /// Milliseconds since the last step.
    fn age_ms(&self) -> Option<u64> {
        let last = self.figures.paces.iter().filter_map(|pace| pace.last_ms()).max()?;
        Some(self.outside.now_ms.saturating_sub(last))
    }

    /// After so long without a step, a run is silent: a minute, or twenty steps if these take longer.
    fn silence_ms(&self) -> u64 {
        let slowest = self.figures.paces.iter().filter_map(|pace| pace.speed()).map(|speed| speed.steps);
        let step_ms = slowest.fold(0.0, |most: f64, steps| most.max(1000.0 / steps));
        60_000u64.max((20.0 * step_ms).min(1e15) as u64)
    }

    /// The state at the end of watching.
    pub(super) fn last(&self) -> Last {
        let mut pairs = words::overview(self);
        pairs.extend(words::suspects(self, 5).into_iter().map(|line| ("", line)));
        Last { pairs, damage: self.reading.damage().cloned().into_iter().collect() }
    }
}
