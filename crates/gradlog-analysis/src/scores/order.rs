//! Which end of a score comes first, and the order that follows from it.

use std::cmp::Ordering;

/// Which end of a score is the suspicious one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The higher, the more suspicious.
    HighestFirst,
    /// The lower, the more suspicious.
    LowestFirst,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Order::HighestFirst => "highest first",
            Order::LowestFirst => "lowest first",
        })
    }
}

/// The first `count` in an order, sorted by it. It takes time linear in all, and does not sort those that are left out.
pub(crate) fn first_of<T>(mut all: Vec<T>, count: usize, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    if (1..all.len()).contains(&count) {
        all.select_nth_unstable_by(count - 1, &order);
    }
    all.truncate(count);
    all.sort_unstable_by(&order);
    all
}

/// A total order in which NaN comes last whichever end comes first.
pub(crate) fn suspicious_first(order: Order, a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // Adding zero makes -0 and 0 the same, which `total_cmp` would tell apart.
        (false, false) => match order {
            Order::HighestFirst => (b + 0.0).total_cmp(&(a + 0.0)),
            Order::LowestFirst => (a + 0.0).total_cmp(&(b + 0.0)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_list_are_those_of_the_sorted_one() {
        let list: Vec<(u32, u32)> = (0..50).map(|i| (i * 7 % 11, i)).collect();
        let mut sorted = list.clone();
        sorted.sort();
        for count in [0, 1, 7, 49, 50, 51] {
            assert_eq!(first_of(list.clone(), count, Ord::cmp), sorted[..count.min(50)], "{count}");
        }
        assert!(first_of(Vec::<u32>::new(), 3, Ord::cmp).is_empty());
    }
}
