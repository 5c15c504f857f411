//! The Walsh–Hadamard transform of a vector, in place.

use super::simd::vectorized;

/// Numbers of a block: those of the widest vector register.
const NEAR: usize = 16;

/// Multiplies a vector by the Hadamard matrix of its length: number `k` becomes `Σ_j (-1)^{popcount(k & j)} v_j`. There
/// is no factor: applied twice, it gives `n` times the vector.
///
/// Sums and differences are made over the distances 1, 2, 4, .. in this order, so results do not depend on the machine.
/// Distances within 16 numbers are made in a register, and up to three of the others of each number that is loaded.
///
/// # Panics
/// If the length is not a power of two.
pub fn transform(values: &mut [f32]) {
    assert!(values.len().is_power_of_two(), "the transform needs a power of two");
    let (blocks, few) = values.as_chunks_mut::<NEAR>();
    transform_textbook(few);
    transform_blocks(blocks);
    vectorized(
        #[inline(always)]
        || {
            let mut distance = 1;
            while distance < blocks.len() {
                distance *= match blocks.len() / distance {
                    2 => combine::<2>(blocks, distance),
                    4 => combine::<4>(blocks, distance),
                    _ => combine::<8>(blocks, distance),
                };
            }
        },
    );
}

/// The transform as it is defined, distance by distance.
fn transform_textbook(values: &mut [f32]) {
    let mut distance = 1;
    while distance < values.len() {
        for pair in values.chunks_exact_mut(2 * distance) {
            let (left, right) = pair.split_at_mut(distance);
            left.iter_mut().zip(right).for_each(|(l, r)| (*l, *r) = (*l + *r, *l - *r));
        }
        distance *= 2;
    }
}

/// The transform of each block.
fn transform_blocks(blocks: &mut [[f32; NEAR]]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the feature.
        return unsafe { x86::transform_blocks_avx512(blocks) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the feature.
        return unsafe { x86::transform_blocks_avx2(blocks) };
    }
    blocks.iter_mut().for_each(|block| transform_textbook(block));
}

/// Sums and differences of blocks that are `distance`, twice as far, .. and `COUNT / 2` times as far apart. Returns
/// `COUNT`.
///
/// Plain loops over places, because the closures of iterators are not always compiled for the machine's vectors.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn combine<const COUNT: usize>(blocks: &mut [[f32; NEAR]], distance: usize) -> usize {
    for group in blocks.chunks_exact_mut(COUNT * distance) {
        for first in 0..distance {
            let mut held = [[0f32; NEAR]; COUNT];
            for k in 0..COUNT {
                held[k] = group[first + k * distance];
            }
            for stage in 0..COUNT.trailing_zeros() {
                let apart = 1 << stage;
                for k in 0..COUNT {
                    if k & apart == 0 {
                        let (left, right) = (held[k], held[k + apart]);
                        for i in 0..NEAR {
                            held[k][i] = left[i] + right[i];
                        }
                        for i in 0..NEAR {
                            held[k + apart][i] = left[i] - right[i];
                        }
                    }
                }
            }
            for k in 0..COUNT {
                group[first + k * distance] = held[k];
            }
        }
    }
    COUNT
}

/// Each number meets the one at a distance in a vector whose numbers are swapped. The compiler finds no such loops.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::NEAR;
    use std::arch::x86_64::*;

    /// Selects, for each four numbers, those at distance 1.
    const SWAP_1: i32 = 0b10_11_00_01;
    /// At distance 2.
    const SWAP_2: i32 = 0b01_00_11_10;

    /// # Safety
    /// The CPU must have the feature.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transform_blocks_avx512(blocks: &mut [[f32; NEAR]]) {
        for block in blocks {
            // SAFETY: a block has 16 numbers.
            let x = unsafe { _mm512_loadu_ps(block.as_ptr()) };
            let swapped = _mm512_permute_ps::<SWAP_1>(x);
            let x = _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), 0xAAAA, swapped, x);
            let swapped = _mm512_permute_ps::<SWAP_2>(x);
            let x = _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), 0xCCCC, swapped, x);
            let swapped = _mm512_shuffle_f32x4::<SWAP_1>(x, x);
            let x = _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), 0xF0F0, swapped, x);
            let swapped = _mm512_shuffle_f32x4::<SWAP_2>(x, x);
            let x = _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), 0xFF00, swapped, x);
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(block.as_mut_ptr(), x) };
        }
    }

    /// # Safety
    /// The CPU must have the feature.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transform_blocks_avx2(blocks: &mut [[f32; NEAR]]) {
        for block in blocks {
            // SAFETY: a block has twice 8 numbers.
            let halves = unsafe { [_mm256_loadu_ps(block.as_ptr()), _mm256_loadu_ps(block.as_ptr().add(8))] };
            let [left, right] = halves.map(|x| {
                let swapped = _mm256_permute_ps::<SWAP_1>(x);
                let x = _mm256_blend_ps::<0xAA>(_mm256_add_ps(x, swapped), _mm256_sub_ps(swapped, x));
                let swapped = _mm256_permute_ps::<SWAP_2>(x);
                let x = _mm256_blend_ps::<0xCC>(_mm256_add_ps(x, swapped), _mm256_sub_ps(swapped, x));
                let swapped = _mm256_permute2f128_ps::<1>(x, x);
                _mm256_blend_ps::<0xF0>(_mm256_add_ps(x, swapped), _mm256_sub_ps(swapped, x))
            });
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_ps(block.as_mut_ptr(), _mm256_add_ps(left, right));
                _mm256_storeu_ps(block.as_mut_ptr().add(8), _mm256_sub_ps(left, right));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 12.9898).sin() * 10f32.powi(i as i32 % 5 - 2)).collect()
    }

    #[test]
    fn the_transform_is_that_of_the_textbook_bit_by_bit() {
        for length in (0..14).map(|bits| 1 << bits) {
            let mut made = numbers(length);
            let mut wanted = made.clone();
            transform(&mut made);
            transform_textbook(&mut wanted);
            assert!(made.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "{length}");
        }
    }

    #[test]
    fn every_number_is_a_signed_sum_of_all() {
        let (values, length) = (numbers(64), 64usize);
        let mut made = values.clone();
        transform(&mut made);
        for (k, made) in made.iter().enumerate() {
            let sign = |j: usize| if (k & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
            let sum: f64 = (0..length).map(|j| sign(j) * f64::from(values[j])).sum();
            assert!((f64::from(*made) - sum).abs() < 1e-3, "{k}: {made} {sum}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn blocks_by_vectors_are_those_of_the_textbook() {
        let values = numbers(160);
        let mut wanted = values.clone();
        wanted.chunks_exact_mut(NEAR).for_each(transform_textbook);
        let check = |name: &str, by_vectors: unsafe fn(&mut [[f32; NEAR]])| {
            let mut made = values.clone();
            // SAFETY: it is called only where the CPU has the feature.
            unsafe { by_vectors(made.as_chunks_mut().0) };
            assert!(made.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        };
        if is_x86_feature_detected!("avx512f") {
            check("AVX-512", x86::transform_blocks_avx512);
        }
        if is_x86_feature_detected!("avx2") {
            check("AVX2", x86::transform_blocks_avx2);
        }
    }

    #[test]
    #[should_panic(expected = "power of two")]
    fn another_length_is_refused() {
        transform(&mut [0.0; 48]);
    }
}
