//! Makes pictures small.

/// The longest side of a thumbnail in pixels.
pub(super) const SIDE_MAX: usize = 64;

/// The picture, at most [`SIDE_MAX`] pixels a side, and its width. Each pixel is the mean of those that it covers. The
/// sides keep their ratio, up to rounding.
pub(super) fn shrink(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> (usize, Vec<u8>) {
    let longest = width.max(height);
    if longest <= SIDE_MAX {
        return (width, pixels);
    }
    let side = |old: usize| ((old * SIDE_MAX + longest / 2) / longest).clamp(1, SIDE_MAX);
    let (new_width, new_height) = (side(width), side(height));
    let mut small = Vec::with_capacity(new_width * new_height * channels);
    for y in 0..new_height {
        let rows = span(y, new_height, height);
        for x in 0..new_width {
            let columns = span(x, new_width, width);
            for channel in 0..channels {
                let (mut sum, mut count) = (0u64, 0u64);
                for row in rows.clone() {
                    let line = pixels.get(row * width * channels..(row + 1) * width * channels).unwrap_or_default();
                    let covered = line.get(columns.start * channels..columns.end * channels).unwrap_or_default();
                    sum += covered.iter().skip(channel).step_by(channels).map(|v| u64::from(*v)).sum::<u64>();
                    count += columns.len() as u64;
                }
                small.push(((sum + count / 2) / count.max(1)) as u8);
            }
        }
    }
    (new_width, small)
}

/// The old pixels that pixel `at` of `new` covers. No old pixel is left out.
fn span(at: usize, new: usize, old: usize) -> std::ops::Range<usize> {
    let start = at * old / new;
    start..((at + 1) * old / new).max(start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pictures_stay_and_large_ones_become_means() {
        assert_eq!(shrink(64, 2, 1, vec![7; 128]), (64, vec![7; 128]));
        // 128 × 2: pairs of columns and pairs of rows.
        let pixels: Vec<u8> = (0..256).map(|i| (i % 128) as u8 + u8::from(i >= 128) * 20).collect();
        let (width, small) = shrink(128, 2, 1, pixels);
        assert_eq!((width, small.len()), (64, 64));
        // The mean of x, x + 1, x + 20 and x + 21, rounded up at a half.
        assert!((0..64).all(|x| small[x] == 2 * x as u8 + 11), "{small:?}");
    }

    #[test]
    fn colors_stay_apart_and_every_pixel_counts_once() {
        let pixels: Vec<u8> = (0..65 * 100).flat_map(|_| [10, 20, 250]).collect();
        let (width, small) = shrink(65, 100, 3, pixels);
        assert_eq!((width, small.len()), (42, 42 * 64 * 3));
        assert!(small.chunks(3).all(|pixel| pixel == [10, 20, 250]));
        for (new, old) in [(42, 65), (64, 100), (64, 65), (1, 3), (64, 64_000)] {
            let all: Vec<usize> = (0..new).flat_map(|at| span(at, new, old)).collect();
            assert_eq!(all, (0..old).collect::<Vec<_>>());
        }
        // A line keeps one pixel of height.
        assert_eq!(shrink(10_000, 1, 1, vec![3; 10_000]), (64, vec![3; 64]));
    }
}
