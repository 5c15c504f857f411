//! A guard's settings.

use crate::recorder::error::RecordError;

/// What happens to a step with a large gradient, or at which the loss is seen to diverge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnEvent {
    /// The step is taken and recorded. The event comes with a later [`Committed`](crate::Committed) and into the log.
    #[default]
    GoOn,
    /// The step is neither recorded nor taken, and the training goes on, as under
    /// [`OnNonFinite::Skip`](crate::OnNonFinite::Skip). `backward_step` leaves out the optimizer's step and returns
    /// `Ok` with the event. `commit` and `accumulate` return [`RecordError::Guarded`], which
    /// [`RecordError::is_skipped_step`] knows. It is refused for one of several workers, because all must skip
    /// together.
    Skip,
    /// As [`OnEvent::Skip`], but `backward_step` returns the error as well, so that a loop with `?` ends.
    Stop,
}

/// What a recorder looks for in the training, and what it does about it.
///
/// ```
/// use gradlog::{Config, Guard, OnEvent};
///
/// let config = Config { guard: Guard::default().on_event(OnEvent::Stop), ..Config::default() };
/// ```
///
/// With defaults nothing is left out, and the training thread only looks at the losses of a batch. It does not wait for
/// losses on another device: the background thread looks at those. What
/// [`Pass::commit`](crate::Pass::commit) returns holds the events, and so does the log: `gradlog info` shows them, and
/// [`Run::events`](crate::format::run::Run::events) reads them.
///
/// NaN and infinity are an event as well. What happens to such a step, [`Config::on_nonfinite`](crate::Config) says.
///
/// # Limits
/// An event names at most 8 examples. In one session the log takes at most 1,000 rows of a kind, and counts the rest.
/// A resumed run begins with a new guard, which knows no earlier norms and losses. If a pass is dropped because the
/// queue is full, the guard never sees its norms, nor its losses on another device.
///
/// # Cost of [`OnEvent::Skip`] and [`OnEvent::Stop`]
/// The training thread then computes each example's gradient norm before the step. This takes one more pass over the
/// two factors of every factored layer. A layer on another device waits for that device once a pass, and so do losses.
/// Folded layers have their norms.
///
/// The norm is not known before the step for a layer that ran several times in a pass, that runs without a fused op,
/// that shares its weights with another, or whose gradients come from `per_example`. The guard then judges the step by
/// the other layers. The background thread looks at the whole gradient afterwards, and its events say that the step was
/// taken.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Guard {
    /// Tells of an example whose gradient norm is more than so many times the 99th percentile of the last 4,096
    /// visits. `None` turns it off. Greater than 1. Default 10.
    ///
    /// It begins after 512 visits. Visits whose norm is zero or not finite do not count. The percentile is brought up
    /// to date every 256 visits. The norm must also exceed a tenth of the greatest such percentile so far: a model
    /// that has learned nearly everything has tiny gradients, and a larger one among them is harmless.
    ///
    /// Norms of steps that were left out count too. So if all norms grow, at most 41 visits lie beyond the limit
    /// before it follows.
    pub large_gradient: Option<f64>,
    /// Tells that the running mean of the loss is more than so many times its least so far. `None` turns it off.
    /// Greater than 1. Default 3.
    ///
    /// The mean `m` is over about 50 steps, of the plain mean of the step's own losses. It begins after 50 steps. The
    /// limit is `least + (factor − 1) · s`. The scale `s` is the greatest of `|least|`, a tenth of the mean loss of
    /// the first 50 steps, and their mean absolute deviation. So a loss may be negative or come close to 0. One
    /// step counts at most four times as far above `least` as the limit, so that one batch alone is no divergence.
    ///
    /// It is told once. It is told again after the mean has come down half of the way.
    pub divergence: Option<f64>,
    /// Whether numbers that are not finite make events. Default true.
    pub non_finite: bool,
    /// What happens to a step with a large gradient, or at which the loss is seen to diverge. Default
    /// [`OnEvent::GoOn`].
    pub on_event: OnEvent,
}

impl Default for Guard {
    fn default() -> Self {
        Self { large_gradient: Some(10.0), divergence: Some(3.0), non_finite: true, on_event: OnEvent::GoOn }
    }
}

impl Guard {
    /// Looks for nothing.
    pub fn off() -> Self {
        Self { large_gradient: None, divergence: None, non_finite: false, on_event: OnEvent::GoOn }
    }

    /// Sets [`Guard::large_gradient`].
    #[must_use]
    pub fn large_gradient(self, times: impl Into<Option<f64>>) -> Self {
        Self { large_gradient: times.into(), ..self }
    }

    /// Sets [`Guard::divergence`].
    #[must_use]
    pub fn divergence(self, times: impl Into<Option<f64>>) -> Self {
        Self { divergence: times.into(), ..self }
    }

    /// Sets [`Guard::non_finite`].
    #[must_use]
    pub fn non_finite(self, non_finite: bool) -> Self {
        Self { non_finite, ..self }
    }

    /// Sets [`Guard::on_event`].
    #[must_use]
    pub fn on_event(self, on_event: OnEvent) -> Self {
        Self { on_event, ..self }
    }

    pub(in crate::recorder) fn check(&self, is_worker: bool) -> Result<(), RecordError> {
        for (name, times) in [("large_gradient", self.large_gradient), ("divergence", self.divergence)] {
            if let Some(times) = times.filter(|times| !(*times > 1.0 && times.is_finite())) {
                let what = format!("`guard.{name}` is {times}: give a finite number above 1, or `None`");
                return Err(RecordError::Config(what));
            }
        }
        if is_worker && self.on_event == OnEvent::Skip {
            let what =
                "a worker that skips a step alone would give other numbers to its later steps than the others: use \
                        `OnEvent::GoOn` or `Stop`, and call `abandon_step` on all workers to skip a step";
            return Err(RecordError::Config(what.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert!(Guard::default().check(true).is_ok() && Guard::off().check(true).is_ok());
        for wrong in [1.0, 0.0, -3.0, f64::NAN, f64::INFINITY] {
            assert!(Guard::default().large_gradient(wrong).check(false).is_err(), "{wrong}");
            assert!(Guard::default().divergence(wrong).check(false).is_err(), "{wrong}");
        }
        assert!(Guard::default().large_gradient(1.01).divergence(None).check(false).is_ok());
        let skip = Guard::default().on_event(OnEvent::Skip);
        assert!(skip.check(false).is_ok() && skip.check(true).is_err());
        assert!(Guard::default().on_event(OnEvent::Stop).check(true).is_ok());
    }
}
