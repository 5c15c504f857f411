//! A fold as a table: which coordinates come into each bucket. For devices that gather and cannot scatter.

use super::fold::Fold;
use std::ops::Range;

/// Which coordinates of a stretch of a vector come into each bucket of a [`Fold`], and with which sign.
///
/// Row by row, `[rows, outputs]`: bucket `j` is `Σ_r signs[r, j] · values[sources[r, j]]`. A place without a coordinate
/// has source 0 and sign 0. Blocks of a fold are cyclic runs, so there are hardly more rows than blocks, and few places
/// are empty.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldTable {
    /// The coordinate, counted from the stretch's first.
    pub sources: Vec<u32>,
    /// Its sign, or 0.
    pub signs: Vec<f32>,
    /// The number of buckets.
    pub outputs: usize,
}

impl Fold {
    /// The table of the coordinates `stretch`. A second sketch ([`Fold::with_weights`]) is not in it.
    ///
    /// # Panics
    /// If the stretch passes the last input coordinate, or is longer than 2^32.
    pub fn table(&self, stretch: Range<usize>) -> FoldTable {
        assert!(stretch.end <= self.inputs(), "the stretch passes the end of the gradient");
        let outputs = self.buckets();
        let mut filled = vec![0usize; outputs];
        let (mut sources, mut signs) = (Vec::new(), Vec::new());
        for (number, place) in stretch.enumerate() {
            let (bucket, sign) = self.locate(place);
            let row = filled[bucket];
            filled[bucket] += 1;
            if sources.len() <= row * outputs {
                sources.resize((row + 1) * outputs, 0);
                signs.resize((row + 1) * outputs, 0.0);
            }
            sources[row * outputs + bucket] = u32::try_from(number).expect("a stretch is shorter than 2^32"); // invariant
            signs[row * outputs + bucket] = sign;
        }
        FoldTable { sources, signs, outputs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_adds_up_to_the_fold() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let folds = [
            Fold::new(5, 1000, 64),
            Fold::new(6, 1100, 64).with_gap(300, 100),
            Fold::placed(7, 1000, 2048, 900),
            Fold::new(8, 1000, 1000),
        ];
        for fold in folds {
            for stretch in [0..1000, 0..1, 130..777, 999..1000] {
                let table = fold.table(stretch.clone());
                let mut right = vec![0f32; fold.outputs()];
                fold.add(stretch.start, &values[stretch.clone()], &mut right);
                let own = &values[stretch.clone()];
                for (bucket, right) in right.iter().enumerate() {
                    let places = (bucket..table.sources.len()).step_by(table.outputs);
                    let made: f32 = places.map(|place| table.signs[place] * own[table.sources[place] as usize]).sum();
                    assert!((made - right).abs() < 1e-5, "{stretch:?} {bucket}: {made} {right}");
                }
            }
        }
        assert!(Fold::new(5, 1000, 64).table(0..0).sources.is_empty());
    }
}
