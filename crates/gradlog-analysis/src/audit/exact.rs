//! Influence functions themselves, for models small enough: the Hessian of the objective by finite differences of
//! gradients, its inverse by conjugate gradients. And what changing a training input would do (Koh and Liang 2017,
//! arXiv 1703.04730, §2).
//!
//! Nothing of it comes from a log: it is what answers from a log are held against.

use super::{conjugate_gradient, AuditError, TrainingError};

/// Gradients of a trained model, at any weights. Take them in f64 where you can: their differences are small.
pub trait Differentiable {
    /// The trained weights `ŵ`, in the order in which all gradients have theirs.
    fn weights(&self) -> Vec<f64>;

    /// Training examples `n` that the objective is the mean over.
    fn example_count(&self) -> usize;

    /// `∇_w L(w)` of what was minimized: `L(w) = (1/n)·Σ_i ℓ(w, x_i)` and what was added to it, as weight decay.
    ///
    /// # Errors
    /// The model's own.
    fn objective_gradient(&mut self, weights: &[f64]) -> Result<Vec<f64>, TrainingError>;

    /// `∇_w ℓ(w, x_i)` of a training example.
    ///
    /// # Errors
    /// The model's own.
    fn example_gradient(&mut self, weights: &[f64], example: u64) -> Result<Vec<f64>, TrainingError>;

    /// `∇_w ℓ(w, x')` of a probe.
    ///
    /// # Errors
    /// The model's own.
    fn probe_gradient(&mut self, weights: &[f64], probe: u64) -> Result<Vec<f64>, TrainingError>;

    /// `∇_x ℓ(w, x_i)` of a training example, by its input. Only [`ExactInfluence::input_influence`] needs it; the
    /// default returns an error.
    ///
    /// # Errors
    /// The model's own.
    fn input_gradient(&mut self, weights: &[f64], example: u64) -> Result<Vec<f64>, TrainingError> {
        let _ = (weights, example);
        Err("the model does not define `Differentiable::input_gradient`".into())
    }
}

/// How the inverse is found.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Solver {
    /// Added to the Hessian's eigenvalues; where the objective has its minimum without it, 0 is exact.
    pub damping: f64,
    /// The relative residual at which a solution is good enough.
    pub tolerance: f64,
    /// Products with the Hessian at most, each of two gradients of the objective.
    pub products_max: usize,
    /// How far the weights are moved for a difference, relative to `max(1, ‖ŵ‖)`. The error is of its square, plus
    /// what rounding leaves divided by it: about 1e-4 for gradients in f64, 1e-2 in f32.
    pub step: f64,
}

impl Solver {
    /// No damping, a tolerance of 1e-6, at most 1,000 products, and a step of 1e-4.
    #[must_use]
    pub fn new() -> Self {
        Self { damping: 0.0, tolerance: 1e-6, products_max: 1000, step: 1e-4 }
    }

    /// Sets [`Solver::damping`].
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Sets [`Solver::tolerance`].
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets [`Solver::products_max`].
    #[must_use]
    pub fn products_max(mut self, products_max: usize) -> Self {
        self.products_max = products_max;
        self
    }

    /// Sets [`Solver::step`].
    #[must_use]
    pub fn step(mut self, step: f64) -> Self {
        self.step = step;
        self
    }
}

impl Default for Solver {
    fn default() -> Self {
        Self::new()
    }
}

/// `s = (H + λ)⁻¹ ∇_w ℓ(ŵ, x')` of a probe, from which all its influences follow.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExactInfluence {
    /// `s`, as long as the weights.
    pub solved: Vec<f64>,
    /// The relative residual that was reached. Well above [`Solver::tolerance`] the answers are not exact: more
    /// products, or more damping where the Hessian is not positive.
    pub residual: f64,
    weights: Vec<f64>,
    examples: usize,
    step: f64,
}

impl ExactInfluence {
    /// Solves for a probe.
    ///
    /// # Errors
    /// [`AuditError::Gradient`] where a gradient fails, is of another length than the weights or not finite;
    /// [`AuditError::Empty`] for a model without examples.
    pub fn solve(model: &mut impl Differentiable, probe: u64, solver: &Solver) -> Result<Self, AuditError> {
        let weights = model.weights();
        let examples = model.example_count();
        if examples == 0 {
            return Err(AuditError::Empty {
                what: "the model has no training examples",
                how: "say how many there were",
            });
        }
        let of_probe = model.probe_gradient(&weights, probe);
        let gradient = check_gradient(of_probe, Some(weights.len()), || format!("the gradient of probe {probe}"))?;
        let step = solver.step * norm(&weights).max(1.0);
        let mut failure = None;
        let multiply = |v: &[f64]| {
            let mut gradient = |weights: &[f64]| {
                check_gradient(model.objective_gradient(weights), Some(weights.len()), || {
                    "the gradient of the objective".into()
                })
            };
            match differentiate_along(&weights, v, step, &mut gradient) {
                Ok(mut product) => {
                    product.iter_mut().zip(v).for_each(|(product, v)| *product += solver.damping * v);
                    product
                }
                Err(error) => {
                    failure.get_or_insert(error);
                    // No curvature in a direction ends the search.
                    vec![0.0; v.len()]
                }
            }
        };
        let (solved, residual) = conjugate_gradient(multiply, &gradient, solver.tolerance, solver.products_max);
        match failure {
            Some(error) => Err(error),
            None => Ok(Self { solved, residual, weights, examples, step }),
        }
    }

    /// What leaving the example out would add to the probe's loss, to first order: `(1/n)·⟨∇_w ℓ(ŵ, x_i), s⟩`.
    /// Positive: it helped.
    ///
    /// # Errors
    /// [`AuditError::Gradient`].
    pub fn example_influence(&self, model: &mut impl Differentiable, example: u64) -> Result<f64, AuditError> {
        let given = model.example_gradient(&self.weights, example);
        let gradient =
            check_gradient(given, Some(self.weights.len()), || format!("the gradient of example {example}"))?;
        Ok(dot(&gradient, &self.solved) / self.examples as f64)
    }

    /// What moving each number of the example's input would add to the probe's loss, for each unit that it is moved by,
    /// to first order: `−(1/n)·∇_x ⟨∇_w ℓ(ŵ, x_i), s⟩`, as long as the input. Koh and Liang's attacks step along
    /// its sign.
    ///
    /// The derivative by the weights, along `s`, is a difference: `∇_x ℓ` at `ŵ + h·s` and at `ŵ − h·s`.
    ///
    /// # Errors
    /// [`AuditError::Gradient`].
    pub fn input_influence(&self, model: &mut impl Differentiable, example: u64) -> Result<Vec<f64>, AuditError> {
        let mut gradient = |weights: &[f64]| {
            let what = || format!("the gradient of example {example} by its input");
            check_gradient(model.input_gradient(weights, example), None, what)
        };
        let mut found = differentiate_along(&self.weights, &self.solved, self.step, &mut gradient)?;
        found.iter_mut().for_each(|value| *value /= -(self.examples as f64));
        Ok(found)
    }
}

/// The derivative of `gradient` at `weights` along `v`, by a central difference over `2·step`.
fn differentiate_along(
    weights: &[f64],
    v: &[f64],
    step: f64,
    gradient: &mut impl FnMut(&[f64]) -> Result<Vec<f64>, AuditError>,
) -> Result<Vec<f64>, AuditError> {
    let length = norm(v);
    // A direction of no length has no derivative; any small step will do, and gives zeros.
    let scale = if length > 0.0 { step / length } else { 1.0 };
    let mut at = |sign: f64| {
        let moved: Vec<f64> = weights.iter().zip(v).map(|(w, v)| w + sign * scale * v).collect();
        gradient(&moved)
    };
    let (above, below) = (at(1.0)?, at(-1.0)?);
    Ok(above.iter().zip(&below).map(|(above, below)| (above - below) / (2.0 * scale)).collect())
}

fn check_gradient(
    given: Result<Vec<f64>, TrainingError>,
    length: Option<usize>,
    what: impl Fn() -> String,
) -> Result<Vec<f64>, AuditError> {
    let failed = |cause: TrainingError| AuditError::Gradient { what: what(), cause };
    let gradient = given.map_err(failed)?;
    match length {
        Some(length) if length != gradient.len() => {
            Err(failed(format!("it has {} numbers where there are {length} weights", gradient.len()).into()))
        }
        _ if gradient.iter().any(|value| !value.is_finite()) => Err(failed("it is not finite".into())),
        _ => Ok(gradient),
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: f64 = 0.05;
    const PROBE: ([f64; 3], f64) = ([0.4, -0.3, 1.0], 1.0);

    /// Logistic regression with weight decay: labels are 1 and −1, the last input is the bias.
    #[derive(Clone)]
    struct Logistic {
        data: Vec<([f64; 3], f64)>,
        share: Vec<f64>,
        weights: Vec<f64>,
    }

    fn slope(w: &[f64], (x, y): &([f64; 3], f64)) -> f64 {
        -y / (1.0 + (y * dot(w, x)).exp())
    }

    fn loss(w: &[f64], (x, y): &([f64; 3], f64)) -> f64 {
        (-y * dot(w, x)).exp().ln_1p()
    }

    impl Logistic {
        fn new() -> Self {
            let point = |i: usize| {
                let (a, b) = ((i * 7 % 11) as f64 / 5.0 - 1.0, (i * 5 % 13) as f64 / 6.0 - 1.0);
                ([a, b, 1.0], if a - 0.5 * b + 0.3 * ((i % 3) as f64 - 1.0) > 0.0 { 1.0 } else { -1.0 })
            };
            Self { data: (0..20).map(point).collect(), share: vec![1.0; 20], weights: vec![0.0; 3] }.trained()
        }

        /// To the minimum, by plain descent: the objective is strongly convex.
        fn trained(mut self) -> Self {
            for _ in 0..20_000 {
                let gradient = self.objective_gradient(&self.weights.clone()).unwrap();
                self.weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= 0.5 * g);
            }
            self
        }
    }

    impl Differentiable for Logistic {
        fn weights(&self) -> Vec<f64> {
            self.weights.clone()
        }

        fn example_count(&self) -> usize {
            self.data.len()
        }

        fn objective_gradient(&mut self, w: &[f64]) -> Result<Vec<f64>, TrainingError> {
            let mut sum: Vec<f64> = w.iter().map(|w| DECAY * w).collect();
            for (point, share) in self.data.iter().zip(&self.share) {
                let slope = share * slope(w, point) / self.data.len() as f64;
                sum.iter_mut().zip(point.0).for_each(|(sum, x)| *sum += slope * x);
            }
            Ok(sum)
        }

        fn example_gradient(&mut self, w: &[f64], example: u64) -> Result<Vec<f64>, TrainingError> {
            let point = self.data.get(example as usize).ok_or("there is no such example")?;
            Ok(point.0.iter().map(|x| slope(w, point) * x).collect())
        }

        fn probe_gradient(&mut self, w: &[f64], _: u64) -> Result<Vec<f64>, TrainingError> {
            Ok(PROBE.0.iter().map(|x| slope(w, &PROBE) * x).collect())
        }

        fn input_gradient(&mut self, w: &[f64], example: u64) -> Result<Vec<f64>, TrainingError> {
            let slope = slope(w, &self.data[example as usize]);
            Ok(w.iter().map(|w| slope * w).collect())
        }
    }

    #[test]
    fn leaving_out_and_moving_an_input_do_what_is_said() {
        let mut model = Logistic::new();
        let exact = ExactInfluence::solve(&mut model, 0, &Solver::new()).unwrap();
        assert!(exact.residual <= 1e-6, "{}", exact.residual);
        let before = loss(&model.weights, &PROBE);
        for example in [0u64, 3, 11] {
            // A small part of the example's weight, so that what is left is the first order.
            let mut lighter = model.clone();
            lighter.share[example as usize] = 0.999;
            let measured = (loss(&lighter.trained().weights, &PROBE) - before) / 0.001;
            let said = exact.example_influence(&mut model, example).unwrap();
            assert!((said - measured).abs() < 2e-3 * measured.abs() + 1e-7, "{example}: {said} {measured}");
            let said = exact.input_influence(&mut model, example).unwrap();
            for (place, said) in said.into_iter().enumerate() {
                let mut moved = model.clone();
                moved.data[example as usize].0[place] += 1e-3;
                let measured = (loss(&moved.trained().weights, &PROBE) - before) / 1e-3;
                assert!((said - measured).abs() < 1e-2 * measured.abs() + 1e-6, "{example} {place}: {said} {measured}");
            }
        }
    }

    #[test]
    fn damping_shrinks_and_what_fails_is_named() {
        let mut model = Logistic::new();
        let exact = ExactInfluence::solve(&mut model, 0, &Solver::new()).unwrap();
        let damped = ExactInfluence::solve(&mut model, 0, &Solver::new().damping(10.0)).unwrap();
        assert!(norm(&damped.solved) < 0.2 * norm(&exact.solved));
        let stopped = ExactInfluence::solve(&mut model, 0, &Solver::new().products_max(1)).unwrap();
        assert!(stopped.residual > 1e-3, "it says that it is not there yet");
        let said = exact.example_influence(&mut model, 99).unwrap_err().to_string();
        assert_eq!(said, "the gradient of example 99: there is no such example");
        model.data[0].0[0] = f64::NAN;
        let error = ExactInfluence::solve(&mut model, 0, &Solver::new()).unwrap_err();
        assert_eq!(error.to_string(), "the gradient of the objective: it is not finite");
        model.data.clear();
        assert!(matches!(ExactInfluence::solve(&mut model, 0, &Solver::new()), Err(AuditError::Empty { .. })));
    }

    /// A model that leaves out what influences of examples do not need.
    struct WithoutInputs(Logistic);

    impl Differentiable for WithoutInputs {
        fn weights(&self) -> Vec<f64> {
            self.0.weights()
        }

        fn example_count(&self) -> usize {
            self.0.example_count()
        }

        fn objective_gradient(&mut self, w: &[f64]) -> Result<Vec<f64>, TrainingError> {
            self.0.objective_gradient(w)
        }

        fn example_gradient(&mut self, w: &[f64], example: u64) -> Result<Vec<f64>, TrainingError> {
            self.0.example_gradient(w, example)
        }

        fn probe_gradient(&mut self, w: &[f64], probe: u64) -> Result<Vec<f64>, TrainingError> {
            self.0.probe_gradient(w, probe)
        }
    }

    #[test]
    fn a_model_without_input_gradients_answers_for_examples_only() {
        let mut model = WithoutInputs(Logistic::new());
        let exact = ExactInfluence::solve(&mut model, 0, &Solver::new()).unwrap();
        assert!(exact.example_influence(&mut model, 0).unwrap().is_finite());
        let error = exact.input_influence(&mut model, 0).unwrap_err().to_string();
        assert!(error.ends_with("the model does not define `Differentiable::input_gradient`"), "{error}");
    }
}
