//! Which bucket an example belongs to (FORMAT.md, "Buckets").

use crate::sketch::draw;

/// The seed of buckets: `BUCKETS!` in ASCII.
const BUCKET_SEED: u64 = 0x4255_434B_4554_5321;

/// The bucket of an example among `buckets`, of which there is at least one: `draw(0x4255434B45545321, example) mod
/// buckets`. An example of bucket `b` of `k·n` is in bucket `b mod n` of `n`.
pub fn example_bucket(example: u64, buckets: u32) -> u32 {
    // The remainder is below a u32.
    (draw(BUCKET_SEED, example) % u64::from(buckets.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_even_and_nest() {
        let mut counts = [0; 6];
        for example in 0..6000 {
            let bucket = example_bucket(example, 6);
            counts[bucket as usize] += 1;
            assert_eq!((bucket % 2, bucket % 3), (example_bucket(example, 2), example_bucket(example, 3)));
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        // Part of the format: these never change.
        let first: Vec<u32> = (0..8).map(|example| example_bucket(example, 1000)).collect();
        assert_eq!(first, [823, 526, 702, 260, 328, 27, 651, 640]);
    }
}
