//! How often each example is visited, and how many examples are under way at a time.

/// Counts by example. Of millions of examples, the standard hash function takes longer than all else that is done once
/// for each.
#[derive(Default)]
pub(in crate::influence) struct Counts {
    by_example: foldhash::HashMap<u64, Seen>,
    blocks: u32,
}

/// Of an example, its visits, and the first and the last block that holds one.
struct Seen {
    visits: u32,
    first: u32,
    last: u32,
}

impl Counts {
    /// Counts the visits of one block; blocks come in the order of the file.
    pub(in crate::influence) fn block(&mut self, examples: impl Iterator<Item = u64>) {
        let block = self.blocks;
        for example in examples {
            let seen = self.by_example.entry(example).or_insert(Seen { visits: 0, first: block, last: block });
            seen.visits = seen.visits.saturating_add(1);
            seen.last = block;
        }
        self.blocks = self.blocks.saturating_add(1);
    }

    pub(in crate::influence) fn examples(&self) -> usize {
        self.by_example.len()
    }

    pub(in crate::influence) fn visits(&self, example: u64) -> Option<u32> {
        self.by_example.get(&example).map(|seen| seen.visits)
    }

    /// The most examples that have begun and not ended in the same block: this many have sums at a time.
    pub(in crate::influence) fn open_at_most(&self) -> usize {
        let (mut begun, mut ended) = (vec![0usize; self.blocks as usize + 1], vec![0usize; self.blocks as usize + 1]);
        for seen in self.by_example.values() {
            begun[seen.first as usize] += 1;
            ended[seen.last as usize] += 1;
        }
        let (mut open, mut most) = (0, 0);
        for (begun, ended) in begun.into_iter().zip(ended) {
            open += begun;
            most = most.max(open);
            open -= ended;
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_and_the_most_examples_under_way() {
        let counted = |blocks: &[&[u64]]| {
            let mut counts = Counts::default();
            blocks.iter().for_each(|block| counts.block(block.iter().copied()));
            (counts.examples(), counts.visits(1), counts.visits(7), counts.open_at_most())
        };
        assert_eq!(counted(&[]), (0, None, None, 0));
        // Each block has examples of its own: those of one block at a time.
        assert_eq!(counted(&[&[1, 2, 1], &[3, 4, 5], &[6]]), (6, Some(2), None, 3));
        // One example that comes back last is under way all the while; a block without any counts as one.
        assert_eq!(counted(&[&[1, 2], &[], &[3, 7, 7], &[4, 5], &[1]]), (6, Some(2), Some(2), 3));
        // Epochs: everybody is under way.
        assert_eq!(counted(&[&[1, 2], &[3, 4], &[1, 2], &[3, 4]]), (4, Some(2), None, 4));
    }
}
