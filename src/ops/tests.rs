//! Values and gradients of ReLU and max-pooling, against candle, brute force and finite differences.

use super::windows::Windows;
use super::*;
use candle_core::{DType, Device, Result, Tensor, Var};

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

/// candle leaves the sign of a zero to the compiler: debug and release builds differ.
#[test]
fn relu_equals_candles_bit_for_bit_but_for_the_signs_of_zeros() {
    let value_and_gradient = |x: &Var, f: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let (value, gradient) = value_and_gradient(x, f);
        let without_sign = |bits: u32| (f32::from_bits(bits) + 0.0).to_bits();
        [value, gradient].map(|numbers| numbers.into_iter().map(without_sign).collect::<Vec<u32>>())
    };
    for shape in [(1, 1, 1, 1), (2, 3, 5, 7), (4, 8, 32, 33)] {
        let x = image(shape);
        assert_eq!(value_and_gradient(&x, &relu), value_and_gradient(&x, &Tensor::relu), "{shape:?}");
        let y = relu(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(y.iter().all(|y| y.is_sign_positive()));
        // Not contiguous, and in another type.
        let turned =
            |f: fn(&Tensor) -> Result<Tensor>| value_and_gradient(&x, &|x| f(&x.transpose(1, 3)?)?.transpose(1, 3));
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

/// The pool's value and gradient by its definition, for one image of `height` by `width`, in f64. `upstream` is the
/// gradient of each output.
fn pool_by_definition(
    image: &[f64],
    (height, width): (usize, usize),
    (kernel, stride, padding): (usize, usize, usize),
    upstream: impl Fn(usize) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut values, mut gradient) = (Vec::new(), vec![0.0; image.len()]);
    let (rows, columns) = ((height + 2 * padding - kernel) / stride + 1, (width + 2 * padding - kernel) / stride + 1);
    for (oy, ox) in (0..rows).flat_map(|oy| (0..columns).map(move |ox| (oy, ox))) {
        let mut window = Vec::new();
        for (dy, dx) in (0..kernel).flat_map(|dy| (0..kernel).map(move |dx| (dy, dx))) {
            let (y, x) =
                ((oy * stride + dy) as isize - padding as isize, (ox * stride + dx) as isize - padding as isize);
            if (0..height as isize).contains(&y) && (0..width as isize).contains(&x) {
                window.push(y as usize * width + x as usize);
            }
        }
        let largest = window.iter().map(|place| image[*place]).fold(f64::NEG_INFINITY, f64::max);
        let equal: Vec<usize> = window.into_iter().filter(|place| image[*place] == largest).collect();
        let own = upstream(values.len());
        equal.iter().for_each(|place| gradient[*place] += own / equal.len() as f64);
        values.push(largest);
    }
    (values, gradient)
}

const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// Small whole numbers, exact in every dtype, and their largest with a gradient of small whole numbers.
fn pooled(dtype: DType, image: &[f64], shape: (usize, usize), pool: MaxPool2d) -> (Vec<f64>, Vec<f64>) {
    let x = Tensor::from_vec(image.to_vec(), (1, 1, shape.0, shape.1), &Device::Cpu).unwrap();
    let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
    let y = pool.forward(&x).unwrap();
    assert_eq!(y.dtype(), dtype);
    let upstream: Vec<f64> = (0..y.elem_count()).map(upstream).collect();
    let upstream = Tensor::from_vec(upstream, y.shape(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let grads = (&y * upstream).unwrap().sum_all().unwrap().backward().unwrap();
    let numbers = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    (numbers(&y), numbers(grads.get(&x).unwrap()))
}

fn upstream(place: usize) -> f64 {
    (place * 5 % 7) as f64 - 3.0
}

#[test]
fn equal_numbers_share_the_gradient_in_every_dtype() {
    for dtype in DTYPES {
        let x = Var::from_tensor(&Tensor::full(2f64, (1, 1, 2, 2), &Device::Cpu).unwrap().to_dtype(dtype).unwrap());
        let x = x.unwrap();
        let grads = max_pool2d(&x, 2).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = grads.get(&x).unwrap().flatten_all().unwrap().to_dtype(DType::F64).unwrap();
        assert_eq!(gradient.to_vec1::<f64>().unwrap(), [0.25; 4], "{dtype:?}");
    }
}

/// Every kernel, stride and padding, on images with many equal numbers, against the definition.
#[test]
fn pools_of_any_stride_and_padding_follow_the_definition_in_every_dtype() {
    let mut compared = 0;
    for (height, width) in [(2, 2), (5, 7), (8, 6)] {
        let image: Vec<f64> = (0..height * width).map(|i| f64::from((i * 7919 + 13) as u32 % 4)).collect();
        for kernel in 1..=4 {
            for stride in 1..=4 {
                for padding in 0..=kernel / 2 {
                    if kernel > height + 2 * padding || kernel > width + 2 * padding {
                        continue;
                    }
                    let pool = MaxPool2d::new(kernel).stride(stride).padding(padding);
                    let (y, gradient) =
                        pool_by_definition(&image, (height, width), (kernel, stride, padding), upstream);
                    for dtype in DTYPES {
                        let (got, got_gradient) = pooled(dtype, &image, (height, width), pool);
                        assert_eq!(got, y, "{pool:?} {dtype:?} on {height} by {width}");
                        let far = got_gradient.iter().zip(&gradient).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                        let tolerance = match dtype {
                            DType::F64 => 1e-12,
                            DType::F32 => 1e-5,
                            DType::F16 => 2e-2,
                            _ => 1e-1,
                        };
                        assert!(far < tolerance, "{pool:?} {dtype:?} on {height} by {width}: {far}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 300, "{compared}");
}

/// A number that is in several windows, in images of a batch with channels: finite differences in f64.
#[test]
fn the_gradient_of_pooling_is_the_slope() {
    let shape = (2, 3, 5, 6);
    // No two numbers are closer than 1/16, so that there is a slope.
    let numbers: Vec<f64> = (0..2 * 3 * 5 * 6).map(|i| f64::from((i * 77) % 180) / 16.0).collect();
    for pool in [MaxPool2d::new(2), MaxPool2d::new(3).stride(2).padding(1), MaxPool2d::new(3).stride(1)] {
        let loss = |numbers: &[f64]| {
            let x = Tensor::from_vec(numbers.to_vec(), shape, &Device::Cpu).unwrap();
            pool.forward(&x).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        for dtype in [DType::F64, DType::F32] {
            let x = Tensor::from_vec(numbers.clone(), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let x = Var::from_tensor(&x).unwrap();
            // Not contiguous, and back again.
            let turned = x.transpose(2, 3).unwrap();
            let y = pool.forward(&turned).unwrap().transpose(2, 3).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let gradient = grads.get(&x).unwrap().flatten_all().unwrap().to_dtype(DType::F64).unwrap();
            for (place, gradient) in gradient.to_vec1::<f64>().unwrap().into_iter().enumerate() {
                let moved = |change: f64| {
                    let mut numbers = numbers.clone();
                    numbers[place] += change;
                    loss(&numbers)
                };
                let slope = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                assert!((slope - gradient).abs() < 1e-3, "{pool:?} {dtype:?} at {place}: {gradient} for {slope}");
            }
        }
    }
}

/// The conventions at kinks that the page of the module states.
#[test]
fn the_slopes_at_kinks_are_those_of_the_page() {
    for dtype in [DType::F32, DType::F64] {
        let x = Tensor::new(&[-1f64, -0.0, 0.0, 1.0], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let slopes = |y: Tensor| {
            let grads = y.sum_all().unwrap().backward().unwrap();
            grads.get(&x).unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
        };
        assert_eq!(slopes(relu(&x).unwrap()), [0.0, 1.0, 1.0, 1.0], "PyTorch has 0 at 0");
        let pytorchs = x.mul(&x.gt(0.0).unwrap().to_dtype(dtype).unwrap()).unwrap();
        assert_eq!(slopes(pytorchs), [0.0, 0.0, 0.0, 1.0]);
        let x = Tensor::new(&[3f64, 3.0, 1.0, 3.0], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let x = Var::from_tensor(&x.reshape((1, 1, 2, 2)).unwrap()).unwrap();
        let slopes = |y: Tensor| {
            let grads = y.sum_all().unwrap().backward().unwrap();
            grads.get(&x).unwrap().flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()
        };
        let third = 1.0 / 3.0;
        assert_eq!(slopes(max_pool2d(&x, 2).unwrap()), [third, third, 0.0, third], "PyTorch has 1, 0, 0, 0");
        assert_eq!(slopes(max_pool2d_as_candle(&x, 2).unwrap()), [0.75, 0.75, 0.0, 0.75]);
    }
}

/// An infinite number is a number like others, and the padding is never the largest.
#[test]
fn infinities_are_numbers_and_padding_is_none() {
    let infinite = [f64::NEG_INFINITY; 4];
    for dtype in DTYPES {
        // Each of the four windows holds the whole image, and numbers of the padding beside it.
        let (y, gradient) = pooled(dtype, &infinite, (2, 2), MaxPool2d::new(3).stride(1).padding(1));
        assert_eq!(y, [f64::NEG_INFINITY; 4]);
        assert_eq!(gradient, [(0..4).map(upstream).sum::<f64>() / 4.0; 4], "{dtype:?}");
    }
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
    for (pool, said) in [
        (MaxPool2d::new(2).stride(0), "stride 0"),
        (MaxPool2d::new(3).padding(2), "a padding of 2 is more than half of the kernel 3: give at most 1"),
        (MaxPool2d::new(6).padding(1), "do not fit into images of 3 by 4 with a padding of 1"),
    ] {
        let error = pool.forward(&x).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// The fast loops for windows of two by two, and the loops for any, on numbers that are equal, not finite or no
/// numbers.
#[test]
fn windows_of_two_by_two_are_windows() {
    let choices = [1.0, 1.0, -0.0, 0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2.5, -3.0];
    for (height, width) in [(2, 2), (4, 6), (5, 7), (6, 33), (14, 14)] {
        let number = |place: usize| choices[(place * 7919 + place / 3) % choices.len()];
        let image: Vec<f32> = (0..height * width).map(number).collect();
        let x = Tensor::new(image.clone(), &Device::Cpu).unwrap().reshape((1, 1, height, width)).unwrap();
        let windows = Windows::new(&x, MaxPool2d::new(2)).unwrap();
        let fast = windows.two_by_two().unwrap();
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        let (mut y, mut found) = (vec![7.0; windows.output_len()], vec![8.0; windows.output_len()]);
        windows.for_each(|number, window| y[number] = window.largest(&image));
        fast.largest(&image, &mut found);
        assert_eq!(bits(&found), bits(&y), "{height}x{width}");

        let g: Vec<f32> = (0..windows.output_len()).map(|place| upstream(place) as f32).collect();
        let share = |g: f32, count: u32| g / count.max(1) as f32;
        let (mut expected, mut found) = (vec![0.0; image.len()], vec![0.0; image.len()]);
        windows.for_each(|number, window| {
            let equal = |place: usize| u32::from(image[place] == y[number]);
            let count = window.lines().flatten().map(equal).sum();
            window.lines().flatten().for_each(|place| expected[place] = share(g[number], count) * equal(place) as f32);
        });
        fast.share_gradient([&image, &y, &g], &mut found, share);
        assert_eq!(bits(&found), bits(&expected), "{height}x{width}");
    }
    for pool in [MaxPool2d::new(3), MaxPool2d::new(2).stride(1), MaxPool2d::new(2).padding(1)] {
        let x = Tensor::zeros((1, 1, 6, 6), DType::F32, &Device::Cpu).unwrap();
        assert!(Windows::new(&x, pool).unwrap().two_by_two().is_none());
    }
}
