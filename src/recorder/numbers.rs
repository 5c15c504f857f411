//! Which numbers of a pass the training thread needs before the step, and which the background thread reads.
//!
//! In main memory all are known at once. On a device the training would wait for them. So they are read there only
//! where something judges them before the step: [`OnNonFinite`](super::config::OnNonFinite) other than `Record`, a
//! guard that leaves out steps, a check, losses from `per_example`, and a sweep whose losses are compared with recorded
//! ones.

use super::config::Sketching;
use super::error::RecordError;
use super::later::{refuse, Later, Pending};
use super::message::PassKind;
use super::outputs::Outputs;
use super::pass_core::PassCore;
use candle_core::Tensor;

/// Columns and coefficients, here or still on the device.
type Numbers = (Outputs, Vec<f32>, Option<Pending<(Outputs, Vec<f32>)>>);

impl PassCore<'_> {
    /// Whether a loss of this tensor is computed by candle's ops.
    pub(super) fn is_on_device(&self, tensor: &Tensor) -> bool {
        let sketching = self.recorder.state.as_ref().map_or(Sketching::Auto, |state| state.sketching);
        sketching.is_on_device(tensor.device())
    }

    /// Whether something judges the numbers of the loss before the step.
    pub(super) fn judges_numbers(&self) -> bool {
        let Some(state) = &self.recorder.state else { return false };
        let compares = self.kind == PassKind::Sweep && state.recorded_losses.is_some();
        let guards = self.kind == PassKind::Training && state.guard.leaves_out_steps();
        self.is_check || compares || guards || self.looks()
    }

    /// Reads the numbers of the loss, if they are on a device.
    pub(super) fn read_outputs(&mut self) -> Result<(), RecordError> {
        let Some(numbers) = self.outputs.take() else { return Ok(()) };
        match numbers.read() {
            Ok(numbers) => self.outputs = Some(Later::Here(numbers)),
            Err(error) => {
                // `commit` says it again.
                let what = error.to_string();
                self.outputs = Some(Later::OnDevice(Pending::new(Vec::new(), move |_| Err(refuse(what)))));
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Puts the numbers of the loss, what `logits` said, and the factor from backward together. They stay on the device
    /// if they are there and nothing judges them.
    pub(super) fn finish_numbers(
        &mut self,
        numbers: Later<(Outputs, Vec<f32>)>,
        upstream: Option<(f64, Vec<Tensor>)>,
    ) -> Result<Numbers, RecordError> {
        let (known, unread) = upstream.unwrap_or((1.0, Vec::new()));
        let described = self.described.take();
        let is_here = numbers.is_here() && unread.is_empty() && described.as_ref().is_none_or(Later::is_here);
        let factor = Pending::new(unread, move |parts| Ok(known + parts.iter().flatten().sum::<f64>()));
        let described = match described {
            Some(described) => described.into_pending().map(Some),
            None => Pending::new(Vec::new(), |_| Ok(None)),
        };
        let all = numbers.into_pending().zip(described).zip(factor);
        let all = all.map(|(((mut outputs, mut coefficients), described), factor)| {
            if let Some(described) = described {
                outputs.take_prediction(described);
            }
            coefficients.iter_mut().for_each(|c| *c *= factor as f32);
            (outputs, coefficients)
        });
        let all = all.pack()?;
        if is_here || self.judges_numbers() {
            let (outputs, coefficients) = all.read()?;
            return Ok((outputs, coefficients, None));
        }
        Ok((Outputs::default(), Vec::new(), Some(all)))
    }
}
