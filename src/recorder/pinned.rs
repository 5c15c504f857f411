//! Copies from a CUDA device into pinned memory, on a stream of their own.
//!
//! The stream is made by the driver and not by cudarc's context: a second stream of the context would let cudarc record
//! and await an event for each argument of each kernel of the whole training. So the order of work is kept here. The
//! copy waits on the device for what the training thread has given it so far. Nobody frees the tensor, reads the buffer
//! or uses it again before the copy's own event has passed (`copies.rs`).

use super::copies::Copier;
use candle_core::cuda_backend::cudarc::driver::sys::{CUevent_flags, CUevent_wait_flags, CUstream};
use candle_core::cuda_backend::cudarc::driver::{result, CudaContext, CudaEvent, DevicePtr, PinnedHostSlice};
use candle_core::{Device, Error, Result, Storage, Tensor};
use std::sync::Arc;

/// Copies from one device.
pub(super) struct CudaCopier {
    context: Arc<CudaContext>,
    stream: Stream,
}

/// A stream of the driver.
struct Stream(CUstream);

// SAFETY: the driver's calls on a stream may come from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Stream {}

impl CudaCopier {
    /// `None` for another kind of device.
    pub(super) fn new(device: &Device) -> Option<Result<Self>> {
        let Device::Cuda(cuda) = device else { return None };
        let context = cuda.cuda_stream().context().clone();
        let stream =
            context.bind_to_thread().and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
        Some(stream.map(|stream| Self { context, stream: Stream(stream) }).map_err(Error::wrap))
    }
}

impl Copier for CudaCopier {
    type Buffer = PinnedHostSlice<f32>;
    type Ticket = CudaEvent;

    fn allocate(&self, length: usize) -> Result<PinnedHostSlice<f32>> {
        // SAFETY: nothing reads the buffer before a copy has filled it. Without flags it is not write-combined, which
        // would be slow to read.
        let mut buffer = unsafe { self.context.alloc_pinned_with_flags::<f32>(length, 0) }.map_err(Error::wrap)?;
        // So no number of it is ever uninitialized.
        buffer.as_mut_slice().map_err(Error::wrap)?.fill(0.0);
        Ok(buffer)
    }

    fn start(&self, numbers: &Tensor, buffer: &mut PinnedHostSlice<f32>) -> Result<CudaEvent> {
        let Device::Cuda(device) = numbers.device() else { candle_core::bail!("a tensor is on another device") };
        let training = device.cuda_stream();
        if training.context() != &self.context {
            candle_core::bail!("a tensor is on another device");
        }
        let (storage, layout) = numbers.storage_and_layout();
        let (Storage::Cuda(storage), Some((first, end))) = (&*storage, layout.contiguous_offsets()) else {
            candle_core::bail!("only contiguous tensors are copied")
        };
        let slice = storage.as_cuda_slice::<f32>()?.slice(first..end);
        let into = buffer.as_mut_slice().map_err(Error::wrap)?;
        let Some(into) = into.get_mut(..end - first) else { candle_core::bail!("a buffer is too short") };
        let ready = training.record_event(None).map_err(Error::wrap)?;
        // The background thread sleeps while it waits for it.
        let ended = self.context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(Error::wrap)?;
        let (from, _used) = slice.device_ptr(&training);
        // SAFETY: the stream and both events belong to this context, which `record_event` has bound to the thread. The
        // copy reads what the training thread's work has written, since it waits for `ready`. `Ring` keeps the tensor
        // and the buffer until `ended` has passed.
        let started = unsafe {
            result::stream::wait_event(self.stream.0, ready.cu_event(), CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                .and_then(|()| result::memcpy_dtoh_async(into, from, self.stream.0))
                .and_then(|()| result::event::record(ended.cu_event(), self.stream.0))
        };
        match started {
            Ok(()) => Ok(ended),
            Err(error) => {
                // The copy may be under way without an event. This waits, once: no other copy is started.
                // SAFETY: the stream is alive.
                let _ = unsafe { result::stream::synchronize(self.stream.0) };
                Err(Error::wrap(error))
            }
        }
    }

    fn has_ended(&self, ended: &CudaEvent) -> bool {
        ended.is_complete()
    }

    fn wait(&self, ended: &CudaEvent) -> Result<()> {
        ended.synchronize().map_err(Error::wrap)
    }

    fn numbers<'a>(&self, buffer: &'a PinnedHostSlice<f32>, length: usize) -> Result<&'a [f32]> {
        let all = buffer.as_slice().map_err(Error::wrap)?;
        all.get(..length).ok_or_else(|| Error::Msg("a buffer is too short".into()))
    }
}

impl Drop for CudaCopier {
    fn drop(&mut self) {
        // SAFETY: `Ring` has waited for all copies. A stream is destroyed once.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::stream::destroy(self.stream.0) });
    }
}
