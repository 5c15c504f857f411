//! ReLU and max-pooling with one pass forward and one pass backward.
//!
//! candle's backward of each is a chain of five to ten ops. Each op writes a new tensor of the input's size. In a
//! convolutional network these cost more than the convolutions. Neither function has parameters, so there is nothing to
//! record.

use crate::taps::parallel::share_rows;
use crate::taps::{cpu_f32, slice, with_slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// With this many numbers it pays to wake a thread for an element-wise pass.
const STRETCH: usize = 1 << 12;

/// Computes `max(x, 0)`, of the shape of `x`. Value and gradient equal those of `x.relu()` bit for bit.
///
/// For f32 in main memory it takes one pass forward and one backward. Other dtypes and devices use candle's `relu`.
///
/// # Errors
/// candle's error.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if !cpu_f32(&[x]) {
        return x.relu();
    }
    x.contiguous()?.apply_op1(Relu)
}

/// Computes the largest number of each window of `kernel` by `kernel`. The windows lie side by side: `[batch, channels,
/// height, width]` becomes `[batch, channels, height / kernel, width / kernel]`. Rows and columns at the edge that fill
/// no window are left out.
///
/// The value is that of `x.max_pool2d(kernel)`. The gradient is the true one: it goes to the largest number of its
/// window, in equal parts if several are equal. The gradient of candle 0.11 is smaller by the factor `kernel²`: it
/// divides by all numbers of the window in place of the equal ones. So a training changes with this function, as if the
/// layers before the pool had had a learning rate `kernel²` times as small before. [`max_pool2d_as_candle`] keeps such
/// a training as it was.
///
/// For f32 in main memory it takes one pass forward and one backward. For other tensors it uses candle's ops.
///
/// # Errors
/// An error if `x` does not have four dimensions, or if `kernel` is 0 or larger than the image; otherwise candle's
/// error.
pub fn max_pool2d(x: &Tensor, kernel: usize) -> Result<Tensor> {
    let windows = Windows::new(x, kernel)?;
    if cpu_f32(&[x]) {
        return x.contiguous()?.apply_op1(MaxPool { windows, gradient: Gradient::True });
    }
    // Takes the maximum over the window's own dimension. candle has that gradient right, but gives the whole of it to
    // each of several equal numbers.
    let (batch, channels, _, _) = x.dims4()?;
    let Windows { kernel: k, out_height: h, out_width: w, .. } = windows;
    let x = x.narrow(2, 0, h * k)?.narrow(3, 0, w * k)?.contiguous()?;
    let x = x.reshape((batch * channels, h, k, w, k))?.transpose(2, 3)?.contiguous()?;
    x.reshape((batch, channels, h, w, k * k))?.max(4)
}

/// Computes [`max_pool2d`] with candle 0.11's gradient, bit for bit: `(n / kernel²)·g` for each of the `n` largest
/// numbers of a window.
///
/// Use it for a training that must stay as it was with `x.max_pool2d(kernel)`. Tensors other than f32 in main memory,
/// and images whose sides `kernel` does not divide, use candle's op.
///
/// # Errors
/// As [`max_pool2d`].
pub fn max_pool2d_as_candle(x: &Tensor, kernel: usize) -> Result<Tensor> {
    let windows = Windows::new(x, kernel)?;
    let divides = windows.height % kernel == 0 && windows.width % kernel == 0;
    if !divides || !cpu_f32(&[x]) {
        return x.max_pool2d(kernel);
    }
    x.contiguous()?.apply_op1(MaxPool { windows, gradient: Gradient::AsCandle })
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "gradlog-relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        share_rows(&mut y, STRETCH, |first, y| {
            let x = &x[first * STRETCH..];
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x.max(0.0));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = vec![0f32; x.elem_count()];
        with_slice(grad, |g| {
            with_slice(x, |x| {
                share_rows(&mut out, STRETCH, |first, out| {
                    let from = first * STRETCH;
                    for ((out, x), g) in out.iter_mut().zip(&x[from..]).zip(&g[from..]) {
                        // A product, as in candle, so that a gradient that is not finite stays not finite.
                        *out = g * if *x >= 0.0 { 1.0 } else { 0.0 };
                    }
                });
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

/// The windows of images `[height, width]`.
#[derive(Debug, Clone, Copy)]
struct Windows {
    kernel: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Windows {
    fn new(x: &Tensor, kernel: usize) -> Result<Self> {
        let (_, _, height, width) = x.dims4()?;
        if kernel == 0 || kernel > height || kernel > width {
            candle_core::bail!("windows of {kernel} by {kernel} do not fit into images of {height} by {width}");
        }
        Ok(Self { kernel, height, width, out_height: height / kernel, out_width: width / kernel })
    }

    /// Calls `f(window, offset)` for each window, with the offset of its first number in the image.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for oy in 0..self.out_height {
            for ox in 0..self.out_width {
                f(oy * self.out_width + ox, oy * self.kernel * self.width + ox * self.kernel);
            }
        }
    }

    fn largest(&self, image: &[f32], from: usize) -> f32 {
        let mut largest = image[from];
        for line in 0..self.kernel {
            for x in &image[from + line * self.width..][..self.kernel] {
                if largest < *x {
                    largest = *x;
                }
            }
        }
        largest
    }

    fn input_len(&self) -> usize {
        self.height * self.width
    }

    fn output_len(&self) -> usize {
        self.out_height * self.out_width
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gradient {
    True,
    AsCandle,
}

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
                windows.for_each(|window, from| y[window] = windows.largest(image, from));
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((batch, channels, windows.out_height, windows.out_width))))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let windows = self.windows;
        let area = (windows.kernel * windows.kernel) as f32;
        let mut out = vec![0f32; x.elem_count()];
        with_slices([x, y, grad], |[x, y, g]| {
            share_rows(&mut out, windows.input_len(), |first, out| {
                let images = x[first * windows.input_len()..].chunks_exact(windows.input_len());
                let ys = y[first * windows.output_len()..].chunks_exact(windows.output_len());
                let gs = g[first * windows.output_len()..].chunks_exact(windows.output_len());
                for (((out, image), y), g) in out.chunks_exact_mut(windows.input_len()).zip(images).zip(ys).zip(gs) {
                    windows.for_each(|window, from| {
                        let lines = || (0..windows.kernel).map(|line| from + line * windows.width);
                        let equal = |place: usize| u32::from(image[place] == y[window]);
                        let count: u32 = lines().flat_map(|line| line..line + windows.kernel).map(equal).sum();
                        let share = match self.gradient {
                            Gradient::AsCandle => g[window] * (count as f32 / area),
                            Gradient::True => g[window] / count.max(1) as f32,
                        };
                        for place in lines().flat_map(|line| line..line + windows.kernel) {
                            out[place] = share * equal(place) as f32;
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    /// An image with many equal numbers, and zeros of both signs.
    fn image(shape: (usize, usize, usize, usize)) -> Var {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let numbers = (0..count).map(|i| ((i * 7919 + 13) % 11) as f32 - 5.0).map(|x| if x == 1.0 { -0.0 } else { x });
        Var::from_tensor(&Tensor::from_vec(numbers.collect(), shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn bits(t: &Tensor) -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
    }

    /// The value, and the gradient of the sum of its squares, as bits.
    fn value_and_gradient(x: &Var, f: impl Fn(&Tensor) -> Result<Tensor>) -> (Vec<u32>, Vec<u32>) {
        let y = f(x).unwrap();
        let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        (bits(&y), bits(grads.get(x).unwrap()))
    }

    #[test]
    fn relu_equals_candles_bit_for_bit() {
        for shape in [(1, 1, 1, 1), (2, 3, 5, 7), (4, 8, 32, 33)] {
            let x = image(shape);
            assert_eq!(value_and_gradient(&x, relu), value_and_gradient(&x, Tensor::relu), "{shape:?}");
            // Not contiguous, and in another type.
            let turned =
                |f: fn(&Tensor) -> Result<Tensor>| value_and_gradient(&x, |x| f(&x.transpose(1, 3)?)?.transpose(1, 3));
            assert_eq!(turned(relu), turned(Tensor::relu));
            let wide = x.to_dtype(DType::F64).unwrap();
            assert_eq!(relu(&wide).unwrap().dtype(), DType::F64);
        }
    }

    #[test]
    fn pooling_as_candle_equals_candles_bit_for_bit() {
        for (shape, kernel) in [((1, 1, 2, 2), 2), ((2, 3, 6, 4), 2), ((3, 5, 9, 12), 3), ((2, 2, 5, 7), 2)] {
            let x = image(shape);
            let ours = value_and_gradient(&x, |x| max_pool2d_as_candle(x, kernel));
            assert_eq!(ours, value_and_gradient(&x, |x| x.max_pool2d(kernel)), "{shape:?} {kernel}");
        }
    }

    #[test]
    fn the_gradient_of_pooling_is_the_slope() {
        // No two numbers are equal, so that there is a slope.
        let numbers: Vec<f32> = (0..2 * 3 * 5 * 6).map(|i| ((i * 77) % 180) as f32 / 16.0).collect();
        let x = Var::from_tensor(&Tensor::from_vec(numbers.clone(), (2, 3, 5, 6), &Device::Cpu).unwrap()).unwrap();
        let loss = |x: &Tensor| max_pool2d(x, 2).unwrap().sqr().unwrap().sum_all().unwrap();
        let gradient: Vec<f32> =
            loss(&x).backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for place in 0..numbers.len() {
            let loss_after = |change: f32| {
                let mut moved = numbers.clone();
                moved[place] += change;
                let moved = Tensor::from_vec(moved, (2, 3, 5, 6), &Device::Cpu).unwrap();
                f64::from(loss(&moved).to_vec0::<f32>().unwrap())
            };
            let slope = (loss_after(0.0156) - loss_after(-0.0156)) / 0.0312;
            assert!((slope - f64::from(gradient[place])).abs() < 0.05, "{place}: {slope} {}", gradient[place]);
        }
        let other: Vec<f64> = {
            let wide = Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap();
            let sum = max_pool2d(&wide, 2).unwrap().sqr().unwrap().sum_all().unwrap();
            sum.backward().unwrap().get(&wide).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        assert!(gradient.iter().zip(&other).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4));
    }

    #[test]
    fn equals_share_the_gradient() {
        let x = Var::from_tensor(&Tensor::new(&[3f32, 3.0, 1.0, 3.0], &Device::Cpu).unwrap()).unwrap();
        let y = max_pool2d(&x.reshape((1, 1, 2, 2)).unwrap(), 2).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        let third = 1.0 / 3.0;
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [third, third, 0.0, third]);
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let x = Tensor::zeros((1, 1, 3, 4), DType::F32, &Device::Cpu).unwrap();
        for (kernel, said) in [(0, "0 by 0"), (4, "4 by 4 do not fit into images of 3 by 4")] {
            let error = max_pool2d(&x, kernel).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(max_pool2d_as_candle(&x, kernel).is_err());
        }
        assert!(max_pool2d(&x.flatten_all().unwrap(), 2).is_err());
    }
}
