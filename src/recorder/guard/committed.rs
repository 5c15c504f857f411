//! What `commit` returns: the events that were noticed since the last one.

use gradlog_format::log::{EventAction, EventKind, EventSentence};

/// What a commit returns: what the [`Guard`](crate::Guard) noticed. There is nothing that must be done with it.
///
/// ```no_run
/// # fn run(pass: gradlog::Pass<'_>) -> Result<(), gradlog::RecordError> {
/// for event in pass.commit(0.1)?.events {
///     eprintln!("{event}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Committed {
    /// The events that are new since the last commit. Each comes once. Events about losses are those of this step.
    /// Events about gradients, and about losses on another device, come some steps later, because the background
    /// thread notices them.
    pub events: Vec<GuardEvent>,
    /// More events that are not in the list, because it keeps 64 between two commits. The log has them.
    pub untold: u64,
}

/// Something that a [`Guard`](crate::Guard) noticed. [`Display`](std::fmt::Display) writes it as one sentence.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GuardEvent {
    /// The optimizer step.
    pub step: u64,
    /// The epoch at that time.
    pub epoch: u32,
    /// What was noticed.
    pub kind: EventKind,
    /// The examples, at most 8, in the order of the batch. Empty for a divergence.
    pub examples: Vec<u64>,
    /// How many more examples of the pass there are.
    pub more: u64,
    /// The layer with the largest part of the largest gradient, or the first layer that is not finite. `None` where it
    /// is not known, and for losses.
    pub layer: Option<String>,
    /// Of a large gradient, the greatest norm `‖g‖`. Of a divergence, the running mean of the loss. Otherwise NaN or
    /// infinite.
    pub value: f64,
    /// The value beyond which there is an event; NaN where there is none.
    pub limit: f64,
    /// What the limit is made of: the 99th percentile of recent norms, or the least running mean. NaN for none.
    pub reference: f64,
    /// What was done about it.
    pub action: EventAction,
}

impl std::fmt::Display for GuardEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sentence = EventSentence {
            step: self.step,
            kind: self.kind,
            examples: &self.examples,
            more: self.more,
            layer: self.layer.as_deref(),
            value: self.value,
            reference: self.reference,
            action: self.action,
        };
        sentence.fmt(f)
    }
}
