//! Conjugate gradients, for exact influence functions of models whose Hessian can be multiplied and not inverted.

/// Solves `A·x = b` for symmetric positive definite `A`, given as `multiply(v) = A·v` (Hestenes and Stiefel 1952),
/// until `‖b − A·x‖ ≤ tolerance·‖b‖` or for `steps_max` products. Returns `x` and the relative residual that was
/// reached: look at it. A direction along which `A` is not positive ends the search.
pub fn conjugate_gradient(
    mut multiply: impl FnMut(&[f64]) -> Vec<f64>,
    b: &[f64],
    tolerance: f64,
    steps_max: usize,
) -> (Vec<f64>, f64) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut x = vec![0.0; b.len()];
    let mut residual = b.to_vec();
    let mut direction = b.to_vec();
    let start = dot(b, b);
    let mut square = start;
    for _ in 0..steps_max {
        if square <= tolerance * tolerance * start {
            break;
        }
        let product = multiply(&direction);
        let curvature = dot(&direction, &product);
        if curvature <= 0.0 || curvature.is_nan() {
            break;
        }
        let step = square / curvature;
        x.iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d);
        residual.iter_mut().zip(&product).for_each(|(r, p)| *r -= step * p);
        let next = dot(&residual, &residual);
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + next / square * *d);
        square = next;
    }
    let reached = if start > 0.0 { (square / start).sqrt() } else { 0.0 };
    (x, reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_solves_as_many_unknowns_in_as_many_products() {
        let a = [[4.0, 1.0, 0.5], [1.0, 3.0, -0.25], [0.5, -0.25, 2.0]];
        let truth = [1.0, -2.0, 3.0];
        let multiply =
            |v: &[f64]| a.iter().map(|row| row.iter().zip(v).map(|(a, v)| a * v).sum()).collect::<Vec<f64>>();
        let b = multiply(&truth);
        let mut products = 0;
        let counted = |v: &[f64]| {
            products += 1;
            multiply(v)
        };
        let (x, reached) = conjugate_gradient(counted, &b, 1e-12, 10);
        assert!(reached < 1e-12 && products == 3, "{products} {reached}");
        assert!(x.iter().zip(truth).all(|(x, truth)| (x - truth).abs() < 1e-9), "{x:?}");
        // Stopped early it says so.
        assert!(conjugate_gradient(multiply, &b, 1e-12, 1).1 > 0.01);
        assert_eq!(conjugate_gradient(multiply, &[0.0; 3], 1e-12, 5), (vec![0.0; 3], 0.0));
        // Not positive: given up, not gone astray.
        let (x, reached) = conjugate_gradient(|v| v.iter().map(|v| -v).collect(), &[1.0, 1.0], 1e-6, 9);
        assert!(x == [0.0, 0.0] && reached == 1.0);
    }
}
