//! Watches a training: numbers that are not finite, gradients far above others, a loss that diverges.
//!
//! By default the training thread looks at the losses alone. Norms are looked at where the background thread makes
//! them, losses of another device where it reads them, and the news comes with a later `commit`. To leave out a step,
//! the norms are computed before it, and losses read.

mod ahead;
mod committed;
mod found;
mod ledger;
mod losses;
mod news;
mod norms;
mod parts;
mod passes;
mod seen_losses;
mod settings;
mod watch;

pub use committed::{Committed, GuardEvent};
pub(super) use found::{Found, FoundExample};
pub(super) use ledger::Ledger;
pub(super) use news::News;
pub(super) use passes::{Opinion, TrainingGuard};
pub use settings::{Guard, OnEvent};
pub(super) use watch::{NormWatch, PassRows};
