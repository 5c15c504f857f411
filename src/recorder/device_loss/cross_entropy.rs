//! Cross entropy of class numbers, and what logits say of each example, by candle's ops.
//!
//! Of each position a few numbers leave the device. The columns are made of them in f64, where they are read.

use super::rows::Rows;
use super::scale::Scale;
use super::shares;
use super::targets::{judge, Classes};
use super::{Computed, Described};
use crate::recorder::classifier::{own_means, summarize, Row, Sizes};
use crate::recorder::later::Pending;
use crate::recorder::outputs::{Outputs, Weighing};
use candle_core::{DType, Result, Tensor};
use gradlog_format::log::Column;

/// The targets of logits, and which positions count.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub logits: &'a Tensor,
    pub target: &'a Tensor,
    pub ignored: Option<i64>,
    pub mask: Option<&'a Tensor>,
    pub sizes: Sizes,
}

impl Given<'_> {
    pub(super) fn is_soft(&self) -> bool {
        self.target.rank() == self.logits.rank()
    }
}

/// `ℓ_i` is the mean over the example's counted positions of `−log p_y`.
pub(super) fn of_classes(given: Given<'_>, weighing: &Weighing) -> Result<Computed> {
    let Given { logits, target, ignored, mask, sizes } = given;
    let classes = Classes::new(logits, target, ignored, mask, sizes)?;
    let rows = Rows::new(classes.counted_logits(logits, sizes)?, &classes.class)?;
    let doubt = rows.doubt()?;
    let means = Means::new(classes.counted.as_ref(), sizes, weighing, &doubt)?;
    let losses = means.over_positions(&rows.losses()?)?;
    let doubt = means.share(&doubt)?;
    let pending = describe_classes(&rows, &classes, sizes)?;
    let delta = rows.others.broadcast_mul(&rows.per_other(&doubt)?)?;
    Rows::set_own(&delta, &classes.class, &doubt.neg()?)?;
    let (scale, described) = (means.scale, with_losses(pending, weighing));
    Ok(Computed { losses, delta, scale, poison: classes.poison, described })
}

/// The columns of class numbers, without a loss.
pub(super) fn describe(given: Given<'_>) -> Result<Pending<Described>> {
    let Given { logits, target, ignored, mask, sizes } = given;
    let classes = Classes::new(logits, target, ignored, mask, sizes)?;
    let rows = Rows::new(classes.counted_logits(logits, sizes)?, &classes.class)?;
    describe_classes(&rows, &classes, sizes)
}

/// The columns and the coefficients, of the columns and the counts.
pub(super) fn with_losses(pending: Pending<Described>, weighing: &Weighing) -> Pending<(Outputs, Vec<f32>)> {
    let weighing = weighing.clone();
    pending.map(move |Described { mut outputs, losses, counts }| {
        outputs.loss = losses;
        (outputs, weighing.coefficients(&counts))
    })
}

fn describe_classes(rows: &Rows, classes: &Classes, sizes: Sizes) -> Result<Pending<Described>> {
    let dtype = rows.own.dtype();
    let mut parts = vec![rows.own.clone(), rows.rival.clone(), rows.rival_class.to_dtype(dtype)?, rows.sum.clone()];
    parts.push(rows.squares()?);
    parts.extend(classes.counted.clone());
    parts.extend(classes.parts.iter().cloned());
    let (counts, count) = (classes.counted.is_some(), sizes.classes);
    Ok(Pending::new(parts, move |parts| {
        let (numbers, rest) = parts.split_at(5);
        let (counted, targets) = if counts { (rest.first(), &rest[1..]) } else { (None, rest) };
        let labels = judge(targets, counted, count)?;
        let row = |(place, label): (usize, &Option<u32>)| {
            let label = (*label)?;
            let told = Told::new(numbers, place);
            // `Σ_k p_k²` over the other classes, and `(1 − p_y)²`.
            let el2n = match told.sum {
                0.0 => 0.0,
                sum => told.doubt * (numbers[4][place] / (sum * sum) + 1.0).sqrt(),
            };
            Some(told.row(label, told.loss, el2n))
        };
        let rows: Vec<Option<Row>> = labels.iter().enumerate().map(row).collect();
        Ok(Described::new(&rows, sizes))
    }))
}

/// What the numbers of one position say, in f64.
pub(super) struct Told {
    own: f64,
    rival: f64,
    rival_class: u32,
    sum: f64,
    /// `r − z_y`.
    pub distance: f64,
    /// `−log p_y`.
    pub loss: f64,
    /// `1 − p_y`.
    pub doubt: f64,
}

impl Told {
    /// Of the own logits, their largest rivals, the classes of these, and the sums over the others.
    pub(super) fn new(numbers: &[Vec<f64>], place: usize) -> Self {
        let [own, rival, rival_class, sum] = [0, 1, 2, 3].map(|part| numbers[part][place]);
        let distance = rival.max(-1e30) - own;
        // A logit of +∞ has no softmax.
        let odds = if own == f64::INFINITY { f64::NAN } else { distance + sum.ln() };
        let loss = odds.max(0.0) + (-odds.abs()).exp().ln_1p();
        let loss = if odds.is_nan() { odds } else { loss };
        Self { own, rival, rival_class: rival_class as u32, sum, distance, loss, doubt: 1.0 / (1.0 + (-odds).exp()) }
    }

    /// The row of a position with this label. It predicts nothing if one of its logits is NaN or +∞.
    pub(super) fn row(&self, label: u32, loss: f64, el2n: f64) -> Row {
        let prediction = match self.own.partial_cmp(&self.rival) {
            _ if self.doubt.is_nan() => Column::NO_CLASS,
            Some(std::cmp::Ordering::Greater) => label,
            Some(std::cmp::Ordering::Equal) => label.min(self.rival_class),
            _ => self.rival_class,
        };
        let confidence = if self.doubt > 0.5 { self.confidence() } else { 1.0 - self.doubt };
        Row { loss, el2n, margin: self.own - self.rival, confidence, label, prediction }
    }

    /// `p_y = exp(−ℓ)`.
    fn confidence(&self) -> f64 {
        (-self.loss).exp()
    }

    /// The class with the largest logit.
    pub(super) fn prediction(&self, label: u32) -> u32 {
        self.row(label, 0.0, 0.0).prediction
    }
}

impl Described {
    pub(super) fn new(rows: &[Option<Row>], sizes: Sizes) -> Self {
        let (outputs, counts) = summarize(rows, sizes);
        let losses = own_means(rows, sizes, |row| row.loss).into_iter().map(|loss| loss as f32).collect();
        Self { outputs, losses, counts }
    }
}

/// How numbers of positions become means of examples.
pub(super) struct Means<'a> {
    sizes: Sizes,
    /// 1 at positions that count, and the number of them, at least 1: `[rows, 1]` and `[batch, 1]`.
    counted: Option<(&'a Tensor, Tensor)>,
    pub scale: Scale,
}

impl<'a> Means<'a> {
    pub(super) fn new(counted: Option<&'a Tensor>, sizes: Sizes, weighing: &Weighing, like: &Tensor) -> Result<Self> {
        let Sizes { batch, positions, .. } = sizes;
        let Some(counted) = counted else {
            return Ok(Self { sizes, counted: None, scale: Scale::uniform(weighing, batch, positions, like)? });
        };
        let counts = counted.reshape((batch, positions))?.sum_keepdim(1)?;
        let scale = Scale::counted(weighing, &counts)?;
        Ok(Self { sizes, counted: Some((counted, counts.maximum(&counts.ones_like()?)?)), scale })
    }

    /// The mean over the counted positions of each example, `[batch, 1]`, of `[rows, 1]`.
    pub(super) fn over_positions(&self, values: &Tensor) -> Result<Tensor> {
        let Sizes { batch, positions, .. } = self.sizes;
        match &self.counted {
            None if positions == 1 => Ok(values.clone()),
            None => values.reshape((batch, positions))?.sum_keepdim(1)? / positions as f64,
            Some((counted, counts)) => (values * *counted)?.reshape((batch, positions))?.sum_keepdim(1)? / counts,
        }
    }

    /// `[rows, 1]` divided by the number of counted positions of the example; 0 at those that do not count.
    pub(super) fn share(&self, values: &Tensor) -> Result<Tensor> {
        let Sizes { batch, positions, .. } = self.sizes;
        match &self.counted {
            None if positions == 1 => Ok(values.clone()),
            None => values / positions as f64,
            Some((counted, counts)) => {
                let own = (values * *counted)?.reshape((batch, positions))?;
                own.broadcast_div(counts)?.reshape(values.shape())
            }
        }
    }
}

/// Cross entropy of class numbers or of soft targets.
pub(super) fn cross_entropy(given: Given<'_>, weighing: &Weighing) -> Result<Computed> {
    if given.is_soft() {
        shares::of_shares(given, weighing)
    } else {
        of_classes(given, weighing)
    }
}

/// What the logits say of each example.
pub(super) fn describe_logits(given: Given<'_>) -> Result<Pending<Described>> {
    if given.is_soft() {
        shares::describe(given)
    } else {
        describe(given)
    }
}

/// The type of the numbers that leave the device holds every class number up to this.
pub(super) fn classes_max(dtype: DType) -> usize {
    if dtype == DType::F64 {
        1 << 53
    } else {
        1 << 24
    }
}
