//! The few numbers of a vector that are kept exactly, beside the rounded rest.

use super::magnitudes::{Magnitudes, LANES};
use gradlog_kernels::simd::vectorized;

/// The most numbers of one vector that are kept apart.
pub const APART_MAX: usize = 8;

/// A number that is kept exactly: its place in the vector, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Apart {
    /// The place, from 0.
    pub place: u32,
    /// The number itself.
    pub value: f32,
}

/// What becomes of the numbers that are not kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// They are rounded to multiples of one step. The largest of them decides the step.
    Rounded,
    /// They are rotated, and one bit is kept of each. A number that outweighs the others would decide all bits alone.
    Rotated,
}

/// A vector whose largest number is below this many root mean squares keeps no number apart. The largest of 1,000
/// normal numbers is about 3.3.
const LARGE: f32 = 4.0;

/// A number kept apart must save this many bits of the others. It takes 48 bits itself, some of which compress; the
/// factor was chosen by the fidelity benchmark for recall at equal bytes.
const BITS: f32 = 192.0;

/// The largest share of the squared norm that a number of a rotated vector may have. Its effect on the bits of all
/// others is a bias of about the square of this.
const SHARE: f32 = 0.05;

/// Numbers below this share of the largest are not looked for: beside it they need no exact copy.
const FLOOR: f32 = 0.01;

/// Chooses the numbers of `values` to keep apart, largest first, in `chosen`. Leaves it empty for most vectors.
///
/// A quantizer with one step for a whole vector loses small numbers beside a large one. The label's entry of a softmax
/// residual is such a number, and so is a massive activation. Without them the step is smaller:
///
/// * [`Rest::Rounded`]: takes `k ≤ 8` numbers where `n/2·log₂(t_k²) + 192·k` is least. `t_k` is the largest magnitude
///   that is left, `n` the number of nonzero numbers. The first term counts the bits for a given error.
/// * [`Rest::Rotated`]: takes numbers as long as one has more than 5 % of the squared norm that is left.
///
/// Takes none of a vector that is not finite. `magnitudes` are those of `values`.
///
/// # Cost
/// One pass over those `values` that may have a large number.
pub fn choose_apart(values: &[f32], magnitudes: &Magnitudes, rest: Rest, chosen: &mut Vec<Apart>) {
    chosen.clear();
    let (lanes, largest, squares) = (magnitudes.lanes, magnitudes.largest(), magnitudes.squared_norm());
    if !largest.is_finite() || largest == 0.0 || values.len() >= u32::MAX as usize {
        return;
    }
    let relative = squares / f64::from(largest).powi(2); // of numbers at most 1, so that nothing overflows
    let worth_a_look = match rest {
        Rest::Rounded => values.len() as f64 > relative * f64::from(LARGE).powi(2),
        Rest::Rotated => relative * f64::from(SHARE) < 1.0,
    };
    if !worth_a_look {
        return;
    }
    // Nine numbers are at least as large as this, or the others need no exact copy.
    let floor = vectorized(
        #[inline(always)]
        || match rest {
            Rest::Rounded if !may_save_bits(&lanes, largest, values.len()) => None,
            _ => Some((largest * FLOOR).max(lane_below_the_kept(lanes).next_down())),
        },
    );
    let Some(floor) = floor else { return };
    let nonzero = vectorized(
        #[inline(always)]
        || find_largest(values, floor, chosen),
    );
    // The largest magnitude that is left without the first `k`, over the largest of all.
    let left_over = |k: usize| match chosen.get(k) {
        Some(apart) => apart.value.abs() / largest,
        None if nonzero > k => FLOOR,
        None => 0.0,
    };
    let count = match rest {
        Rest::Rounded => {
            let bits = |k: usize| nonzero as f32 * left_over(k).log2() + BITS * k as f32;
            (1..=APART_MAX).fold(0, |best, k| if bits(k) < bits(best) { k } else { best })
        }
        Rest::Rotated => {
            let mut left = relative;
            (0..APART_MAX)
                .take_while(|&k| {
                    let square = f64::from(left_over(k)).powi(2);
                    let takes = square > 0.0 && square > f64::from(SHARE) * left;
                    left = (left - square).max(0.0);
                    takes
                })
                .count()
        }
    };
    chosen.truncate(count);
}

/// The largest number of the lane that comes after [`APART_MAX`] others. At most as large as the number of that rank.
///
/// It takes the largest nine times, which vectors do in no time. A sort of 32 numbers takes as long as rounding a
/// vector.
#[inline(always)]
fn lane_below_the_kept(mut lanes: [u32; LANES]) -> f32 {
    let mut taken = 0;
    loop {
        let largest = lanes.iter().fold(0, |largest, &lane| largest.max(lane));
        // Equal numbers of two lanes are two of the nine. All go at once: no lane is addressed by a number.
        taken += lanes.iter().map(|&lane| u32::from(lane == largest)).sum::<u32>();
        if largest == 0 || taken > APART_MAX as u32 {
            return f32::from_bits(largest);
        }
        lanes.iter_mut().for_each(|lane| *lane = if *lane == largest { 0 } else { *lane });
    }
}

/// Whether keeping some of `n` numbers apart may save bits, as far as the lanes tell: for some `k` at most `k` of them
/// hold a number of `2^(-192·k/n)` of the largest or more. A vector with zeros has fewer that count, and saves less.
///
/// Most vectors end here. So each lane is compared with all eight bounds at once, and nothing is sorted.
#[inline(always)]
fn may_save_bits(lanes: &[u32; LANES], largest: f32, n: usize) -> bool {
    let ratio = (-BITS / n as f32).exp2();
    let (mut bound, mut bounds, mut above) = (largest, [0u32; APART_MAX], [0u32; APART_MAX]);
    for bits in &mut bounds {
        bound *= ratio;
        // No zero is at least as large as this, also where the bound is too small for a float.
        *bits = bound.to_bits().max(1);
    }
    for lane in lanes {
        above.iter_mut().zip(&bounds).for_each(|(above, bound)| *above += u32::from(lane >= bound));
    }
    (1u32..).zip(above).any(|(k, above)| above <= k)
}

/// Appends the [`APART_MAX`]` + 1` largest numbers above `floor` to `top`, largest first. Returns how many of all are
/// not zero. `top` comes empty.
#[inline(always)]
fn find_largest(values: &[f32], floor: f32, top: &mut Vec<Apart>) -> usize {
    let mut least = floor;
    let mut nonzero = [0u32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut add = |place: usize, chunk: &[f32], least: &mut f32| {
        for (place, &value) in (place..).zip(chunk) {
            if value.abs() > *least {
                let at = top.partition_point(|other| other.value.abs() >= value.abs());
                top.truncate(APART_MAX);
                top.insert(at, Apart { place: place as u32, value });
                if let Some(last) = top.get(APART_MAX) {
                    *least = last.value.abs();
                }
            }
        }
    };
    for (number, chunk) in chunks.iter().enumerate() {
        // Most chunks have no number that enters, and these two loops have no branch.
        nonzero.iter_mut().zip(chunk).for_each(|(count, value)| *count += u32::from(*value != 0.0));
        if chunk.iter().fold(false, |enters, value| enters | (value.abs() > least)) {
            add(number * LANES, chunk, &mut least);
        }
    }
    nonzero.iter_mut().zip(rest).for_each(|(count, value)| *count += u32::from(*value != 0.0));
    add(values.len() - rest.len(), rest, &mut least);
    nonzero.iter().sum::<u32>() as usize
}

#[cfg(test)]
mod tests {
    use super::super::draw;
    use super::*;

    fn uniform(seed: u64, n: usize) -> Vec<f32> {
        (0..n).map(|i| draw(seed, i as u64) as f32 / u64::MAX as f32 - 0.5).collect()
    }

    fn places(values: &[f32], rest: Rest) -> Vec<u32> {
        let mut chosen = vec![Apart { place: 7, value: 7.0 }];
        choose_apart(values, &Magnitudes::of(values), rest, &mut chosen);
        assert!(chosen.iter().all(|apart| values[apart.place as usize] == apart.value));
        chosen.iter().map(|apart| apart.place).collect()
    }

    #[test]
    fn even_numbers_stay_together() {
        for rest in [Rest::Rounded, Rest::Rotated] {
            assert!(places(&uniform(1, 784), rest).is_empty());
            assert!(places(&[0.0; 10], rest).is_empty() && places(&[], rest).is_empty());
            let mut broken = uniform(1, 784);
            broken[3] = f32::INFINITY;
            assert!(places(&broken, rest).is_empty());
        }
    }

    #[test]
    fn large_numbers_are_taken_largest_first() {
        for rest in [Rest::Rounded, Rest::Rotated] {
            let mut values = uniform(2, 784);
            (values[5], values[700]) = (26.0, -100.0);
            assert_eq!(places(&values, rest), [700, 5], "{rest:?}");
            // A softmax residual of 1,000 classes.
            let mut residual = vec![1e-3; 1_000];
            residual[17] = -0.999;
            assert_eq!(places(&residual, rest), [17], "{rest:?}");
            let scaled: Vec<f32> = residual.iter().map(|v| v * 1e-30).collect();
            assert_eq!(places(&scaled, rest), [17], "{rest:?}");
        }
    }

    #[test]
    fn a_sparse_vector_is_kept_exactly() {
        let mut words = vec![0.0; 2_000];
        for (count, place) in [3usize, 90, 1_400, 1_999].into_iter().enumerate() {
            words[place] = 1.0 + count as f32;
        }
        assert_eq!(places(&words, Rest::Rounded), [1_999, 1_400, 90, 3]);
        let tiny: Vec<f32> = (0..24).map(|i| if i == 0 { 1e-30 } else { 1e-31 * f32::from(u8::from(i < 7)) }).collect();
        assert_eq!(places(&tiny, Rest::Rounded), [0, 1, 2, 3, 4, 5, 6], "as without the factor");
        let many: Vec<f32> = (0..2_000).map(|i| if i % 50 == 0 { 1.0 } else { 0.0 }).collect();
        assert!(places(&many, Rest::Rounded).is_empty(), "forty equal numbers");
    }
}
