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
use super::metric::SquaredNorms;
use super::per_example::PerExample;
use super::shared_fold::LazyFold;
use candle_core::{DType, Result, Tensor};

/// The sketches of one layer's gradients for a batch, on its device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSketch {
    /// `[batch, buckets]`, f32.
    pub rows: Tensor,
    /// `‖G_i‖`, `[batch]`, f32. The square may underflow where the norm does not.
    pub norms: Tensor,
    /// Whether the norms are those of the sketches, because exact ones would cost as much as the layer.
    pub estimated: bool,
}

impl DeviceSketch {
    /// Copies it to main memory. This waits for the device.
    pub(crate) fn read(&self) -> Result<FoldedGradients> {
        let plain = self.read_squared_norms()?;
        let squared_norms = plain.into_iter().map(|plain| SquaredNorms { plain, in_metric: 0.0 }).collect();
        Ok(FoldedGradients { sketches: read_f32(&self.rows)?, squared_norms, estimated: self.estimated })
    }

    /// `‖G_i‖²` of each example. This waits for the device.
    pub(crate) fn read_squared_norms(&self) -> Result<Vec<f64>> {
        Ok(read_f32(&self.norms)?.into_iter().map(|norm| f64::from(norm).powi(2)).collect())
    }
}

/// Sketches the sum of all uses of a layer in a pass. `None` if this is done in main memory: for gradients of a long
/// table that is folded whole, because few devices can scatter.
pub(crate) fn sketch(uses: &[PerExample], fold: &LazyFold, batch: usize) -> Result<Option<DeviceSketch>> {
    if let Some(sides) = fold.sides() {
        return sides::sketch(uses, fold, sides, batch).map(Some);
    }
    sketch_whole(uses, fold, batch, |_, _| Ok(()))
}

/// As [`sketch`], of a layer that is folded whole. Also returns the sum of all examples' gradients, `[parameters]`,
/// which is the gradient of the batch.
pub(super) fn sketch_and_sum(
    uses: &[PerExample],
    fold: &LazyFold,
    batch: usize,
) -> Result<Option<(DeviceSketch, Tensor)>> {
    let mut sums: Vec<Tensor> = Vec::new();
    let sketch = sketch_whole(uses, fold, batch, |number, gradients| {
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
    batch: usize,
    mut see: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<Option<DeviceSketch>> {
    let own = fold.get();
    let mut dense = Vec::with_capacity(uses.len());
    for one in uses {
        match table_as_product(one)? {
            Some(product) => dense.push(product),
            None => return Ok(None),
        }
    }
    let lists = dense.iter().map(|one| stretch::stretches(one, batch, own.inputs())).collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = lists.split_first() else { return Ok(None) };
    let (mut rows, mut squares): (Option<Tensor>, Option<Tensor>) = (None, None);
    for (number, (range, piece)) in first.iter().enumerate() {
        let at_once = stretch::examples_at_once(range.len());
        let (mut folded, mut squared) = (Vec::new(), Vec::new());
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
            squared.push(norms::squares(&gradient)?);
            folded.push(fold.tables().get(own, range.clone(), gradient.device())?.apply(&gradient)?);
            see(number, &gradient)?;
        }
        let (folded, squared) = (Tensor::cat(&folded, 0)?, Tensor::cat(&squared, 0)?);
        rows = Some(rows.map_or(Ok(folded.clone()), |rows| rows + &folded)?);
        squares = Some(squares.map_or(Ok(squared.clone()), |squares| squares + &squared)?);
    }
    let (Some(rows), Some(squares)) = (rows, squares) else { return Ok(None) };
    let norms = squares.sqrt()?.to_dtype(DType::F32)?;
    Ok(Some(DeviceSketch { rows, norms, estimated: false }))
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
