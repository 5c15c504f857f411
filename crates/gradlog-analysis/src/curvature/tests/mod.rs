//! Every method against its definition in f64, and against retraining where a model is small enough to retrain.

mod adjoint;
mod adjoint_adam;
mod definitions;
mod ekfac;
mod regression;
mod softmax;
mod weights;

use crate::{Influence, InfluenceQuestion};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{decoded, Visit, WIDTHS};

/// Numbers of the whole gradient of a synthetic visit: `fc` with its bias, `head`, the folded vector.
const WHOLE: [usize; 3] = [18, 8, 7];

/// The whole recorded gradient, layer by layer.
fn whole(visit: &Visit) -> [Vec<f64>; 3] {
    let [a, d, b, e, folded]: [Vec<f64>; 5] =
        decoded(visit, Encoding::F32).map(|part| part.into_iter().map(f64::from).collect());
    let outer =
        |d: Vec<f64>, a: Vec<f64>| -> Vec<f64> { d.iter().flat_map(|d| a.iter().map(move |a| d * a)).collect() };
    let with_bias: Vec<f64> = a.into_iter().chain([1.0]).collect();
    let all = [outer(d, with_bias), outer(e, b), folded];
    assert_eq!(all.each_ref().map(Vec::len), WHOLE);
    assert_eq!(WIDTHS.len(), 5);
    all
}

/// The blocks of a gradient: three layers, or one of all.
fn blocks(visit: &Visit, by_layer: bool) -> Vec<Vec<f64>> {
    let layers = whole(visit);
    if by_layer {
        layers.to_vec()
    } else {
        vec![layers.concat()]
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `x` with `A x = b`, by Gaussian elimination with pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs())).unwrap();
        a.swap(column, pivot);
        b.swap(column, pivot);
        let (above, below) = a.split_at_mut(column + 1);
        let pivot = &above[column];
        for (row, below) in below.iter_mut().enumerate() {
            let factor = below[column] / pivot[column];
            below.iter_mut().zip(pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            b[column + 1 + row] -= factor * b[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| a[row][k] * b[k]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    b
}

/// The score of an example on the only probe.
fn score_of(influence: &Influence, example: u64) -> f64 {
    let row = influence.rows.iter().position(|row| row.example == example).unwrap();
    influence.score(row, 0)
}

fn close(got: f64, expected: f64, tolerance: f64) -> bool {
    (got - expected).abs() <= tolerance * (1.0 + expected.abs())
}

fn one(id: u64) -> InfluenceQuestion {
    InfluenceQuestion::new("test").id(id)
}
