//! `Linear` as one op, `(x, W, b) -> x Wᵀ + b`, with its own backward.
//!
//! candle_nn's `Linear` multiplies by a transposed view of the weight. Its backward then adds a strided gradient as
//! large as the weight, and the bias takes a broadcast add. Here each gradient is made once, in its own layout.

use super::catch::Catch;
use super::fused::{apply_layer, cpu_f32, needs_gradient, slice, with_slice, FusedLayer, Held, Operand};
use super::gradient::{add_rows, sum_and_fold};
use super::on_device;
use super::parallel;
use super::per_example::PerExample;
use super::spec::{LayerSpec, Parameter};
use super::tap::{Tap, TapError};
use candle_core::{bail, CpuStorage, DType, Module, Result, Shape, Tensor};
use candle_nn::Linear;
use gradlog_kernels::matmul::{matmul, Matrix};

/// What of a layer is trained, and so recorded. Weight or bias alone may be frozen.
struct Trained {
    weight: bool,
    bias: bool,
}

impl Trained {
    /// A frozen tensor is no variable and computed from none. One that is computed from variables is refused elsewhere.
    fn of(layer: &Linear) -> Self {
        let bias = layer.bias().is_some_and(needs_gradient);
        Self { weight: !bias || needs_gradient(layer.weight()), bias }
    }
}

/// A layer of which only the weight or only the bias is trained is recorded by that parameter.
impl Tap for Linear {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        let (outputs, inputs) = self.weight().dims2().map_err(|e| TapError::new(e.to_string()))?;
        let trained = Trained::of(self);
        let mut parameters = Vec::new();
        if trained.weight {
            parameters.push(Parameter::new("weight", self.weight()));
        }
        parameters.extend(self.bias().filter(|_| trained.bias).map(|bias| Parameter::new("bias", bias)));
        let factors = trained.weight.then_some((inputs, outputs));
        Ok(LayerSpec { kind: "linear", parameters, factors, bias: trained.weight && trained.bias })
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        Module::forward(self, x)
    }

    fn tapped_forward(&self, x: &Tensor, catch: &Catch) -> Result<Tensor> {
        let weight = self.weight();
        let fits = x.rank() >= 2 && x.dims().last() == weight.dims().last() && x.elem_count() * weight.elem_count() > 0;
        let supported = catch.fuses(&[x, weight]) && self.bias().is_none_or(|b| cpu_f32(&[b]));
        let whole = self.bias().is_none_or(|bias| needs_gradient(bias) == needs_gradient(weight));
        if !fits || !supported || !whole {
            let same = |t: &Tensor| t.dtype() == x.dtype() && t.device().same_device(x.device());
            let is_uniform = same(weight) && self.bias().is_none_or(same);
            if fits && is_uniform && catch.is_armed() && x.dtype().is_float() {
                return on_device::linear(x, weight, self.bias(), catch);
            }
            return catch.output(x, self.plain_forward(x)?);
        }
        catch.note_forward(x);
        apply_layer(LinearOp { catch: catch.clone() }, x, weight, self.bias())
    }

    fn per_example_reads_parameters(&self) -> bool {
        false
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        let positions = |t: &Tensor| match *t.dims() {
            [batch, width] => t.reshape((batch, 1, width)),
            [batch, .., width] => t.contiguous()?.reshape((batch, (), width)),
            _ => bail!("a linear layer's tensors must have two dimensions or more, not the shape {:?}", t.shape()),
        };
        let trained = Trained::of(self);
        if !trained.weight {
            return Ok(PerExample::Dense(positions(&delta.to_dtype(DType::F32)?)?.sum(1)?));
        }
        Ok(PerExample::Outer { inputs: positions(x)?, deltas: positions(delta)?, bias: trained.bias })
    }
}

struct LinearOp {
    catch: Catch,
}

impl FusedLayer for LinearOp {
    const NAME: &'static str = "gradlog-linear";

    fn forward(&self, x: Operand<'_>, w: Operand<'_>, b: Option<Operand<'_>>) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = w.1.shape().dims2()?;
        let mut dims = x.1.dims().to_vec();
        let rows = x.1.shape().elem_count() / inputs;
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        let (xs, ws) = (slice(x.0, x.1)?, slice(w.0, w.1)?);
        let (left, right) = (Matrix::new(xs, rows, inputs), Matrix::new(ws, outputs, inputs).t());
        let mut y = match b {
            Some((storage, layout)) => slice(storage, layout)?.repeat(rows),
            None => return Ok((CpuStorage::F32(parallel::product(left, right)), Shape::from(dims))),
        };
        parallel::add_product(&mut y, left, right);
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn backward(&self, x: &Tensor, w: &Tensor, held: Held, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let Held { bias, trained } = held;
        let (outputs, inputs) = w.dims2()?;
        let rows = x.elem_count() / inputs;
        let device = x.device();
        let grad = grad.contiguous()?;
        let x_grad = if needs_gradient(x) {
            let out = with_slice(&grad, |g| {
                with_slice(w, |w| Ok(parallel::product(Matrix::new(g, rows, outputs), Matrix::new(w, outputs, inputs))))
            })?;
            Some(Tensor::from_vec(out, x.shape(), device)?)
        } else {
            None
        };
        if !trained {
            return Ok([x_grad, None, None]);
        }
        let (w_grad, b_grad) = weight_gradients(&self.catch, x, &grad, (outputs, inputs), bias)?;
        let b_grad = b_grad.map(|b_grad| Tensor::from_vec(b_grad, outputs, device)).transpose()?;
        Ok([x_grad, Some(Tensor::from_vec(w_grad, (outputs, inputs), device)?), b_grad])
    }
}

/// The gradients of weight, `[outputs, inputs]`, and, with `bias`, bias of a batch. `x` is the input and `grad` the
/// gradient of the output, `[batch, .., width]` each and contiguous. Each example's own gradient goes to `catch`.
pub(super) fn weight_gradients(
    catch: &Catch,
    x: &Tensor,
    grad: &Tensor,
    (outputs, inputs): (usize, usize),
    bias: bool,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let batch = x.dim(0)?;
    let rows = x.elem_count() / inputs;
    let positions = rows / batch;
    // With one position per example the two factors are the gradient, and keeping them costs nothing.
    let fold = if positions == 1 { None } else { catch.find_fold() };
    if fold.is_none() {
        catch.keep_use(x, grad);
    }
    let size = outputs * inputs;
    with_slice(grad, |g| {
        with_slice(x, |xs| {
            if let Some(fold) = &fold {
                let parameters = size + if bias { outputs } else { 0 };
                let fill = |(): &mut (), example: usize, gradient: &mut [f32]| {
                    let d = &g[example * positions * outputs..(example + 1) * positions * outputs];
                    let a = Matrix::new(&xs[example * positions * inputs..], positions, inputs);
                    let (weights, biases) = gradient.split_at_mut(size);
                    matmul(weights, Matrix::new(d, positions, outputs).t(), a, false, 1);
                    if bias {
                        biases.fill(0.0);
                        add_rows(d, biases);
                    }
                };
                let mut sum = catch
                    .keep_folded(fold, batch, |folding| sum_and_fold(batch, parameters, Some(folding), || (), fill));
                let b_grad = bias.then(|| sum.split_off(size));
                sum.truncate(size);
                return Ok((sum, b_grad));
            }
            let w_grad = parallel::product(Matrix::new(g, rows, outputs).t(), Matrix::new(xs, rows, inputs));
            let b_grad = bias.then(|| {
                let mut b_grad = vec![0f32; outputs];
                add_rows(g, &mut b_grad);
                b_grad
            });
            Ok((w_grad, b_grad))
        })
    })
}
