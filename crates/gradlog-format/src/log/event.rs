//! What a guard tells of a step: kinds, actions, and the sentence for the eye (FORMAT.md, "Events").

use std::fmt;

/// What a guard noticed in a training. The discriminants are the numbers in the file. Numbers are added, and never
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum EventKind {
    /// The loss of an example is NaN or infinite.
    NonFiniteLoss = 1,
    /// The gradient of an example is NaN or infinite.
    NonFiniteGradient = 2,
    /// The norm of an example's gradient is far above those of recent examples.
    LargeGradient = 3,
    /// The running mean of the loss is far above its least so far.
    Divergence = 4,
}

impl EventKind {
    /// All kinds, by number.
    pub const ALL: [EventKind; 4] =
        [EventKind::NonFiniteLoss, EventKind::NonFiniteGradient, EventKind::LargeGradient, EventKind::Divergence];

    /// The number of the kind in the file.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its name, as the command writes it.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::NonFiniteLoss => "non-finite-loss",
            EventKind::NonFiniteGradient => "non-finite-gradient",
            EventKind::LargeGradient => "large-gradient",
            EventKind::Divergence => "divergence",
        }
    }
}

/// What the training did about an event. The discriminants are the numbers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum EventAction {
    /// The step was taken.
    #[default]
    WentOn = 0,
    /// The step was left out, and the training went on with the next one.
    Skipped = 1,
    /// The step was left out, and the training got an error.
    Stopped = 2,
}

impl EventAction {
    /// The number of the action in the file.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The action of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        [EventAction::WentOn, EventAction::Skipped, EventAction::Stopped].into_iter().find(|one| one.code() == code)
    }

    /// Its name, as the command writes it.
    pub fn name(self) -> &'static str {
        match self {
            EventAction::WentOn => "went-on",
            EventAction::Skipped => "skipped",
            EventAction::Stopped => "stopped",
        }
    }
}

/// An event as one sentence. It implements [`Display`](fmt::Display).
#[derive(Debug, Clone, Copy)]
pub struct EventSentence<'a> {
    /// The optimizer step.
    pub step: u64,
    /// What was noticed.
    pub kind: EventKind,
    /// The examples that are named.
    pub examples: &'a [u64],
    /// How many more examples there are.
    pub more: u64,
    /// The layer with the largest part of the gradient, or the first one that is not finite.
    pub layer: Option<&'a str>,
    /// The number that was noticed, see FORMAT.md.
    pub value: f64,
    /// What it was compared with: the percentile, or the least mean.
    pub reference: f64,
    /// What was done.
    pub action: EventAction,
}

impl EventSentence<'_> {
    /// "example 3" or "examples 3, 4 and 2 more".
    fn examples(&self) -> String {
        let named: Vec<String> = self.examples.iter().map(ToString::to_string).collect();
        let noun = if named.len() as u64 + self.more == 1 { "example" } else { "examples" };
        match (named.is_empty(), self.more) {
            (true, 0) => "an example".into(),
            (true, more) => format!("{more} more {noun}"),
            (false, 0) => format!("{noun} {}", named.join(", ")),
            (false, more) => format!("{noun} {} and {more} more", named.join(", ")),
        }
    }

    fn are_several(&self) -> bool {
        self.examples.len() as u64 + self.more > 1
    }
}

impl fmt::Display for EventSentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: ", self.step)?;
        let (gradient, is) = if self.are_several() { ("gradients", "are") } else { ("gradient", "is") };
        match self.kind {
            EventKind::NonFiniteLoss => write!(f, "the loss is {} at {}", self.value, self.examples())?,
            EventKind::NonFiniteGradient => {
                write!(f, "the {gradient} of {} {is} NaN or infinite", self.examples())?;
                if let Some(layer) = self.layer {
                    write!(f, ", first in layer `{layer}`")?;
                }
            }
            EventKind::LargeGradient => {
                let up_to = if self.are_several() { "up to " } else { "" };
                let times = Short(self.value / self.reference);
                let of = self.examples();
                write!(f, "the {gradient} of {of} {is} {up_to}{times} times the 99th percentile of recent norms")?;
                if let Some(layer) = self.layer {
                    write!(f, ", the largest part in layer `{layer}`")?;
                }
            }
            EventKind::Divergence => {
                let (value, least) = (Short(self.value), Short(self.reference));
                write!(f, "the loss diverges: its running mean is {value}, and {least} was the least so far")?;
                if self.more > 1 {
                    write!(f, " ({} times)", self.more)?;
                }
            }
        }
        match self.action {
            EventAction::WentOn => Ok(()),
            EventAction::Skipped => f.write_str("; the step was skipped"),
            EventAction::Stopped => f.write_str("; the step was not taken, and the training was told to stop"),
        }
    }
}

/// A number with two or three significant digits.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        match size {
            _ if size == 0.0 || !size.is_finite() => write!(f, "{}", self.0),
            _ if !(1e-3..1e6).contains(&size) => write!(f, "{:.1e}", self.0),
            _ if size < 0.1 => write!(f, "{:.4}", self.0),
            _ if size < 10.0 => write!(f, "{:.2}", self.0),
            _ => write!(f, "{:.0}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(kind: EventKind, examples: &[u64], more: u64, layer: Option<&str>, value: f64) -> String {
        let (reference, action) = (0.5, EventAction::WentOn);
        EventSentence { step: 120, kind, examples, more, layer, value, reference, action }.to_string()
    }

    #[test]
    fn sentences_name_examples_and_layer() {
        let one = sentence(EventKind::LargeGradient, &[40312], 0, Some("fc1"), 7.0);
        let what = "step 120: the gradient of example 40312 is 14 times the 99th percentile of recent norms";
        assert_eq!(one, format!("{what}, the largest part in layer `fc1`"));
        let several = sentence(EventKind::LargeGradient, &[3, 5], 2, None, 600.0);
        let what = "the gradients of examples 3, 5 and 2 more are up to 1200 times the 99th percentile of recent norms";
        assert_eq!(several, format!("step 120: {what}"));
        let loss = sentence(EventKind::NonFiniteLoss, &[7], 0, None, f64::NAN);
        assert_eq!(loss, "step 120: the loss is NaN at example 7");
        let gradient = sentence(EventKind::NonFiniteGradient, &[7, 8], 0, Some("a"), f64::INFINITY);
        assert_eq!(gradient, "step 120: the gradients of examples 7, 8 are NaN or infinite, first in layer `a`");
        let rest = sentence(EventKind::NonFiniteGradient, &[], 12, None, f64::NAN);
        assert_eq!(rest, "step 120: the gradients of 12 more examples are NaN or infinite");
        let diverges = sentence(EventKind::Divergence, &[], 0, None, 2.25);
        assert_eq!(diverges, "step 120: the loss diverges: its running mean is 2.25, and 0.50 was the least so far");
    }

    #[test]
    fn numbers_in_the_file_are_their_own() {
        for code in 0..=u8::MAX {
            assert!(EventKind::from_code(code).is_none_or(|kind| kind.code() == code));
            assert!(EventAction::from_code(code).is_none_or(|action| action.code() == code));
        }
        assert_eq!(EventKind::ALL.map(EventKind::code), [1, 2, 3, 4]);
    }
}
