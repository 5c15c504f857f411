//! Which share of the examples each partition of a plan node answers for.

use crate::SqlError;
use gradlog_analysis::ExampleShare;
use std::fmt;

/// The shares of a node's partitions. Of a node that other processes have a part of, the shares of its own; a
/// partition without one gives no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares {
    of: u32,
    own: Vec<Option<ExampleShare>>,
}

impl Shares {
    /// All shares, a partition each.
    pub fn all(of: u32) -> Result<Self, SqlError> {
        Self::new(of, (1..=of).map(Some))
    }

    /// Some shares, by their numbers from 1.
    pub fn new(of: u32, numbers: impl IntoIterator<Item = Option<u32>>) -> Result<Self, SqlError> {
        let share = |number: Option<u32>| number.map(|number| ExampleShare::new(number, of)).transpose();
        let own = numbers.into_iter().map(share).collect::<Result<_, _>>()?;
        Ok(Self { of, own })
    }

    /// How many there are of all partitions of all processes.
    pub fn of(&self) -> u32 {
        self.of
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.own.len()
    }

    /// The share of a partition, or `None` if there is no such partition.
    pub fn get(&self, partition: usize) -> Option<Option<ExampleShare>> {
        self.own.get(partition).copied()
    }

    #[cfg(feature = "cluster")]
    pub fn numbers(&self) -> Vec<Option<u32>> {
        self.own.iter().map(|share| share.map(ExampleShare::number)).collect()
    }

    /// The same shares for some processes.
    #[cfg(feature = "cluster")]
    pub fn deal(&self, tasks: usize) -> Vec<Self> {
        let own = deal(&self.own, tasks);
        own.into_iter().map(|own| Self { of: self.of, own }).collect()
    }
}

/// What an answer rests on, of which each share has told it: without the words that say which share told it.
pub(crate) fn basis_words(basis: &impl fmt::Display, share: ExampleShare) -> String {
    let words = basis.to_string();
    let of_share = format!("; share {share} of the examples alone");
    format!("basis: {}", words.strip_suffix(of_share.as_str()).unwrap_or(&words))
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: Vec<String> = self.own.iter().flatten().map(|share| share.number().to_string()).collect();
        match own.len() == self.of as usize {
            true => write!(f, "{}", self.of),
            false => write!(f, "[{}] of {}", own.join(", "), self.of),
        }
    }
}

/// Deals a list out in turn to as many tasks. All get as many; what is missing at the end is empty.
#[cfg(feature = "cluster")]
pub(crate) fn deal<T: Clone + Default>(all: &[T], tasks: usize) -> Vec<Vec<T>> {
    let tasks = tasks.max(1);
    let each = all.len().div_ceil(tasks).max(1);
    let of_task = |task| (0..each).map(|turn| all.get(turn * tasks + task).cloned().unwrap_or_default()).collect();
    (0..tasks).map(of_task).collect()
}
