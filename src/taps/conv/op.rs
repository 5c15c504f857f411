//! A convolution, plain or transposed, as one op with its own backward.
//!
//! A transposed convolution is the transpose of a plain one: its output is the image, and its input has a number for
//! each window. So its forward is the other's input gradient, and the other way around.

use super::by_ops::unfold;
use super::windows::Geometry;
use crate::taps::catch::Catch;
use crate::taps::fused::{apply_layer, needs_gradient, slice, with_slice, FusedLayer, Held, Operand};
use crate::taps::gradient::{read_f32, sum_and_fold, Folding};
use crate::taps::metric::SquaredNorms;
use crate::taps::per_example::PerExample;
use candle_core::{bail, CpuStorage, DType, Device, Result, Shape, Tensor};

/// Which side of the windows is the layer's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The image.
    Plain,
    /// The numbers of the windows.
    Transposed,
}

/// Runs the layer as one op.
pub(super) fn fused_forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
    direction: Direction,
    catch: &Catch,
) -> Result<Tensor> {
    let op = ConvOp { geometry, direction, catch: catch.clone() };
    let outputs = op.out_channels();
    if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
        bail!("a convolution with {outputs} output channels does not take a bias of shape {:?}", bias.shape());
    }
    catch.note_forward(x);
    apply_layer(op, x, weight, bias)
}

/// The per-example gradients, with windows as positions.
pub(super) fn per_example(
    geometry: Geometry,
    direction: Direction,
    x: &Tensor,
    delta: &Tensor,
    bias: bool,
) -> Result<PerExample> {
    let (patch, positions) = (geometry.patch(), geometry.positions());
    let (image, deltas) = match direction {
        Direction::Plain => (x, delta),
        Direction::Transposed => (delta, x),
    };
    if !image.device().is_cpu() {
        return per_example_by_ops(geometry, direction, image, deltas, bias);
    }
    let image = read_f32(image)?;
    let mut patches = vec![0f32; geometry.batch * geometry.groups * patch * positions];
    for (image, patches) in image.chunks_exact(geometry.group_input()).zip(patches.chunks_exact_mut(patch * positions))
    {
        geometry.unfold(image, patches);
    }
    let (batch, groups) = (geometry.batch, geometry.groups);
    let inputs = Tensor::from_vec(patches, (batch, groups, patch, positions), &Device::Cpu)?.transpose(2, 3)?;
    let deltas = Tensor::from_vec(read_f32(deltas)?, (batch, groups, geometry.outputs, positions), &Device::Cpu)?;
    let deltas = deltas.transpose(2, 3)?;
    if direction == Direction::Plain || !bias {
        return Ok(PerExample::Outer { inputs, deltas, bias });
    }
    let size = geometry.height * geometry.width;
    let sums = image.chunks_exact(size).map(|channel| channel.iter().sum::<f32>()).collect();
    let sums = Tensor::from_vec(sums, (batch, groups * geometry.channels), &Device::Cpu)?;
    let kernel = PerExample::Outer { inputs, deltas, bias: false };
    Ok(PerExample::Joined(vec![kernel, PerExample::Dense(sums)]))
}

/// As [`per_example`], on the device of the tensors.
fn per_example_by_ops(
    geometry: Geometry,
    direction: Direction,
    image: &Tensor,
    deltas: &Tensor,
    bias: bool,
) -> Result<PerExample> {
    let (batch, groups) = (geometry.batch, geometry.groups);
    let inputs = unfold(&geometry, image)?;
    let deltas = deltas.reshape((batch, groups, geometry.outputs, geometry.positions()))?.transpose(2, 3)?;
    let deltas = deltas.contiguous()?;
    if direction == Direction::Plain || !bias {
        return Ok(PerExample::Outer { inputs, deltas, bias });
    }
    let sums = image.to_dtype(DType::F32)?.reshape((batch, groups * geometry.channels, ()))?.sum(2)?;
    let kernel = PerExample::Outer { inputs, deltas, bias: false };
    Ok(PerExample::Joined(vec![kernel, PerExample::Dense(sums)]))
}

struct ConvOp {
    geometry: Geometry,
    direction: Direction,
    catch: Catch,
}

impl ConvOp {
    fn out_channels(&self) -> usize {
        let g = &self.geometry;
        g.groups * if self.direction == Direction::Plain { g.outputs } else { g.channels }
    }

    /// Height and width of the output.
    fn out_size(&self) -> (usize, usize) {
        let g = &self.geometry;
        if self.direction == Direction::Plain {
            (g.out_height, g.out_width)
        } else {
            (g.height, g.width)
        }
    }

    fn out_shape(&self, rank: usize) -> Shape {
        let (height, width) = self.out_size();
        if rank == 3 {
            Shape::from((self.geometry.batch, self.out_channels(), width))
        } else {
            Shape::from((self.geometry.batch, self.out_channels(), height, width))
        }
    }

    /// The gradients of kernel and bias, summed over the examples. Folds those of each example if a pass wants them.
    fn parameter_gradients(&self, x: &[f32], g: &[f32], bias: bool, folding: Option<Folding<'_>>) -> Gradients {
        let geometry = &self.geometry;
        let (image, deltas) = match self.direction {
            Direction::Plain => (x, g),
            Direction::Transposed => (g, x),
        };
        let weights = geometry.groups * geometry.group_weight();
        let (height, width) = self.out_size();
        let (biases, size) = (if bias { self.out_channels() } else { 0 }, height * width);
        let patches = || vec![0f32; geometry.patch() * geometry.positions()];
        sum_and_fold(geometry.batch, weights + biases, folding, patches, |patches, example, out| {
            let (kernel, sums) = out.split_at_mut(weights);
            geometry.example_gradient(patches, image, deltas, example, kernel);
            let channels = g[example * biases * size..].chunks_exact(size);
            for (sum, channel) in sums.iter_mut().zip(channels) {
                *sum = channel.iter().sum();
            }
        })
    }
}

/// Sum and squared norms.
type Gradients = (Vec<f32>, Vec<SquaredNorms>);

impl FusedLayer for ConvOp {
    const NAME: &'static str = "gradlog-conv";

    fn forward(&self, x: Operand<'_>, w: Operand<'_>, b: Option<Operand<'_>>) -> Result<(CpuStorage, Shape)> {
        let bias = b.map(|(storage, layout)| slice(storage, layout)).transpose()?;
        let (xs, ws) = (slice(x.0, x.1)?, slice(w.0, w.1)?);
        let y = match self.direction {
            Direction::Plain => self.geometry.forward(xs, ws, bias),
            Direction::Transposed => self.geometry.transposed_forward(ws, xs, bias),
        };
        Ok((CpuStorage::F32(y), self.out_shape(x.1.dims().len())))
    }

    fn backward(&self, x: &Tensor, w: &Tensor, held: Held, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let geometry = &self.geometry;
        let grad = grad.contiguous()?;
        let fold = self.catch.find_fold();
        if fold.is_none() {
            self.catch.keep_use(x, &grad);
        }
        with_slice(&grad, |g| {
            let x_grad = if needs_gradient(x) {
                let out = with_slice(w, |w| {
                    Ok(match self.direction {
                        Direction::Plain => geometry.transposed_forward(w, g, None),
                        Direction::Transposed => geometry.forward(g, w, None),
                    })
                })?;
                Some(Tensor::from_vec(out, x.shape(), x.device())?)
            } else {
                None
            };
            if !held.trained {
                return Ok([x_grad, None, None]);
            }
            let Held { bias, .. } = held;
            let mut sum = with_slice(x, |xs| {
                Ok(match &fold {
                    Some(fold) => self.catch.keep_folded(fold, geometry.batch, |folding| {
                        self.parameter_gradients(xs, g, bias, Some(folding))
                    }),
                    None => self.parameter_gradients(xs, g, bias, None).0,
                })
            })?;
            let biases = sum.split_off(geometry.groups * geometry.group_weight());
            let b_grad = if bias { Some(Tensor::from_vec(biases, self.out_channels(), x.device())?) } else { None };
            Ok([x_grad, Some(Tensor::from_vec(sum, w.shape(), x.device())?), b_grad])
        })
    }
}
