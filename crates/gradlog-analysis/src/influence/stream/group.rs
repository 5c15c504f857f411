//! Several probes as one: the mean of their scores, without ever holding them apart.
//!
//! A dot product with the mean of some gradients is the mean of the dot products, so the reader of a block adds these
//! up and hands on one number a row. (The mean itself cannot be stored as a probe is: a sum of outer products is no
//! outer product.)

use super::block_visits::{BlockVisits, Dots, Lent};
use crate::influence::answer::Influence;
use crate::influence::products::{panels_of, Error, Floats, Scheme, Unpacked};
use std::collections::HashMap;

impl Dots {
    /// `[rows, 1]`: the dot products with the `probes` of a pass, summed and divided by `count`, the probes of the
    /// whole group.
    pub(super) fn group_mean(scheme: &Scheme, block: &BlockVisits, lent: &Lent, probes: usize, count: usize) -> Self {
        let rows = block.rows.len();
        let mut sums = vec![0f64; rows];
        // Of each row, the sums of the shared and of the own deviations.
        let mut errors = vec![[0f64; 2]; if scheme.errors() { rows } else { 0 }];
        let (mut tile, mut floats) = (Unpacked::default(), Floats::default());
        let (all, panels, kept) = (0..rows, 0..panels_of(probes), (&mut tile, &mut floats));
        block.each_dots(scheme, lent, all, panels, kept, |position, _, dots, found| {
            sums[position] += dots.iter().map(|dot| f64::from(*dot)).sum::<f64>();
            for error in found.into_iter().flatten() {
                // The sketch of the visit is in all of them, so their errors go together.
                let [shared, own] = &mut errors[position];
                *shared += f64::from(error.shared);
                *own += f64::from(error.own).sqrt();
            }
        });
        let mean = |sum: f64| (sum / count as f64) as f32;
        let error = |[shared, own]: [f64; 2]| Error { shared: mean(shared), own: mean(own).powi(2) };
        Self { values: sums.into_iter().map(mean).collect(), errors: errors.into_iter().map(error).collect() }
    }
}

impl Influence {
    /// Adds what other probes of the same group, that were taken at other times, say of the same visits.
    pub(super) fn add_to_group(&mut self, other: Influence) {
        let positions: HashMap<u64, usize> = self.rows.iter().enumerate().map(|(i, row)| (row.example, i)).collect();
        let add = |sum: &mut f64, more: f64| {
            *sum = match (sum.is_nan(), more.is_nan()) {
                (_, true) => *sum,
                (true, false) => more,
                (false, false) => *sum + more,
            }
        };
        for (from, row) in other.rows.iter().enumerate() {
            // Every pass meets the same visits.
            let Some(&to) = positions.get(&row.example) else { continue };
            self.rows[to].visits = self.rows[to].visits.max(row.visits);
            add(&mut self.scores[to], other.scores[from]);
            if let (Some(sum), Some(more)) = (self.sketch_errors.get_mut(to), other.sketch_errors.get(from)) {
                add(sum, *more);
            }
        }
        for (total, more) in self.totals.iter_mut().zip(&other.totals) {
            total.score += more.score;
            total.sketch_error += more.sketch_error;
        }
        self.probe_times = self.probe_times.max(other.probe_times);
        self.damage = self.damage.take().or(other.damage);
    }
}
