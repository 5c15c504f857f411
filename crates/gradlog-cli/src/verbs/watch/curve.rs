//! Means over steps: of the whole training in a bounded number of points, and of the last steps.

use std::collections::BTreeMap;

/// Points of a curve. Twice as many steps go into each when they are used up.
const POINTS_MAX: usize = 128;
/// Steps that count as recent.
pub(super) const RECENT_STEPS: usize = 100;

/// Sums over some visits.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Sums {
    loss: f64,
    losses: u64,
    right: f64,
    rights: u64,
}

impl Sums {
    /// Adds a visit. Numbers that are not finite tell nothing.
    pub(super) fn add(&mut self, loss: Option<f32>, right: Option<f32>) {
        if let Some(loss) = loss.filter(|loss| loss.is_finite()) {
            self.loss += f64::from(loss);
            self.losses += 1;
        }
        if let Some(right) = right.filter(|right| right.is_finite()) {
            self.right += f64::from(right);
            self.rights += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Sums) {
        self.loss += other.loss;
        self.losses += other.losses;
        self.right += other.right;
        self.rights += other.rights;
    }

    pub(super) fn loss(&self) -> Option<f64> {
        (self.losses > 0).then(|| self.loss / self.losses as f64)
    }

    /// The share of right predictions.
    pub(super) fn accuracy(&self) -> Option<f64> {
        (self.rights > 0).then(|| self.right / self.rights as f64)
    }
}

/// Mean loss over the whole training.
#[derive(Debug)]
pub(super) struct Curve {
    points: Vec<Sums>,
    /// Steps in a point.
    width: u64,
}

impl Default for Curve {
    fn default() -> Self {
        Self { points: Vec::new(), width: 1 }
    }
}

impl Curve {
    pub(super) fn add(&mut self, step: u64, sums: &Sums) {
        while step / self.width >= POINTS_MAX as u64 {
            let pairs = self.points.chunks(2).map(|pair| {
                let mut both = pair[0];
                pair.iter().skip(1).for_each(|other| both.merge(other));
                both
            });
            self.points = pairs.collect();
            self.width = self.width.saturating_mul(2);
        }
        let at = (step / self.width) as usize;
        if at >= self.points.len() {
            self.points.resize(at + 1, Sums::default());
        }
        self.points[at].merge(sums);
    }

    /// Mean losses in at most `most` points.
    pub(super) fn losses(&self, most: usize) -> Vec<Option<f64>> {
        let each = self.points.len().div_ceil(most.max(1)).max(1);
        let mean = |points: &[Sums]| {
            let mut all = Sums::default();
            points.iter().for_each(|point| all.merge(point));
            all.loss()
        };
        self.points.chunks(each).map(mean).collect()
    }
}

/// The last steps, by number: those of several workers come in no order.
#[derive(Debug, Default)]
pub(super) struct Recent(BTreeMap<u64, Sums>);

impl Recent {
    pub(super) fn add(&mut self, step: u64, sums: &Sums) {
        self.0.entry(step).or_default().merge(sums);
        while self.0.len() > RECENT_STEPS {
            self.0.pop_first();
        }
    }

    pub(super) fn steps(&self) -> usize {
        self.0.len()
    }

    pub(super) fn sums(&self) -> Sums {
        let mut all = Sums::default();
        self.0.values().for_each(|sums| all.merge(sums));
        all
    }
}
