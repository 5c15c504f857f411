//! Sketches by candle's ops, on the device where inputs and output gradients are.
//!
//! What is made is what [`super::gradient`] makes in main memory, up to the rounding of sums. Nothing here waits for
//! the device: every result is a tensor there, and the background thread copies what a pass has left at once.

mod fold;
mod linear;
mod norms;
mod sides;
mod stretch;

pub(super) use fold::FoldTables;
pub(super) use linear::linear;

use super::gradient::{read_f32, FoldedGradients};
use super::metric::{NormMetric, SquaredNorms};
use super::per_example::PerExample;
use super::shared_fold::LazyFold;
use candle_core::{DType, Result, Tensor};

/// The sketches of one layer's gradients for a batch, on its device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSketch {
    /// `[batch, buckets]`, f32; with a second sketch behind the first, twice as many columns.
    pub rows: Tensor,
    /// `‖G_i‖`, `[batch]`, f32. The square may underflow where the norm does not.
    pub norms: Tensor,
    /// `‖D^{1/2} G_i‖`, as the norms are, if the layer has a metric.
    pub in_metric: Option<Tensor>,
    /// Whether the norms are those of the sketches, because exact ones would cost as much as the layer.
    pub estimated: bool,
}

impl DeviceSketch {
    /// Copies it to main memory. This waits for the device.
    pub(crate) fn read(&self) -> Result<FoldedGradients> {
        let plain = self.read_squared_norms()?;
        let in_metric = self.in_metric.as_ref().map_or_else(|| Ok(vec![0.0; plain.len()]), read_squares)?;
        let both = plain.into_iter().zip(in_metric);
        let squared_norms = both.map(|(plain, in_metric)| SquaredNorms { plain, in_metric }).collect();
        Ok(FoldedGradients { sketches: read_f32(&self.rows)?, squared_norms, estimated: self.estimated })
    }

    /// `‖G_i‖²` of each example. This waits for the device.
    pub(crate) fn read_squared_norms(&self) -> Result<Vec<f64>> {
        read_squares(&self.norms)
    }

    /// What it consists of.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        [&self.rows, &self.norms].into_iter().chain(&self.in_metric).collect()
    }
}

fn read_squares(norms: &Tensor) -> Result<Vec<f64>> {
    Ok(read_f32(norms)?.into_iter().map(|norm| f64::from(norm).powi(2)).collect())
}

/// Norms as they are kept. A square may underflow where its root does not.
fn roots(squares: &Tensor) -> Result<Tensor> {
    squares.sqrt()?.to_dtype(DType::F32)
}

/// Sketches the sum of all uses of a layer in a pass. With a `metric` norms in it are made as well. `None` if this is
/// done in main memory: for gradients of a long table that is folded whole, because few devices can scatter.
pub(crate) fn sketch(
    uses: &[PerExample],
    fold: &LazyFold,
    metric: Option<&NormMetric>,
    batch: usize,
) -> Result<Option<DeviceSketch>> {
    if let Some(sides) = fold.sides() {
        return sides::sketch(uses, (fold, sides), metric.and_then(NormMetric::sides), batch).map(Some);
    }
    sketch_whole(uses, fold, metric, batch, |_, _| Ok(()))
}

/// As [`sketch`], of a layer that is folded whole. Also returns the sum of all examples' gradients, `[parameters]`,
/// which is the gradient of the batch.
pub(super) fn sketch_and_sum(
    uses: &[PerExample],
    fold: &LazyFold,
    metric: Option<&NormMetric>,
    batch: usize,
) -> Result<Option<(DeviceSketch, Tensor)>> {
    let mut sums: Vec<Tensor> = Vec::new();
    let sketch = sketch_whole(uses, fold, metric, batch, |number, gradients| {
        let own = gradients.sum(0)?;
        match sums.get_mut(number) {
            Some(sum) => *sum = (&*sum + own)?,
            None => sums.push(own),
        }
        Ok(())
    })?;
    Ok(match sketch {
        Some(sketch) => Some((sketch, Tensor::cat(&sums, 0)?)),
        None => None,
    })
}

/// Makes the gradients stretch by stretch. `see` gets the number of a stretch and its gradients, of some examples at a
/// time.
fn sketch_whole(
    uses: &[PerExample],
    fold: &LazyFold,
    metric: Option<&NormMetric>,
    batch: usize,
    mut see: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<Option<DeviceSketch>> {
    let own = fold.plain();
    let mut dense = Vec::with_capacity(uses.len());
    for one in uses {
        match table_as_product(one)? {
            Some(product) => dense.push(product),
            None => return Ok(None),
        }
    }
    let lists = dense.iter().map(|one| stretch::stretches(one, batch, own.inputs())).collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = lists.split_first() else { return Ok(None) };
    let Some(device) = uses.iter().find_map(|one| one.tensors().first().map(|tensor| tensor.device().clone())) else {
        return Ok(None);
    };
    let weights = metric.and_then(NormMetric::weights).map(|weights| weights.on(&device)).transpose()?;
    let second = fold.weights().map(|weights| weights.on(&device)).transpose()?;
    let mut totals = [const { None }; 3];
    for (number, (range, piece)) in first.iter().enumerate() {
        let at_once = stretch::examples_at_once(range.len());
        let part = |all: &Option<Tensor>| all.as_ref().map(|all| all.narrow(0, range.start, range.len())).transpose();
        let (weights, second) = (part(&weights)?, part(&second)?);
        let table = fold.tables().get(own, range.clone(), &device)?;
        let (mut folded, mut squared, mut in_metric) = (Vec::new(), Vec::new(), Vec::new());
        let mut begin = 0;
        while begin < batch {
            let examples = begin..(begin + at_once).min(batch);
            begin = examples.end;
            let mut gradient = piece.make(examples.clone())?;
            for list in others {
                match list.get(number) {
                    Some((same, piece)) if same == range => gradient = (gradient + piece.make(examples.clone())?)?,
                    _ => candle_core::bail!("the uses of a layer have gradients of different layouts"),
                }
            }
            let (plain, weighted) = norms::weighted_squares(&gradient, weights.as_ref())?;
            squared.push(plain);
            in_metric.extend(weighted);
            let sketch = table.apply(&gradient)?;
            folded.push(match &second {
                Some(second) => Tensor::cat(&[&sketch, &table.apply(&gradient.broadcast_mul(second)?)?], 1)?,
                None => sketch,
            });
            see(number, &gradient)?;
        }
        for (total, own) in totals.iter_mut().zip([folded, squared, in_metric]).filter(|(_, own)| !own.is_empty()) {
            let own = Tensor::cat(&own, 0)?;
            *total = Some(total.take().map_or(Ok(own.clone()), |total: Tensor| total + &own)?);
        }
    }
    let [Some(rows), Some(squares), in_metric] = totals else { return Ok(None) };
    let in_metric = in_metric.as_ref().map(roots).transpose()?;
    Ok(Some(DeviceSketch { rows, norms: roots(&squares)?, in_metric, estimated: false }))
}

/// The most numbers of a table whose gradients are made as a product.
const TABLE: usize = 1 << 20;

/// Gradients of a table as a product: with a position's row as a vector of zeros and a one. Others stay. `None` for a
/// long table.
fn table_as_product(one: &PerExample) -> Result<Option<PerExample>> {
    let PerExample::Rows { ids, deltas, rows } = one else { return Ok(Some(one.clone())) };
    let (batch, positions, width) = deltas.dims3()?;
    if ids.dims() != [batch, positions] {
        candle_core::bail!("rows of shape {:?} do not fit ids of shape {:?}", deltas.shape(), ids.shape());
    }
    if rows * width > TABLE || batch * positions * rows > 16 * TABLE {
        return Ok(None);
    }
    let ids = ids.to_dtype(DType::U32)?.unsqueeze(2)?;
    let all = Tensor::arange(0u32, *rows as u32, deltas.device())?.reshape((1, 1, *rows))?;
    let hot = ids.broadcast_eq(&all)?.to_dtype(deltas.dtype())?;
    Ok(Some(PerExample::Outer { inputs: deltas.clone(), deltas: hot, bias: false }))
}
