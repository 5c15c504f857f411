//! The sums of some probes while they grow, each owned by one thread.

use super::block_visits::{BlockVisits, Lent};
use super::norms::divisor;
use super::strongest::{Ranking, Ranks};
use crate::influence::answer::Influence;
use crate::influence::products::{Error, ErrorSum, Floats, Scheme, Unpacked, TILE_ROWS};
use gradlog_kernels::int8::COLUMNS;
use std::ops::Range;

/// The sign bit of an f32.
const SIGN: u32 = 1 << 31;

/// Below it, a weight times any finite f32 is finite.
const WEIGHT_MAX: f64 = 1e200;

/// A block with the slots of its rows.
pub(super) struct Placed {
    pub block: BlockVisits,
    /// Of each row that counts, its slot and the position of its example.
    pub slots: Vec<usize>,
    pub examples: Vec<usize>,
    /// Slots and rows of the examples whose last visit was in this block, by the tile of it.
    pub done: Vec<Vec<(usize, usize)>>,
}

impl Placed {
    /// The positions of the rows of a tile.
    fn tile(&self, number: usize) -> Range<usize> {
        let end = self.block.rows.len().min((number + 1) * TILE_ROWS);
        end.min(number * TILE_ROWS)..end
    }
}

/// The sums of some probes.
pub(super) struct Columns {
    pub panels: Range<usize>,
    /// Their probes, by position.
    pub probes: Range<usize>,
    /// `[slots, probes]`.
    pub sums: Vec<f64>,
    /// As `sums`, or empty.
    pub errors: Vec<ErrorSum>,
    /// For each probe the sum over all examples, with its error; empty without errors.
    pub totals: Vec<(f64, ErrorSum)>,
    pub ranks: Option<Ranks>,
    tile: Unpacked,
    floats: Floats,
}

impl Columns {
    /// For the probes of some panels; with the lists of the `strongest` of each, if these are all that is asked for.
    pub(super) fn new(panels: Range<usize>, probes: usize, strongest: Option<usize>) -> Self {
        let probes = panels.start * COLUMNS..probes.min(panels.end * COLUMNS);
        let ranks = strongest.map(|count| Ranks::new(count, probes.len()));
        Self {
            panels,
            probes,
            sums: Vec::new(),
            errors: Vec::new(),
            totals: Vec::new(),
            ranks,
            tile: Unpacked::default(),
            floats: Floats::default(),
        }
    }

    /// Adds the blocks of a group. Returns the visits with products that are not finite: block, position and how many.
    pub(super) fn add(
        &mut self,
        scheme: &Scheme,
        lent: &Lent,
        group: &[Placed],
        about: &Influence,
        (slots, divisors): (usize, &[f64]),
    ) -> Vec<[usize; 3]> {
        let width = self.probes.len();
        self.sums.resize(slots.max(self.sums.len() / width) * width, 0.0);
        if scheme.errors() {
            self.errors.resize(self.sums.len(), ErrorSum::default());
            self.totals.resize(width, (0.0, ErrorSum::default()));
        }
        let mut not_finite = Vec::new();
        let mut kept = (std::mem::take(&mut self.tile), std::mem::take(&mut self.floats));
        for (number, placed) in group.iter().enumerate() {
            for (tile, done) in placed.done.iter().enumerate() {
                let lost = self.add_tile(scheme, lent, placed, placed.tile(tile), &mut kept);
                not_finite.extend(lost.into_iter().map(|[position, count]| [number, position, count]));
                for &(slot, row) in done {
                    self.rank(scheme, about, slot, row, divisors);
                }
            }
        }
        (self.tile, self.floats) = kept;
        not_finite
    }

    /// Adds the rows at some positions of a block. Returns the positions with products that are not finite, and how
    /// many.
    fn add_tile(
        &mut self,
        scheme: &Scheme,
        lent: &Lent,
        Placed { block, slots, .. }: &Placed,
        positions: Range<usize>,
        (tile, floats): &mut (Unpacked, Floats),
    ) -> Vec<[usize; 2]> {
        let (panels, width, first) = (self.panels.clone(), self.probes.len(), self.probes.start);
        let mut not_finite = Vec::new();
        let mut take = |position: usize, from: usize, dots: &[f32], errors: Option<&[Error]>| {
            let start = slots[position] * width + from - first;
            let place = start..start + dots.len();
            let weight = block.weights[position];
            let sums = &mut self.sums[place.clone()];
            // Finite factors can have a product that is not; the other probes and visits still count.
            let lost = scheme.isa.run(|| {
                // The magnitude bits of floats order as integers, with infinity and NaN above all others.
                let largest = dots.iter().fold(0, |largest, dot| (dot.to_bits() & !SIGN).max(largest));
                if weight.abs() < WEIGHT_MAX && largest < f32::INFINITY.to_bits() {
                    sums.iter_mut().zip(dots).for_each(|(sum, dot)| *sum += weight * f64::from(*dot));
                    return 0;
                }
                sums.iter_mut().zip(dots).fold(0, |lost, (sum, dot)| {
                    let added = weight * f64::from(*dot);
                    *sum += if added.is_finite() { added } else { 0.0 };
                    lost + usize::from(!added.is_finite())
                })
            });
            if lost > 0 {
                not_finite.push([position, lost]);
            }
            if let Some(errors) = errors {
                let totals = self.totals[from - first..].iter_mut();
                for (((sum, error), dot), (total, of_total)) in
                    self.errors[place].iter_mut().zip(errors).zip(dots).zip(totals)
                {
                    if dot.is_finite() {
                        sum.add(weight, *error);
                        of_total.add(weight, *error);
                        *total += weight * f64::from(*dot);
                    }
                }
            }
        };
        match &block.dots {
            Some(all) => {
                for position in positions {
                    let row = position * width..(position + 1) * width;
                    let errors = (!all.errors.is_empty()).then(|| &all.errors[row.clone()]);
                    take(position, first, &all.values[row], errors);
                }
            }
            None => block.each_dots(scheme, lent, positions, panels, (tile, floats), take),
        }
        not_finite
    }

    /// Ranks an example whose sums are complete, and clears its slot.
    pub(super) fn rank(&mut self, scheme: &Scheme, about: &Influence, slot: usize, row: usize, divisors: &[f64]) {
        let width = self.probes.len();
        let place = slot * width..(slot + 1) * width;
        let Some(ranks) = &mut self.ranks else { return };
        let by = divisors.get(row).map(|own| divisor(*own));
        if let Some(by) = by {
            self.sums[place.clone()].iter_mut().for_each(|sum| *sum /= by);
        }
        let deviation = |error: &ErrorSum| error.deviation() / by.unwrap_or(1.0);
        let errors: Vec<f64> = self.errors.get(place.clone()).unwrap_or_default().iter().map(deviation).collect();
        let errors = errors.as_slice();
        scheme.isa.run(Ranking { ranks, rows: &about.rows, row, scores: &self.sums[place.clone()], errors });
        self.sums[place.clone()].fill(0.0);
        if !self.errors.is_empty() {
            self.errors[place].fill(ErrorSum::default());
        }
    }
}
