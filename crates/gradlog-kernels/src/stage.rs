//! What the background thread of a recorder does at the moment, for a benchmark that looks from time to time.
//!
//! A clock around each stage of each vector would take as long as the stage. A stage is a store of one byte.

use std::sync::atomic::{AtomicU8, Ordering};

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident),* $(,)?) => {
        /// A stage of the work.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Stage { $($(#[$doc])* $stage),* }

        impl Stage {
            /// All of them, in the order of the work.
            pub const ALL: &'static [Self] = &[$(Self::$stage),*];
        }
    };
}

stages! {
    /// Waits for a pass.
    Idle,
    /// Reads the captured numbers for the first time: norms and magnitudes.
    Read,
    /// Chooses the numbers to keep apart.
    Apart,
    /// Folds whole gradients.
    Fold,
    /// Projects and rotates vectors.
    Project,
    /// Rounds numbers and packs their codes.
    Round,
    /// Codes columns.
    Code,
    /// Writes blocks and syncs them.
    Write,
    /// All else: columns of single numbers, copies, freed memory.
    Other,
}

static STAGE: AtomicU8 = AtomicU8::new(Stage::Idle as u8);

/// Says that the calling thread begins this stage. Of several threads the last that called counts.
#[inline]
pub fn enter(stage: Stage) {
    STAGE.store(stage as u8, Ordering::Relaxed);
}

/// The stage that was begun last.
pub fn current() -> Stage {
    Stage::ALL[usize::from(STAGE.load(Ordering::Relaxed)).min(Stage::ALL.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_stage_is_the_one_that_began_last() {
        for &stage in Stage::ALL {
            enter(stage);
            assert_eq!(current(), stage);
        }
    }
}
