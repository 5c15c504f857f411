//! From conditions of SQL to the rows that are read: ranges of steps and epochs, and ids of examples.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use gradlog_analysis::Window;
use gradlog_arrow::Record;
use std::ops::Range;

/// The rows of a table that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub window: Window,
    /// Sorted ids, or all.
    pub examples: Option<Vec<u64>>,
}

impl Wanted {
    /// The rows that meet one condition, exactly. `None` for a condition that the log cannot be asked.
    pub fn of_condition(record: Record, condition: &Expr) -> Option<Self> {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                Some(Self::of_condition(record, left)?.and(Self::of_condition(record, right)?))
            }
            // What the planner makes of a short list of ids.
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                let mut examples = Self::of_condition(record, left)?.only_examples()?;
                examples.extend(Self::of_condition(record, right)?.only_examples()?);
                Some(Self::of_examples(examples))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), whole(right)) {
                (Some(column), Some(number)) => Self::of_comparison(record, column, *op, number),
                _ => Self::of_comparison(record, column(right)?, op.swap()?, whole(left)?),
            },
            Expr::InList(list) if !list.negated && column(&list.expr)? == "example" && record.is_of_examples() => {
                Some(Self::of_examples(list.list.iter().map(whole).collect::<Option<Vec<u64>>>()?))
            }
            _ => None,
        }
    }

    fn of_comparison(record: Record, column: &str, op: Operator, number: u64) -> Option<Self> {
        match column {
            "example" if record.is_of_examples() && op == Operator::Eq => Some(Self::of_examples(vec![number])),
            "step" if record != Record::Cards => {
                let steps = range(op, number, u64::MAX)?;
                Some(Self { window: Window::steps(steps), examples: None })
            }
            "epoch" if record != Record::Cards => {
                let epochs = range(op, number, u64::from(u32::MAX))?;
                // Both ends are within the limit.
                Some(Self { window: Window::epochs(epochs.start as u32..epochs.end as u32), examples: None })
            }
            _ => None,
        }
    }

    fn of_examples(mut examples: Vec<u64>) -> Self {
        examples.sort_unstable();
        examples.dedup();
        Self { window: Window::default(), examples: Some(examples) }
    }

    /// The ids, if nothing else is asked.
    fn only_examples(self) -> Option<Vec<u64>> {
        self.examples.filter(|_| self.window == Window::default())
    }

    /// The rows that both want.
    pub fn and(self, other: Self) -> Self {
        let (a, b) = (self.window, other.window);
        let mut window = Window::default();
        if let Some(steps) = overlap(a.steps, b.steps) {
            window = window.with_steps(steps);
        }
        if let Some(epochs) = overlap(a.epochs, b.epochs) {
            window = window.with_epochs(epochs);
        }
        let examples = match (self.examples, other.examples) {
            (Some(a), Some(b)) => Some(a.into_iter().filter(|id| b.binary_search(id).is_ok()).collect()),
            (a, b) => a.or(b),
        };
        Self { window, examples }
    }
}

fn overlap<T: Ord + Copy>(a: Option<Range<T>>, b: Option<Range<T>>) -> Option<Range<T>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.start.max(b.start)..a.end.min(b.end)),
        (a, b) => a.or(b),
    }
}

/// The numbers for which a comparison holds. The greatest number of all, `limit`, is in no range.
fn range(op: Operator, number: u64, limit: u64) -> Option<Range<u64>> {
    if number >= limit {
        return None;
    }
    Some(match op {
        Operator::Eq => number..number + 1,
        Operator::Lt => 0..number,
        Operator::LtEq => 0..number + 1,
        Operator::Gt => number + 1..limit,
        Operator::GtEq => number..limit,
        _ => return None,
    })
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(column.name.as_str()),
        _ => None,
    }
}

fn whole(expr: &Expr) -> Option<u64> {
    match expr {
        Expr::Literal(ScalarValue::UInt64(number), _) => *number,
        Expr::Literal(ScalarValue::UInt32(number), _) => number.map(u64::from),
        Expr::Literal(ScalarValue::Int64(number), _) => number.and_then(|number| u64::try_from(number).ok()),
        Expr::Literal(ScalarValue::Int32(number), _) => number.and_then(|number| u64::try_from(number).ok()),
        _ => None,
    }
}
