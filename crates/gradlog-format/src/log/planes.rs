//! Numbers byte by byte: the first bytes of all numbers, then all second bytes, and so on (FORMAT.md, "Compression").
//!
//! The numbers of a column often agree in some bytes, and the other bytes are nearly random. In planes, the common
//! bytes shrink to almost nothing and the random ones are copied. Otherwise zstd has to find a match in every number.

use gradlog_kernels::simd::vectorized;

/// Writes the planes of `bytes`, which are numbers of `size` bytes, into `planes`. Both have the same length.
pub(super) fn split(size: usize, bytes: &[u8], planes: &mut [u8]) {
    match size {
        2 => split_by::<2>(bytes, planes),
        4 => split_by::<4>(bytes, planes),
        8 => split_by::<8>(bytes, planes),
        _ => planes.copy_from_slice(bytes),
    }
}

/// Undoes [`split`].
pub(super) fn join(size: usize, planes: &[u8], bytes: &mut [u8]) {
    match size {
        2 => join_by::<2>(planes, bytes),
        4 => join_by::<4>(planes, bytes),
        8 => join_by::<8>(planes, bytes),
        _ => bytes.copy_from_slice(planes),
    }
}

fn split_by<const SIZE: usize>(bytes: &[u8], planes: &mut [u8]) {
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    for (place, plane) in planes.chunks_exact_mut(numbers.len().max(1)).enumerate().take(SIZE) {
        vectorized(
            #[inline(always)]
            || plane.iter_mut().zip(numbers).for_each(|(byte, number)| *byte = number[place]),
        );
    }
}

/// Numbers that are joined at a time, in registers.
const TOGETHER: usize = 64;

fn join_by<const SIZE: usize>(planes: &[u8], bytes: &mut [u8]) {
    let (numbers, _) = bytes.as_chunks_mut::<SIZE>();
    let count = numbers.len();
    vectorized(
        #[inline(always)]
        || {
            for (tile, numbers) in numbers.chunks_mut(TOGETHER).enumerate() {
                // Shifting bytes into words compiles to vector instructions. Writing bytes with a stride does not.
                let mut words = [0u64; TOGETHER];
                for (place, plane) in planes.chunks_exact(count).enumerate() {
                    let plane = &plane[tile * TOGETHER..][..numbers.len()];
                    words.iter_mut().zip(plane).for_each(|(word, byte)| *word |= u64::from(*byte) << (8 * place));
                }
                numbers.iter_mut().zip(&words).for_each(|(n, word)| n.copy_from_slice(&word.to_le_bytes()[..SIZE]));
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_the_bytes_of_all_numbers_place_by_place() {
        let mut planes = [0; 12];
        let bytes: Vec<u8> =
            [0x0403_0201u32, 0x1413_1211, 0x2423_2221].into_iter().flat_map(u32::to_le_bytes).collect();
        split(4, &bytes, &mut planes);
        // As in FORMAT.md.
        assert_eq!(planes, [0x01, 0x11, 0x21, 0x02, 0x12, 0x22, 0x03, 0x13, 0x23, 0x04, 0x14, 0x24]);
    }

    #[test]
    fn joined_planes_are_the_numbers_again_whatever_their_count() {
        for size in [1, 2, 4, 8] {
            for count in [0, 1, 3, 63, 64, 65, 1000] {
                let bytes: Vec<u8> = (0..size * count).map(|i| (i * i % 251) as u8).collect();
                let (mut planes, mut back) = (vec![0; bytes.len()], vec![7; bytes.len()]);
                split(size, &bytes, &mut planes);
                join(size, &planes, &mut back);
                assert_eq!(back, bytes, "{count} numbers of {size} bytes");
            }
        }
    }
}
