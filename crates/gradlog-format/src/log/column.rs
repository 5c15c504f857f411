//! Columns: the values of each row, and the types of their numbers (FORMAT.md, "Columns").

use crate::sketch::Encoding;
use serde::{Deserialize, Serialize};

/// The layer number of columns that belong to no single layer.
pub const NO_LAYER: u16 = u16::MAX;

/// What the numbers of a column are. The discriminants are the numbers in the file. Numbers are added, and never
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[non_exhaustive]
pub enum Column {
    /// Id of the example, as the caller gave it (u64).
    Example = 1,
    /// Optimizer step, counted from 0 (u64). For a probe, the step that followed it.
    Step = 2,
    /// Epoch that the caller declared (u32).
    Epoch = 3,
    /// Learning rate of the step (f32).
    LearningRate = 4,
    /// Factor by which the step's gradient was multiplied before the optimizer took it, e.g. by clipping (f32).
    Clip = 5,
    /// `c = ∂L/∂ℓ`, the weight of this example's own loss in the loss that was differentiated (f32): `1/B` under a
    /// mean.
    Coefficient = 6,
    /// The example's own loss `ℓ` (f32).
    Loss = 7,
    /// EL2N, `‖p − onehot(y)‖₂` with the predicted probabilities `p` and the label `y` (f32). For a soft target `t`,
    /// `‖p − t‖₂`.
    El2n = 8,
    /// Logit of the label minus the largest other logit (f32).
    Margin = 9,
    /// Probability that the model gave to the label (f32).
    Confidence = 10,
    /// Share of the example's predictions that are right (f32). With one prediction it is 0 or 1.
    Correct = 11,
    /// Label (u32).
    Label = 12,
    /// Predicted class (u32).
    Prediction = 13,
    /// Target of a regression with one output (f32).
    Target = 14,
    /// Output of a regression with one output (f32).
    Output = 15,
    /// Number of predictions that the example's loss is the mean of (u32). Absent if it is always 1.
    Positions = 16,
    /// `‖g‖²`, the squared norm of the example's own gradient over all recorded layers (f32). Where it is less than
    /// 2^−126, the column holds `−‖g‖`: see [`Column::decode_squared_norm`].
    SquaredNorm = 17,
    /// Bit set (u8), see [`Column::FLAG_NOT_FINITE`] and the others.
    Flags = 18,
    /// Number of the probe set in the manifest's order of first use (u32), in probe blocks.
    ProbeSet = 19,
    /// How the model ran in a replay (u8), see [`Mode`](super::Mode). Only replays write it.
    Mode = 20,
    /// The score whose gradient the row holds (u8), see [`PredictionScore`](super::PredictionScore). Absent for a
    /// loss.
    PredictionScore = 21,
    /// The class that the score is about (u32).
    ScoredClass = 22,
    /// Weight `w` of the row's gradient `g` in the curvature `Σ w g gᵀ / Σ w` (f32), in probe blocks. Such rows are no
    /// probes.
    CurvatureWeight = 23,
    /// Input factor of a layer, possibly folded.
    Input = 32,
    /// Scale of [`Column::Input`] (bf16).
    InputScale = 33,
    /// Output-gradient factor of a layer, possibly folded.
    Delta = 34,
    /// Scale of [`Column::Delta`] (bf16).
    DeltaScale = 35,
    /// The folded gradients of all folded layers.
    Folded = 36,
    /// Scale of [`Column::Folded`] (bf16).
    FoldedScale = 37,
    /// Places of the numbers of [`Column::Input`] that are kept apart (u32, as many to a row as one row needs).
    InputPlaces = 38,
    /// These numbers themselves (f32); 0 where a row needs fewer.
    InputApart = 39,
    /// As [`Column::InputPlaces`], of [`Column::Delta`].
    DeltaPlaces = 40,
    /// As [`Column::InputApart`], of [`Column::Delta`].
    DeltaApart = 41,
    /// As [`Column::InputPlaces`], of [`Column::Folded`] before its rotation.
    FoldedPlaces = 42,
    /// As [`Column::InputApart`], of [`Column::Folded`] before its rotation.
    FoldedApart = 43,
    /// What rounding at random left open of [`Column::Input`] (two u8 to a row), see
    /// [`Rounding`](crate::sketch::Rounding).
    InputRounding = 44,
    /// As [`Column::InputRounding`], of [`Column::Delta`].
    DeltaRounding = 45,
    /// As [`Column::InputRounding`], of [`Column::Folded`].
    FoldedRounding = 46,
    /// Batch size of a step (u32): the number of visits whose gradients it summed over all its passes. In step blocks.
    BatchSize = 64,
    /// Milliseconds since the Unix epoch (u64), in step and gap blocks.
    WallClock = 65,
    /// Momentum of the optimizer at a step (f32), in step blocks; absent or NaN where it was not told.
    Momentum = 66,
    /// Weight decay of the optimizer at a step (f32), in step blocks.
    WeightDecay = 67,
    /// Visits that were dropped (u64), in gap blocks and the end block.
    Dropped = 68,
    /// Name of a probe set in UTF-8, in probe-set blocks (u8, one row; its width is the length of the name).
    Name = 69,
    /// Training visits written (u64), in the end block.
    Visits = 70,
    /// Length of a checkpoint's file in bytes (u64), in checkpoint blocks.
    Bytes = 71,
    /// CRC-32 of a checkpoint's file (u32), in checkpoint blocks.
    Checksum = 72,
    /// Visits of steps that were never taken (u64), in gap blocks: the loop abandoned them, or they were not finite.
    Abandoned = 73,
    /// Steps of which the log knows nothing (u64), in gap blocks: the training resumed behind the end of the log.
    UnknownSteps = 74,
    /// Number of a layer in the manifest (u32), in layer-rate blocks.
    Layer = 76,
    /// A layer's learning rate divided by that of the step, from the row's step on (f32), in layer-rate blocks.
    RateFactor = 77,
    /// Whether a layer's parameters change, from the row's step on (u8, 0 or 1), in layer-rate blocks.
    Trained = 78,
    /// Number of examples that a check compared (u32), in check blocks.
    Checked = 80,
    /// What a check found (u32), one bit for each [`FindingKind`](super::FindingKind), in check blocks.
    Findings = 81,
    /// Verdict of a check in UTF-8 (u8, one row; its width is the length of the text), in check blocks.
    Text = 82,
}

impl Column {
    /// Flag: the gradient, the loss or a prediction was NaN or infinite. The sketch holds zeros.
    pub const FLAG_NOT_FINITE: u8 = 1;
    /// Flag: [`Column::SquaredNorm`] is estimated from a sketch, not exact.
    pub const FLAG_NORM_ESTIMATED: u8 = 2;
    /// Flag: the example had no weight in the loss (`c = 0`). Its gradient is not known and is stored as zero.
    pub const FLAG_NO_WEIGHT: u8 = 4;

    /// Flag: a layer ran in the example's pass and backward brought it no gradient, for example because its output was
    /// detached. Its part of the gradient is zero.
    pub const FLAG_NO_GRADIENT: u8 = 8;

    /// In [`Column::Label`] and [`Column::Prediction`]: no class. Example: the target is ignored.
    pub const NO_CLASS: u32 = u32::MAX;

    const ALL: [Column; 55] = [
        Column::Example,
        Column::Step,
        Column::Epoch,
        Column::LearningRate,
        Column::Clip,
        Column::Coefficient,
        Column::Loss,
        Column::El2n,
        Column::Margin,
        Column::Confidence,
        Column::Correct,
        Column::Label,
        Column::Prediction,
        Column::Target,
        Column::Output,
        Column::Positions,
        Column::SquaredNorm,
        Column::Flags,
        Column::ProbeSet,
        Column::Mode,
        Column::PredictionScore,
        Column::ScoredClass,
        Column::CurvatureWeight,
        Column::Input,
        Column::InputScale,
        Column::Delta,
        Column::DeltaScale,
        Column::Folded,
        Column::FoldedScale,
        Column::InputPlaces,
        Column::InputApart,
        Column::DeltaPlaces,
        Column::DeltaApart,
        Column::FoldedPlaces,
        Column::FoldedApart,
        Column::InputRounding,
        Column::DeltaRounding,
        Column::FoldedRounding,
        Column::BatchSize,
        Column::WallClock,
        Column::Momentum,
        Column::WeightDecay,
        Column::Dropped,
        Column::Name,
        Column::Visits,
        Column::Bytes,
        Column::Checksum,
        Column::Abandoned,
        Column::UnknownSteps,
        Column::Layer,
        Column::RateFactor,
        Column::Trained,
        Column::Checked,
        Column::Findings,
        Column::Text,
    ];

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
            Column::SquaredNorm | Column::Flags => ColumnRole::Norms,
            Column::ProbeSet
            | Column::Mode
            | Column::PredictionScore
            | Column::ScoredClass
            | Column::CurvatureWeight => ColumnRole::Probe,
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
            | Column::Text => ColumnRole::Run,
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
            | Column::Checked
            | Column::Findings
            | Column::Checksum => Some(Cells::U32),
            Column::Example
            | Column::Step
            | Column::WallClock
            | Column::Dropped
            | Column::Abandoned
            | Column::UnknownSteps
            | Column::Visits
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
            | Column::InputApart
            | Column::DeltaApart
            | Column::FoldedApart
            | Column::CurvatureWeight
            | Column::Momentum
            | Column::WeightDecay
            | Column::RateFactor => Some(Cells::F32),
            Column::InputScale | Column::DeltaScale | Column::FoldedScale => Some(Cells::Bf16),
            Column::Input | Column::Delta | Column::Folded => None,
        }
    }

    /// The column of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|column| *column as u16 == code)
    }

    /// What the column's entry says in [`ColumnEntry::amends`](super::parts::ColumnEntry): the number of the column
    /// whose meaning it changes, or 0. A reader that does not know this column then refuses that one, and no other.
    pub fn amends(self) -> u16 {
        match self {
            Column::InputPlaces | Column::InputApart => Column::Input as u16,
            Column::DeltaPlaces | Column::DeltaApart => Column::Delta as u16,
            Column::FoldedPlaces | Column::FoldedApart => Column::Folded as u16,
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

/// What a column is for. Each column has one role, so that whoever counts bytes by role misses none.
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

/// Names one column of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColumnKey {
    /// What its numbers are.
    pub column: Column,
    /// The layer's number in the manifest, or [`NO_LAYER`].
    pub layer: u16,
}

impl From<Column> for ColumnKey {
    fn from(column: Column) -> Self {
        Self { column, layer: NO_LAYER }
    }
}

/// The type of the numbers in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Cells {
    /// Bytes.
    U8,
    /// 32-bit unsigned integers, little-endian.
    U32,
    /// 64-bit unsigned integers, little-endian.
    U64,
    /// 32-bit IEEE floats, little-endian.
    F32,
    /// The upper halves of 32-bit IEEE floats, little-endian.
    Bf16,
    /// A vector in this encoding in each row. Its scale is in a column of its own.
    Vector(Encoding),
}

impl Cells {
    /// The number of the type in the file.
    pub fn code(self) -> u8 {
        match self {
            Cells::U8 => 1,
            Cells::U32 => 2,
            Cells::U64 => 3,
            Cells::F32 => 4,
            Cells::Bf16 => 5,
            Cells::Vector(Encoding::F32) => 16,
            Cells::Vector(Encoding::F16) => 17,
            Cells::Vector(Encoding::Q8) => 18,
            Cells::Vector(Encoding::Q4) => 19,
            Cells::Vector(Encoding::Signs) => 20,
        }
    }

    /// The type of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Cells::U8,
            2 => Cells::U32,
            3 => Cells::U64,
            4 => Cells::F32,
            5 => Cells::Bf16,
            16 => Cells::Vector(Encoding::F32),
            17 => Cells::Vector(Encoding::F16),
            18 => Cells::Vector(Encoding::Q8),
            19 => Cells::Vector(Encoding::Q4),
            20 => Cells::Vector(Encoding::Signs),
            _ => return None,
        })
    }

    /// Bytes of one number if it can be split into planes ([`super::planes`]), else 1.
    pub(super) fn number_bytes(self) -> usize {
        match self {
            Cells::U8 | Cells::Vector(_) => 1,
            Cells::Bf16 => 2,
            Cells::U32 | Cells::F32 => 4,
            Cells::U64 => 8,
        }
    }

    /// Bytes of one row of `width` numbers.
    pub fn row_bytes(self, width: u32) -> u64 {
        let width = u64::from(width);
        match self {
            Cells::U8 => width,
            Cells::Bf16 => 2 * width,
            Cells::U32 | Cells::F32 => 4 * width,
            Cells::U64 => 8 * width,
            Cells::Vector(encoding) => encoding.bytes(width as usize) as u64,
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

    #[test]
    fn codes_are_unique_and_lead_back() {
        for column in Column::ALL {
            assert_eq!(Column::from_code(column as u16), Some(column));
        }
        let mut codes: Vec<u16> = Column::ALL.iter().map(|c| *c as u16).collect();
        codes.dedup();
        assert_eq!(codes.len(), Column::ALL.len());
        assert_eq!(Column::from_code(0), None);
        for code in 0..=u8::MAX {
            if let Some(cells) = Cells::from_code(code) {
                assert_eq!(cells.code(), code);
            }
        }
    }
}
