//! What a pass leaves on a device, as one tensor, so that one copy brings it to main memory.

use super::config::Sketching;
use super::copies::{Copy, DeviceCopier, DeviceRing, Ring};
use super::message::{Batch, Gradients, LayerGradients};
use crate::taps::{add, read_f32, FoldedGradients, Registered, SquaredNorms};
use candle_core::{DType, Result, Tensor};
use std::sync::Arc;

/// Numbers of several tensors, one after another, on one device.
pub(super) struct Bundle {
    numbers: Numbers,
    /// What makes copies ahead, if the device has it.
    ring: Option<Arc<Ring<DeviceCopier>>>,
    /// In the order of the numbers.
    parts: Vec<Part>,
}

enum Numbers {
    There(Tensor),
    /// A copy was started when the pass was handed over.
    UnderWay(Copy<DeviceCopier>),
}

/// What was copied to main memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    pub bytes: u64,
    /// Whether the copy was started when the pass was handed over.
    pub ahead: bool,
}

/// What some numbers are.
enum Part {
    /// Both factors of the entry `entry` of the batch's layers, with their shapes.
    Factors { entry: usize, input: Vec<usize>, delta: Vec<usize> },
    /// The norms of an entry's gradients, those `in_metric` if there are any, then its sketches if it has `own` ones,
    /// which no other layer is added to.
    Sketch { entry: usize, own: Option<usize>, in_metric: bool, estimated: bool },
    /// The sum of the sketches of all other layers.
    Sum(usize),
    /// What the loss says of each example.
    Said(usize),
}

impl Bundle {
    pub(super) fn numbers(&self) -> Option<&Tensor> {
        match &self.numbers {
            Numbers::There(tensor) => Some(tensor),
            Numbers::UnderWay(copy) => copy.tensor(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        4 * self.numbers().map_or(0, Tensor::elem_count)
    }
}

impl Batch {
    /// Packs what lies on a device. Nothing is packed if that is several devices; each tensor is then copied by itself.
    pub(super) fn pack(&mut self, layers: &[Registered], sketching: Sketching) -> Result<()> {
        let on_device = |part: &LayerGradients| tensors(part).iter().any(|t| sketching.is_on_device(t.device()));
        let entries: Vec<usize> = (0..self.layers.len()).filter(|entry| on_device(&self.layers[*entry])).collect();
        let all: Vec<&Tensor> = entries.iter().flat_map(|entry| tensors(&self.layers[*entry])).collect();
        let Some(first) = all.first() else { return Ok(()) };
        if !all.iter().all(|t| t.device().same_device(first.device())) {
            return Ok(());
        }
        let flat = |t: &Tensor| t.detach().to_dtype(DType::F32)?.flatten_all();
        let (mut numbers, mut parts, mut sum) = (Vec::new(), Vec::new(), None);
        for entry in entries {
            let part = &self.layers[entry];
            match &part.gradients {
                Gradients::Factored { input, delta } => {
                    numbers.extend([flat(input)?, flat(delta)?]);
                    parts.push(Part::Factors { entry, input: input.dims().to_vec(), delta: delta.dims().to_vec() });
                }
                Gradients::OnDevice(sketch) => {
                    numbers.push(flat(&sketch.norms)?);
                    let in_metric = sketch.in_metric.as_ref().map(flat).transpose()?;
                    let in_metric = in_metric.map(|norms| numbers.push(norms)).is_some();
                    let rows = &sketch.rows;
                    let is_tied = layers.get(part.layer).is_some_and(|layer| layer.tied.is_some());
                    if is_tied {
                        numbers.push(flat(rows)?);
                    } else {
                        sum = Some(sum.map_or_else(|| Ok(rows.clone()), |sum: Tensor| sum + rows)?);
                    }
                    let own = is_tied.then(|| rows.elem_count());
                    parts.push(Part::Sketch { entry, own, in_metric, estimated: sketch.estimated });
                }
                _ => {}
            }
        }
        if let Some(sum) = sum {
            parts.push(Part::Sum(sum.elem_count()));
            numbers.push(flat(&sum)?);
        }
        if let Some(said) = self.unread.as_mut().and_then(|unread| unread.take_packed(first.device())) {
            parts.push(Part::Said(said.elem_count()));
            numbers.push(said);
        }
        self.bundle = Some(Bundle { numbers: Numbers::There(Tensor::cat(&numbers, 0)?), ring: None, parts });
        for part in self.bundle.iter().flat_map(|bundle| &bundle.parts) {
            if let Part::Factors { entry, .. } | Part::Sketch { entry, .. } = part {
                self.layers[*entry].gradients = match self.layers[*entry].gradients {
                    Gradients::Factored { .. } => Gradients::Zero,
                    _ => Gradients::Folded(FoldedGradients::default()),
                };
            }
        }
        Ok(())
    }

    /// Starts to copy what was packed, if the device can do it without anybody waiting.
    pub(super) fn start_copy(&mut self, copies: &mut DeviceRing) {
        let Some(bundle) = &mut self.bundle else { return };
        let Numbers::There(tensor) = &bundle.numbers else { return };
        let Some(ring) = copies.get(tensor.device()) else { return };
        let started = ring.start(tensor);
        bundle.ring = Some(ring.clone());
        if let Some(copy) = started {
            bundle.numbers = Numbers::UnderWay(copy);
        }
    }

    /// Brings what was packed to main memory. This waits for the device.
    pub(super) fn unpack(&mut self) -> Result<Copied> {
        let Some(Bundle { numbers, ring, parts }) = self.bundle.take() else { return Ok(Copied::default()) };
        match numbers {
            Numbers::There(tensor) => {
                let numbers = read_f32(&tensor)?;
                // Later passes find a buffer.
                if let Some(ring) = ring {
                    ring.grow(numbers.len());
                }
                Ok(Copied { bytes: self.spread(&numbers, parts)?, ahead: false })
            }
            Numbers::UnderWay(copy) => {
                let bytes = copy.read(|numbers| self.spread(numbers, parts))?;
                Ok(Copied { bytes, ahead: true })
            }
        }
    }

    /// Gives each part its numbers. Returns their bytes.
    fn spread(&mut self, numbers: &[f32], parts: Vec<Part>) -> Result<u64> {
        let mut rest = numbers;
        let mut take = |count: usize| {
            let (own, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            own.to_vec()
        };
        let rows = self.ids.len();
        for part in parts {
            match part {
                Part::Factors { entry, input, delta } => {
                    let mut factor = |dims: Vec<usize>| {
                        let values = take(dims.iter().product());
                        Tensor::from_vec(values, dims, &candle_core::Device::Cpu)
                    };
                    let (input, delta) = (factor(input)?, factor(delta)?);
                    self.layers[entry].gradients = Gradients::Factored { input, delta };
                }
                Part::Sketch { entry, own, in_metric, estimated } => {
                    let (plain, in_metric) = (take(rows), if in_metric { take(rows) } else { vec![0.0; rows] });
                    let square = |norm: &f32| f64::from(*norm).powi(2);
                    let both = plain.iter().zip(&in_metric);
                    let squared_norms = both
                        .map(|(plain, own)| SquaredNorms { plain: square(plain), in_metric: square(own) })
                        .collect();
                    let sketches = own.map(&mut take).unwrap_or_default();
                    self.layers[entry].gradients =
                        Gradients::Folded(FoldedGradients { sketches, squared_norms, estimated });
                }
                Part::Said(count) => {
                    let said = take(count);
                    self.unread.iter_mut().try_for_each(|unread| unread.give(said.clone()))?;
                }
                Part::Sum(count) => {
                    let own = take(count);
                    match &mut self.folded {
                        Some(folded) if folded.len() == own.len() => add(folded, &own),
                        Some(folded) => {
                            candle_core::bail!("sketches of {} numbers do not fit those of {}", own.len(), folded.len())
                        }
                        None => self.folded = Some(own),
                    }
                }
            }
        }
        Ok(4 * numbers.len() as u64)
    }
}

/// The tensors of a layer's gradients that can be packed.
fn tensors(part: &LayerGradients) -> Vec<&Tensor> {
    match &part.gradients {
        Gradients::Factored { input, delta } => vec![input, delta],
        Gradients::OnDevice(sketch) => sketch.tensors(),
        _ => Vec::new(),
    }
}
