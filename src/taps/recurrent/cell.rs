//! The cells: what one step of an LSTM, a GRU or a plain recurrent layer computes, and its gradient.
//!
//! A step gets two products: `x W_ihᵀ + b_ih`, made for the whole sequence, and `h W_hhᵀ + b_hh`, made step by step.
//! A cell computes all that lies between these products and the new state, for one example.

use super::activation::{sigmoid, tanh};
use candle_core::{Result, Tensor, D};

/// A recurrent cell of `n` hidden units.
pub(crate) trait Cell: std::fmt::Debug + Copy + Send + Sync + 'static {
    /// The kind of the layer in a run.
    const KIND: &'static str;
    /// Each product is `GATES · n` wide.
    const GATES: usize;
    /// Backward needs `KEPT · n` numbers of each step.
    const KEPT: usize;
    /// Whether there is a second state besides `h`.
    const HAS_CELL: bool;
    /// Whether the gradients of the two products differ.
    const HAS_TWO_DELTAS: bool;

    /// One step. `x` and `s` are the two products. `h` and `c` are the old state and become the new one. `kept` is for
    /// [`Cell::backward`].
    fn forward(&self, x: &[f32], s: &[f32], kept: &mut [f32], h: &mut [f32], c: &mut [f32]);

    /// The gradient of one step. `dh` and `dc` are the gradients of the new state. `dc` becomes the gradient of the old
    /// one, `dh` that part of it that does not pass through `s`. `dx` and `ds` are the gradients of the two products.
    fn backward(
        &self,
        kept: &[f32],
        before: Before<'_>,
        dh: &mut [f32],
        dc: &mut [f32],
        dx: &mut [f32],
        ds: &mut [f32],
    );

    /// One step by candle's ops, on a batch. Takes and returns the states in the order `h`, `c`.
    fn step(&self, x: &Tensor, s: &Tensor, state: &[Tensor]) -> Result<Vec<Tensor>>;
}

/// The state before a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    pub h: &'a [f32],
    pub c: &'a [f32],
}

/// Long short-term memory, as in `candle_nn::LSTM`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LstmCell;

impl Cell for LstmCell {
    const KIND: &'static str = "lstm";
    const GATES: usize = 4;
    /// `i`, `f`, `g`, `o`.
    const KEPT: usize = 4;
    const HAS_CELL: bool = true;
    const HAS_TWO_DELTAS: bool = false;

    #[inline(always)]
    fn forward(&self, x: &[f32], s: &[f32], kept: &mut [f32], h: &mut [f32], c: &mut [f32]) {
        let n = h.len();
        kept.iter_mut().zip(x).zip(s).for_each(|((kept, x), s)| *kept = x + s);
        kept[..2 * n].iter_mut().for_each(|v| *v = sigmoid(*v));
        kept[2 * n..3 * n].iter_mut().for_each(|v| *v = tanh(*v));
        kept[3 * n..].iter_mut().for_each(|v| *v = sigmoid(*v));
        let (i, f, g, o) = quarters(kept, n);
        for ((c, i), (f, g)) in c.iter_mut().zip(i).zip(f.iter().zip(g)) {
            *c = f * *c + i * g;
        }
        for ((h, c), o) in h.iter_mut().zip(&*c).zip(o) {
            *h = o * tanh(*c);
        }
    }

    #[inline(always)]
    fn backward(
        &self,
        kept: &[f32],
        before: Before<'_>,
        dh: &mut [f32],
        dc: &mut [f32],
        dx: &mut [f32],
        ds: &mut [f32],
    ) {
        let n = dh.len();
        let ((i, f, g, o), old) = (quarters(kept, n), &before.c[..n]);
        let (di, rest) = ds.split_at_mut(n);
        let (df, rest) = rest.split_at_mut(n);
        let (dg, d_o) = rest.split_at_mut(n);
        let (dc, d_o) = (&mut dc[..n], &mut d_o[..n]);
        for k in 0..n {
            // The new cell is computed once more, which is cheaper than to keep its tanh.
            let t = tanh(f[k] * old[k] + i[k] * g[k]);
            let total = dc[k] + dh[k] * o[k] * (1.0 - t * t);
            d_o[k] = dh[k] * t * o[k] * (1.0 - o[k]);
            di[k] = total * g[k] * i[k] * (1.0 - i[k]);
            df[k] = total * old[k] * f[k] * (1.0 - f[k]);
            dg[k] = total * i[k] * (1.0 - g[k] * g[k]);
            dc[k] = total * f[k];
            dh[k] = 0.0;
        }
        dx.copy_from_slice(ds);
    }

    fn step(&self, x: &Tensor, s: &Tensor, state: &[Tensor]) -> Result<Vec<Tensor>> {
        let gates = (x + s)?.chunk(4, D::Minus1)?;
        let (i, f) = (candle_nn::ops::sigmoid(&gates[0])?, candle_nn::ops::sigmoid(&gates[1])?);
        let (g, o) = (gates[2].tanh()?, candle_nn::ops::sigmoid(&gates[3])?);
        let c = ((f * &state[1])? + (i * g)?)?;
        Ok(vec![(o * c.tanh()?)?, c])
    }
}

#[inline(always)]
fn quarters(kept: &[f32], n: usize) -> (&[f32], &[f32], &[f32], &[f32]) {
    (&kept[..n], &kept[n..2 * n], &kept[2 * n..3 * n], &kept[3 * n..4 * n])
}

/// Gated recurrent unit, as in `candle_nn::GRU`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GruCell;

impl Cell for GruCell {
    const KIND: &'static str = "gru";
    const GATES: usize = 3;
    /// `r`, `z`, `n`, and the third part of `s`.
    const KEPT: usize = 4;
    const HAS_CELL: bool = false;
    const HAS_TWO_DELTAS: bool = true;

    #[inline(always)]
    fn forward(&self, x: &[f32], s: &[f32], kept: &mut [f32], h: &mut [f32], _c: &mut [f32]) {
        let n = h.len();
        let (gates, rest) = kept.split_at_mut(2 * n);
        let (new, product) = rest.split_at_mut(n);
        gates.iter_mut().zip(x).zip(s).for_each(|((gate, x), s)| *gate = sigmoid(x + s));
        let (r, z) = gates.split_at(n);
        product.copy_from_slice(&s[2 * n..3 * n]);
        for ((new, x), (r, s)) in new.iter_mut().zip(&x[2 * n..3 * n]).zip(r.iter().zip(&*product)) {
            *new = tanh(x + r * s);
        }
        for ((h, z), new) in h.iter_mut().zip(z).zip(&*new) {
            *h = z * *h + (1.0 - z) * new;
        }
    }

    #[inline(always)]
    fn backward(
        &self,
        kept: &[f32],
        before: Before<'_>,
        dh: &mut [f32],
        _dc: &mut [f32],
        dx: &mut [f32],
        ds: &mut [f32],
    ) {
        let n = dh.len();
        let ((r, z, new, product), old) = (quarters(kept, n), &before.h[..n]);
        let (dr, rest) = dx.split_at_mut(n);
        let (dz, dn) = rest.split_at_mut(n);
        let (dn, dsn) = (&mut dn[..n], &mut ds[2 * n..3 * n]);
        for k in 0..n {
            let inner = dh[k] * (1.0 - z[k]) * (1.0 - new[k] * new[k]);
            dn[k] = inner;
            dsn[k] = inner * r[k];
            dr[k] = inner * product[k] * r[k] * (1.0 - r[k]);
            dz[k] = dh[k] * (old[k] - new[k]) * z[k] * (1.0 - z[k]);
            dh[k] *= z[k];
        }
        ds[..2 * n].copy_from_slice(&dx[..2 * n]);
    }

    fn step(&self, x: &Tensor, s: &Tensor, state: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, s) = (x.chunk(3, D::Minus1)?, s.chunk(3, D::Minus1)?);
        let r = candle_nn::ops::sigmoid(&(&x[0] + &s[0])?)?;
        let z = candle_nn::ops::sigmoid(&(&x[1] + &s[1])?)?;
        let new = (&x[2] + (r * &s[2])?)?.tanh()?;
        Ok(vec![((&z * &state[0])? - ((&z - 1.)? * new)?)?])
    }
}

/// A plain recurrent cell: `h' = f(x + s)`, where `f` is tanh or ReLU.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ElmanCell {
    Tanh,
    Relu,
}

impl Cell for ElmanCell {
    const KIND: &'static str = "rnn";
    const GATES: usize = 1;
    /// The argument of the activation.
    const KEPT: usize = 1;
    const HAS_CELL: bool = false;
    const HAS_TWO_DELTAS: bool = false;

    #[inline(always)]
    fn forward(&self, x: &[f32], s: &[f32], kept: &mut [f32], h: &mut [f32], _c: &mut [f32]) {
        kept.iter_mut().zip(x).zip(s).for_each(|((kept, x), s)| *kept = x + s);
        match self {
            Self::Tanh => h.iter_mut().zip(&*kept).for_each(|(h, v)| *h = tanh(*v)),
            Self::Relu => h.iter_mut().zip(&*kept).for_each(|(h, v)| *h = v.max(0.0)),
        }
    }

    #[inline(always)]
    fn backward(
        &self,
        kept: &[f32],
        _before: Before<'_>,
        dh: &mut [f32],
        _dc: &mut [f32],
        dx: &mut [f32],
        ds: &mut [f32],
    ) {
        for ((ds, dh), v) in ds.iter_mut().zip(dh).zip(kept) {
            *ds = match self {
                Self::Tanh => {
                    let t = tanh(*v);
                    *dh * (1.0 - t * t)
                }
                // The slope at 0 is 1, as in candle.
                Self::Relu => *dh * if *v >= 0.0 { 1.0 } else { 0.0 },
            };
            *dh = 0.0;
        }
        dx.copy_from_slice(ds);
    }

    fn step(&self, x: &Tensor, s: &Tensor, _state: &[Tensor]) -> Result<Vec<Tensor>> {
        let sum = (x + s)?;
        Ok(vec![match self {
            Self::Tanh => sum.tanh()?,
            Self::Relu => sum.relu()?,
        }])
    }
}
