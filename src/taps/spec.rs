//! The description of a layer: its kind, its parameters, and the form of its gradient.

use candle_core::{Shape, Tensor, TensorId};

/// The description of a layer, which [`Tap::spec`](super::Tap::spec) returns.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayerSpec {
    /// The kind in one word: `linear`, `conv2d`, ...
    pub kind: &'static str,
    /// The layer's parameters. [`Tap::per_example`](super::Tap::per_example) lays out their gradients in this order.
    pub parameters: Vec<Parameter>,
    /// The widths `(inputs, outputs)` of the two factors of the gradient, if the gradient for one position is their
    /// outer product.
    pub factors: Option<(usize, usize)>,
    /// Whether the input factor gets a 1 appended, for a bias.
    pub bias: bool,
}

impl LayerSpec {
    /// Describes a layer whose gradient is recorded as a whole.
    pub fn new(kind: &'static str, parameters: Vec<Parameter>) -> Self {
        Self { kind, parameters, factors: None, bias: false }
    }

    /// Describes a layer whose gradient for one position is the outer product of an output gradient and an input.
    ///
    /// The layer has a bias if `parameters` holds more than the weight.
    pub fn factored(kind: &'static str, parameters: Vec<Parameter>, inputs: usize, outputs: usize) -> Self {
        Self { kind, bias: parameters.len() > 1, parameters, factors: Some((inputs, outputs)) }
    }

    /// Number of elements of the layer's whole gradient.
    pub fn elements(&self) -> usize {
        self.parameters.iter().map(|p| p.shape.elem_count()).sum()
    }
}

/// A parameter of a layer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parameter {
    /// The name inside the layer: `weight`, `bias`, ...
    pub name: String,
    /// The shape.
    pub shape: Shape,
    /// The tensor's identity, which matches it to a variable of the model. `None` if the layer hides the tensor.
    pub id: Option<TensorId>,
    /// Whether the parameter is trained. A tensor that is not a variable has no gradient.
    pub trained: bool,
    /// Whether the tensor is computed from variables: a weight with a norm of its own, the transposed weight of
    /// another layer. The variables are trained, and this tensor is made anew in each pass.
    pub derived: bool,
    /// A handle to the tensor, whose numbers the optimizer changes. `None` if the layer hides it.
    pub(crate) tensor: Option<Tensor>,
}

impl Parameter {
    /// Describes the parameter that `tensor` holds.
    pub fn new(name: &str, tensor: &Tensor) -> Self {
        let trained = tensor.is_variable();
        let derived = !trained && tensor.track_op();
        let (shape, id) = (tensor.shape().clone(), Some(tensor.id()));
        Self { name: name.into(), shape, id, trained, derived, tensor: Some(tensor.clone()) }
    }

    /// Describes a trained parameter whose tensor cannot be reached.
    pub fn hidden(name: &str, shape: impl Into<Shape>) -> Self {
        Self { name: name.into(), shape: shape.into(), id: None, trained: true, derived: false, tensor: None }
    }
}
