//! Which rows of a block lie inside a window.

/// Which rows of a block lie inside a window. Mostly all do, and then nothing is held for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inside {
    /// Every row; this many.
    All(usize),
    /// Those that are marked.
    Marked(Vec<bool>),
}

impl Inside {
    /// Whether a row lies inside.
    #[inline]
    pub(crate) fn contains(&self, row: usize) -> bool {
        match self {
            Inside::All(rows) => row < *rows,
            Inside::Marked(marks) => marks.get(row) == Some(&true),
        }
    }

    /// How many rows lie inside.
    pub(crate) fn count(&self) -> usize {
        match self {
            Inside::All(rows) => *rows,
            Inside::Marked(marks) => marks.iter().filter(|mark| **mark).count(),
        }
    }

    /// Whether no row lies inside.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Inside::All(rows) => *rows == 0,
            Inside::Marked(marks) => !marks.contains(&true),
        }
    }

    /// The rows inside, ascending.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        let rows = match self {
            Inside::All(rows) => *rows,
            Inside::Marked(marks) => marks.len(),
        };
        (0..rows).filter(|row| self.contains(*row))
    }

    /// The marks of the rows, unless all lie inside.
    pub(crate) fn marks(&self) -> Option<&[bool]> {
        match self {
            Inside::All(_) => None,
            Inside::Marked(marks) => Some(marks),
        }
    }

    /// The values of a column at the rows inside.
    pub(crate) fn select<T>(&self, column: Vec<T>) -> Vec<T> {
        match self {
            Inside::All(_) => column,
            Inside::Marked(marks) => column.into_iter().zip(marks).filter(|(_, mark)| **mark).map(|(v, _)| v).collect(),
        }
    }

    /// The rows that are also marked in `others`.
    pub(crate) fn intersect(self, others: &[bool]) -> Self {
        match self {
            Inside::All(_) => Inside::Marked(others.to_vec()),
            Inside::Marked(mut marks) => {
                marks.iter_mut().zip(others).for_each(|(mark, other)| *mark &= other);
                Inside::Marked(marks)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_counts_and_values_of_all_and_of_some() {
        let all = Inside::All(3);
        let some = Inside::Marked(vec![true, false, true]);
        assert_eq!((all.count(), some.count()), (3, 2));
        assert_eq!(
            (all.is_empty(), Inside::Marked(vec![false]).is_empty(), Inside::All(0).is_empty()),
            (false, true, true)
        );
        assert_eq!((all.rows().collect::<Vec<_>>(), some.rows().collect::<Vec<_>>()), (vec![0, 1, 2], vec![0, 2]));
        assert_eq!((all.select(vec![7, 8, 9]), some.select(vec![7, 8, 9])), (vec![7, 8, 9], vec![7, 9]));
        assert!(all.contains(2) && !all.contains(3) && !some.contains(1) && !some.contains(9));
        assert_eq!(some.clone().intersect(&[true, true, false]), Inside::Marked(vec![true, false, false]));
        assert_eq!(all.intersect(&[false, true, true]).rows().collect::<Vec<_>>(), [1, 2]);
    }
}
