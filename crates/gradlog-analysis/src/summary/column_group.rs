//! Columns by what they are for.

use gradlog_format::log::{Column, ColumnRole};

/// What a column of a visit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ColumnGroup {
    /// Who, when and with which weight: example, step, epoch, learning rate, clip, coefficient.
    Visit,
    /// What the model thought of it: loss, margin, prediction and the like.
    Outputs,
    /// Squared norm and flags.
    Norms,
    /// Input factors of the factored layers.
    Inputs,
    /// Output-gradient factors of the factored layers.
    Deltas,
    /// The folded vector of the other layers.
    Folded,
    /// Columns of a newer version.
    Unknown,
}

impl ColumnGroup {
    pub(super) fn from_code(code: u16) -> Self {
        match Column::from_code(code).map(Column::role) {
            Some(ColumnRole::Visit) => ColumnGroup::Visit,
            Some(ColumnRole::Outputs | ColumnRole::Probe) => ColumnGroup::Outputs,
            Some(ColumnRole::Norms) => ColumnGroup::Norms,
            Some(ColumnRole::Inputs) => ColumnGroup::Inputs,
            Some(ColumnRole::Deltas) => ColumnGroup::Deltas,
            Some(ColumnRole::Folded) => ColumnGroup::Folded,
            // The format gives each of its columns a role, and a visit has none of the others.
            _ => ColumnGroup::Unknown,
        }
    }

    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            ColumnGroup::Visit => "visit",
            ColumnGroup::Outputs => "outputs",
            ColumnGroup::Norms => "norms",
            ColumnGroup::Inputs => "inputs",
            ColumnGroup::Deltas => "deltas",
            ColumnGroup::Folded => "folded",
            ColumnGroup::Unknown => "unknown",
        }
    }
}
