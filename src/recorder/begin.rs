//! Beginning a pass: arming the taps, naming probe sets.

use super::curvature::CurvaturePass;
use super::error::RecordError;
use super::handle::Recorder;
use super::message::{Message, PassKind};
use super::pass::Pass;
use super::pass_core::PassCore;
use super::probe_pass::ProbePass;

impl Recorder {
    /// Begins a training pass over the examples `ids`, in the order of the batch, and arms the taps for it. An id may occur
    /// several times; each occurrence is a visit of its own.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for a batch that is empty, and if layers were tapped after the recorder was created. A background thread
    /// that has failed is reported by `commit`, so that the training can go on without recording.
    pub fn pass(&mut self, ids: &[u64]) -> Result<Pass<'_>, RecordError> {
        Ok(Pass::new(self.begin(ids, PassKind::Training)?))
    }

    /// Begins a pass over probes, the examples that one asks questions about, in the set `set`. Sets are made when first named.
    ///
    /// # Errors
    /// As [`Recorder::pass`].
    pub fn probe(&mut self, set: &str, ids: &[u64]) -> Result<ProbePass<'_>, RecordError> {
        match self.probe_set(set) {
            Ok(number) => Ok(ProbePass::new(self.begin(ids, PassKind::Probe { set: number })?)),
            Err(error) if self.state.as_mut().is_some_and(|state| state.goes_on_after(&error)) => {
                // The set has no number in the log, so its probes cannot be there either.
                Ok(ProbePass::new(PassCore::new(self, 0, ids, PassKind::Probe { set: 0 })))
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to record curvature of some examples, at the weights of this moment, in the set `set`: the Gauss-Newton matrix of a
    /// classifier. The analysis takes it as `Curvature::Set` in place of the visits' own gradients. It changes nothing in the training
    /// and may be done at any step.
    ///
    /// ```ignore
    /// recorder.curvature("fisher", &ids)?.cross_entropy(|_, ids| model.forward(&images(ids)?))?;
    /// ```
    ///
    /// Its rows are no probes: a question about the probes of the set skips them. The matrix is the mean over the examples of all such
    /// passes at one step, so a thousand examples of a larger training set are enough.
    ///
    /// # Errors
    /// [`RecordError::Pass`] without examples.
    pub fn curvature(&mut self, set: &str, ids: &[u64]) -> Result<CurvaturePass<'_>, RecordError> {
        if self.is_enabled() && ids.is_empty() {
            return Err(RecordError::Pass { step: self.step(), what: "curvature of no examples".into() });
        }
        Ok(CurvaturePass::new(self, set, ids))
    }

    pub(super) fn begin(&mut self, ids: &[u64], kind: PassKind) -> Result<PassCore<'_>, RecordError> {
        let mut number = 0;
        if let Some(state) = &mut self.state {
            if state.taps.registry().layers.len() != state.layers.len() {
                let what = "layers were tapped after the recorder was created: build the whole model first";
                return Err(RecordError::Pass { step: state.step, what: what.into() });
            }
            if state.has_gone_on() {
                return Ok(PassCore::new(self, 0, ids, kind));
            }
            if ids.is_empty() {
                return Err(RecordError::Pass { step: state.step, what: "a pass over no examples".into() });
            }
            let visits = ids.len() + state.batch_size as usize;
            if visits > 1 << 20 {
                let what = format!("a step over {visits} examples: at most 2^20 fit into one; `commit` ends a step");
                return Err(RecordError::Pass { step: state.step, what });
            }
            number = state.taps.arm_next();
        }
        Ok(PassCore::new(self, number, ids, kind))
    }

    fn probe_set(&mut self, name: &str) -> Result<u32, RecordError> {
        let Some(state) = self.state.as_mut().filter(|state| !state.has_gone_on()) else {
            return Ok(0);
        };
        if let Some(number) = state.probe_sets.iter().position(|set| set == name) {
            return Ok(number as u32);
        }
        if name.is_empty() || name.len() > 256 {
            let what = "a probe set's name has 1 to 256 bytes".into();
            return Err(RecordError::Pass { step: state.step, what });
        }
        let number = state.probe_sets.len() as u32;
        let message = Message::ProbeSet { number, name: name.into() };
        state.queue()?.send_unless_hurried(message, 0)?;
        state.probe_sets.push(name.into());
        Ok(number)
    }
}
