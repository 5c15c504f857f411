//! Which tapped layers no step changes: those that are not in the optimizer.
//!
//! candle's optimizers do not show their variables. So the parameters of each layer are compared with what they were
//! before the first step. A parameter of which a number has changed counts as trained from then on. A layer is trained
//! if all its parameters are. One that has none that is, while another layer has, is not trained. One that has some is
//! trained in part: its gradient counts whole, because a log has no gradients of single parameters, and answers say so.
//!
//! # Cost
//! One pass over all parameters before the first step, and one over those that have not changed after 16, 32, 64, ...
//! steps and at `finish`. While there are layers that are not trained, 1,024 numbers of each of their parameters every
//! 16 steps. Parameters on other devices are copied to main memory for that; of more than 2^20 numbers they are not
//! watched, and neither are tensors that a layer hides.
//!
//! # Bound
//! A layer that begins to train late is noticed at most 16 steps later, and counts as trained from 16 steps before that
//! at the earliest. A layer whose optimizer changes only some rows, such as an embedding, is noticed at 16, 32, 64, ...
//! steps. A run of fewer than 16 steps that does not reach `finish` knows nothing. A parameter whose steps are all lost
//! to rounding does not change, and counts as one that the optimizer lacks.

use crate::taps::Registered;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

/// Steps between two looks at layers that are not trained.
const STEPS: u64 = 16;
/// Numbers of a parameter that a quick look compares.
const SAMPLE: usize = 1024;
/// The longest parameter on another device that is watched.
const DEVICE_NUMBERS_MAX: usize = 1 << 20;

/// Which parameters of a layer steps change. The numbers are those of FORMAT.md, "Layer rates".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trained {
    Nothing = 0,
    Whole = 1,
    InPart = 2,
}

/// What was seen of a layer, from a step on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub step: u64,
    pub layer: u32,
    pub trained: Trained,
}

/// The layers of which a parameter has not changed yet.
#[derive(Debug, Default)]
pub(super) struct Watch {
    layers: Vec<Watched>,
    /// The first step, once there was one.
    start: Option<u64>,
    /// When to look next, and when to look at every number.
    next: u64,
    next_whole: u64,
    any_trained: bool,
}

#[derive(Debug)]
struct Watched {
    layer: u32,
    parameters: Vec<WatchedParameter>,
    /// The last step before which the rest of the layer was seen unchanged.
    unchanged: u64,
    /// What was said of it.
    told: Option<Trained>,
}

#[derive(Debug)]
struct WatchedParameter {
    tensor: Tensor,
    /// The hashes of some of its numbers and of all.
    some: u64,
    all: u64,
    changed: bool,
}

impl Watch {
    /// Looks at the parameters before a training step. The first call only notes what they are.
    pub(super) fn look_before(&mut self, step: u64, layers: &[Registered]) -> Vec<Seen> {
        if self.start.is_none() {
            let watched = |(number, layer): (usize, &Registered)| Watched::new(number as u32, layer, step);
            self.layers = layers.iter().enumerate().filter_map(watched).collect();
            self.start = Some(step);
            (self.next, self.next_whole) = (step + STEPS, step + STEPS);
            return Vec::new();
        }
        if step < self.next || self.layers.is_empty() {
            return Vec::new();
        }
        self.look(step, step >= self.next_whole)
    }

    /// Looks once more, after the last step.
    pub(super) fn look_at_end(&mut self, step: u64) -> Vec<Seen> {
        match self.start {
            Some(start) if step > start => self.look(step, true),
            _ => Vec::new(),
        }
    }

    fn look(&mut self, step: u64, whole: bool) -> Vec<Seen> {
        let start = self.start.unwrap_or(step);
        let mut seen = Vec::new();
        self.layers.retain_mut(|layer| {
            // A layer that cannot be read any more is left out: nothing is known of it.
            let Some(trained) = layer.look(whole) else { return false };
            self.any_trained |= trained != Trained::Nothing;
            // A quick look may miss what changes. It is sure of a layer that was looked at whole before.
            let is_new = trained != Trained::Nothing && layer.told != Some(trained);
            if is_new && layer.told.map_or(whole && trained == Trained::InPart, |_| true) {
                let from = if layer.told.is_some() { layer.unchanged } else { start };
                seen.push(Seen { step: from, layer: layer.layer, trained });
                layer.told = Some(trained);
            }
            layer.unchanged = step;
            trained != Trained::Whole
        });
        if self.any_trained && whole {
            for layer in self.layers.iter_mut().filter(|layer| layer.told.is_none()) {
                layer.told = Some(Trained::Nothing);
                seen.push(Seen { step: start, layer: layer.layer, trained: Trained::Nothing });
            }
        }
        if whole {
            self.next_whole = step.saturating_add(step - start);
        }
        let quick =
            if self.layers.iter().any(|layer| layer.told.is_some()) { step.saturating_add(STEPS) } else { u64::MAX };
        self.next = self.next_whole.min(quick);
        seen
    }
}

impl Watched {
    /// `None` for a layer that cannot be watched.
    fn new(layer: u32, registered: &Registered, step: u64) -> Option<Self> {
        let hashed = |parameter: &crate::taps::Parameter| {
            let tensor = parameter.tensor.clone()?;
            let (some, all) = (hash(&tensor, false)?, hash(&tensor, true)?);
            Some(WatchedParameter { tensor, some, all, changed: false })
        };
        let parameters = registered.spec.parameters.iter().map(hashed).collect::<Option<Vec<_>>>()?;
        (!parameters.is_empty()).then_some(Self { layer, parameters, unchanged: step, told: None })
    }

    /// Looks at the parameters that have not changed. If a quick look finds a change, it looks at every number of the
    /// others, so that they are not missed.
    fn look(&mut self, whole: bool) -> Option<Trained> {
        let mut found = false;
        for parameter in self.parameters.iter_mut().filter(|parameter| !parameter.changed) {
            parameter.changed = hash(&parameter.tensor, false)? != parameter.some;
            found |= parameter.changed;
        }
        if whole || found {
            for parameter in self.parameters.iter_mut().filter(|parameter| !parameter.changed) {
                parameter.changed = hash(&parameter.tensor, true)? != parameter.all;
            }
        }
        let changed = self.parameters.iter().filter(|parameter| parameter.changed).count();
        Some(match changed {
            0 => Trained::Nothing,
            all if all == self.parameters.len() => Trained::Whole,
            _ => Trained::InPart,
        })
    }
}

/// A hash of all numbers of a tensor, or of some that are spread evenly. Any number that changes alone changes it.
fn hash(tensor: &Tensor, whole: bool) -> Option<u64> {
    let Device::Cpu = tensor.device() else {
        if tensor.elem_count() > DEVICE_NUMBERS_MAX {
            return None;
        }
        let numbers = tensor.flatten_all().ok()?;
        let numbers = if whole { numbers } else { numbers.narrow(0, 0, tensor.elem_count().min(SAMPLE)).ok()? };
        return Some(fold(&numbers.to_dtype(DType::F64).ok()?.to_vec1::<f64>().ok()?, 1, |x| x.to_bits()));
    };
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    let step = if whole { 1 } else { ((end - start) / SAMPLE).max(1) };
    let Storage::Cpu(storage) = &*storage else { return None };
    match storage {
        CpuStorage::F32(all) => Some(fold(all.get(start..end)?, step, |x| u64::from(x.to_bits()))),
        CpuStorage::F64(all) => Some(fold(all.get(start..end)?, step, |x| x.to_bits())),
        CpuStorage::F16(all) => Some(fold(all.get(start..end)?, step, |x| u64::from(x.to_bits()))),
        CpuStorage::BF16(all) => Some(fold(all.get(start..end)?, step, |x| u64::from(x.to_bits()))),
        _ => None,
    }
}

/// Eight chains that do not wait for one another.
fn fold<T: Copy>(numbers: &[T], step: usize, bits: impl Fn(T) -> u64) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, bits: u64| (hash ^ bits).wrapping_mul(ODD).rotate_left(29);
    let mut lanes = [0u64; 8];
    if step == 1 {
        let mut eights = numbers.chunks_exact(8);
        for eight in &mut eights {
            lanes.iter_mut().zip(eight).for_each(|(lane, number)| *lane = mix(*lane, bits(*number)));
        }
        lanes.iter_mut().zip(eights.remainder()).for_each(|(lane, number)| *lane = mix(*lane, bits(*number)));
    } else {
        numbers.iter().step_by(step).for_each(|number| lanes[0] = mix(lanes[0], bits(*number)));
    }
    lanes.into_iter().fold(0, mix)
}
