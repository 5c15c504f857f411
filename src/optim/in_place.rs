//! One pass over a variable, its gradient and what the optimizer keeps, on all threads.

use crate::taps::{parallel, slice};
use candle_core::{bail, CpuStorage, InplaceOp2, Layout, Result, Tensor, Var};
use gradlog_kernels::simd::vectorized;
use std::sync::{Mutex, PoisonError};

/// Below this many numbers, handing a part to another thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 15;

/// Calls `work(weights, gradient, kept)` on parts of a variable, its gradient and `N` buffers of the same length. Each
/// part is one stretch of all of them.
///
/// # Errors
/// An error if the variable is not contiguous f32 in main memory, or if gradient and variable share their memory.
pub(super) fn update<const N: usize>(
    variable: &Var,
    gradient: &Tensor,
    kept: [&mut [f32]; N],
    work: impl Fn(&mut [f32], &[f32], [&mut [f32]; N]) + Sync,
) -> Result<()> {
    variable.inplace_op2(&gradient.contiguous()?, &Update { kept: Mutex::new(Some(kept)), work })
}

struct Update<'k, const N: usize, F> {
    /// Taken once.
    kept: Mutex<Option<[&'k mut [f32]; N]>>,
    work: F,
}

impl<const N: usize, F: Fn(&mut [f32], &[f32], [&mut [f32]; N]) + Sync> InplaceOp2 for Update<'_, N, F> {
    fn name(&self) -> &'static str {
        "gradlog-step"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, wl: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (CpuStorage::F32(weights), Some((start, end))) = (w, wl.contiguous_offsets()) else {
            bail!("the step in place needs a variable that is contiguous f32 in main memory");
        };
        let (weights, gradient) = (&mut weights[start..end], slice(g, gl)?);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fits = |kept: &[&mut [f32]; N]| kept.iter().all(|own| own.len() == weights.len());
        let Some(kept) = kept.filter(|kept| fits(kept) && gradient.len() == weights.len()) else {
            bail!("the gradient or the optimizer's state does not fit the variable");
        };
        let parts = if weights.len() < PARALLEL_FROM { 1 } else { parallel::count_threads() };
        parallel::map(split(weights, gradient, kept, parts), |(weights, gradient, kept)| {
            vectorized(
                #[inline(always)]
                || (self.work)(weights, gradient, kept),
            );
        });
        Ok(())
    }
}

type Part<'a, const N: usize> = (&'a mut [f32], &'a [f32], [&'a mut [f32]; N]);

fn split<'a, const N: usize>(
    mut weights: &'a mut [f32],
    mut gradient: &'a [f32],
    mut kept: [&'a mut [f32]; N],
    parts: usize,
) -> Vec<Part<'a, N>> {
    let stretch = weights.len().div_ceil(parts.max(1)).max(1);
    let mut made = Vec::with_capacity(parts);
    while !weights.is_empty() {
        let at = stretch.min(weights.len());
        let (own, rest) = std::mem::take(&mut weights).split_at_mut(at);
        weights = rest;
        let (own_gradient, rest) = gradient.split_at(at);
        gradient = rest;
        let own_kept = kept.each_mut().map(|kept| {
            let (own, rest) = std::mem::take(kept).split_at_mut(at);
            *kept = rest;
            own
        });
        made.push((own, own_gradient, own_kept));
    }
    made
}
