//! Where it is decided whether a layer runs as one fused op, and what such ops share.
//!
//! Fused ops exist for contiguous f32 tensors in main memory. Anything else takes candle's own ops with a
//! [`super::Catch`] behind them: slower, with the same result to rounding, and recorded all the same.

use candle_core::{bail, CpuStorage, DType, Device, Layout, Result, Tensor};

/// Whether all of these tensors can go through a fused op.
pub(crate) fn cpu_f32(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
}

/// Threads for a fused op's own parallel sections: what candle itself would use.
pub(crate) fn threads() -> usize {
    candle_core::utils::get_num_threads().max(1)
}

/// The numbers of a contiguous f32 tensor.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused op got a tensor that is not contiguous"),
    }
}

/// Calls `f` on the numbers of an f32 tensor in main memory.
pub(crate) fn with_slice<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => f(slice(cpu, layout)?),
        _ => bail!("a fused op got a tensor that is not in main memory"),
    }
}

/// Whether anything before `x` is to be trained, so that the gradient of `x` is worth computing.
pub(crate) fn needs_gradient(x: &Tensor) -> bool {
    x.is_variable() || x.track_op()
}
