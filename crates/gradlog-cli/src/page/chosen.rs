//! Which training examples a page tells more about: first those that its panels name.

use std::collections::HashSet;

/// Ids in the order in which they were first named.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    known: HashSet<u64>,
    order: Vec<u64>,
}

impl Chosen {
    pub(crate) fn name(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            if self.known.insert(id) {
                self.order.push(id);
            }
        }
    }

    pub(crate) fn ids(&self) -> &[u64] {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_counts() {
        let mut chosen = Chosen::default();
        chosen.name([5, 3]);
        chosen.name([3, 9, 5]);
        assert_eq!(chosen.ids(), [5, 3, 9]);
    }
}
