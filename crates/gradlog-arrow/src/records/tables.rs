//! The tables of a log: their names, their columns, and what each column holds.

use super::cell::Cell::{self, *};
use super::cell::Plain;
use gradlog_format::log::{
    BlockKind, Column, EventAction, EventKind, Mode, Preconditioner, PredictionScore, UpdateRule,
};
use gradlog_format::run::Block;

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Record {
    /// An example that a training pass visited.
    Visits,
    /// An example that a replay took through the model at a checkpoint.
    Sweeps,
    /// An example that a probe pass visited, and a row of curvature (`curvature_weight` is not null).
    Probes,
    /// An optimizer step.
    Steps,
    /// A stretch of passes that is not in the log.
    Gaps,
    /// Something that the guard noticed: a row for each example that it names.
    Events,
    /// Weights that were saved beside the log.
    Checkpoints,
    /// A check of recorded gradients.
    Checks,
    /// What an example looks like: a picture, a text or a row. Cards have no step and no epoch.
    Cards,
}

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnOf {
    pub name: &'static str,
    pub cell: Cell,
    /// What it means, with its unit.
    pub meaning: &'static str,
}

const fn column(name: &'static str, cell: Cell, meaning: &'static str) -> ColumnOf {
    ColumnOf { name, cell, meaning }
}

const EXAMPLE: ColumnOf = column("example", U64(Column::Example), "id of the example");
const STEP: ColumnOf = column("step", U64(Column::Step), "optimizer step, from 0");
const EPOCH: ColumnOf = column("epoch", U32(Column::Epoch), "epoch that the training declared");
const WORKER: ColumnOf = column("worker", Worker, "rank of the worker that wrote the row; null in a run of one");
const RATE: ColumnOf = column("learning_rate", F32(Column::LearningRate), "learning rate of the step");
const CLIP: ColumnOf = column("clip", F32Or(Column::Clip, 1.0), "factor on the step's gradient, as of clipping");
const COEFFICIENT: ColumnOf =
    column("coefficient", F32(Column::Coefficient), "weight of the example's loss in the loss of the step");

/// What the model thought of an example.
const OUTPUTS: [ColumnOf; 16] = [
    column("loss", F32(Column::Loss), "the example's own loss (nats for a cross entropy)"),
    column("el2n", F32(Column::El2n), "length of predicted probabilities minus target"),
    column("margin", F32(Column::Margin), "logit of the label minus the largest other logit"),
    column("confidence", F32(Column::Confidence), "probability of the label"),
    column("correct", F32(Column::Correct), "share of its predictions that are right"),
    column("label", Class(Column::Label), "class of the label"),
    column("prediction", Class(Column::Prediction), "predicted class"),
    column("target", F32(Column::Target), "target of a regression with one output"),
    column("output", F32(Column::Output), "output of a regression with one output"),
    column("positions", U32Or(Column::Positions, 1), "predictions that the loss is the mean of"),
    column("squared_norm", SquaredNorm(Column::SquaredNorm), "squared length of the gradient of the loss"),
    column(
        "preconditioned_squared_norm",
        SquaredNorm(Column::PreconditionedSquaredNorm),
        "squared length of the gradient in Adam's metric",
    ),
    column("not_finite", Flag(Column::FLAG_NOT_FINITE), "a number of the row is NaN or infinite"),
    column("norm_estimated", Flag(Column::FLAG_NORM_ESTIMATED), "squared_norm is an estimate from the sketch"),
    column("no_gradient", Flag(Column::FLAG_NO_GRADIENT), "the gradient was not recorded"),
    column("no_weight", Flag(Column::FLAG_NO_WEIGHT), "the loss of the step gave the example no weight"),
];

impl Record {
    /// All tables.
    pub const ALL: [Self; 9] = [
        Self::Visits,
        Self::Sweeps,
        Self::Probes,
        Self::Steps,
        Self::Gaps,
        Self::Events,
        Self::Checkpoints,
        Self::Checks,
        Self::Cards,
    ];

    /// The table's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Visits => "visits",
            Self::Sweeps => "sweeps",
            Self::Probes => "probes",
            Self::Steps => "steps",
            Self::Gaps => "gaps",
            Self::Events => "events",
            Self::Checkpoints => "checkpoints",
            Self::Checks => "checks",
            Self::Cards => "cards",
        }
    }

    /// Whether the rows have gradients.
    pub fn has_gradients(self) -> bool {
        matches!(self, Self::Visits | Self::Sweeps | Self::Probes)
    }

    /// Whether each row is of one example, whose id is in the column `example`.
    pub fn is_of_examples(self) -> bool {
        self.has_gradients()
    }

    /// Whether the rows come from a list, not from blocks of the log.
    pub fn is_listed(self) -> bool {
        self.kind().is_none()
    }

    /// Whether a block holds rows of the table.
    pub fn holds(self, block: &Block) -> bool {
        holds(self, block)
    }

    /// The blocks that the rows are in; `None` for a table that is made of a list.
    pub(super) fn kind(self) -> Option<BlockKind> {
        match self {
            Self::Visits => Some(BlockKind::Visits),
            Self::Sweeps => Some(BlockKind::Sweeps),
            Self::Probes => Some(BlockKind::Probes),
            Self::Steps => Some(BlockKind::Steps),
            Self::Gaps => Some(BlockKind::Gaps),
            Self::Events => Some(BlockKind::Events),
            Self::Cards => Some(BlockKind::Cards),
            Self::Checkpoints | Self::Checks => None,
        }
    }

    pub(super) fn columns(self) -> Vec<ColumnOf> {
        let before: &[ColumnOf] = match self {
            Self::Visits => &[EXAMPLE, STEP, EPOCH, WORKER, RATE, CLIP, COEFFICIENT],
            Self::Sweeps => &[EXAMPLE, STEP, EPOCH, WORKER, MODE, RATE, COEFFICIENT],
            Self::Probes => &PROBE,
            Self::Steps => &STEPS,
            Self::Gaps => &GAPS,
            Self::Events => &EVENTS,
            Self::Checkpoints => &CHECKPOINTS,
            Self::Checks => &CHECKS,
            Self::Cards => &CARDS,
        };
        let outputs: &[ColumnOf] = if self.has_gradients() { &OUTPUTS } else { &[] };
        before.iter().chain(outputs).copied().collect()
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

const MODE: ColumnOf = column("mode", Word(Column::Mode, mode), "how the model ran in a replay: training, evaluation");

const PROBE: [ColumnOf; 11] = [
    column("set", ProbeSet, "name of the probe set"),
    EXAMPLE,
    STEP,
    EPOCH,
    WORKER,
    MODE,
    column("prediction_score", Word(Column::PredictionScore, score), "what loss is, where it is no loss"),
    column("scored_class", Class(Column::ScoredClass), "the class of prediction_score"),
    column("curvature_weight", F32(Column::CurvatureWeight), "weight of a row of curvature, which is no probe"),
    column("preconditioner", Word(Column::Preconditioner, preconditioner), "what the gradient is multiplied by"),
    COEFFICIENT,
];

const STEPS: [ColumnOf; 13] = [
    STEP,
    EPOCH,
    RATE,
    CLIP,
    column("batch_size", U32Null(Column::BatchSize), "visits whose gradients the step summed"),
    column("time", Time(Column::WallClock), "when the step was recorded"),
    column("update_rule", Word(Column::UpdateRule, rule), "rule of the step: sgd, nesterov_sgd, adam, adamw"),
    column("momentum", F32Told(Column::Momentum), "momentum; null if the optimizer did not tell it"),
    column("weight_decay", F32Told(Column::WeightDecay), "weight decay; null if the optimizer did not tell it"),
    column("beta1", F32Told(Column::Beta1), "decay of Adam's first moments"),
    column("beta2", F32Told(Column::Beta2), "decay of Adam's second moments"),
    column("epsilon", F32Told(Column::Epsilon), "what Adam adds to the root of the second moment"),
    column("steps_taken", U64Told(Column::StepsTaken), "steps since the moments were empty, this one included"),
];

const GAPS: [ColumnOf; 6] = [
    STEP,
    EPOCH,
    WORKER,
    column("dropped", U64Or(Column::Dropped, 0), "visits of taken steps that are not in the log"),
    column("abandoned", U64Or(Column::Abandoned, 0), "visits of steps that were never taken"),
    column("unknown_steps", U64Or(Column::UnknownSteps, 0), "steps of which the log knows nothing"),
];

const EVENTS: [ColumnOf; 11] = [
    STEP,
    EPOCH,
    WORKER,
    column("kind", Word(Column::EventKind, event), "non-finite-loss, non-finite-gradient, large-gradient, divergence"),
    column("action", Word(Column::EventAction, action), "what the training did: went-on, skipped, stopped"),
    column(
        "example",
        ExampleNull(Column::Example),
        "the example; null for the loss, and for a row that counts several",
    ),
    column("layer", Layer(Column::Layer), "the layer with the largest part of the gradient, or the first not finite"),
    column("value", F32(Column::Value), "norm of the gradient, or running mean of the loss"),
    column("limit", F32Told(Column::Limit), "the threshold for `value`; null for numbers that are not finite"),
    column("reference", F32Told(Column::Reference), "what the limit is made of: 99th percentile, or least mean"),
    column("count", U64Or(Column::Count, 1), "events that the row stands for"),
];

const CHECKPOINTS: [ColumnOf; 6] = [
    STEP,
    EPOCH,
    column("learning_rate", Listed(Plain::F32), "learning rate of the step before"),
    column("bytes", Listed(Plain::U64), "length of the file"),
    column("checksum", Listed(Plain::U32), "CRC-32 of the file"),
    column("path", Listed(Plain::Text), "where the file is"),
];

const CHECKS: [ColumnOf; 6] = [
    STEP,
    EPOCH,
    column("examples", Listed(Plain::U32), "examples that the check compared"),
    column("agrees", Listed(Plain::Bool), "whether the recorded gradients are the examples' own"),
    column("findings", Listed(Plain::Texts), "names of what it found"),
    column("text", Listed(Plain::Text), "the verdict in words"),
];

const CARDS: [ColumnOf; 9] = [
    column("example", Listed(Plain::U64), "id of the example"),
    column("set", ListedNull(Plain::Text), "name of the probe set; null for a training example"),
    column("worker", ListedNull(Plain::U32), "rank of the worker that wrote the row; null in a run of one"),
    column("kind", Listed(Plain::Text), "gray, rgb, text, row"),
    column("width", ListedNull(Plain::U32), "pixels in a row of the picture"),
    column("height", ListedNull(Plain::U32), "rows of the picture"),
    column("pixels", ListedNull(Plain::Bytes), "the picture, row by row from the top; a byte for gray, three for rgb"),
    column("text", ListedNull(Plain::Text), "the text"),
    column("row", ListedNull(Plain::Row), "names and values of the row of a table"),
];

fn mode(code: u8) -> Option<&'static str> {
    Some(match Mode::from_code(code)? {
        Mode::Training => "training",
        Mode::Evaluation => "evaluation",
        _ => return None,
    })
}

fn score(code: u8) -> Option<&'static str> {
    Some(match PredictionScore::from_code(code)? {
        PredictionScore::Logit => "logit",
        PredictionScore::Margin => "margin",
        PredictionScore::LogOdds => "log_odds",
        _ => return None,
    })
}

fn rule(code: u8) -> Option<&'static str> {
    Some(match UpdateRule::from_code(code)? {
        UpdateRule::Sgd => "sgd",
        UpdateRule::NesterovSgd => "nesterov_sgd",
        UpdateRule::Adam => "adam",
        UpdateRule::AdamW => "adamw",
        _ => return None,
    })
}

fn event(code: u8) -> Option<&'static str> {
    EventKind::from_code(code).map(EventKind::name)
}

fn action(code: u8) -> Option<&'static str> {
    EventAction::from_code(code).map(EventAction::name)
}

fn preconditioner(code: u8) -> Option<&'static str> {
    Preconditioner::from_code(code).map(|_| "second_moments")
}

pub(super) fn holds(record: Record, block: &Block) -> bool {
    record.kind().is_some_and(|kind| block.kind() == Some(kind))
}
