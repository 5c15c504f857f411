//! The windows of a convolution by candle's ops, for tensors that are not in main memory.

use super::windows::Geometry;
use candle_core::{Result, Tensor};

/// The windows of the images `[batch, channels, (height,) width]`: `[batch, groups, positions, patch]`.
///
/// One selection of rows and one of columns for each place of the kernel, over the padded image.
pub(super) fn unfold(geometry: &Geometry, image: &Tensor) -> Result<Tensor> {
    let g = geometry;
    let image = image.reshape((g.batch, g.groups * g.channels, g.height, g.width))?;
    let image = image.pad_with_zeros(2, g.padding.0, g.padding.0)?.pad_with_zeros(3, g.padding.1, g.padding.1)?;
    let image = image.contiguous()?;
    let choose = |first: usize, count: usize, stride: usize| {
        let places: Vec<u32> = (0..count).map(|number| (first + number * stride) as u32).collect();
        Tensor::from_vec(places, count, image.device())
    };
    let columns = (0..g.kernel_width).map(|place| choose(place * g.dilation.1, g.out_width, g.stride.1));
    let columns: Vec<Tensor> = columns.collect::<Result<_>>()?;
    let mut places = Vec::with_capacity(g.kernel_height * g.kernel_width);
    for place in 0..g.kernel_height {
        let rows = image.index_select(&choose(place * g.dilation.0, g.out_height, g.stride.0)?, 2)?;
        for column in &columns {
            places.push(rows.index_select(column, 3)?.flatten_from(2)?);
        }
    }
    // A patch has the channels of its group one after another, and of each channel the places of the kernel.
    let patches = Tensor::stack(&places, 2)?.reshape((g.batch, g.groups, g.patch(), g.positions()))?;
    patches.transpose(2, 3)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taps::conv::windows::Settings;
    use candle_core::{DType, Device};

    #[test]
    fn windows_are_those_of_the_fused_op() {
        let cases: [(&[usize], &[usize], [usize; 4]); 5] = [
            (&[2, 3, 7, 9], &[4, 3, 3, 2], [1, 2, 1, 1]),
            (&[2, 4, 8, 8], &[6, 2, 3, 3], [0, 1, 2, 2]),
            (&[1, 1, 5, 5], &[2, 1, 5, 5], [2, 1, 1, 1]),
            (&[3, 4, 11], &[6, 2, 3], [2, 3, 1, 2]),
            (&[2, 2, 6], &[2, 2, 1], [0, 1, 1, 1]),
        ];
        for (image, weight, [padding, stride, dilation, groups]) in cases {
            let settings = Settings { padding, stride, dilation, groups };
            let geometry = Geometry::new(image, weight, settings).unwrap();
            let x = Tensor::randn(0f32, 1., image, &Device::Cpu).unwrap();
            let made = unfold(&geometry, &x).unwrap();
            let own = geometry.patch() * geometry.positions();
            let mut right = vec![0f32; geometry.batch * geometry.groups * own];
            let numbers = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (image, patches) in numbers.chunks(geometry.group_input()).zip(right.chunks_mut(own)) {
                geometry.unfold(image, patches);
            }
            let shape = (geometry.batch, geometry.groups, geometry.patch(), geometry.positions());
            let right = Tensor::from_vec(right, shape, &Device::Cpu).unwrap().transpose(2, 3).unwrap();
            assert_eq!(made.dims(), right.dims());
            let apart = (made - right).unwrap().abs().unwrap().sum_all().unwrap();
            assert_eq!(apart.to_scalar::<f32>().unwrap(), 0.0, "{image:?} {weight:?}");
            assert_eq!(unfold(&geometry, &x.to_dtype(DType::BF16).unwrap()).unwrap().dtype(), DType::BF16);
        }
    }
}
