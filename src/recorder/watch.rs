//! Which tapped layers no step changes: those that are not in the optimizer.
//!
//! candle's optimizers do not show their variables. So the parameters of each layer are compared with what they were
//! before the first step. A layer of which a number has changed counts as trained from then on. One that has not, while
//! another has, is not trained.
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
//! steps. A run of fewer than 16 steps that does not reach `finish` knows nothing.

use crate::taps::Registered;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

/// Steps between two looks at layers that are not trained.
const STEPS: u64 = 16;
/// Numbers of a parameter that a quick look compares.
const SAMPLE: usize = 1024;
/// The longest parameter on another device that is watched.
const DEVICE_NUMBERS_MAX: usize = 1 << 20;

/// What was seen of a layer: whether its parameters change, from a step on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub step: u64,
    pub layer: u32,
    pub trained: bool,
}

/// The layers whose parameters have not changed yet.
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
    /// Each parameter with the hashes of some of its numbers and of all.
    parameters: Vec<(Tensor, u64, u64)>,
    /// The last step before which the layer was seen unchanged.
    unchanged: u64,
    /// Whether it was said that it is not trained.
    told: bool,
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
        self.layers.retain_mut(|layer| match layer.has_changed(whole) {
            Some(true) => {
                if layer.told {
                    seen.push(Seen { step: layer.unchanged, layer: layer.layer, trained: true });
                }
                self.any_trained = true;
                false
            }
            Some(false) => {
                layer.unchanged = step;
                true
            }
            // It cannot be read any more, so nothing is known of it.
            None => false,
        });
        if self.any_trained && whole {
            for layer in self.layers.iter_mut().filter(|layer| !layer.told) {
                layer.told = true;
                seen.push(Seen { step: start, layer: layer.layer, trained: false });
            }
        }
        if whole {
            self.next_whole = step.saturating_add(step - start);
        }
        let quick = if self.layers.iter().any(|layer| layer.told) { step.saturating_add(STEPS) } else { u64::MAX };
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
            Some((tensor, some, all))
        };
        let parameters = registered.spec.parameters.iter().map(hashed).collect::<Option<Vec<_>>>()?;
        (!parameters.is_empty()).then_some(Self { layer, parameters, unchanged: step, told: false })
    }

    fn has_changed(&self, whole: bool) -> Option<bool> {
        for (tensor, some, all) in &self.parameters {
            if hash(tensor, false)? != *some || whole && hash(tensor, true)? != *all {
                return Some(true);
            }
        }
        Some(false)
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
