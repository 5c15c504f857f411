//! The windows of a max-pool: which numbers of an image belong to which output.

use super::pool::MaxPool2d;
use super::two_by_two::TwoByTwo;
use candle_core::{Result, Tensor};
use std::ops::Range;

/// The windows of images `[height, width]`. Every window holds at least one number of the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pool: MaxPool2d,
    height: usize,
    width: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

impl Windows {
    /// The windows of `pool` in the images of `x`, `[batch, channels, height, width]`.
    pub(super) fn new(x: &Tensor, pool: MaxPool2d) -> Result<Self> {
        let (_, _, height, width) = x.dims4()?;
        let MaxPool2d { kernel, stride, padding } = pool;
        // A window in the padding alone would have no largest number.
        if padding > kernel / 2 {
            candle_core::bail!(
                "a padding of {padding} is more than half of the kernel {kernel}: give at most {}",
                kernel / 2
            );
        }
        if kernel == 0 || kernel > height + 2 * padding || kernel > width + 2 * padding {
            let padded = if padding > 0 { format!(" with a padding of {padding}") } else { String::new() };
            candle_core::bail!("windows of {kernel} by {kernel} do not fit into images of {height} by {width}{padded}");
        }
        if stride == 0 {
            candle_core::bail!("the windows of a max-pool have the stride 0: give at least 1");
        }
        let count = |size: usize| (size + 2 * padding - kernel) / stride + 1;
        Ok(Self { pool, height, width, out_height: count(height), out_width: count(width) })
    }

    /// Whether a number of the image can be in several windows.
    pub(super) fn overlap(&self) -> bool {
        self.pool.stride < self.pool.kernel
    }

    /// Number of numbers in a window that is not cut by the edge.
    pub(super) fn area(&self) -> usize {
        self.pool.kernel * self.pool.kernel
    }

    pub(super) fn input_len(&self) -> usize {
        self.height * self.width
    }

    pub(super) fn output_len(&self) -> usize {
        self.out_height * self.out_width
    }

    /// The same windows, if they are of two by two and lie side by side.
    pub(super) fn two_by_two(&self) -> Option<TwoByTwo> {
        let is_plain = self.pool == MaxPool2d::new(2);
        is_plain.then_some(TwoByTwo { width: self.width, out_width: self.out_width })
    }

    /// Calls `f(number, window)` for each window, in the order of the output.
    pub(super) fn for_each(&self, mut f: impl FnMut(usize, Window)) {
        for oy in 0..self.out_height {
            let rows = self.span(oy, self.height);
            for ox in 0..self.out_width {
                let columns = self.span(ox, self.width);
                f(oy * self.out_width + ox, Window { rows: rows.clone(), columns, width: self.width });
            }
        }
    }

    /// The rows or columns of window number `place` along a side of `size`, without the padding.
    fn span(&self, place: usize, size: usize) -> Range<usize> {
        let first = place * self.pool.stride;
        let last = (first + self.pool.kernel - self.pool.padding).min(size);
        first.saturating_sub(self.pool.padding)..last
    }

    /// For each window along the height: the row at offset `offset` in the window, and whether it is in the image. A
    /// row in the padding is replaced by the nearest row of the image, which is in the same window.
    pub(super) fn rows_at(&self, offset: usize) -> Vec<(u32, bool)> {
        self.places_at(offset, self.out_height, self.height)
    }

    /// As [`Windows::rows_at`], along the width.
    pub(super) fn columns_at(&self, offset: usize) -> Vec<(u32, bool)> {
        self.places_at(offset, self.out_width, self.width)
    }

    fn places_at(&self, offset: usize, windows: usize, size: usize) -> Vec<(u32, bool)> {
        let place = |window: usize| {
            let padded = window * self.pool.stride + offset;
            let inside = (self.pool.padding..size + self.pool.padding).contains(&padded);
            (padded.saturating_sub(self.pool.padding).min(size - 1) as u32, inside)
        };
        (0..windows).map(place).collect()
    }

    pub(super) fn kernel(&self) -> usize {
        self.pool.kernel
    }

    pub(super) fn is_padded(&self) -> bool {
        self.pool.padding > 0
    }
}

/// The part of one window that lies in the image.
pub(super) struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Width of the image.
    width: usize,
}

impl Window {
    /// The stretches of the image in this window, one for each row, as ranges of offsets.
    pub(super) fn lines(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.rows.clone().map(|row| row * self.width + self.columns.start..row * self.width + self.columns.end)
    }

    /// The largest number of `image` in this window.
    pub(super) fn largest(&self, image: &[f32]) -> f32 {
        let mut largest = image[self.rows.start * self.width + self.columns.start];
        for line in self.lines() {
            for x in &image[line] {
                if largest < *x {
                    largest = *x;
                }
            }
        }
        largest
    }
}
