//! What is known of each column: its role, its type, and the columns that belong to it.

use super::{Cells, Column};
use crate::log::{AMENDS_ALL, AMENDS_VECTORS};

/// What a column is for. Every column has exactly one role. So the bytes of all roles add up to the bytes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnRole {
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
    /// What a probe or a replay says of a row: its set, mode, score, curvature weight.
    Probe,
    /// Of a step, a gap, a probe set, a checkpoint or the end: no column of a visit.
    Run,
}

impl Column {
    /// Where the numbers kept apart of a column of vectors are: their places and their values.
    pub fn apart(self) -> Option<(Column, Column)> {
        match self {
            Column::Input => Some((Column::InputPlaces, Column::InputApart)),
            Column::Delta => Some((Column::DeltaPlaces, Column::DeltaApart)),
            Column::Folded => Some((Column::FoldedPlaces, Column::FoldedApart)),
            _ => None,
        }
    }

    /// What rounding left open of a column of vectors, where it is stored.
    pub fn rounding(self) -> Option<Column> {
        match self {
            Column::Input => Some(Column::InputRounding),
            Column::Delta => Some(Column::DeltaRounding),
            Column::Folded => Some(Column::FoldedRounding),
            _ => None,
        }
    }

    /// Whether a row of plain numbers of this column may have several.
    pub fn is_wide(self) -> bool {
        matches!(
            self,
            Column::Name
                | Column::Text
                | Column::CardData
                | Column::InputPlaces
                | Column::InputApart
                | Column::DeltaPlaces
                | Column::DeltaApart
                | Column::FoldedPlaces
                | Column::FoldedApart
                | Column::InputRounding
                | Column::DeltaRounding
                | Column::FoldedRounding
        )
    }

    /// The number that [`Column::SquaredNorm`] holds for `‖g‖²`.
    ///
    /// f32 has no squares of norms below 1e-23, such as those of an example whose logit leads by 51. So `−‖g‖` stands
    /// for a square below 2^−126, the least number that f32 holds with all its digits.
    pub fn encode_squared_norm(squared_norm: f64) -> f32 {
        if squared_norm > 0.0 && squared_norm < f64::from(f32::MIN_POSITIVE) {
            return -(squared_norm.sqrt() as f32);
        }
        squared_norm as f32
    }

    /// `‖g‖²` from a number of [`Column::SquaredNorm`].
    pub fn decode_squared_norm(stored: f32) -> f64 {
        let wide = f64::from(stored);
        if wide < 0.0 {
            wide * wide
        } else {
            wide
        }
    }

    /// What it is for.
    pub fn role(self) -> ColumnRole {
        match self {
            Column::Example
            | Column::Step
            | Column::Epoch
            | Column::LearningRate
            | Column::Clip
            | Column::Coefficient => ColumnRole::Visit,
            Column::Loss
            | Column::El2n
            | Column::Margin
            | Column::Confidence
            | Column::Correct
            | Column::Label
            | Column::Prediction
            | Column::Target
            | Column::Output
            | Column::Positions => ColumnRole::Outputs,
            Column::SquaredNorm | Column::PreconditionedSquaredNorm | Column::Flags => ColumnRole::Norms,
            Column::ProbeSet
            | Column::Mode
            | Column::PredictionScore
            | Column::ScoredClass
            | Column::CurvatureWeight
            | Column::Preconditioner => ColumnRole::Probe,
            Column::Input | Column::InputScale | Column::InputPlaces | Column::InputApart | Column::InputRounding => {
                ColumnRole::Inputs
            }
            Column::Delta | Column::DeltaScale | Column::DeltaPlaces | Column::DeltaApart | Column::DeltaRounding => {
                ColumnRole::Deltas
            }
            Column::Folded
            | Column::FoldedScale
            | Column::FoldedPlaces
            | Column::FoldedApart
            | Column::FoldedRounding => ColumnRole::Folded,
            Column::BatchSize
            | Column::WallClock
            | Column::Momentum
            | Column::WeightDecay
            | Column::Dropped
            | Column::Name
            | Column::Visits
            | Column::Bytes
            | Column::Checksum
            | Column::Abandoned
            | Column::UnknownSteps
            | Column::Layer
            | Column::RateFactor
            | Column::Trained
            | Column::Checked
            | Column::Findings
            | Column::Text
            | Column::UpdateRule
            | Column::Beta1
            | Column::Beta2
            | Column::Epsilon
            | Column::StepsTaken
            | Column::Parameter
            | Column::EventKind
            | Column::EventAction
            | Column::Value
            | Column::Limit
            | Column::Reference
            | Column::Count
            | Column::CardKind
            | Column::PictureWidth
            | Column::CardBytes
            | Column::CardData
            | Column::Bucket => ColumnRole::Run,
        }
    }

    /// The type of its numbers; `None` for vectors, whose encoding the run chooses.
    pub fn cells(self) -> Option<Cells> {
        match self {
            Column::Flags
            | Column::Mode
            | Column::PredictionScore
            | Column::Name
            | Column::Text
            | Column::Trained
            | Column::UpdateRule
            | Column::Preconditioner
            | Column::EventKind
            | Column::EventAction
            | Column::CardKind
            | Column::CardData
            | Column::InputRounding
            | Column::DeltaRounding
            | Column::FoldedRounding => Some(Cells::U8),
            Column::Epoch
            | Column::Label
            | Column::Prediction
            | Column::Positions
            | Column::ProbeSet
            | Column::ScoredClass
            | Column::BatchSize
            | Column::InputPlaces
            | Column::DeltaPlaces
            | Column::FoldedPlaces
            | Column::Layer
            | Column::Parameter
            | Column::Checked
            | Column::Findings
            | Column::Checksum
            | Column::PictureWidth
            | Column::CardBytes
            | Column::Bucket => Some(Cells::U32),
            Column::Example
            | Column::Step
            | Column::WallClock
            | Column::Dropped
            | Column::Abandoned
            | Column::UnknownSteps
            | Column::Visits
            | Column::StepsTaken
            | Column::Count
            | Column::Bytes => Some(Cells::U64),
            Column::LearningRate
            | Column::Clip
            | Column::Coefficient
            | Column::Loss
            | Column::El2n
            | Column::Margin
            | Column::Confidence
            | Column::Correct
            | Column::Target
            | Column::Output
            | Column::SquaredNorm
            | Column::PreconditionedSquaredNorm
            | Column::InputApart
            | Column::DeltaApart
            | Column::FoldedApart
            | Column::CurvatureWeight
            | Column::Momentum
            | Column::WeightDecay
            | Column::RateFactor
            | Column::Beta1
            | Column::Beta2
            | Column::Epsilon
            | Column::Value
            | Column::Limit
            | Column::Reference => Some(Cells::F32),
            Column::InputScale | Column::DeltaScale | Column::FoldedScale => Some(Cells::Bf16),
            Column::Input | Column::Delta | Column::Folded => None,
        }
    }

    /// What the column's entry says in [`ColumnEntry::amends`](crate::log::parts::ColumnEntry): the number of the
    /// column whose meaning it changes, or 0. A reader that does not know this column then refuses that one, and no
    /// other.
    pub fn amends(self) -> u16 {
        match self {
            Column::InputPlaces | Column::InputApart => Column::Input as u16,
            Column::DeltaPlaces | Column::DeltaApart => Column::Delta as u16,
            Column::FoldedPlaces | Column::FoldedApart => Column::Folded as u16,
            Column::Preconditioner => AMENDS_VECTORS,
            Column::Bucket => AMENDS_ALL,
            _ => 0,
        }
    }

    /// Whether the column belongs to one layer, whose number it carries.
    pub fn is_of_layer(self) -> bool {
        matches!(
            self,
            Column::Input
                | Column::InputScale
                | Column::InputPlaces
                | Column::InputApart
                | Column::InputRounding
                | Column::Delta
                | Column::DeltaScale
                | Column::DeltaPlaces
                | Column::DeltaApart
                | Column::DeltaRounding
        )
    }

    /// Whether it holds vectors or what belongs to them.
    pub fn is_of_gradient(self) -> bool {
        let folded = Column::Folded as u16..=Column::FoldedScale as u16;
        let beside = Column::FoldedPlaces as u16..=Column::FoldedApart as u16;
        let code = self as u16;
        self.is_of_layer() || folded.contains(&code) || beside.contains(&code) || self == Column::FoldedRounding
    }

    /// The scales of a column of vectors. `None` for any other column.
    pub fn scales(self) -> Option<Column> {
        match self {
            Column::Input => Some(Column::InputScale),
            Column::Delta => Some(Column::DeltaScale),
            Column::Folded => Some(Column::FoldedScale),
            _ => None,
        }
    }

    /// Whether its numbers may be of this type (FORMAT.md, "Columns"). Any type of vector will do for vectors.
    pub fn takes(self, cells: Cells) -> bool {
        match self.cells() {
            Some(own) => cells == own,
            None => matches!(cells, Cells::Vector(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_norms_below_the_range_of_f32_keep_their_digits() {
        for exponent in -80..40 {
            let squared = 3.7 * 10f64.powi(exponent);
            let back = Column::decode_squared_norm(Column::encode_squared_norm(squared));
            // A norm below 1e-38 has fewer digits, and one below 1e-45 is 0.
            let tolerance = if exponent < -75 { 0.1 } else { 3e-7 };
            assert!((back / squared - 1.0).abs() < tolerance || exponent > 37, "{squared} {back}");
        }
        for same in [0.0, 1.0, f64::INFINITY, f64::from(f32::MIN_POSITIVE)] {
            assert_eq!(f64::from(Column::encode_squared_norm(same)), same);
        }
        assert!(Column::encode_squared_norm(f64::NAN).is_nan() && Column::decode_squared_norm(f32::NAN).is_nan());
        assert_eq!(Column::encode_squared_norm(1e-100), 0.0);
    }
}
