//! `Conv1d` and `Conv2d` as one op each: patches times kernel. The patches of one example at a time stay in cache.
//!
//! For each example, the gradient of the kernel is a matrix product of output gradients and patches. The sum over
//! examples is the batch's weight gradient. One by one they are the per-example gradients, which therefore cost little
//! more. candle_nn's backward uses transposed convolutions instead.

use super::catch::Catch;
use super::fused::{apply_layer, cpu_f32, needs_gradient, slice, with_slice, FusedLayer, Held, Operand};
use super::gradient::PerExample;
use super::gradient::{read_f32, sum_and_fold};
use super::parallel::share_rows;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, CpuStorage, Device, Module, Result, Shape, Tensor};
use candle_nn::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
use gradlog_format::sketch::Fold;
use gradlog_kernels::matmul::{matmul, Matrix};

/// A convolution over two dimensions. One over one dimension has height 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Geometry {
    batch: usize,
    groups: usize,
    /// Input and output channels of one group.
    channels: usize,
    outputs: usize,
    height: usize,
    width: usize,
    kernel_height: usize,
    kernel_width: usize,
    /// (vertical, horizontal)
    stride: (usize, usize),
    padding: (usize, usize),
    dilation: (usize, usize),
}

impl Geometry {
    fn new(x: &[usize], weight: &[usize], settings: Settings) -> Result<Self> {
        let Settings { padding, stride, dilation, groups } = settings;
        let made = match (x, weight) {
            (&[batch, c, length], &[o, channels, k]) if groups * channels == c => Self {
                batch,
                groups,
                channels,
                outputs: o / groups,
                height: 1,
                width: length,
                kernel_height: 1,
                kernel_width: k,
                stride: (1, stride),
                padding: (0, padding),
                dilation: (1, dilation),
            },
            (&[batch, c, height, width], &[o, channels, kh, kw]) if groups * channels == c => Self {
                batch,
                groups,
                channels,
                outputs: o / groups,
                height,
                width,
                kernel_height: kh,
                kernel_width: kw,
                stride: (stride, stride),
                padding: (padding, padding),
                dilation: (dilation, dilation),
            },
            _ => bail!(
                "a convolution with a weight of {weight:?} in {groups} groups does not take an input of shape {x:?}"
            ),
        };
        if made.kernel_span().0 > made.height + 2 * made.padding.0
            || made.kernel_span().1 > made.width + 2 * made.padding.1
        {
            bail!("a kernel of {weight:?} with dilation {dilation} is larger than an input of shape {x:?}");
        }
        Ok(made)
    }

    /// Extent of the dilated kernel.
    fn kernel_span(&self) -> (usize, usize) {
        (self.dilation.0 * (self.kernel_height - 1) + 1, self.dilation.1 * (self.kernel_width - 1) + 1)
    }

    fn out_height(&self) -> usize {
        (self.height + 2 * self.padding.0 - self.kernel_span().0) / self.stride.0 + 1
    }

    fn out_width(&self) -> usize {
        (self.width + 2 * self.padding.1 - self.kernel_span().1) / self.stride.1 + 1
    }

    /// Numbers in a patch of one group.
    fn patch(&self) -> usize {
        self.channels * self.kernel_height * self.kernel_width
    }

    fn positions(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Numbers of one group of one example, in and out.
    fn group_input(&self) -> usize {
        self.channels * self.height * self.width
    }

    fn group_output(&self) -> usize {
        self.outputs * self.positions()
    }

    fn group_weight(&self) -> usize {
        self.outputs * self.patch()
    }

    /// Calls `f(row, first, count, source)` for each stretch of patch-matrix row `row` that lies inside the input. The
    /// stretch has the positions `first..first + count`. Its numbers begin at input offset `source` and lie `stride.1`
    /// apart.
    fn stretches(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let (out_height, out_width) = (self.out_height(), self.out_width());
        for row in 0..self.patch() {
            let kx = row % self.kernel_width;
            let ky = row / self.kernel_width % self.kernel_height;
            let channel = row / (self.kernel_width * self.kernel_height);
            // The output columns whose input column lies inside the image, not in its padding.
            let shift = kx * self.dilation.1;
            let first = self.padding.1.saturating_sub(shift).div_ceil(self.stride.1);
            let past = (self.width + self.padding.1).saturating_sub(shift).div_ceil(self.stride.1).min(out_width);
            if first >= past {
                continue;
            }
            for oy in 0..out_height {
                let y = oy * self.stride.0 + ky * self.dilation.0;
                if y < self.padding.0 || y - self.padding.0 >= self.height {
                    continue;
                }
                let line = (channel * self.height + y - self.padding.0) * self.width;
                f(row, oy * out_width + first, past - first, line + first * self.stride.1 + shift - self.padding.1);
            }
        }
    }

    /// Writes the patch matrix `[patch, positions]` of one group of one example. `patches` must hold zeros at the
    /// padding. A buffer that starts with zeros keeps them, because each call writes the same places.
    fn unfold(&self, image: &[f32], patches: &mut [f32]) {
        let (positions, stride) = (self.positions(), self.stride.1);
        self.stretches(|row, first, count, source| {
            let to = &mut patches[row * positions + first..][..count];
            if stride == 1 {
                to.copy_from_slice(&image[source..source + count]);
            } else {
                for (slot, value) in to.iter_mut().zip(image[source..].iter().step_by(stride)) {
                    *slot = *value;
                }
            }
        });
    }

    /// The transpose of [`Geometry::unfold`]: adds each patch back to its place.
    fn refold(&self, patches: &[f32], image: &mut [f32]) {
        let (positions, stride) = (self.positions(), self.stride.1);
        self.stretches(|row, first, count, source| {
            let from = &patches[row * positions + first..][..count];
            if stride == 1 {
                for (slot, value) in image[source..source + count].iter_mut().zip(from) {
                    *slot += value;
                }
            } else {
                for (slot, value) in image[source..].iter_mut().step_by(stride).zip(from) {
                    *slot += value;
                }
            }
        });
    }

    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        let per_example = self.groups * self.group_output();
        let mut y = vec![0f32; self.batch * per_example];
        share_rows(&mut y, per_example, |first, out| {
            let mut patches = vec![0f32; self.patch() * self.positions()];
            for (offset, out) in out.chunks_exact_mut(self.group_output()).enumerate() {
                let place = first * self.groups + offset;
                let group = place % self.groups;
                self.unfold(&x[place * self.group_input()..][..self.group_input()], &mut patches);
                if let Some(b) = b {
                    for (row, bias) in out.chunks_exact_mut(self.positions()).zip(&b[group * self.outputs..]) {
                        row.fill(*bias);
                    }
                }
                let kernel = Matrix::new(&w[group * self.group_weight()..], self.outputs, self.patch());
                matmul(out, kernel, Matrix::new(&patches, self.patch(), self.positions()), b.is_some(), 1);
            }
        });
        y
    }

    fn input_gradient(&self, w: &[f32], g: &[f32]) -> Vec<f32> {
        let per_example = self.groups * self.group_input();
        let mut out = vec![0f32; self.batch * per_example];
        share_rows(&mut out, per_example, |first, out| {
            let mut patches = vec![0f32; self.patch() * self.positions()];
            for (offset, image) in out.chunks_exact_mut(self.group_input()).enumerate() {
                let place = first * self.groups + offset;
                let kernel = Matrix::new(&w[place % self.groups * self.group_weight()..], self.outputs, self.patch());
                let deltas = Matrix::new(&g[place * self.group_output()..], self.outputs, self.positions());
                matmul(&mut patches, kernel.t(), deltas, false, 1);
                self.refold(&patches, image);
            }
        });
        out
    }

    /// Writes the gradient of one example: kernel, then bias.
    fn example_gradient(&self, patches: &mut [f32], x: &[f32], g: &[f32], example: usize, bias: bool, out: &mut [f32]) {
        let (weights, biases) = out.split_at_mut(self.groups * self.group_weight());
        for (group, weights) in weights.chunks_exact_mut(self.group_weight()).enumerate() {
            let place = example * self.groups + group;
            self.unfold(&x[place * self.group_input()..][..self.group_input()], patches);
            let deltas = &g[place * self.group_output()..][..self.group_output()];
            let matrix = Matrix::new(deltas, self.outputs, self.positions());
            matmul(weights, matrix, Matrix::new(patches, self.patch(), self.positions()).t(), false, 1);
            if bias {
                let rows = deltas.chunks_exact(self.positions());
                for (slot, row) in biases[group * self.outputs..].iter_mut().zip(rows) {
                    *slot = row.iter().sum();
                }
            }
        }
    }
}

/// The settings that both kinds of convolution have.
#[derive(Debug, Clone, Copy)]
struct Settings {
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
}

macro_rules! convolution {
    ($layer:ident, $config:ident, $kind:literal) => {
        impl From<&$config> for Settings {
            fn from(config: &$config) -> Self {
                let &$config { padding, stride, dilation, groups, .. } = config;
                Self { padding, stride, dilation, groups }
            }
        }

        impl Tap for $layer {
            fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
                let mut parameters = vec![Parameter::new("weight", self.weight())];
                parameters.extend(self.bias().map(|bias| Parameter::new("bias", bias)));
                Ok(LayerSpec { kind: $kind, parameters, factors: None, bias: self.bias().is_some() })
            }

            fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
                Module::forward(self, x)
            }

            fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
                let supported = cpu_f32(&[x, self.weight()]) && self.bias().is_none_or(|b| cpu_f32(&[b]));
                if !supported || x.elem_count() == 0 {
                    return catch.output(x, Module::forward(self, x)?);
                }
                fused_forward(x, self.weight(), self.bias(), self.config().into(), catch)
            }

            fn per_example_reads_parameters(&self) -> bool {
                false
            }

            fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
                let geometry = Geometry::new(x.dims(), self.weight().dims(), self.config().into())?;
                per_example(geometry, x, delta, self.bias().is_some())
            }
        }
    };
}

convolution!(Conv1d, Conv1dConfig, "conv1d");
convolution!(Conv2d, Conv2dConfig, "conv2d");

fn fused_forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    settings: Settings,
    catch: &Catch,
) -> Result<Tensor> {
    let geometry = Geometry::new(x.dims(), weight.dims(), settings)?;
    catch.note_forward(x);
    apply_layer(ConvOp { geometry, catch: catch.clone() }, x, weight, bias)
}

/// The per-example gradients, with patches as positions.
fn per_example(geometry: Geometry, x: &Tensor, delta: &Tensor, bias: bool) -> Result<PerExample> {
    let (patch, positions) = (geometry.patch(), geometry.positions());
    let places = geometry.batch * geometry.groups;
    let image = read_f32(x)?;
    let mut patches = vec![0f32; places * patch * positions];
    for (image, patches) in image.chunks_exact(geometry.group_input()).zip(patches.chunks_exact_mut(patch * positions))
    {
        geometry.unfold(image, patches);
    }
    let inputs = Tensor::from_vec(patches, (geometry.batch, geometry.groups, patch, positions), &Device::Cpu)?;
    let deltas = Tensor::from_vec(
        read_f32(delta)?,
        (geometry.batch, geometry.groups, geometry.outputs, positions),
        &Device::Cpu,
    )?;
    Ok(PerExample::Outer { inputs: inputs.transpose(2, 3)?, deltas: deltas.transpose(2, 3)?, bias })
}

struct ConvOp {
    geometry: Geometry,
    catch: Catch,
}

impl ConvOp {
    fn out_shape(&self, rank: usize) -> Shape {
        let g = &self.geometry;
        let channels = g.groups * g.outputs;
        if rank == 3 {
            Shape::from((g.batch, channels, g.out_width()))
        } else {
            Shape::from((g.batch, channels, g.out_height(), g.out_width()))
        }
    }
}

impl FusedLayer for ConvOp {
    const NAME: &'static str = "gradlog-conv";

    fn forward(&self, x: Operand<'_>, w: Operand<'_>, b: Option<Operand<'_>>) -> Result<(CpuStorage, Shape)> {
        let bias = b.map(|(storage, layout)| slice(storage, layout)).transpose()?;
        let y = self.geometry.forward(slice(x.0, x.1)?, slice(w.0, w.1)?, bias);
        Ok((CpuStorage::F32(y), self.out_shape(x.1.dims().len())))
    }

    fn backward(&self, x: &Tensor, w: &Tensor, held: Held, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let geometry = &self.geometry;
        let grad = grad.contiguous()?;
        let fold = self.catch.find_fold();
        if fold.is_none() {
            self.catch.keep_use(x, &grad);
        }
        let size = geometry.groups * geometry.group_weight();
        let channels = geometry.groups * geometry.outputs;
        with_slice(&grad, |g| {
            let x_grad = if needs_gradient(x) {
                let out = with_slice(w, |w| Ok(geometry.input_gradient(w, g)))?;
                Some(Tensor::from_vec(out, x.shape(), x.device())?)
            } else {
                None
            };
            if !held.trained {
                return Ok([x_grad, None, None]);
            }
            let Held { bias, .. } = held;
            let parameters = size + if bias { channels } else { 0 };
            let mut sum = with_slice(x, |xs| {
                let sum_all = |fold: Option<(&Fold, &mut [f32])>| {
                    let patches = || vec![0f32; geometry.patch() * geometry.positions()];
                    sum_and_fold(geometry.batch, parameters, fold, patches, |patches, example, out| {
                        geometry.example_gradient(patches, xs, g, example, bias, out)
                    })
                };
                Ok(match &fold {
                    Some(fold) => {
                        self.catch.keep_folded(fold, geometry.batch, |fold, rows| sum_all(Some((fold, rows))))
                    }
                    None => sum_all(None).0,
                })
            })?;
            let b_grad = if bias { Some(Tensor::from_vec(sum.split_off(size), channels, x.device())?) } else { None };
            Ok([x_grad, Some(Tensor::from_vec(sum, w.shape(), x.device())?), b_grad])
        })
    }
}
