//! The 99th percentile of recent gradient norms.

/// Norms that count.
pub(super) const WINDOW: usize = 4_096;
/// Without as many norms there is no verdict.
const LEAST: usize = 512;
/// After as many new norms the percentile is computed again.
const REFRESH: usize = WINDOW / 16;
/// A large gradient exceeds this share of the greatest percentile so far.
const SHARE_OF_GREATEST: f32 = 0.1;

/// The last norms, and their percentile as of the last refresh.
#[derive(Debug, Default)]
pub(super) struct RecentNorms {
    ring: Vec<f32>,
    next: usize,
    /// Norms since the last refresh.
    fresh: usize,
    percentile: Option<f32>,
    greatest: f32,
    scratch: Vec<f32>,
}

impl RecentNorms {
    /// Adds a norm. Zero and what is not finite do not count.
    pub(super) fn push(&mut self, norm: f32) {
        if !(norm > 0.0 && norm.is_finite()) {
            return;
        }
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = norm,
            None => self.ring.push(norm),
        }
        self.next = (self.next + 1) % WINDOW;
        self.fresh += 1;
        if self.ring.len() >= LEAST && (self.percentile.is_none() || self.fresh >= REFRESH) {
            self.refresh();
        }
    }

    /// The 99th percentile, and the norm beyond which a gradient is large. `None` before there are enough norms.
    pub(super) fn limit(&self, times: f64) -> Option<(f32, f32)> {
        let percentile = self.percentile?;
        let limit = (f64::from(percentile) * times) as f32;
        Some((percentile, limit.max(SHARE_OF_GREATEST * self.greatest)))
    }

    /// The least number that is at least as large as 99 of 100 norms.
    fn refresh(&mut self) {
        self.fresh = 0;
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.ring);
        let place = (self.scratch.len() * 99).div_ceil(100).saturating_sub(1);
        if place < self.scratch.len() {
            let (_, percentile, _) = self.scratch.select_nth_unstable_by(place, f32::total_cmp);
            self.percentile = Some(*percentile);
            self.greatest = self.greatest.max(*percentile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arbitrary but fixed numbers over several powers of ten.
    fn numbers(count: usize) -> Vec<f32> {
        let mut state = 7u64;
        (0..count)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
                10f32.powf(6.0 * unit - 3.0) * if i > count / 2 { 50.0 } else { 1.0 }
            })
            .collect()
    }

    #[test]
    fn the_percentile_is_that_of_sorting_the_window() {
        let (mut norms, all) = (RecentNorms::default(), numbers(20_000));
        for (i, norm) in all.iter().enumerate() {
            norms.push(*norm);
            let count = i + 1;
            // The first refresh is at the 512th, and then every 256.
            let refreshed = count / REFRESH * REFRESH;
            if count < LEAST {
                assert_eq!(norms.limit(10.0), None);
                continue;
            }
            let mut window = all[refreshed.saturating_sub(WINDOW)..refreshed].to_vec();
            window.sort_by(f32::total_cmp);
            let expected = window[(window.len() as f64 * 0.99).ceil() as usize - 1];
            assert_eq!(norms.limit(10.0).unwrap().0, expected, "after {count}");
        }
    }

    #[test]
    fn tiny_gradients_are_not_compared_with_tinier_ones() {
        let mut norms = RecentNorms::default();
        (0..WINDOW).for_each(|_| norms.push(1.0));
        assert_eq!(norms.limit(10.0), Some((1.0, 10.0)));
        (0..WINDOW).for_each(|_| norms.push(1e-4));
        assert_eq!(norms.limit(10.0), Some((1e-4, 0.1)));
    }

    #[test]
    fn zeros_and_what_is_not_finite_do_not_count() {
        let mut norms = RecentNorms::default();
        for _ in 0..LEAST - 1 {
            [0.0, f32::NAN, f32::INFINITY, 2.0].into_iter().for_each(|norm| norms.push(norm));
        }
        assert_eq!(norms.limit(10.0), None);
        norms.push(2.0);
        assert_eq!(norms.limit(10.0), Some((2.0, 20.0)));
    }
}
