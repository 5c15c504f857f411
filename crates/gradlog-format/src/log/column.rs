//! Columns: the values of each row, and the types of their numbers (FORMAT.md, "Columns").

mod cells;
mod facts;

pub use cells::Cells;
pub use facts::ColumnRole;

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
    /// What the row's vectors are multiplied by (u8), see [`Preconditioner`](super::Preconditioner), in probe blocks.
    /// Such rows are the same probes once more.
    Preconditioner = 24,
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
    /// The rule by which the optimizer takes the step (u8), see [`UpdateRule`](super::UpdateRule), in step blocks;
    /// absent or 0 where it was not told.
    UpdateRule = 75,
    /// Number of a layer in the manifest (u32), in layer-rate blocks.
    Layer = 76,
    /// A layer's learning rate divided by that of the step, from the row's step on (f32), in layer-rate blocks.
    RateFactor = 77,
    /// Whether a layer's parameters change, from the row's step on (u8: 0 none, 1 all, 2 some), in layer-rate blocks.
    Trained = 78,
    /// Of Adam, the share `β₁` of the first moment that a step keeps (f32), in step blocks; NaN for other rules.
    Beta1 = 79,
    /// Number of examples that a check compared (u32), in check blocks.
    Checked = 80,
    /// What a check found (u32), one bit for each [`FindingKind`](super::FindingKind), in check blocks.
    Findings = 81,
    /// Verdict of a check in UTF-8 (u8, one row; its width is the length of the text), in check blocks.
    Text = 82,
    /// Of Adam, the share `β₂` of the second moment that a step keeps (f32), in step blocks; NaN for other rules.
    Beta2 = 83,
    /// Of Adam, `ε`, which is added to the root of the second moment (f32), in step blocks; NaN for other rules.
    Epsilon = 84,
    /// Of Adam, how many steps it has taken after this one (u64), in step blocks: `t` of the bias corrections.
    StepsTaken = 85,
    /// `‖D^{1/2} g‖²` in Adam's metric `D = 1/(√v̂ + ε)`, each layer times its rate factor (f32; encoded as
    /// [`Column::SquaredNorm`]), in blocks of visits and sweeps. Absent where the moments were not known.
    PreconditionedSquaredNorm = 86,
    /// Number of a parameter among those of its layer.
    Parameter = 87,
    /// What a guard noticed (u8), see [`EventKind`](super::EventKind), in event blocks.
    EventKind = 88,
    /// What the training did about it (u8), see [`EventAction`](super::EventAction), in event blocks.
    EventAction = 89,
    /// The number that a guard noticed (f32), in event blocks.
    Value = 90,
    /// The number beyond which there is an event (f32), in event blocks; NaN for none.
    Limit = 91,
    /// What the limit is made of (f32), in event blocks; NaN for none.
    Reference = 92,
    /// How many events a row stands for (u64), in event blocks; how many cards were refused, in card blocks.
    Count = 93,
    /// What the bytes of a card are (u8), see [`CardKind`](super::CardKind), in card blocks.
    CardKind = 94,
    /// Pixels in a row of a picture (u32), in card blocks; 0 for what is no picture.
    PictureWidth = 95,
    /// How many of the bytes in [`Column::CardData`] belong to the card (u32).
    CardBytes = 96,
    /// The bytes of a card, and zeros behind them (u8, as many to a row as the longest card has).
    CardData = 97,
    /// The bucket of the row's example (u32), in blocks of a compacted run.
    Bucket = 98,
}

impl Column {
    /// Flag: the gradient, the loss or a prediction was NaN or infinite. The sketch holds zeros.
    pub const FLAG_NOT_FINITE: u8 = 1;
    /// Flag: [`Column::SquaredNorm`] and [`Column::PreconditionedSquaredNorm`] are estimated from a sketch, not exact.
    pub const FLAG_NORM_ESTIMATED: u8 = 2;
    /// Flag: the example had no weight in the loss (`c = 0`). Its gradient is not known and is stored as zero.
    pub const FLAG_NO_WEIGHT: u8 = 4;

    /// Flag: a layer ran in the example's pass and backward brought it no gradient, for example because its output was
    /// detached. Its part of the gradient is zero.
    pub const FLAG_NO_GRADIENT: u8 = 8;

    /// In [`Column::Label`] and [`Column::Prediction`]: no class. Example: the target is ignored.
    pub const NO_CLASS: u32 = u32::MAX;

    /// In [`Column::Example`] of an event: no example.
    pub const NO_EXAMPLE: u64 = u64::MAX;

    /// In [`Column::Layer`] of an event: no layer.
    pub const NO_LAYER_NUMBER: u32 = u32::MAX;

    const ALL: [Column; 74] = [
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
        Column::Preconditioner,
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
        Column::UpdateRule,
        Column::Layer,
        Column::RateFactor,
        Column::Trained,
        Column::Beta1,
        Column::Checked,
        Column::Findings,
        Column::Text,
        Column::Beta2,
        Column::Epsilon,
        Column::StepsTaken,
        Column::PreconditionedSquaredNorm,
        Column::Parameter,
        Column::EventKind,
        Column::EventAction,
        Column::Value,
        Column::Limit,
        Column::Reference,
        Column::Count,
        Column::CardKind,
        Column::PictureWidth,
        Column::CardBytes,
        Column::CardData,
        Column::Bucket,
    ];

    /// The column of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|column| *column as u16 == code)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
