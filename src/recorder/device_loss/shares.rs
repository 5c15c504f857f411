//! Cross entropy of soft targets, by candle's ops.
//!
//! With shares `t`, their label `y = argmax t`, `R = Σ_{k≠y} t_k` and `T = R + t_y`, in the terms of [`Rows`]:
//!
//! - `ℓ = −Σ t_k log p_k = T log(1 + exp q) − R (r − z_y) + Σ_{k≠y} t_k (r − z_k)`
//! - `∂ℓ/∂z_k = T p_k − t_k`, and at the label `R − T (1 − p_y)`.

use super::cross_entropy::{with_losses, Given, Means, Told};
use super::ops::{as_type, choose, compute_type, filled, poison_unless_zero};
use super::rows::Rows;
use super::targets::{counted_rows, read_mask};
use super::{Computed, Described};
use crate::recorder::classifier::{refuse_shares, Row, Sizes};
use crate::recorder::later::Pending;
use crate::recorder::outputs::Weighing;
use crate::recorder::targets::refuse_mask;
use candle_core::{Result, Tensor, D};

/// Errors are squared at this scale, so that the squares of small ones are not lost in f32. None is above 1.
const SCALE: f64 = (1u64 << 50) as f64;

/// Shares without that of the label.
struct Shares {
    rows: Rows,
    /// The label of each position, `[rows, 1]`.
    label: Tensor,
    /// `t_k`, 0 at the label, `[rows, classes]`.
    others: Tensor,
    /// `t_y`, `R`, and the least share.
    own: Tensor,
    rest: Tensor,
    least: Tensor,
    /// `Σ_{k≠y} t_k (r − z_k)`.
    distances: Tensor,
    /// 1 at positions that count.
    counted: Option<Tensor>,
    mask: Option<Tensor>,
    poison: Tensor,
}

impl Shares {
    fn new(given: Given<'_>) -> Result<Self> {
        let Given { logits, target, mask, sizes, .. } = given;
        let dtype = compute_type(logits.dtype());
        let rows = sizes.batch * sizes.positions;
        let near = |tensor: &Tensor| tensor.to_device(logits.device());
        let target = as_type(&near(target)?, dtype)?;
        let mask = mask.map(|mask| read_mask(&near(mask)?, rows, dtype)).transpose()?;
        let (mask, counted, poison) = match mask {
            Some((given, counted, poison)) => (Some(given), Some(counted), Some(poison)),
            None => (None, None, None),
        };
        let others = counted_rows(&target, counted.as_ref(), sizes)?;
        let label = others.argmax_keepdim(1)?;
        let least = others.min_keepdim(1)?;
        let own = others.gather(&label, 1)?;
        others.scatter_set(&label, &own.zeros_like()?, 1)?;
        let rest = others.sum_keepdim(1)?;
        let logits = counted_rows(logits, counted.as_ref(), sizes)?;
        let gaps = {
            // The label's own gap counts nothing, because its share is taken out.
            let top = logits.max_keepdim(1)?;
            logits.broadcast_sub(&top)?.neg()?
        };
        let rows = Rows::new(logits, &label)?;
        // A class without a share has no part in the loss, even where its logit is −∞.
        let terms = choose(&others.ne(0.0)?, &(&others * gaps)?, &others.zeros_like()?)?.sum_keepdim(1)?;
        // The gaps are those to the largest logit of all: max(r, z_y) = r + max(z_y − r, 0).
        let distances = (terms - (&rest * rows.distance.neg()?.relu()?)?)?;
        let wrong = wrong_shares(&own, &rest, &least, counted.as_ref())?;
        let poison = match poison {
            Some(poison) => (poison + wrong)?,
            None => wrong,
        };
        Ok(Self { rows, label, others, own, rest, least, distances, counted, mask, poison })
    }

    /// `T`.
    fn total(&self) -> Result<Tensor> {
        &self.own + &self.rest
    }

    /// `ℓ`, `[rows, 1]`.
    fn losses(&self) -> Result<Tensor> {
        let label = (self.total()? * self.rows.losses()?)?;
        (label - (&self.rest * &self.rows.distance)?)? + &self.distances
    }

    /// `a p_k − b t_k` of the classes other than the label, for `a` of `[rows, 1]` and `b` a number or such a tensor.
    fn difference(&self, of_p: &Tensor, of_t: &Tensor) -> Result<Tensor> {
        let doubt = (self.rows.doubt()? * of_p)?;
        let p = self.rows.others.broadcast_mul(&self.rows.per_other(&doubt)?)?;
        p - self.others.broadcast_mul(of_t)?
    }

    fn describe(&self, sizes: Sizes) -> Result<Pending<Described>> {
        let (rows, dtype) = (&self.rows, self.own.dtype());
        let scale = filled(SCALE, &self.own)?;
        let squares = self.difference(&scale, &scale)?.sqr()?.sum_keepdim(D::Minus1)?;
        let mut parts = vec![rows.own.clone(), rows.rival.clone(), rows.rival_class.to_dtype(dtype)?, rows.sum.clone()];
        parts.extend([&self.own, &self.rest, &self.least, &self.distances].map(Tensor::clone));
        parts.extend([self.label.to_dtype(dtype)?, squares]);
        parts.extend(self.mask.clone());
        Ok(Pending::new(parts, move |parts| {
            let mask = parts.get(10);
            mask.map_or(Ok(()), |mask| refuse_mask(mask))?;
            let counts = |place: usize| mask.is_none_or(|mask| mask[place] == 1.0);
            let row = |place: usize| -> Result<Option<Row>> {
                if !counts(place) {
                    return Ok(None);
                }
                let [own, rest, least, distances, label, squares] = [4, 5, 6, 7, 8, 9].map(|part| parts[part][place]);
                let total = own + rest;
                let bad = if total.is_finite() { least } else { total };
                let bad = (!(least >= 0.0 && total.is_finite())).then_some(bad);
                refuse_shares(place / sizes.positions, bad, || total).map_err(candle_core::Error::msg)?;
                let told = Told::new(parts, place);
                let loss = total * told.loss - rest * told.distance + distances;
                let error = rest - told.doubt + (1.0 - total);
                let el2n = (squares / (SCALE * SCALE) + error * error).sqrt();
                Ok(Some(told.row(label as u32, loss, el2n)))
            };
            let rows = (0..parts[0].len()).map(row).collect::<Result<Vec<_>>>()?;
            Ok(Described::new(&rows, sizes))
        }))
    }
}

/// NaN where shares are no probabilities, else 0.
fn wrong_shares(own: &Tensor, rest: &Tensor, least: &Tensor, counted: Option<&Tensor>) -> Result<Tensor> {
    let off = ((own + rest)? - 1.0)?.abs()?;
    // A little more than is refused where the numbers are read: what is wrong here is refused there.
    let off = (off - 0.0101)?.relu()?;
    let off = match counted {
        Some(counted) => (off * counted)?,
        None => off,
    };
    poison_unless_zero(&(off + least.neg()?.relu()?)?)
}

/// `ℓ_i` is the mean over the example's counted positions of `−Σ_k t_k log p_k`.
pub(super) fn of_shares(given: Given<'_>, weighing: &Weighing) -> Result<Computed> {
    let shares = Shares::new(given)?;
    let means = Means::new(shares.counted.as_ref(), given.sizes, weighing, &shares.own)?;
    let losses = means.over_positions(&shares.losses()?)?;
    let (total, one) = (shares.total()?, shares.own.ones_like()?);
    let delta = shares.difference(&means.share(&total)?, &means.share(&one)?)?;
    let at_label = (&shares.rest - (total * shares.rows.doubt()?)?)?;
    Rows::set_own(&delta, &shares.label, &means.share(&at_label)?)?;
    let described = with_losses(shares.describe(given.sizes)?, weighing);
    Ok(Computed { losses, delta, scale: means.scale, poison: Some(shares.poison), described })
}

/// The columns of soft targets, without a loss.
pub(super) fn describe(given: Given<'_>) -> Result<Pending<Described>> {
    Shares::new(given)?.describe(given.sizes)
}
