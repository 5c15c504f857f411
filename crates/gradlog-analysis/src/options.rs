//! The options that questions have in common, written once: which visits count, and where progress is reported.
//!
//! A question has the fields `window` and `progress`, or a question inside it has them, whose field the macro is given.

/// Adds `window`, `epochs` and `steps` to a question.
macro_rules! window_options {
    ($question:ty $(, $inner:ident)?) => {
        impl $question {
            /// Counts only what lies inside this window. It replaces the window that was set before.
            #[must_use]
            pub fn window(mut self, window: $crate::Window) -> Self {
                self$(.$inner)?.window = window;
                self
            }

            /// Counts only visits of these epochs.
            #[must_use]
            pub fn epochs(mut self, epochs: impl std::ops::RangeBounds<u32>) -> Self {
                self$(.$inner)?.window = self$(.$inner)?.window.with_epochs(epochs);
                self
            }

            /// Counts only visits of these optimizer steps.
            #[must_use]
            pub fn steps(mut self, steps: impl std::ops::RangeBounds<u64>) -> Self {
                self$(.$inner)?.window = self$(.$inner)?.window.with_steps(steps);
                self
            }
        }
    };
}

/// Adds `source` and `sweeps` to a question that sweeps can answer.
macro_rules! source_options {
    ($question:ty) => {
        impl $question {
            /// Counts the visits of the training, or the sweeps at checkpoints.
            #[must_use]
            pub fn source(mut self, source: $crate::Source) -> Self {
                self.window.source = source;
                self
            }

            /// Counts the sweeps at checkpoints, not the visits. Steps and epochs are then those of the checkpoints.
            #[must_use]
            pub fn sweeps(self) -> Self {
                self.source($crate::Source::Sweeps)
            }
        }
    };
}

/// Adds `share` to a question that can be shared out among machines.
macro_rules! share_options {
    ($question:ty) => {
        impl $question {
            /// Answers for a share of the examples alone, as one of several machines. [`PartialAnswer`] holds such an
            /// answer, and puts those of all shares together again.
            ///
            /// [`PartialAnswer`]: crate::PartialAnswer
            #[must_use]
            pub fn share(mut self, share: $crate::ExampleShare) -> Self {
                self.share = Some(share);
                self
            }
        }
    };
}

/// Adds `progress` and `share_progress` to a question.
macro_rules! progress_options {
    ($question:ty $(, $inner:ident)?) => {
        impl $question {
            /// Calls `report` with the bytes of each block that was read or skipped.
            #[must_use]
            pub fn progress(mut self, report: impl Fn(u64) + Send + Sync + 'static) -> Self {
                self$(.$inner)?.progress = $crate::Progress::new(report);
                self
            }

            /// Reports to `progress`, which other questions may report to as well.
            #[must_use]
            pub fn share_progress(mut self, progress: &$crate::Progress) -> Self {
                self$(.$inner)?.progress = progress.clone();
                self
            }
        }
    };
}
