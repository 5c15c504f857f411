//! Linear mode connectivity: is there a hill between two trained models? (Paul et al. 2021, arXiv 2107.07075, §5.2, after
//! Frankle et al. 2020, arXiv 1912.05671, §2.)
//!
//! For weights `w`, `w'` and a risk `R_S`, such as the share of wrong answers on a set `S` of examples, the error barrier is
//!
//! ```text
//! err(w, w'; S) = sup over α in [0, 1] of R_S(α·w + (1 − α)·w') − α·R_S(w) − (1 − α)·R_S(w')
//! ```
//!
//! It is at least 0, for it is 0 at both ends; about 0 means that the two lie in one basin as seen from `S`. The papers
//! spawn two children from the same weights `w_t*`, train both to the end in different batch orders, and call the
//! smallest `t*` with a barrier of about 0 the onset of linear mode connectivity; it comes early for easy examples and late
//! for hard ones. Take the expectation over several pairs; here is one. The supremum is over the given `α` alone; it mostly
//! lies near one half.
//!
//! This needs weights and no log. A score of a recorded run says which examples are easy or hard. `examples/connectivity.rs` does it
//! all.

use candle_core::{Tensor, Var};
use candle_nn::VarMap;
use std::collections::BTreeMap;

/// Weights by name.
pub type Weights = BTreeMap<String, Tensor>;

/// Why there is no barrier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectivityError {
    /// One of the models has a variable that the other lacks.
    #[error("`{name}` is in only one of the two sets of weights: give two models of one architecture")]
    Names {
        /// The variable.
        name: String,
    },
    /// A variable has two shapes.
    #[error("`{name}` has shape {first:?} in one set of weights and {second:?} in the other")]
    Shapes {
        /// The variable.
        name: String,
        /// Its shape in the first.
        first: Vec<usize>,
        /// Its shape in the second.
        second: Vec<usize>,
    },
    /// A place outside of the line between the two.
    #[error("alpha is {alpha}: give places between 0 and 1")]
    Alpha {
        /// What was given.
        alpha: f64,
    },
    /// The risk is not a number.
    #[error("the error at alpha {alpha} is {error}: a barrier needs numbers")]
    NotFinite {
        /// Where.
        alpha: f64,
        /// What it is.
        error: f64,
    },
    /// candle says no, in the model or in the caller's error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The hill between two models.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Barrier {
    /// Its height, at least 0.
    pub height: f64,
    /// Where it is highest: 1 is `w`, 0 is `w'`.
    pub alpha: f64,
    /// The line between the two, ends included, ascending in `α`.
    pub path: Vec<PathPoint>,
}

/// A place on the line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PathPoint {
    /// `α`.
    pub alpha: f64,
    /// The risk there.
    pub error: f64,
    /// How far it lies above the straight line between the risks at the ends.
    pub excess: f64,
}

/// A copy of all weights of a model, which later steps do not change.
///
/// # Errors
/// What candle says.
pub fn weights(variables: &VarMap) -> candle_core::Result<Weights> {
    named_variables(variables)
        .into_iter()
        .map(|(name, variable)| Ok((name, variable.as_tensor().detach().copy()?)))
        .collect()
}

/// Sets the weights of a model.
///
/// # Errors
/// [`ConnectivityError::Names`] or [`ConnectivityError::Shapes`] if they are not of this model, before any is set.
pub fn set_weights(variables: &VarMap, weights: &Weights) -> Result<(), ConnectivityError> {
    let own = named_variables(variables);
    let in_model: Weights = own.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
    check_fit(&in_model, weights)?;
    for (name, variable) in &own {
        if let Some(tensor) = weights.get(name) {
            variable.set(tensor)?;
        }
    }
    Ok(())
}

fn named_variables(variables: &VarMap) -> Vec<(String, Var)> {
    // A poisoned lock means that another thread panicked while it held the map; the map itself is whole.
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    data.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect()
}

/// `α·w + (1 − α)·w'`, variable by variable; at 1 and 0 the very numbers of `w` and `w'`.
///
/// # Errors
/// [`ConnectivityError::Names`] or [`ConnectivityError::Shapes`] if the two are not of one architecture,
/// [`ConnectivityError::Alpha`] outside of 0 to 1.
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

/// The error barrier between two models at the places `alphas` of the line between them, and at its ends.
///
/// `error` gives the risk of weights, such as the share of wrong answers on the hardest examples; it mostly calls
/// [`set_weights`] on a model of its own and evaluates that.
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
/// As [`interpolate`]; [`ConnectivityError::NotFinite`] if a risk is NaN or infinite; what `error` returns.
///
/// # Cost
/// One call of `error` for each place and two for the ends.
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
