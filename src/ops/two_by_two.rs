//! Max-pooling by windows of two by two that lie side by side, the most common ones: loops that the compiler turns into
//! vector instructions. They compute what the loops over any windows compute, bit for bit.

use gradlog_kernels::simd::vectorized;

/// Images of `width` columns, of which each window has two rows and two columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct TwoByTwo {
    pub width: usize,
    pub out_width: usize,
}

impl TwoByTwo {
    /// The two rows of an image for each row of windows, without a column or a row that fills no window.
    fn row_pairs<'a>(&self, image: &'a [f32]) -> impl Iterator<Item = (&'a [[f32; 2]], &'a [[f32; 2]])> {
        let Self { width, out_width } = *self;
        image.chunks_exact(2 * width).map(move |rows| {
            let (top, bottom) = rows.split_at(width);
            (top[..2 * out_width].as_chunks().0, bottom[..2 * out_width].as_chunks().0)
        })
    }

    /// Writes the largest number of each window to `out`.
    pub(super) fn largest(&self, image: &[f32], out: &mut [f32]) {
        // Of two numbers of which one is not a number, the first: so `NaN` stays where it is the first of its window.
        let larger = |a: f32, b: f32| if a < b { b } else { a };
        vectorized(
            #[inline(always)]
            || {
                for ((top, bottom), out) in self.row_pairs(image).zip(out.chunks_exact_mut(self.out_width)) {
                    for ((top, bottom), out) in top.iter().zip(bottom).zip(out) {
                        *out = larger(larger(larger(top[0], top[1]), bottom[0]), bottom[1]);
                    }
                }
            },
        );
    }

    /// Writes the gradient of an image to `out`: `share(g, count)` for each of the `count` numbers of a window that are
    /// its largest number `y`, and zero times that for the others.
    pub(super) fn share_gradient(
        &self,
        [image, y, g]: [&[f32]; 3],
        out: &mut [f32],
        share: impl Fn(f32, u32) -> f32 + Copy,
    ) {
        let Self { width, out_width } = *self;
        vectorized(
            #[inline(always)]
            || {
                let outputs = y.chunks_exact(out_width).zip(g.chunks_exact(out_width));
                let rows = self.row_pairs(image).zip(out.chunks_exact_mut(2 * width));
                for (((top, bottom), out), (y, g)) in rows.zip(outputs) {
                    let (out_top, out_bottom) = out.split_at_mut(width);
                    let out_top = out_top[..2 * out_width].as_chunks_mut::<2>().0;
                    let out_bottom = out_bottom[..2 * out_width].as_chunks_mut::<2>().0;
                    let windows = top.iter().zip(bottom).zip(out_top.iter_mut().zip(out_bottom));
                    for (((top, bottom), (out_top, out_bottom)), (y, g)) in windows.zip(y.iter().zip(g)) {
                        let equal = |x: f32| u32::from(x == *y);
                        let (top, bottom) = (top.map(equal), bottom.map(equal));
                        let share = share(*g, top[0] + top[1] + bottom[0] + bottom[1]);
                        *out_top = top.map(|equal| share * equal as f32);
                        *out_bottom = bottom.map(|equal| share * equal as f32);
                    }
                }
            },
        );
    }
}
