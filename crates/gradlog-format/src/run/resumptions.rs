//! The resumptions of a run, as the headers of its segments tell them.

/// The resumptions of a run: from which segment on, and at which step, or at which earlier one a later resumption was.
///
/// Read once for a [`Run`]. Blocks may have been counted by then that a later resumption makes void, so all scans of
/// the run end before it: what they yield is the run as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Resumptions(Vec<(u32, u64)>);

impl Resumptions {
    /// From the segments that a resumption begins, ascending, with their steps.
    pub(super) fn new(mut found: Vec<(u32, u64)>) -> Self {
        let mut least = u64::MAX;
        for (_, step) in found.iter_mut().rev() {
            least = least.min(*step);
            *step = least;
        }
        Self(found)
    }

    /// Whether the resumption that segment `index` begins with is among them.
    pub(super) fn contains(&self, index: u32) -> bool {
        self.0.binary_search_by_key(&index, |(segment, _)| *segment).is_ok()
    }

    /// The first superseded step in segment `index`, if any is.
    pub(super) fn limit(&self, index: u32) -> Option<u64> {
        let later = self.0.partition_point(|(segment, _)| *segment <= index);
        self.0.get(later).map(|(_, step)| *step)
    }
}
