//! How a plan is answered: the visits of the run streamed by, pass by pass.
//!
//! `read.rs` reads which rows count and their gradients, `probes.rs` those of the probes. `sums.rs` adds what the
//! blocks give, `split.rs` takes scores apart.

mod block_visits;
mod columns;
mod group;
mod norms;
mod passes;
mod probes;
mod read;
mod split;
mod strongest;
mod sums;

pub use split::{Part, Split, SplitBy};
pub use strongest::{Ranked, Strongest};
