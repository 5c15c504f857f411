//! Correlations of two lists of numbers: of their values (Pearson) and of their ranks (Spearman). Pure arithmetic.

use rayon::slice::ParallelSliceMut;

/// Pearson's correlation; NaN if one side is constant or shorter than two, or if the two differ in length.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    // The roots are multiplied, not the sums: the losses of a well-trained model differ by so little that a product of
    // two such sums of squares would be 0.
    ab / (aa.sqrt() * bb.sqrt())
}

/// Spearman's rank correlation, ties sharing their mean rank; NaN if one side is constant or shorter than two, or if
/// the two differ in length.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

/// The rank of each value from 0, ties sharing their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.par_sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut done = 0;
    for same in order.chunk_by(|&a, &b| values[a] == values[b]) {
        same.iter().for_each(|&i| ranks[i] = done as f64 + (same.len() as f64 - 1.0) / 2.0);
        done += same.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        // Ranks 0 1 2 3 and 0 2 1 3: 1 − 6·2/(4·15) = 0.8.
        assert!((spearman(&[1.0, 2.0, 3.0, 40.0], &[1.0, 3.0, 2.0, 4.0]) - 0.8).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 9.0], &[-1.0, 0.0, 50.0]) - 1.0).abs() < 1e-12);
        // Ties share their mean rank: ranks 0.5 0.5 2 and 0 1 2 give 1.5 / sqrt(1.5·2).
        assert!((spearman(&[1.0, 1.0, 7.0], &[1.0, 2.0, 3.0]) - 1.5 / 3f64.sqrt()).abs() < 1e-12);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(spearman(&[1.0, 2.0], &[1.0, 2.0, 3.0]).is_nan());
        assert!((pearson(&[0.0, 1.0, 5.0], &[1.0, -1.0, -9.0]) + 1.0).abs() < 1e-12);
        // As small as the losses of a well-trained model.
        assert!((pearson(&[0.0, 1e-100, 2e-100], &[0.0, 1e-100, 2e-100]) - 1.0).abs() < 1e-9);
    }
}
