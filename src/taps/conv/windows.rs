//! The windows of a convolution: patches of an image, as matrices of one example at a time, which stay in cache.

use crate::taps::parallel::share_rows;
use candle_core::{bail, Result};
use gradlog_kernels::matmul::{matmul, Matrix};

/// The settings that both kinds of convolution have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) padding: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) groups: usize,
}

/// A convolution over two dimensions. One over one dimension has height 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) groups: usize,
    /// Input and output channels of one group.
    pub(super) channels: usize,
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Numbers of windows below and beside each other.
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) kernel_height: usize,
    pub(super) kernel_width: usize,
    /// (vertical, horizontal)
    pub(super) stride: (usize, usize),
    pub(super) padding: (usize, usize),
    pub(super) dilation: (usize, usize),
}

impl Geometry {
    /// The windows of a convolution: `x` is the image, `[batch, channels, (height,) width]`.
    pub(super) fn new(x: &[usize], weight: &[usize], settings: Settings) -> Result<Self> {
        let mut made = Self::without_windows(x, weight, settings)?;
        let (span, padding) = (made.kernel_span(), made.padding);
        let windows = |size: usize, padding: usize, span: usize, stride: usize| {
            (size + 2 * padding).checked_sub(span).map(|rest| rest / stride + 1)
        };
        let (Some(out_height), Some(out_width)) = (
            windows(made.height, padding.0, span.0, made.stride.0),
            windows(made.width, padding.1, span.1, made.stride.1),
        ) else {
            let dilation = settings.dilation;
            bail!("a kernel of {weight:?} with dilation {dilation} is larger than an input of shape {x:?}");
        };
        (made.out_height, made.out_width) = (out_height, out_width);
        Ok(made)
    }

    /// The windows of a transposed convolution: `x` has a number for each window, `[batch, inputs, (height,) width]`,
    /// and the result is the image.
    pub(super) fn transposed(x: &[usize], weight: &[usize], settings: Settings, output_padding: usize) -> Result<Self> {
        let (&[inputs, outputs, ..], &[batch, channels, ..]) = (weight, x) else {
            bail!("a transposed convolution with a weight of {weight:?} does not take an input of shape {x:?}");
        };
        let groups = settings.groups;
        if inputs != channels || groups == 0 || channels % groups != 0 || x.len() != weight.len() {
            bail!(
                "a transposed convolution with a weight of {weight:?} in {groups} groups does not take an input of \
                 shape {x:?}"
            );
        }
        let mut image = vec![batch, outputs * groups];
        image.extend(&x[2..]);
        let mut made = Self::without_windows(&image, weight, settings)?;
        (made.out_height, made.out_width) = (made.height, made.width);
        let (span, stride, padding) = (made.kernel_span(), made.stride, made.padding);
        // Without padding the windows cover `full` numbers.
        let extent = |windows: usize, span: usize, stride: usize, padding: usize, more: usize| {
            let full = windows.checked_sub(1)? * stride + span;
            (full > padding).then_some(full + more)?.checked_sub(2 * padding).filter(|size| *size > 0)
        };
        // There is one row of windows in one dimension, and no padding above it.
        let more = if x.len() == 3 { 0 } else { output_padding };
        let (Some(height), Some(width)) = (
            extent(made.out_height, span.0, stride.0, padding.0, more),
            extent(made.out_width, span.1, stride.1, padding.1, output_padding),
        ) else {
            bail!(
                "a transposed convolution with a weight of {weight:?}, padding {} and stride {} leaves nothing of an \
                 input of shape {x:?}",
                settings.padding,
                settings.stride
            );
        };
        (made.height, made.width) = (height, width);
        Ok(made)
    }

    fn without_windows(image: &[usize], weight: &[usize], settings: Settings) -> Result<Self> {
        let Settings { padding, stride, dilation, groups } = settings;
        if stride == 0 || dilation == 0 || weight.contains(&0) {
            bail!(
                "a convolution needs a stride, a dilation and sides of its weight of at least 1, not {stride}, \
                 {dilation} and {weight:?}"
            );
        }
        let (batch, c, height, width) = match *image {
            [batch, c, width] => (batch, c, 1, width),
            [batch, c, height, width] => (batch, c, height, width),
            _ => bail!("a convolution does not take an input of shape {image:?}"),
        };
        let (o, channels, kernel_height, kernel_width) = match *weight {
            [o, channels, width] if image.len() == 3 => (o, channels, 1, width),
            [o, channels, height, width] if image.len() == 4 => (o, channels, height, width),
            _ => bail!("a convolution with a weight of {weight:?} does not take an input of shape {image:?}"),
        };
        if groups * channels != c {
            bail!(
                "a convolution with a weight of {weight:?} in {groups} groups does not take an input of shape {image:?}"
            );
        }
        // The vertical settings of one dimension are those of a single row.
        let both = |setting: usize, single: usize| (if image.len() == 3 { single } else { setting }, setting);
        Ok(Self {
            batch,
            groups,
            channels,
            outputs: o / groups,
            height,
            width,
            out_height: 0,
            out_width: 0,
            kernel_height,
            kernel_width,
            stride: both(stride, 1),
            padding: both(padding, 0),
            dilation: both(dilation, 1),
        })
    }

    /// Extent of the dilated kernel.
    fn kernel_span(&self) -> (usize, usize) {
        (self.dilation.0 * (self.kernel_height - 1) + 1, self.dilation.1 * (self.kernel_width - 1) + 1)
    }

    /// Numbers in a patch of one group.
    pub(super) fn patch(&self) -> usize {
        self.channels * self.kernel_height * self.kernel_width
    }

    pub(super) fn positions(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Numbers of one group of one example, in and out.
    pub(super) fn group_input(&self) -> usize {
        self.channels * self.height * self.width
    }

    pub(super) fn group_output(&self) -> usize {
        self.outputs * self.positions()
    }

    pub(super) fn group_weight(&self) -> usize {
        self.outputs * self.patch()
    }

    /// Calls `f(row, first, count, source)` for each stretch of patch-matrix row `row` that lies inside the input. The
    /// stretch has the positions `first..first + count`. Its numbers begin at input offset `source` and lie `stride.1`
    /// apart.
    fn stretches(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let (out_height, out_width) = (self.out_height, self.out_width);
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
    pub(super) fn unfold(&self, image: &[f32], patches: &mut [f32]) {
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

    pub(super) fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> Vec<f32> {
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

    /// The transpose of [`Geometry::forward`]: the gradient by the image, from one number for each window. It is added
    /// to the bias of the image's channel, if there is one.
    pub(super) fn transposed_forward(&self, w: &[f32], g: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        let per_example = self.groups * self.group_input();
        let mut out = vec![0f32; self.batch * per_example];
        share_rows(&mut out, per_example, |first, out| {
            let mut patches = vec![0f32; self.patch() * self.positions()];
            for (offset, image) in out.chunks_exact_mut(self.group_input()).enumerate() {
                let place = first * self.groups + offset;
                let group = place % self.groups;
                if let Some(b) = b {
                    let channels = image.chunks_exact_mut(self.height * self.width);
                    for (channel, bias) in channels.zip(&b[group * self.channels..]) {
                        channel.fill(*bias);
                    }
                }
                let kernel = Matrix::new(&w[group * self.group_weight()..], self.outputs, self.patch());
                let deltas = Matrix::new(&g[place * self.group_output()..], self.outputs, self.positions());
                matmul(&mut patches, kernel.t(), deltas, false, 1);
                self.refold(&patches, image);
            }
        });
        out
    }

    /// Writes the gradient of the kernel for one example: `g` has a number for each window.
    pub(super) fn example_gradient(
        &self,
        patches: &mut [f32],
        image: &[f32],
        g: &[f32],
        example: usize,
        out: &mut [f32],
    ) {
        for (group, weights) in out.chunks_exact_mut(self.group_weight()).enumerate() {
            let place = example * self.groups + group;
            self.unfold(&image[place * self.group_input()..][..self.group_input()], patches);
            let deltas = Matrix::new(&g[place * self.group_output()..], self.outputs, self.positions());
            matmul(weights, deltas, Matrix::new(patches, self.patch(), self.positions()).t(), false, 1);
        }
    }
}
