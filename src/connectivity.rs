//! Linear mode connectivity: the error barrier between two trained models (Paul et al. 2021, arXiv 2107.07075, §5.2;
//! Frankle et al. 2020, arXiv 1912.05671, §2).
//!
//! For weights `w` and `w'` and an error `R_S` on a set `S` of examples, such as the share of wrong answers, the error
//! barrier is
//!
//! ```text
//! err(w, w'; S) = sup over α in [0, 1] of R_S(α·w + (1 − α)·w') − α·R_S(w) − (1 − α)·R_S(w')
//! ```
//!
//! The barrier is at least 0, because it is 0 at both ends. A barrier of about 0 means that both models lie in one
//! basin of the error on `S`.
//!
//! The papers train two children from the same weights `w_t*` to the end, in different batch orders. The smallest `t*`
//! with a barrier of about 0 is the onset of linear mode connectivity. It comes early for easy examples and late for
//! hard ones. The papers take the expectation over several pairs of children; this module computes one pair. It takes
//! the supremum over the given values of `α`. The maximum usually lies near one half.
//!
//! This module needs weights and no log. A score of a recorded run tells easy examples from hard ones.
//! `examples/connectivity.rs` combines the two.

use candle_core::{Tensor, Var};
use candle_nn::VarMap;
use std::collections::BTreeMap;

/// The weights of a model: its variables by name.
pub type Weights = BTreeMap<String, Tensor>;

/// Why an error barrier could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectivityError {
    /// One of the models has a variable that the other lacks.
    #[error("`{name}` is in only one of the two sets of weights: compare two models of the same architecture")]
    Names {
        /// The variable.
        name: String,
    },
    /// A variable has different shapes in the two models.
    #[error("`{name}` has shape {first:?} in one set of weights and {second:?} in the other: compare two models of the same architecture")]
    Shapes {
        /// The variable.
        name: String,
        /// Its shape in the first.
        first: Vec<usize>,
        /// Its shape in the second.
        second: Vec<usize>,
    },
    /// A value of `α` outside 0 to 1.
    #[error("alpha is {alpha}: give values between 0 and 1")]
    Alpha {
        /// The value.
        alpha: f64,
    },
    /// The error is NaN or infinite.
    #[error("the error at alpha {alpha} is {error}: return a finite number")]
    NotFinite {
        /// The value of `α`.
        alpha: f64,
        /// The error there.
        error: f64,
    },
    /// candle failed, in this module or in the caller's error function.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The error barrier between two models.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Barrier {
    /// The largest [`PathPoint::excess`], at least 0.
    pub height: f64,
    /// The `α` of the largest excess: 1 is `w`, 0 is `w'`.
    pub alpha: f64,
    /// All points that were evaluated, both ends included, in ascending order of `α`.
    pub path: Vec<PathPoint>,
}

/// A point on the line between two models.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PathPoint {
    /// The value of `α`.
    pub alpha: f64,
    /// The error of the interpolated weights.
    pub error: f64,
    /// The error minus the linear interpolation of the errors at the two ends.
    pub excess: f64,
}

/// Copies all variables of a model. Later steps do not change the copy.
///
/// # Errors
/// candle's error, if a copy fails.
pub fn weights(variables: &VarMap) -> candle_core::Result<Weights> {
    list_variables(variables)
        .into_iter()
        .map(|(name, variable)| Ok((name, variable.as_tensor().detach().copy()?)))
        .collect()
}

/// Sets all variables of a model to `weights`.
///
/// # Errors
/// [`ConnectivityError::Names`] or [`ConnectivityError::Shapes`] if the weights do not fit the model; no variable is
/// changed then. [`ConnectivityError::Candle`] if candle cannot set a variable.
pub fn set_weights(variables: &VarMap, weights: &Weights) -> Result<(), ConnectivityError> {
    let own = list_variables(variables);
    let in_model: Weights = own.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
    check_fit(&in_model, weights)?;
    for (name, variable) in &own {
        if let Some(tensor) = weights.get(name) {
            variable.set(tensor)?;
        }
    }
    Ok(())
}

fn list_variables(variables: &VarMap) -> Vec<(String, Var)> {
    // A poisoned lock means that another thread panicked while it held the map. The map itself is intact.
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    data.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect()
}

/// Interpolates two models: `α·w + (1 − α)·w'` for each variable, in the variable's dtype. At `α` = 1 the result is `w`
/// bit for bit, at `α` = 0 it is `w'`.
///
/// # Errors
/// [`ConnectivityError::Names`] or [`ConnectivityError::Shapes`] if the two models differ in architecture,
/// [`ConnectivityError::Alpha`] for an `alpha` outside 0 to 1, [`ConnectivityError::Candle`] if candle fails.
pub fn interpolate(w: &Weights, other: &Weights, alpha: f64) -> Result<Weights, ConnectivityError> {
    if !(0.0..=1.0).contains(&alpha) {
        return Err(ConnectivityError::Alpha { alpha });
    }
    check_fit(w, other)?;
    let between = |(name, tensor): (&String, &Tensor)| {
        let value = match other.get(name) {
            Some(_) if alpha == 1.0 => tensor.clone(),
            Some(other) if alpha == 0.0 => other.clone(),
            Some(other) => ((tensor * alpha)? + (other * (1.0 - alpha))?)?,
            None => return Err(ConnectivityError::Names { name: name.clone() }),
        };
        Ok((name.clone(), value))
    };
    w.iter().map(between).collect()
}

fn check_fit(w: &Weights, other: &Weights) -> Result<(), ConnectivityError> {
    let lacking = w.keys().find(|name| !other.contains_key(*name));
    if let Some(name) = lacking.or_else(|| other.keys().find(|name| !w.contains_key(*name))) {
        return Err(ConnectivityError::Names { name: name.clone() });
    }
    for (name, tensor) in w {
        if let Some(second) = other.get(name).filter(|second| second.dims() != tensor.dims()) {
            let (first, second) = (tensor.dims().to_vec(), second.dims().to_vec());
            return Err(ConnectivityError::Shapes { name: name.clone(), first, second });
        }
    }
    Ok(())
}

/// Computes the error barrier between `w` and `other` at the values `alphas` of `α`, and at both ends. Paul et al.
/// 2021, §5.2.
///
/// `error` returns the error of given weights, such as the share of wrong answers on the hardest examples. It usually
/// calls [`set_weights`] on a model of its own and evaluates that model.
///
/// ```
/// use candle_core::{Device, Result, Tensor};
/// use gradlog::connectivity::{error_barrier, Weights};
///
/// // Two valleys at -1 and 1, a hill of height 1 between them: R(w) = (w² − 1)².
/// let point = |x: f64| -> Result<Weights> { Ok(Weights::from([("w".to_string(), Tensor::new(x, &Device::Cpu)?)])) };
/// let risk = |w: &Weights| Ok((w["w"].to_scalar::<f64>()?.powi(2) - 1.0).powi(2));
/// let barrier = error_barrier(&point(1.0)?, &point(-1.0)?, &[0.25, 0.5, 0.75], risk)?;
/// assert_eq!((barrier.height, barrier.alpha), (1.0, 0.5));
/// # Ok::<(), gradlog::connectivity::ConnectivityError>(())
/// ```
///
/// # Errors
/// As [`interpolate`]; [`ConnectivityError::NotFinite`] if an error is NaN or infinite; [`ConnectivityError::Candle`]
/// if `error` fails.
///
/// # Cost
/// One interpolation and one call of `error` for each value of `α`, and for each end.
pub fn error_barrier(
    w: &Weights,
    other: &Weights,
    alphas: &[f64],
    mut error: impl FnMut(&Weights) -> candle_core::Result<f64>,
) -> Result<Barrier, ConnectivityError> {
    let mut risk = |alpha: f64| -> Result<f64, ConnectivityError> {
        let error = error(&interpolate(w, other, alpha)?)?;
        if error.is_finite() {
            Ok(error)
        } else {
            Err(ConnectivityError::NotFinite { alpha, error })
        }
    };
    if let Some(&alpha) = alphas.iter().find(|alpha| !(0.0..=1.0).contains(*alpha)) {
        return Err(ConnectivityError::Alpha { alpha });
    }
    let (start, end) = (risk(0.0)?, risk(1.0)?);
    let mut places: Vec<f64> = alphas.iter().copied().filter(|alpha| *alpha > 0.0 && *alpha < 1.0).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut path = vec![PathPoint { alpha: 0.0, error: start, excess: 0.0 }];
    for alpha in places {
        let error = risk(alpha)?;
        path.push(PathPoint { alpha, error, excess: error - alpha * end - (1.0 - alpha) * start });
    }
    path.push(PathPoint { alpha: 1.0, error: end, excess: 0.0 });
    let highest =
        path.iter().fold(path[0], |highest, point| if point.excess > highest.excess { *point } else { highest });
    Ok(Barrier { height: highest.excess, alpha: highest.alpha, path })
}
