//! What a layer is: its kind, its parameters, the form of its gradient.

use candle_core::{Shape, Tensor, TensorId};

/// What a layer is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayerSpec {
    /// The kind in one word: `linear`, `conv2d`, ...
    pub kind: &'static str,
    /// The layer's parameters, in the order in which [`Tap::per_example`](super::Tap::per_example) lays out their gradients.
    pub parameters: Vec<Parameter>,
    /// Widths of the two factors of the gradient, `(inputs, outputs)`, where one position makes it a rank-one matrix.
    pub factors: Option<(usize, usize)>,
    /// Whether the input factor has a 1 appended, for a bias.
    pub bias: bool,
}

impl LayerSpec {
    /// A layer whose gradient is recorded as a whole.
    pub fn new(kind: &'static str, parameters: Vec<Parameter>) -> Self {
        Self { kind, parameters, factors: None, bias: false }
    }

    /// A layer whose gradient is the outer product of an output gradient and an input, where an example has one position.
    ///
    /// It has a bias if there is a parameter besides the weight.
    pub fn factored(kind: &'static str, parameters: Vec<Parameter>, inputs: usize, outputs: usize) -> Self {
        Self { kind, bias: parameters.len() > 1, parameters, factors: Some((inputs, outputs)) }
    }

    /// How many numbers the layer's whole gradient has.
    pub fn elements(&self) -> usize {
        self.parameters.iter().map(|p| p.shape.elem_count()).sum()
    }
}

/// A parameter of a layer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name inside the layer: `weight`, `bias`, ...
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// The tensor's identity, by which a variable of the model is recognized; `None` where the layer hides it.
    pub id: Option<TensorId>,
    /// Whether it is trained: a tensor that is no variable has no gradient.
    pub trained: bool,
}

impl Parameter {
    /// The parameter that `tensor` holds.
    pub fn new(name: &str, tensor: &Tensor) -> Self {
        Self { name: name.into(), shape: tensor.shape().clone(), id: Some(tensor.id()), trained: tensor.is_variable() }
    }

    /// A parameter whose tensor cannot be reached.
    pub fn hidden(name: &str, shape: impl Into<Shape>) -> Self {
        Self { name: name.into(), shape: shape.into(), id: None, trained: true }
    }
}
