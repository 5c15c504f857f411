//! Logits beside one class each: the numbers from which cross entropy, its gradient and all columns follow.
//!
//! Let `y` be the class of a row, `r` the largest other logit, `u_k = exp(z_k − r)`, `S = Σ_{k≠y} u_k` and
//! `q = log S + r − z_y`. Then `1 − p_y = σ(q)`, `p_k = σ(q) u_k / S`, and `−log p_y = log(1 + exp q)`. Nothing of it
//! cancels or overflows, however sure the model is.

use super::ops::{filled, sigmoid, softplus};
use candle_core::{Result, Tensor};

/// Stands for the largest other logit where all others are −∞.
const FLOOR: f64 = -1e30;

/// The numbers of all rows. All but `others` are `[rows, 1]`.
pub(super) struct Rows {
    /// `z_y`.
    pub own: Tensor,
    /// `r`.
    pub rival: Tensor,
    /// The class of `r`, u32.
    pub rival_class: Tensor,
    /// `u`, `[rows, classes]`, 0 at the class.
    pub others: Tensor,
    /// `S`.
    pub sum: Tensor,
    /// `r − z_y`.
    pub distance: Tensor,
    /// `q`.
    pub odds: Tensor,
}

impl Rows {
    /// Of logits `[rows, classes]`, which are overwritten, and the classes `[rows, 1]`.
    pub(super) fn new(logits: Tensor, class: &Tensor) -> Result<Self> {
        let own = logits.gather(class, 1)?;
        logits.scatter_set(class, &filled(f64::NEG_INFINITY, &own)?, 1)?;
        let rival_class = logits.argmax_keepdim(1)?;
        let rival = logits.gather(&rival_class, 1)?;
        let floor = rival.maximum(&filled(FLOOR, &rival)?)?;
        let others = logits.broadcast_sub(&floor)?.exp()?;
        let sum = others.sum_keepdim(1)?;
        let distance = (floor - &own)?;
        let odds = (&distance + sum.log()?)?;
        Ok(Self { own, rival, rival_class, others, sum, distance, odds })
    }

    /// `Σ u²`.
    pub(super) fn squares(&self) -> Result<Tensor> {
        self.others.sqr()?.sum_keepdim(1)
    }

    /// `−log p_y`.
    pub(super) fn losses(&self) -> Result<Tensor> {
        softplus(&self.odds)
    }

    /// `1 − p_y`.
    pub(super) fn doubt(&self) -> Result<Tensor> {
        sigmoid(&self.odds)
    }

    /// `x / S`, and 0 where there is no other class.
    pub(super) fn per_other(&self, x: &Tensor) -> Result<Tensor> {
        // S is 0 or at least 1, so this changes no other S.
        x / (&self.sum + 1e-30)?
    }

    /// Puts `values` at the class of each row of `into`.
    pub(super) fn set_own(into: &Tensor, class: &Tensor, values: &Tensor) -> Result<()> {
        into.scatter_set(class, values, 1)
    }
}
