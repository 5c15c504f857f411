//! The resumptions of a run, according to the headers of its segments.

/// For each segment that begins with a resumption: its number, and the first step that is superseded before it. A later
/// resumption at an earlier step lowers that step.
///
/// They are read once for a run. A later resumption may supersede rows that were counted by then. So all scans of the
/// run end before it, and yield the run as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Resumptions(Vec<(u32, u64)>);

impl Resumptions {
    /// `found` has the segments that begin with a resumption, ascending, and the steps in their headers.
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
