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
