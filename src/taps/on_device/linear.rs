//! `Linear` on any device and in any float type, as one op that catches its own gradient.
//!
//! An identity behind the layer would catch it as well, and copy the layer's output: for a language model's logits that
//! is as much memory as the logits take.

use crate::taps::catch::Catch;
use crate::taps::fused::needs_gradient;
use candle_core::backend::BackendStorage;
use candle_core::op::Add;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, MetalStorage, Result, Shape, Tensor};

/// `x Wᵀ + b`, with `x` of two dimensions or more. All tensors have one type and one device.
pub(in crate::taps) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, catch: &Catch) -> Result<Tensor> {
    catch.note_forward(x);
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, LinearOp(catch.clone())),
        None => x.apply_op2(&weight, LinearOp(catch.clone())),
    }
}

struct LinearOp(Catch);

fn forward<S: BackendStorage>(x: (&S, &Layout), w: (&S, &Layout), b: Option<(&S, &Layout)>) -> Result<(S, Shape)> {
    let (outputs, inputs) = w.1.shape().dims2()?;
    let rows = x.1.shape().elem_count() / inputs.max(1);
    let mut dims = x.1.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    let flat = Layout::contiguous_with_offset((rows, inputs), x.1.start_offset());
    let y = x.0.matmul(w.0, (1, rows, outputs, inputs), &flat, &w.1.transpose(0, 1)?)?;
    let made = Layout::contiguous((rows, outputs));
    let y = match b {
        Some((bias, layout)) => y.binary_impl::<Add>(bias, &made, &layout.broadcast_as((rows, outputs))?)?,
        None => y,
    };
    Ok((y, Shape::from(dims)))
}

impl LinearOp {
    /// The gradients of input, weight and bias.
    fn backward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let (outputs, inputs) = w.dims2()?;
        let grad = grad.contiguous()?;
        let grads = grad.reshape(((), outputs))?;
        let x_grad = match needs_gradient(x) {
            true => Some(grads.matmul(w)?.reshape(x.shape())?),
            false => None,
        };
        // Whole gradients of examples add up to that of the batch, which costs what one product over all rows does.
        let is_trained = needs_gradient(w) && bias.is_none_or(needs_gradient);
        if let Some(sum) = is_trained.then(|| self.0.sum_on_device(x, &grad)).flatten() {
            let sum = sum.to_dtype(w.dtype())?;
            let w_grad = sum.narrow(0, 0, outputs * inputs)?.reshape((outputs, inputs))?;
            let b_grad = bias.map(|_| sum.narrow(0, outputs * inputs, outputs)?.contiguous()).transpose()?;
            return Ok([x_grad, Some(w_grad), b_grad]);
        }
        self.0.keep_use(x, &grad);
        let w_grad = match needs_gradient(w) {
            true => Some(grads.t()?.matmul(&x.reshape(((), inputs))?)?),
            false => None,
        };
        let b_grad = match bias.filter(|bias| needs_gradient(bias)) {
            Some(_) => Some(grads.sum(0)?),
            None => None,
        };
        Ok([x_grad, w_grad, b_grad])
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "gradlog-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward((x, xl), (w, wl), Some((b, bl)))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        w: &CudaStorage,
        wl: &Layout,
        b: &CudaStorage,
        bl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        forward((x, xl), (w, wl), Some((b, bl)))
    }

    fn metal_fwd(
        &self,
        x: &MetalStorage,
        xl: &Layout,
        w: &MetalStorage,
        wl: &Layout,
        b: &MetalStorage,
        bl: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        forward((x, xl), (w, wl), Some((b, bl)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, w, b] = self.backward(x, w, Some(b), grad)?;
        Ok((x, w, b))
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "gradlog-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        forward((x, xl), (w, wl), None)
    }

    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        forward((x, xl), (w, wl), None)
    }

    fn metal_fwd(&self, x: &MetalStorage, xl: &Layout, w: &MetalStorage, wl: &Layout) -> Result<(MetalStorage, Shape)> {
        forward((x, xl), (w, wl), None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w, _] = self.backward(x, w, None, grad)?;
        Ok((x, w))
    }
}
