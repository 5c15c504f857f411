//! Max-pooling whose gradient is the slope: equal numbers share it, for every dtype and device.

use super::windows::Windows;
use crate::taps::parallel::share_rows;
use crate::taps::{attach_backward, cpu_f32, slice, with_slice};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Result, Shape, Tensor};

/// Max-pooling over windows of `kernel` by `kernel`, with a stride and a padding.
///
/// `[batch, channels, height, width]` becomes `[batch, channels, ⌊(height + 2·padding − kernel) / stride⌋ + 1, ...]`,
/// and the width likewise. The padding is never the largest number, as in PyTorch.
///
/// The gradient of each window goes to its largest number, in equal parts if several are equal. See [`max_pool2d`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use gradlog::ops::MaxPool2d;
///
/// // The pool behind the first convolution of a ResNet.
/// let x = Tensor::zeros((1, 64, 112, 112), DType::F32, &Device::Cpu)?;
/// assert_eq!(MaxPool2d::new(3).stride(2).padding(1).forward(&x)?.dims(), [1, 64, 56, 56]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a pool computes nothing until `forward`"]
pub struct MaxPool2d {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl MaxPool2d {
    /// Windows of `kernel` by `kernel` that lie side by side, without padding.
    pub fn new(kernel: usize) -> Self {
        Self { kernel, stride: kernel, padding: 0 }
    }

    /// Sets the distance between neighboring windows. Default: the kernel.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Sets the rows and columns that are added at each edge, at most half of the kernel. Default 0.
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// Computes the pool of `x`.
    ///
    /// For f32 in main memory it takes one pass forward and one backward. For other tensors it uses candle's ops. The
    /// gradient of half-precision numbers is added up in f32.
    ///
    /// # Errors
    /// An error if `x` does not have four dimensions, if the windows do not fit into the padded image, if the stride is
    /// 0, or if the padding is more than half of the kernel; otherwise candle's error.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let windows = Windows::new(x, *self)?;
        let x = x.contiguous()?;
        if cpu_f32(&[&x]) {
            return x.apply_op1(MaxPool { windows, gradient: Gradient::True });
        }
        let largest = largest_of_windows(&x.detach(), &windows)?;
        let (input, output) = (x.detach(), largest.clone());
        attach_backward(&x, &largest, move |grad| share_gradient(&input, &output, &windows, grad))
    }
}

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Self::forward(self, x)
    }
}

/// Computes the largest number of each window of `kernel` by `kernel`. The windows lie side by side: `[batch, channels,
/// height, width]` becomes `[batch, channels, height / kernel, width / kernel]`. Rows and columns at the edge that fill
/// no window are left out. [`MaxPool2d`] has a stride and a padding.
///
/// The value is that of `x.max_pool2d(kernel)`. The gradient is the true one: it goes to the largest number of its
/// window, in equal parts if several are equal. The gradient of candle 0.11 is smaller by the factor `kernel²`: it
/// divides by all numbers of the window in place of the equal ones. So a training changes with this function, as if the
/// layers before the pool had had a learning rate `kernel²` times as small before. [`max_pool2d_as_candle`] keeps such
/// a training as it was.
///
/// PyTorch gives the whole gradient to the first of equal numbers. See [the module's
/// page](super#where-pytorch-differs).
///
/// # Errors
/// As [`MaxPool2d::forward`].
pub fn max_pool2d(x: &Tensor, kernel: usize) -> Result<Tensor> {
    MaxPool2d::new(kernel).forward(x)
}

/// Computes [`max_pool2d`] with candle 0.11's gradient, bit for bit: `(n / kernel²)·g` for each of the `n` largest
/// numbers of a window.
///
/// Use it for a training that must stay as it was with `x.max_pool2d(kernel)`. Tensors other than f32 in main memory,
/// and images whose sides `kernel` does not divide, use candle's op. candle has no gradient for a stride other than the
/// kernel.
///
/// # Errors
/// As [`max_pool2d`].
pub fn max_pool2d_as_candle(x: &Tensor, kernel: usize) -> Result<Tensor> {
    let windows = Windows::new(x, MaxPool2d::new(kernel))?;
    let (_, _, height, width) = x.dims4()?;
    let divides = height % kernel == 0 && width % kernel == 0;
    if !divides || !cpu_f32(&[x]) {
        return x.max_pool2d(kernel);
    }
    x.contiguous()?.apply_op1(MaxPool { windows, gradient: Gradient::AsCandle })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gradient {
    True,
    AsCandle,
}

/// The pool for f32 in main memory.
struct MaxPool {
    windows: Windows,
    gradient: Gradient,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "gradlog-max-pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let windows = self.windows;
        let (batch, channels, _, _) = layout.shape().dims4()?;
        let x = slice(x, layout)?;
        let mut y = vec![0f32; batch * channels * windows.output_len()];
        share_rows(&mut y, windows.output_len(), |first, y| {
            let images = x[first * windows.input_len()..].chunks_exact(windows.input_len());
            for (y, image) in y.chunks_exact_mut(windows.output_len()).zip(images) {
                match windows.two_by_two() {
                    Some(windows) => windows.largest(image, y),
                    None => windows.for_each(|number, window| y[number] = window.largest(image)),
                }
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((batch, channels, windows.out_height, windows.out_width))))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let windows = self.windows;
        let (area, overlap) = (windows.area() as f32, windows.overlap());
        let gradient = self.gradient;
        let share_of = move |g: f32, count: u32| match gradient {
            Gradient::AsCandle => g * (count as f32 / area),
            Gradient::True => g / count.max(1) as f32,
        };
        let mut out = vec![0f32; x.elem_count()];
        with_slices([x, y, grad], |[x, y, g]| {
            share_rows(&mut out, windows.input_len(), |first, out| {
                let images = x[first * windows.input_len()..].chunks_exact(windows.input_len());
                let ys = y[first * windows.output_len()..].chunks_exact(windows.output_len());
                let gs = g[first * windows.output_len()..].chunks_exact(windows.output_len());
                for (((out, image), y), g) in out.chunks_exact_mut(windows.input_len()).zip(images).zip(ys).zip(gs) {
                    if let Some(windows) = windows.two_by_two() {
                        windows.share_gradient([image, y, g], out, share_of);
                        continue;
                    }
                    windows.for_each(|number, window| {
                        let equal = |place: usize| u32::from(image[place] == y[number]);
                        let count: u32 = window.lines().flatten().map(equal).sum();
                        let share = share_of(g[number], count);
                        for place in window.lines().flatten() {
                            let own = share * equal(place) as f32;
                            // A sum would turn `-0` into `+0`, which candle's gradient keeps.
                            out[place] = if overlap { out[place] + own } else { own };
                        }
                    });
                }
            });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

fn with_slices<R>(tensors: [&Tensor; 3], f: impl FnOnce([&[f32]; 3]) -> Result<R>) -> Result<R> {
    let [a, b, c] = tensors;
    with_slice(a, |a| with_slice(b, |b| with_slice(c, |c| f([a, b, c]))))
}

/// The places at one offset of all windows along one side, as a tensor of indices. `inside` is 1 for places in the
/// image and 0 for the padding.
struct Places {
    indices: Tensor,
    inside: Tensor,
}

impl Places {
    fn new(places: Vec<(u32, bool)>, device: &Device) -> Result<Self> {
        let count = places.len();
        let (indices, inside): (Vec<u32>, Vec<u8>) =
            places.into_iter().map(|(i, inside)| (i, u8::from(inside))).unzip();
        Ok(Self {
            indices: Tensor::from_vec(indices, count, device)?,
            inside: Tensor::from_vec(inside, count, device)?,
        })
    }
}

/// The largest number of each window, by candle's ops. Keeps no graph.
fn largest_of_windows(x: &Tensor, windows: &Windows) -> Result<Tensor> {
    let mut largest: Option<Tensor> = None;
    for row in 0..windows.kernel() {
        let rows = x.index_select(&Places::new(windows.rows_at(row), x.device())?.indices, 2)?;
        for column in 0..windows.kernel() {
            let part = rows.index_select(&Places::new(windows.columns_at(column), x.device())?.indices, 3)?;
            largest = Some(match largest {
                Some(largest) => largest.maximum(&part)?,
                None => part,
            });
        }
    }
    match largest {
        Some(largest) => largest.force_contiguous(),
        None => candle_core::bail!("a max-pool of windows without numbers"),
    }
}

/// The gradient of `x` by the gradient of `y`, the largest numbers of its windows: equal numbers of a window share it.
///
/// candle's `max` would give the whole gradient to each of several equal numbers.
fn share_gradient(x: &Tensor, y: &Tensor, windows: &Windows, grad: &Tensor) -> Result<Tensor> {
    let (kernel, device) = (windows.kernel(), x.device());
    // Half-precision shares of many windows would lose bits where they are added up.
    let sums = match x.dtype() {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    };
    let places = |at: &dyn Fn(usize) -> Vec<(u32, bool)>| -> Result<Vec<Places>> {
        (0..kernel).map(|offset| Places::new(at(offset), device)).collect()
    };
    let (rows, columns) = (places(&|i| windows.rows_at(i))?, places(&|i| windows.columns_at(i))?);
    let mut equal = Vec::with_capacity(kernel * kernel);
    for row in &rows {
        let lines = x.index_select(&row.indices, 2)?;
        for column in &columns {
            let mut same = lines.index_select(&column.indices, 3)?.eq(y)?;
            if windows.is_padded() {
                same = same.broadcast_mul(&row.inside.reshape((1, 1, (), 1))?)?;
                same = same.broadcast_mul(&column.inside.reshape((1, 1, 1, ()))?)?;
            }
            equal.push(same);
        }
    }
    let mut count = Tensor::zeros(y.shape(), sums, device)?;
    for same in &equal {
        count = (count + same.to_dtype(sums)?)?;
    }
    // A window whose largest number is NaN equals nothing.
    let share = (grad.detach().to_dtype(sums)? / count.maximum(&count.ones_like()?)?)?;
    let (batch, channels, height, width) = x.dims4()?;
    let mut out = Tensor::zeros((batch, channels, height, width), sums, device)?;
    for (row, equal) in rows.iter().zip(equal.chunks(kernel)) {
        let mut lines = Tensor::zeros((batch, channels, windows.out_height, width), sums, device)?;
        for (column, same) in columns.iter().zip(equal) {
            lines = lines.index_add(&column.indices, &(&share * same.to_dtype(sums)?)?, 3)?;
        }
        out = out.index_add(&row.indices, &lines, 2)?;
    }
    out.to_dtype(x.dtype())
}
