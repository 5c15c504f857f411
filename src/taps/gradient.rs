//! Per-example gradients: turns inputs and output gradients into sums, norms and folded sketches.

use super::fused::with_slice;
use super::metric::{MetricWeights, NormMetric, SquaredNorms};
use super::parallel::{self, count_threads};
use super::per_example::{read_sizes, FactorSizes, PerExample};
use super::shared_fold::LazyFold;
use super::two_sided::{SideScales, Sides, TwoSidedSum};
use candle_core::{bail, DType, Device, Result, Tensor};
use gradlog_format::sketch::Fold;
use gradlog_kernels::matmul::{matmul, Matrix};
use gradlog_kernels::simd::{squared_norm, squared_norm_f64, vectorized};
use std::borrow::Cow;

/// The folded gradients of one layer for a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct FoldedGradients {
    /// `[batch, fold.outputs]`, or empty if they were added to the pass's shared rows.
    pub sketches: Vec<f32>,
    /// Exact. In f32 the squares of small gradients would be 0.
    pub squared_norms: Vec<SquaredNorms>,
    /// Whether the norms are those of the sketches.
    pub estimated: bool,
}

/// What a fused backward folds the gradients of a batch with.
pub(super) struct Folding<'a> {
    pub fold: &'a Fold,
    /// In which metric norms are made as well.
    pub metric: Option<&'a MetricWeights>,
    /// `[batch, fold.outputs]`, to add to.
    pub rows: &'a mut [f32],
}

/// Number of elements that are summed, squared and folded at a time. They stay in the first-level cache.
const PIECE: usize = 2048;

/// Makes each example's gradient with `fill`. Returns their sum and, with a `folding`, their squared norms. The
/// sketches are added to its rows.
///
/// `fill(scratch, example, gradient)` writes the whole gradient of one example, `parameters` elements. Each thread gets
/// one contiguous stretch of the examples, a `scratch` and a gradient buffer that stay in its cache. So a gradient is
/// made once, and sum, norm and fold read it from the cache.
pub(super) fn sum_and_fold<S>(
    batch: usize,
    parameters: usize,
    folding: Option<Folding<'_>>,
    scratch: impl Fn() -> S + Sync,
    fill: impl Fn(&mut S, usize, &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<SquaredNorms>) {
    let metric = folding.as_ref().and_then(|folding| folding.metric);
    let (fold, mut rest) = folding.map_or((None, &mut [][..]), |folding| (Some(folding.fold), folding.rows));
    let m = fold.map_or(0, Fold::outputs);
    let stretch = batch.div_ceil(count_threads()).max(1);
    let mut squared_norms = vec![SquaredNorms::default(); batch];
    let work = |first: usize, sketches: &mut [f32], norms: &mut [SquaredNorms]| {
        let mut sum = vec![0f32; parameters];
        let mut gradient = vec![0f32; parameters];
        let mut scratch = scratch();
        for (offset, norm) in norms.iter_mut().enumerate() {
            fill(&mut scratch, first + offset, &mut gradient);
            let Some(fold) = fold else {
                add(&mut sum, &gradient);
                continue;
            };
            let sketch = &mut sketches[offset * m..(offset + 1) * m];
            for (number, (sum, piece)) in sum.chunks_mut(PIECE).zip(gradient.chunks(PIECE)).enumerate() {
                add(sum, piece);
                *norm += SquaredNorms::of(piece, number * PIECE, metric);
                fold.add(number * PIECE, piece, sketch);
            }
        }
        sum
    };
    let parts: Vec<_> = (squared_norms.chunks_mut(stretch).enumerate())
        .map(|(number, norms)| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(norms.len() * m);
            rest = others;
            (number * stretch, own, norms)
        })
        .collect();
    let mut sums = parallel::map(parts, |(first, sketches, norms)| work(first, sketches, norms));
    let mut sum = sums.pop().unwrap_or_else(|| vec![0.0; parameters]);
    for part in sums {
        add(&mut sum, &part);
    }
    (sum, squared_norms)
}

/// `Σ v²`. It is as exact as in f64 where the squares underflow in f32, and as fast as in f32 elsewhere.
pub(crate) fn wide_squared_norm(values: &[f32]) -> f64 {
    // Squares that f32 loses are below 1e-45 each, so they do not count beside a sum above this.
    const LEAST: f32 = 1e-30;
    match squared_norm(values) {
        small if small < LEAST => squared_norm_f64(values),
        other => f64::from(other),
    }
}

/// `sum += values`.
pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    vectorized(
        #[inline(always)]
        || sum.iter_mut().zip(values).for_each(|(total, v)| *total += v),
    );
}

/// Folds the gradients of all uses of a layer in a pass. This serves what no fused op has folded: layers that are used
/// several times, other devices and dtypes, and the user's own layers. With a `metric` norms in it are made as well.
pub(crate) fn fold_uses(
    uses: &[PerExample],
    fold: &LazyFold,
    metric: Option<&NormMetric>,
    batch: usize,
) -> Result<FoldedGradients> {
    fold.read_weights()?;
    let length = if fold.sides().is_some() { fold.outputs() } else { fold.get().outputs() };
    let mut sketches = vec![0f32; batch * length];
    let made = add_uses(uses, fold, metric, batch, &mut sketches)?;
    Ok(FoldedGradients { sketches, ..made })
}

/// As [`fold_uses`], but adds the sketches to `sketches`, a row for each example, and returns the rest.
pub(crate) fn add_uses(
    uses: &[PerExample],
    fold: &LazyFold,
    metric: Option<&NormMetric>,
    batch: usize,
    sketches: &mut [f32],
) -> Result<FoldedGradients> {
    if let Some(sides) = fold.sides() {
        return add_two_sided(uses, (fold, sides), metric.and_then(NormMetric::sides), batch, sketches);
    }
    let metric = metric.and_then(NormMetric::weights);
    metric.map_or(Ok(()), MetricWeights::read)?;
    fold.read_weights()?;
    let fold = fold.get();
    let parameters = fold.inputs();
    let mut squared_norms = vec![SquaredNorms::default(); batch];
    let sketches = sketches.chunks_exact_mut(fold.outputs()).zip(&mut squared_norms).enumerate();
    if let [PerExample::Rows { .. }, ..] = uses {
        let table = TableUses::read(uses, batch, parameters)?;
        for (example, (sketch, norms)) in sketches {
            for (id, row) in table.touched_by(example) {
                let first = id as usize * row.len();
                *norms += SquaredNorms::of(&row, first, metric);
                fold.add(first, &row, sketch);
            }
        }
    } else {
        let uses: Vec<HostUse> = uses.iter().map(|one| HostUse::new(one, batch, parameters)).collect::<Result<_>>()?;
        let mut gradient = vec![0f32; parameters];
        for (example, (sketch, norms)) in sketches {
            gradient.fill(0.0);
            for one in &uses {
                one.add(example, &mut gradient);
            }
            *norms = SquaredNorms::of(&gradient, 0, metric);
            fold.add(0, &gradient, sketch);
        }
    }
    Ok(FoldedGradients { squared_norms, ..Default::default() })
}

/// As [`add_uses`], of a layer that is projected from both sides.
fn add_two_sided(
    uses: &[PerExample],
    (lazy, sides): (&LazyFold, &Sides),
    metric: Option<&SideScales>,
    batch: usize,
    sketches: &mut [f32],
) -> Result<FoldedGradients> {
    let fold = lazy.plain();
    // The scaled gradient gives a second sketch, or only its norm.
    let scales = lazy.scales().or(metric).map(SideScales::read).transpose()?;
    let (rows, columns) = sides.shape();
    uses.iter().try_for_each(|one| sides.check(one))?;
    let rest = fold.inputs() - sides.numbers();
    let parameters = rows * columns + rest;
    let mut squared_norms = vec![SquaredNorms::default(); batch];
    let mut estimated = false;
    // The sums, and those of the scaled gradients, of which the weight's numbers count alone.
    let (sums, scaled): (Vec<TwoSidedSum>, Vec<TwoSidedSum>) = if let [PerExample::Rows { .. }, ..] = uses {
        let table = TableUses::read(uses, batch, parameters)?;
        let of = |scales| (0..batch).map(|example| sides.sum_rows(&table.touched_by(example), scales)).collect();
        (of(None), scales.as_ref().map_or_else(Vec::new, |scales| of(Some(scales))))
    } else {
        let uses: Vec<HostUse> = uses.iter().map(|one| HostUse::new(one, batch, parameters)).collect::<Result<_>>()?;
        let of = |uses: &[HostUse], rest| (0..batch).map(|example| sides.sum(uses, example, rest)).collect();
        let scaled = scales.as_ref().map(|scales| sides.scale_uses(&uses, scales));
        (of(&uses, rest), scaled.map_or_else(Vec::new, |scaled| of(&scaled, 0)))
    };
    let mut rows = sketches.chunks_exact_mut(lazy.outputs());
    for (example, (sum, norms)) in sums.iter().zip(&mut squared_norms).enumerate() {
        let Some(row) = rows.next() else { break };
        let (plain, second) = row.split_at_mut(fold.outputs());
        norms.plain = sum.squared_norm;
        estimated |= sum.estimated;
        fold.add(0, &sum.numbers, plain);
        if let (Some(own), Some(scales)) = (scaled.get(example), &scales) {
            let others = sum.numbers[sides.numbers()..].iter().zip(scales.rest).map(|(value, by)| value * by);
            let numbers: Vec<f32> = own.numbers.iter().copied().chain(others).collect();
            if metric.is_some() {
                norms.in_metric = own.squared_norm + wide_squared_norm(&numbers[sides.numbers()..]);
            }
            if lazy.scales().is_some() {
                fold.add(0, &numbers, second);
            }
        }
    }
    Ok(FoldedGradients { sketches: Vec::new(), squared_norms, estimated })
}

/// Copies the elements of a tensor on any device as f32.
pub(crate) fn read_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    with_slice(&move_to_host(tensor)?, |values| Ok(values.to_vec()))
}

/// The integers of a tensor.
pub(crate) fn read_i64(tensor: &Tensor) -> Result<Vec<i64>> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1()
}

/// Moves the tensor to main memory, contiguous and as f32. It returns the tensor itself if it is that already.
pub(crate) fn move_to_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()
}

/// The gradients of one use, in main memory.
pub(super) enum HostUse {
    Outer {
        a: Vec<f32>,
        d: Vec<f32>,
        groups: usize,
        positions: usize,
        inputs: usize,
        outputs: usize,
        bias: bool,
    },
    Dense {
        values: Vec<f32>,
        parameters: usize,
    },
    /// Each part with its number of parameters.
    Joined(Vec<(usize, HostUse)>),
}

impl HostUse {
    pub(super) fn new(one: &PerExample, batch: usize, parameters: usize) -> Result<Self> {
        let made = match one {
            PerExample::Outer { inputs, deltas, bias } => {
                let FactorSizes { groups, positions, inputs: i, outputs: o } = read_sizes(inputs, deltas, batch)?;
                let found = one.elements()?;
                if found != parameters {
                    bail!("per-example gradients of {found} elements do not fit a layer of {parameters} parameters");
                }
                Self::Outer {
                    a: read_f32(inputs)?,
                    d: read_f32(deltas)?,
                    groups,
                    positions,
                    inputs: i,
                    outputs: o,
                    bias: *bias,
                }
            }
            PerExample::Dense(values) => {
                if values.dims() != [batch, parameters] {
                    bail!(
                        "per-example gradients of shape {:?} do not fit a batch of {batch} and {parameters} parameters",
                        values.shape()
                    );
                }
                Self::Dense { values: read_f32(values)?, parameters }
            }
            PerExample::Joined(parts) => {
                let found = one.elements()?;
                if found != parameters {
                    bail!("per-example gradients of {found} elements do not fit a layer of {parameters} parameters");
                }
                let parts = parts.iter().map(|part| {
                    if matches!(part, PerExample::Joined(_)) {
                        bail!("a part of `PerExample::Joined` cannot be joined itself");
                    }
                    let own = part.elements()?;
                    Ok((own, Self::new(part, batch, own)?))
                });
                Self::Joined(parts.collect::<Result<_>>()?)
            }
            PerExample::Rows { .. } => {
                bail!("`per_example` must return either rows or whole gradients for all uses of a layer")
            }
        };
        Ok(made)
    }

    pub(super) fn add(&self, example: usize, gradient: &mut [f32]) {
        match self {
            Self::Dense { values, parameters } => {
                add(gradient, &values[example * parameters..(example + 1) * parameters]);
            }
            Self::Joined(parts) => {
                let mut rest = gradient;
                for (own, part) in parts {
                    let (own, others) = rest.split_at_mut(*own);
                    part.add(example, own);
                    rest = others;
                }
            }
            Self::Outer { a, d, groups, positions, inputs, outputs, bias } => {
                let (weights, biases) = gradient.split_at_mut(groups * outputs * inputs);
                for group in 0..*groups {
                    let place = example * groups + group;
                    let a = Matrix::new(&a[place * positions * inputs..], *positions, *inputs);
                    let deltas = &d[place * positions * outputs..(place + 1) * positions * outputs];
                    let d = Matrix::new(deltas, *positions, *outputs);
                    matmul(&mut weights[group * outputs * inputs..][..outputs * inputs], d.t(), a, true, 1);
                    if *bias {
                        add_rows(deltas, &mut biases[group * outputs..][..*outputs]);
                    }
                }
            }
        }
    }
}

/// Adds each row of `values` to `sum`.
pub(super) fn add_rows(values: &[f32], sum: &mut [f32]) {
    for row in values.chunks_exact(sum.len()) {
        add(sum, row);
    }
}

/// The rows of a table that an example touches, each with the sum of its gradients, by id.
pub(super) type TouchedRows<'a> = Vec<(u32, Cow<'a, [f32]>)>;

/// The sum of the gradients of one row.
fn sum_row<'a>(uses: &[(u32, &'a [f32])]) -> (u32, Cow<'a, [f32]>) {
    let (id, first) = uses[0];
    let mut row = Cow::Borrowed(first);
    uses[1..].iter().for_each(|(_, more)| add(row.to_mut(), more));
    (id, row)
}

/// What the uses of a table say, in main memory. A table is long, and an example touches few of its rows. So only these
/// are summed, by id.
struct TableUses(Vec<TableUse>);

struct TableUse {
    ids: Vec<u32>,
    deltas: Vec<f32>,
    positions: usize,
    width: usize,
}

impl TableUses {
    fn read(uses: &[PerExample], batch: usize, parameters: usize) -> Result<Self> {
        let mut parts = Vec::with_capacity(uses.len());
        for one in uses {
            let PerExample::Rows { ids, deltas, rows } = one else {
                bail!("`per_example` must return either rows or whole gradients for all uses of a layer");
            };
            let (found, positions, width) = deltas.dims3()?;
            if found != batch || ids.dims() != [batch, positions] || rows * width != parameters {
                let shapes = (deltas.shape(), ids.shape());
                bail!("rows of shape {:?} at ids of shape {:?} do not fit a batch of {batch}", shapes.0, shapes.1);
            }
            let ids = ids.to_device(&Device::Cpu)?.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?;
            if let Some(id) = ids.iter().find(|id| **id as usize >= *rows) {
                bail!("row {id} is outside a table of {rows} rows");
            }
            parts.push(TableUse { ids, deltas: read_f32(deltas)?, positions, width });
        }
        Ok(Self(parts))
    }

    fn touched_by(&self, example: usize) -> TouchedRows<'_> {
        let mut touched: Vec<(u32, &[f32])> = Vec::new();
        for TableUse { ids, deltas, positions, width } in &self.0 {
            let own = example * positions..(example + 1) * positions;
            // A table may have no columns. Then it has no gradient either.
            let rows = deltas[own.start * width..own.end * width].chunks_exact((*width).max(1));
            touched.extend(ids[own].iter().copied().zip(rows));
        }
        touched.sort_by_key(|(id, _)| *id);
        touched.chunk_by(|a, b| a.0 == b.0).map(sum_row).collect()
    }
}
