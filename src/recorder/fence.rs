//! The order of work on a device between the threads.
//!
//! candle gives each thread that uses a CUDA device a stream of its own ([`Device::new_cuda`]). What the background
//! thread reads or frees must be complete on the stream of the thread that made it. So the training thread records an
//! event when it hands a pass over, which costs no waiting, and the background thread waits for it.

use super::message::{Batch, Gradients};
use candle_core::{Device, Result, Tensor};

#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::CudaEvent;

/// Work that must be complete before the tensors of a pass are read or freed by another thread. It waits when it is
/// dropped there.
#[derive(Default)]
pub(super) struct Fence {
    #[cfg(feature = "cuda")]
    events: Vec<CudaEvent>,
    /// Who made it, and need not wait.
    #[cfg(feature = "cuda")]
    maker: Option<std::thread::ThreadId>,
}

impl Fence {
    /// All work so far that the calling thread has given to the devices of `tensors`.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(feature = "cuda")]
    fn after(tensors: &[&Tensor]) -> Result<Self> {
        let mut devices: Vec<&candle_core::CudaDevice> = Vec::new();
        for tensor in tensors {
            if let Device::Cuda(device) = tensor.device() {
                let ordinal = |device: &candle_core::CudaDevice| device.cuda_stream().context().ordinal();
                if devices.iter().all(|known| ordinal(known) != ordinal(device)) {
                    devices.push(device);
                }
            }
        }
        let event = |device: &&candle_core::CudaDevice| {
            device.cuda_stream().record_event(None).map_err(candle_core::Error::wrap)
        };
        let events = devices.iter().map(event).collect::<Result<_>>()?;
        Ok(Self { events, maker: Some(std::thread::current().id()) })
    }

    /// Other devices order their work themselves.
    #[cfg(not(feature = "cuda"))]
    fn after(_: &[&Tensor]) -> Result<Self> {
        Ok(Self::default())
    }

    /// Waits for the work.
    ///
    /// # Errors
    /// The driver's, and those of the work.
    pub(super) fn wait(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        for event in self.events.drain(..) {
            event.synchronize().map_err(candle_core::Error::wrap)?;
        }
        Ok(())
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        #[cfg(feature = "cuda")]
        if self.maker != Some(std::thread::current().id()) {
            // An explicit `wait` returns the error. A drop cannot.
            let _ = self.wait();
        }
    }
}

impl Batch {
    /// Lets who takes the batch over wait for what its tensors are made of.
    pub(super) fn raise_fence(&mut self) -> Result<()> {
        let mut tensors: Vec<&Tensor> = Vec::new();
        for part in &self.layers {
            match &part.gradients {
                Gradients::Factored { input, delta } => tensors.extend([input, delta]),
                Gradients::OnDevice(sketch) => tensors.extend(sketch.tensors()),
                Gradients::Uses { uses, .. } => tensors.extend(uses.iter().flat_map(|(x, delta)| [x, delta])),
                Gradients::Given(given) => tensors.extend(given.iter().flat_map(|one| one.tensors())),
                Gradients::Folded(_) | Gradients::Zero => {}
            }
        }
        tensors.extend(self.bundle.iter().filter_map(|bundle| bundle.numbers()));
        tensors.extend(self.unread.iter().flat_map(|unread| unread.tensors()));
        if tensors.iter().all(|tensor| matches!(tensor.device(), Device::Cpu)) {
            return Ok(());
        }
        self.fence = Fence::after(&tensors)?;
        Ok(())
    }
}
