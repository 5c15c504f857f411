//! A sequence through a cell, forward and backward, on slices. Threads share out the examples, and none waits for
//! another between steps.

use super::super::parallel;
use super::cell::{Before, Cell};
use gradlog_kernels::matmul::{matmul, Matrix};
use gradlog_kernels::simd::vectorized;

/// Below this many multiplications, one thread is faster.
const PARALLEL_FROM: usize = 1 << 19;

/// With this many steps it pays to transpose the weight once, so that products read it in order.
const TRANSPOSE_FROM: usize = 8;

/// The sizes of a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sizes {
    pub batch: usize,
    pub steps: usize,
    pub hidden: usize,
}

impl Sizes {
    /// Number of examples for each thread.
    fn stretch<C: Cell>(&self) -> usize {
        let work = self.batch * self.steps * C::GATES * self.hidden * self.hidden;
        let threads = if work < PARALLEL_FROM { 1 } else { parallel::count_threads() };
        self.batch.div_ceil(threads).max(1)
    }

    /// `[batch, steps, width · hidden]`.
    fn sequence(&self, width: usize) -> usize {
        self.batch * self.steps * width * self.hidden
    }
}

/// What a forward pass leaves. Sequences are `[batch, steps, ..]`.
#[derive(Debug)]
pub(super) struct Trace {
    /// See [`Cell::KEPT`].
    pub kept: Vec<f32>,
    /// `h` before each step.
    pub h: Vec<f32>,
    /// `c` before each step, empty for a cell without.
    pub c: Vec<f32>,
    /// `h` after the last step, `[batch, hidden]`.
    pub last_h: Vec<f32>,
    /// `c` after the last step.
    pub last_c: Vec<f32>,
}

/// Weight `[gates · hidden, hidden]` and bias of the recurrent product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

/// Runs `cell` over `x`, `[batch, steps, gates · hidden]`, from the state `h`, `c`, `[batch, hidden]`.
pub(super) fn forward<C: Cell>(cell: &C, sizes: Sizes, x: &[f32], weights: Weights<'_>, h: &[f32], c: &[f32]) -> Trace {
    let Sizes { steps, hidden, .. } = sizes;
    let (width, stretch) = (C::GATES * hidden, sizes.stretch::<C>());
    let cells = usize::from(C::HAS_CELL);
    let mut trace = Trace {
        kept: vec![0.0; sizes.sequence(C::KEPT)],
        h: vec![0.0; sizes.sequence(1)],
        c: vec![0.0; sizes.sequence(cells)],
        last_h: h.to_vec(),
        last_c: c.to_vec(),
    };
    let transposed = (steps >= TRANSPOSE_FROM).then(|| transpose(weights.weight, width, hidden));
    let weight = match &transposed {
        Some(weight) => Matrix::new(weight, hidden, width),
        None => Matrix::new(weights.weight, width, hidden).t(),
    };
    let mut c_rest = (&mut trace.c[..], &mut trace.last_c[..]);
    let parts = (trace.kept.chunks_mut(stretch * steps * C::KEPT * hidden))
        .zip(trace.h.chunks_mut(stretch * steps * hidden))
        .zip(trace.last_h.chunks_mut(stretch * hidden))
        .zip(x.chunks(stretch * steps * width))
        .map(|(((kept, hs), h), x)| {
            let own = h.len() * cells;
            (kept, hs, h, x, take(&mut c_rest.0, own * steps), take(&mut c_rest.1, own))
        })
        .collect();
    parallel::map(parts, |(kept, hs, h, x, cs, c)| {
        let rows = h.len() / hidden;
        let mut products = vec![0f32; rows * width];
        for step in 0..steps {
            if let Some(bias) = weights.bias {
                products.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(bias));
            }
            matmul(&mut products, Matrix::new(h, rows, hidden), weight, weights.bias.is_some(), 1);
            vectorized(
                #[inline(always)]
                || {
                    for row in 0..rows {
                        let at = row * steps + step;
                        let h = &mut h[row * hidden..(row + 1) * hidden];
                        let c = &mut c[row * hidden * cells..(row + 1) * hidden * cells];
                        hs[at * hidden..(at + 1) * hidden].copy_from_slice(h);
                        cs[at * hidden * cells..(at + 1) * hidden * cells].copy_from_slice(c);
                        cell.forward(
                            &x[at * width..(at + 1) * width],
                            &products[row * width..(row + 1) * width],
                            &mut kept[at * C::KEPT * hidden..(at + 1) * C::KEPT * hidden],
                            h,
                            c,
                        );
                    }
                },
            );
        }
    });
    trace
}

/// The gradients of a sequence.
#[derive(Debug)]
pub(super) struct Deltas {
    /// By the first product, `[batch, steps, gates · hidden]`.
    pub x: Vec<f32>,
    /// By the second product, if that is another one ([`Cell::HAS_TWO_DELTAS`]).
    pub s: Vec<f32>,
    /// By the first state, `[batch, hidden]`.
    pub h: Vec<f32>,
    /// By the first cell.
    pub c: Vec<f32>,
}

/// The gradients of the states after each step, `[batch, hidden]` each. `None` stands for zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateGradients<'a> {
    pub h: &'a [Option<Vec<f32>>],
    pub c: &'a [Option<Vec<f32>>],
}

/// Backpropagation through time.
pub(super) fn backward<C: Cell>(
    cell: &C,
    sizes: Sizes,
    trace: (&Trace, &[f32]),
    weight: &[f32],
    gradients: StateGradients<'_>,
) -> Deltas {
    let Sizes { batch, steps, hidden } = sizes;
    let (trace, hs) = trace;
    let (width, stretch) = (C::GATES * hidden, sizes.stretch::<C>());
    let (cells, two) = (usize::from(C::HAS_CELL), usize::from(C::HAS_TWO_DELTAS));
    let mut deltas = Deltas {
        x: vec![0.0; sizes.sequence(C::GATES)],
        s: vec![0.0; sizes.sequence(C::GATES * two)],
        h: vec![0.0; batch * hidden],
        c: vec![0.0; batch * hidden * cells],
    };
    let weight = Matrix::new(weight, width, hidden);
    let mut rest = (&mut deltas.s[..], &mut deltas.c[..]);
    let parts = (deltas.x.chunks_mut(stretch * steps * width))
        .zip(deltas.h.chunks_mut(stretch * hidden))
        .enumerate()
        .map(|(number, (dx, dh))| {
            let (s, c) = (dx.len() * two, dh.len() * cells);
            (number * stretch, dx, dh, take(&mut rest.0, s), take(&mut rest.1, c))
        })
        .collect();
    parallel::map(parts, |(first, dxs, dh, dss, dc)| {
        let rows = dh.len() / hidden;
        let mut ds = vec![0f32; rows * width];
        for step in (0..steps).rev() {
            add_rows(dh, &gradients.h[step], first * hidden);
            if C::HAS_CELL {
                add_rows(dc, &gradients.c[step], first * hidden);
            }
            vectorized(
                #[inline(always)]
                || {
                    for row in 0..rows {
                        let (own, all) = (row * steps + step, (first + row) * steps + step);
                        let before = Before {
                            h: &hs[all * hidden..(all + 1) * hidden],
                            c: &trace.c[all * hidden * cells..(all + 1) * hidden * cells],
                        };
                        let ds = &mut ds[row * width..(row + 1) * width];
                        cell.backward(
                            &trace.kept[all * C::KEPT * hidden..(all + 1) * C::KEPT * hidden],
                            before,
                            &mut dh[row * hidden..(row + 1) * hidden],
                            &mut dc[row * hidden * cells..(row + 1) * hidden * cells],
                            &mut dxs[own * width..(own + 1) * width],
                            ds,
                        );
                        if C::HAS_TWO_DELTAS {
                            dss[own * width..(own + 1) * width].copy_from_slice(ds);
                        }
                    }
                },
            );
            matmul(dh, Matrix::new(&ds, rows, width), weight, true, 1);
        }
    });
    deltas
}

/// Takes the first `length` numbers of `rest`.
fn take<'a>(rest: &mut &'a mut [f32], length: usize) -> &'a mut [f32] {
    let (taken, others) = std::mem::take(rest).split_at_mut(length);
    *rest = others;
    taken
}

/// Adds a stretch of `rows` that begins at `start`.
fn add_rows(sum: &mut [f32], rows: &Option<Vec<f32>>, start: usize) {
    if let Some(rows) = rows {
        super::super::gradient::add(sum, &rows[start..start + sum.len()]);
    }
}

/// The transpose of `[rows, columns]`.
fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; rows * columns];
    // In square tiles, so that both sides stay in the cache.
    const TILE: usize = 16;
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..(top + TILE).min(rows) {
                for column in left..(left + TILE).min(columns) {
                    out[column * rows + row] = matrix[row * columns + column];
                }
            }
        }
    }
    out
}
