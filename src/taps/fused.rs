//! Decides whether a layer runs as one fused op, and has what such ops share.
//!
//! Fused ops exist for contiguous f32 tensors in main memory. Other tensors use candle's own ops with a
//! [`super::Catch`] after them. That is slower, gives the same result to rounding, and is recorded as well.

use super::aside::put_aside;
use candle_core::backend::BackendStorage;
use candle_core::{
    bail, CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Device, Layout, MetalStorage, Result, Shape, Tensor,
};

/// Whether a fused op can take all of these tensors.
pub(crate) fn cpu_f32(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
}

/// The numbers of a contiguous f32 tensor.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused op needs a contiguous tensor"),
    }
}

/// Calls `f` on the numbers of an f32 tensor in main memory.
pub(crate) fn with_slice<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => f(slice(cpu, layout)?),
        _ => bail!("a fused op needs a tensor in main memory"),
    }
}

/// Whether `x` has a gradient, because it is trained or depends on something trained.
pub(crate) fn needs_gradient(x: &Tensor) -> bool {
    x.is_variable() || x.track_op()
}

/// Returns `y`, which was computed from `x` without a graph, with `backward` as its gradient by `x`.
///
/// # Cost
/// One copy of `y`.
pub(crate) fn attach_backward(
    x: &Tensor,
    y: &Tensor,
    backward: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let y = y.detach();
    // Cloning a storage clones all of it, so the tensor must be all of its storage.
    let y = if y.is_contiguous() && y.layout().start_offset() == 0 { y } else { y.force_contiguous()? };
    x.contiguous()?.apply_op2(&y, Attached(Box::new(backward)))
}

/// The gradient of an input by the gradient of the output.
type Backward = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// Returns its second argument. The gradient goes to the first.
struct Attached(Box<Backward>);

impl CustomOp2 for Attached {
    fn name(&self) -> &'static str {
        "gradlog-attached"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, y: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, y: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        y: &MetalStorage,
        layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some((self.0)(&grad.contiguous()?)?), None))
    }
}

/// A tensor's storage and layout.
pub(super) type Operand<'a> = (&'a CpuStorage, &'a Layout);

/// A layer with an input, a weight and perhaps a bias, as one op with its own backward.
pub(super) trait FusedLayer: Send + Sync + 'static {
    const NAME: &'static str;

    fn forward(&self, x: Operand<'_>, weight: Operand<'_>, bias: Option<Operand<'_>>) -> Result<(CpuStorage, Shape)>;

    /// The gradients of input, weight and, if there is one, bias, from the gradient of the output.
    fn backward(&self, x: &Tensor, weight: &Tensor, held: Held, grad: &Tensor) -> Result<[Option<Tensor>; 3]>;
}

/// What a layer holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether weight or bias is trained. If not, backward makes the gradient of the input alone.
    pub trained: bool,
}

/// Applies `layer`.
pub(super) fn apply_layer<L: FusedLayer>(
    layer: L,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Fused(layer)),
        None => x.apply_op2(&weight, Fused(layer)),
    }
}

struct Fused<L>(L);

impl<L: FusedLayer> CustomOp3 for Fused<L> {
    fn name(&self) -> &'static str {
        L::NAME
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
        self.0.forward((x, xl), (w, wl), Some((b, bl)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let held = Held { bias: true, trained: needs_gradient(w) || needs_gradient(b) };
        let [of_x, of_w, of_b] = self.0.backward(x, w, held, grad)?;
        Ok((put_aside(y, x, of_x)?, put_aside(y, w, of_w)?, put_aside(y, b, of_b)?))
    }
}

impl<L: FusedLayer> CustomOp2 for Fused<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.forward((x, xl), (w, wl), None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let held = Held { bias: false, trained: needs_gradient(w) };
        let [of_x, of_w, _] = self.0.backward(x, w, held, grad)?;
        Ok((put_aside(y, x, of_x)?, put_aside(y, w, of_w)?))
    }
}
