//! Catches the gradient of a tensor. candle hands it only to the backward function of a custom op.

use super::collected::never_armed;
use super::fused::cpu_f32;
use super::gradient::{FoldedGradients, Folding};
use super::metric::{NormMetric, SquaredNorms};
use super::on_device::{self, DeviceSketch};
use super::shared_fold::LazyFold;
use super::slot::{Captured, Slot};
use super::tap::Tap;
use super::watch::Watch;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a catch needs from its taps.
pub(super) trait Passes: Send + Sync {
    /// Number of the armed pass, 0 for none.
    fn armed_pass(&self) -> u64;

    /// Whether forward passes are not recorded for a while, although a pass is armed.
    fn is_paused(&self) -> bool;

    /// Whether layers in main memory run as one op.
    fn is_fused(&self) -> bool;

    /// Whether gradients of tensors there are sketched there.
    fn sketches_on(&self, device: &Device) -> bool;

    /// Number of parameters of all layers whose gradients `pass` will fold, as far as forward has come.
    fn folded_parameters(&self, pass: u64) -> u64;

    /// What a check watches; `None` for the usual case that no check runs.
    fn watch(&self) -> Option<&Watch>;
}

/// Catches the gradient of a tapped layer's output. [`Tap::tapped_forward`](super::Tap::tapped_forward) gets one for
/// each forward pass.
#[derive(Clone)]
pub struct Catch {
    passes: Arc<dyn Passes>,
    slot: Arc<Slot>,
    /// The layer, if its gradients may be sketched during backward.
    layer: Option<Arc<dyn Tap>>,
    pass: u64,
}

impl Catch {
    pub(super) fn new(passes: Arc<dyn Passes>, slot: Arc<Slot>) -> Self {
        let pass = if slot.is_off() || passes.is_paused() { 0 } else { passes.armed_pass() };
        Self { passes, slot, layer: None, pass }
    }

    /// The same, of a layer whose gradients may be sketched on their device.
    pub(super) fn of_layer(self, layer: Arc<dyn Tap>) -> Self {
        Self { layer: Some(layer), ..self }
    }

    /// A catch of no taps, for an op that is never recorded.
    pub(super) fn unarmed() -> Self {
        Self { passes: never_armed(), slot: Arc::new(Slot::default()), layer: None, pass: 0 }
    }

    /// Whether a layer can run as one op on all of these tensors.
    pub(super) fn fuses(&self, tensors: &[&Tensor]) -> bool {
        cpu_f32(tensors) && self.passes.is_fused()
    }

    /// Whether a pass is armed. If not, there is nothing to catch, and a layer should cost what it costs untapped.
    pub fn is_armed(&self) -> bool {
        self.pass != 0
    }

    /// Returns `y`, the layer's output for the input `x`, unchanged. It keeps `x`, and the gradient of `y` when
    /// `backward` runs. If no pass is armed, it returns `y` itself.
    ///
    /// # Errors
    /// candle's error.
    ///
    /// # Cost
    /// One copy of `y` while a pass is armed.
    pub fn output(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        // Under a pause only a backward pass is noticed, which must not come here.
        if !self.is_armed() && !self.passes.is_paused() {
            return Ok(y);
        }
        self.note_forward(x);
        let (catch, input) = (self.clone(), x.clone());
        observe(&y, move |delta| catch.keep_use(&input, delta))
    }

    /// Notes a forward pass with the input `x`. A fused op calls this before it runs.
    pub(super) fn note_forward(&self, x: &Tensor) {
        if self.is_armed() {
            let positions = match x.dims() {
                [_, places @ .., _] => places.iter().product(),
                _ => 1,
            };
            self.slot.note_forward(self.pass, positions > 1, x);
            if let Some(watch) = self.passes.watch() {
                watch.note_input(&self.slot, x);
            }
        }
    }

    /// Whether the pass is still armed when backward runs: it may have been dropped.
    fn is_wanted(&self) -> bool {
        self.is_armed() && self.passes.armed_pass() == self.pass
    }

    /// Keeps the gradient of one use of the layer. A gradient of a forward pass that was made outside the armed pass is
    /// noted, because it belongs to the armed pass's examples and cannot be recorded there.
    pub(super) fn keep_use(&self, x: &Tensor, delta: &Tensor) {
        let armed = self.passes.armed_pass();
        if armed != 0 && armed != self.pass {
            self.slot.note_stray(armed);
        }
        if self.is_wanted() {
            if let Some(sketch) = self.sketch_on_device(x, delta) {
                return self.slot.store(self.pass, Captured::Sketched(sketch));
            }
            // The background thread reads this later. A view of a variable, or of a buffer that the loop refills, would
            // have changed by then, and it cannot be told from another tensor. (candle's `copy` would copy the whole
            // tensor that a batch is a part of.)
            let x = x.force_contiguous().unwrap_or_else(|_| x.clone());
            self.slot.store(self.pass, Captured::Use { x: x.detach(), delta: delta.detach() });
        }
    }

    /// Sketches the gradients of a layer with positions where they are, so that its tensors need not be kept until the
    /// end of the pass. `None` if they are to be kept.
    fn sketch_on_device(&self, x: &Tensor, delta: &Tensor) -> Option<DeviceSketch> {
        let (layer, LayerFold { fold, metric }) = self.find_device_fold(delta)?;
        // What cannot be made here is made later, where an error can be told.
        let given = layer.per_example(&x.detach(), &delta.detach()).ok()?;
        on_device::sketch(&[given], &fold, metric.as_ref(), x.dim(0).ok()?).ok().flatten()
    }

    /// Sketches the gradients of a layer with positions where they are, and keeps that. Returns their sum,
    /// `[parameters]`, the gradient of the batch, which then needs not be made again. `None` if it was not done.
    pub(super) fn sum_on_device(&self, x: &Tensor, delta: &Tensor) -> Option<Tensor> {
        let (layer, own) = self.find_device_fold(delta).filter(|(_, own)| own.fold.sides().is_none())?;
        let LayerFold { fold, metric } = own;
        let given = layer.per_example(&x.detach(), &delta.detach()).ok()?;
        let (sketch, sum) =
            on_device::sketch_and_sum(&[given], &fold, metric.as_ref(), x.dim(0).ok()?).ok().flatten()?;
        self.slot.store(self.pass, Captured::Sketched(sketch));
        Some(sum)
    }

    /// The layer, its projection and the metric, if gradients with positions are to be sketched during backward on
    /// their device.
    fn find_device_fold(&self, delta: &Tensor) -> Option<(&Arc<dyn Tap>, LayerFold)> {
        let is_there = self.is_wanted() && self.passes.sketches_on(delta.device());
        let layer = self.layer.as_ref().filter(|_| is_there)?;
        let (fold, metric) = self.slot.find_fold(self.pass).filter(|_| self.slot.count_uses(self.pass).1)?;
        fold.shared_fold().decide_width(|| self.passes.folded_parameters(self.pass));
        Some((layer, LayerFold { fold, metric }))
    }

    /// The projection and the metric, if a fused backward should fold the per-example gradients as it makes them.
    pub(super) fn find_fold(&self) -> Option<LayerFold> {
        if !self.is_wanted() {
            return None;
        }
        // What is projected from both sides needs no whole gradients.
        let (fold, metric) = self.slot.find_fold(self.pass).filter(|(fold, _)| fold.sides().is_none())?;
        fold.shared_fold().decide_width(|| self.passes.folded_parameters(self.pass));
        Some(LayerFold { fold, metric })
    }

    /// Keeps the folded per-example gradients of `batch` examples. `make` gets what they are folded with; it returns
    /// its result and the squared norms.
    pub(super) fn keep_folded<R>(
        &self,
        layer: &LayerFold,
        batch: usize,
        make: impl FnOnce(Folding<'_>) -> (R, Vec<SquaredNorms>),
    ) -> R {
        let fold = layer.fold.get();
        let metric = layer.metric.as_ref().and_then(NormMetric::weights);
        let (made, folded) = match layer.fold.rows(self.pass, batch) {
            Some(mut rows) => {
                let (made, squared_norms) = make(Folding { fold, metric, rows: rows.values() });
                (made, FoldedGradients { sketches: Vec::new(), squared_norms, estimated: false })
            }
            None => {
                let mut sketches = vec![0f32; batch * fold.outputs()];
                let (made, squared_norms) = make(Folding { fold, metric, rows: &mut sketches });
                (made, FoldedGradients { sketches, squared_norms, estimated: false })
            }
        };
        self.slot.store(self.pass, Captured::Folded(folded));
        made
    }
}

/// What the gradients of a layer are folded with.
pub(super) struct LayerFold {
    fold: Arc<LazyFold>,
    metric: Option<NormMetric>,
}

impl std::fmt::Debug for Catch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catch").field("pass", &self.pass).finish_non_exhaustive()
    }
}

/// The gradients that a scalar got, see [`watch_scalar`]: their sum, and their number.
#[derive(Clone, Default)]
pub(crate) struct Upstream(Arc<Mutex<Factors>>);

#[derive(Default)]
struct Factors {
    /// The sum of the gradients that are in main memory.
    sum: f64,
    passes: usize,
    /// Those on a device.
    unread: Vec<Tensor>,
}

impl Upstream {
    fn lock(&self) -> MutexGuard<'_, Factors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Their sum; `None` without any. Waits for a device that holds one.
    pub(crate) fn get(&self) -> Result<Option<f64>> {
        let mut held = self.lock();
        for grad in std::mem::take(&mut held.unread) {
            held.sum += sum(&grad)?;
        }
        Ok((held.passes > 0).then_some(held.sum))
    }

    /// The sum of the gradients that are in main memory, and those that are on a device. It waits for nothing. `None`
    /// before a backward pass.
    pub(crate) fn parts(&self) -> Option<(f64, Vec<Tensor>)> {
        let held = self.lock();
        (held.passes > 0).then(|| (held.sum, held.unread.clone()))
    }

    /// Number of backward passes that went through the scalar. Each brings one gradient, however often the scalar
    /// occurs in what is differentiated.
    pub(crate) fn count(&self) -> usize {
        self.lock().passes
    }

    /// Reads the gradient of a scalar.
    pub(crate) fn add(&self, grad: &Tensor) -> Result<()> {
        let value = sum(grad)?;
        let mut held = self.lock();
        (held.sum, held.passes) = (held.sum + value, held.passes + 1);
        Ok(())
    }

    /// Keeps the gradient of a scalar where it is.
    pub(crate) fn keep(&self, grad: &Tensor) {
        let mut held = self.lock();
        held.passes += 1;
        held.unread.push(grad.detach());
    }
}

fn sum(grad: &Tensor) -> Result<f64> {
    Ok(grad.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().sum())
}

/// Returns the scalar `loss`, and keeps its gradient in `upstream`: the factor between the loss and what is
/// differentiated. With `on_device` backward does not wait for it.
pub(crate) fn watch_scalar(loss: &Tensor, upstream: &Upstream, on_device: bool) -> Result<Tensor> {
    let upstream = upstream.clone();
    // If the gradient cannot be read, `upstream` stays empty, and `commit` reports that.
    observe(loss, move |grad| match on_device {
        true => upstream.keep(grad),
        false => drop(upstream.add(grad)),
    })
}

/// Returns `y`, and calls `see` on its gradient.
fn observe(y: &Tensor, see: impl Fn(&Tensor) + Send + Sync + 'static) -> Result<Tensor> {
    // Cloning a storage clones all of it, so a view is copied before.
    let y = if y.is_contiguous() && y.layout().start_offset() == 0 { y.clone() } else { y.force_contiguous()? };
    y.apply_op1(Observe(Box::new(see)))
}

/// The identity. Its backward calls a function on the gradient.
struct Observe(Box<dyn Fn(&Tensor) + Send + Sync>);

impl CustomOp1 for Observe {
    fn name(&self) -> &'static str {
        "gradlog-observe"
    }

    // The input is contiguous from offset 0. What its storage holds behind it does no harm.
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(&self, storage: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        // Metal clones a storage by reference. Nothing writes to either, so sharing is the identity too.
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.0)(grad);
        Ok(Some(grad.clone()))
    }
}
