//! Begins passes: arms the taps and numbers the probe sets.

use super::curvature::CurvaturePass;
use super::error::RecordError;
use super::handle::Recorder;
use super::message::{Message, PassKind};
use super::pass::Pass;
use super::pass_core::PassCore;
use super::probe_pass::ProbePass;
use super::tangents::TangentPass;
use crate::ids::IntoIds;

impl Recorder {
    /// Begins a training pass over the examples `ids`, in the order of the batch, and arms the taps for it. An id may
    /// occur several times; each occurrence is its own visit. [`ids`](crate::ids) has patterns for common data
    /// pipelines.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for an empty batch, for what gives no ids, for more than 2^20 visits in one step, and if
    /// layers were tapped after the recorder was created. `commit` reports a failed background thread, so that the
    /// training can go on without recording.
    pub fn pass(&mut self, ids: impl IntoIds) -> Result<Pass<'_>, RecordError> {
        let ids = self.read_ids(ids)?;
        // The passes of a step have one metric.
        if let Some(state) = self.state.as_mut().filter(|state| state.batch_size == 0) {
            state.prepare_metric();
        }
        Ok(Pass::new(self.begin(ids, PassKind::Training)?))
    }

    /// Begins a pass over probes, the examples to ask questions about, in the set `set`. A set is made when it is first
    /// named; its name has 1 to 256 bytes.
    ///
    /// # Errors
    /// As [`Recorder::pass`]; also [`RecordError::Pass`] for a wrong name, and the failure of the background thread
    /// when a set is first named.
    pub fn probe(&mut self, set: &str, ids: impl IntoIds) -> Result<ProbePass<'_>, RecordError> {
        let mut pass = self.plain_probe(set, ids)?;
        pass.core.precondition()?;
        Ok(pass)
    }

    /// The same, without a second record in Adam's metric.
    pub(super) fn plain_probe(&mut self, set: &str, ids: impl IntoIds) -> Result<ProbePass<'_>, RecordError> {
        let ids = self.read_ids(ids)?;
        match self.probe_set(set) {
            Ok(number) => Ok(ProbePass::new(self.begin(ids, PassKind::Probe { set: number })?)),
            Err(error) if self.state.as_mut().is_some_and(|state| state.goes_on_after(&error)) => {
                // The set has no number in the log, so the log cannot hold its probes.
                Ok(ProbePass::new(PassCore::new(self, 0, ids, PassKind::Probe { set: 0 })))
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to record curvature of the examples `ids` at the current weights, in the set `set`: the Gauss-Newton
    /// matrix of a classifier. The analysis can use it as `Curvature::Set` in place of the visits' own gradients. It
    /// does not change the training and may run at any step.
    ///
    /// ```no_run
    /// # use candle_core::{Module, Result, Tensor};
    /// # fn run(
    /// #     recorder: &mut gradlog::Recorder,
    /// #     model: gradlog::Tapped<candle_nn::Linear>,
    /// #     images: fn(&[u64]) -> Result<Tensor>,
    /// #     ids: Vec<u64>,
    /// # ) -> Result<()> {
    /// recorder.curvature("fisher", &ids)?.cross_entropy(|_, ids| model.forward(&images(ids)?))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The rows are not probes: a question about the probes of the set skips them. The matrix is the mean over the
    /// examples of all curvature passes at one step. A thousand examples of a larger training set are enough.
    ///
    /// # Errors
    /// [`RecordError::Pass`] if `ids` is empty.
    pub fn curvature(&mut self, set: &str, ids: impl IntoIds) -> Result<CurvaturePass<'_>, RecordError> {
        let ids = self.read_ids(ids)?;
        if self.is_enabled() && ids.is_empty() {
            return Err(RecordError::Pass {
                step: self.step(),
                what: "the curvature pass has no examples: give at least one id".into(),
            });
        }
        Ok(CurvaturePass::new(self, set, ids))
    }

    /// Begins to record gradients of the logits of the examples `ids` at the current weights, for the neural tangent
    /// kernel `⟨∇f_k(x_i), ∇f_l(x_j)⟩`. The analysis computes its velocity (`VelocityQuestion::kernel`). It does not
    /// change the training and may run at any step; papers take the end of each epoch.
    ///
    /// Each class gets a probe set, `SET/0`, `SET/1`, ..., of which the records are prediction scores of its logit.
    ///
    /// ```no_run
    /// # use candle_core::{Module, Result, Tensor};
    /// # fn run(
    /// #     recorder: &mut gradlog::Recorder,
    /// #     model: gradlog::Tapped<candle_nn::Linear>,
    /// #     images: fn(&[u64]) -> Result<Tensor>,
    /// #     ids: Vec<u64>,
    /// # ) -> Result<()> {
    /// recorder.tangents("ntk", &ids)?.logits(|_, ids| model.forward(&images(ids)?))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RecordError::Pass`] if `ids` is empty.
    pub fn tangents(&mut self, set: &str, ids: impl IntoIds) -> Result<TangentPass<'_>, RecordError> {
        let ids = self.read_ids(ids)?;
        if self.is_enabled() && ids.is_empty() {
            return Err(RecordError::Pass {
                step: self.step(),
                what: "the tangent pass has no examples: give at least one id".into(),
            });
        }
        Ok(TangentPass::new(self, set, ids))
    }

    pub(super) fn begin(&mut self, ids: Vec<u64>, kind: PassKind) -> Result<PassCore<'_>, RecordError> {
        let mut number = 0;
        if let Some(state) = &mut self.state {
            if state.taps.registry().layers.len() != state.registered {
                let what = "layers were tapped after the recorder was created: build the whole model first";
                return Err(RecordError::Pass { step: state.step, what: what.into() });
            }
            if state.has_gone_on() {
                return Ok(PassCore::new(self, 0, ids, kind));
            }
            if ids.is_empty() {
                return Err(RecordError::Pass {
                    step: state.step,
                    what: "the pass has no examples: give at least one id".into(),
                });
            }
            let visits = ids.len() + state.batch_size as usize;
            if visits > 1 << 20 {
                let what = format!(
                    "the step has {visits} examples and may have 2^20: end it with `commit`, or use smaller batches"
                );
                return Err(RecordError::Pass { step: state.step, what });
            }
            state.frozen.look_before()?;
            if kind == PassKind::Training && state.batch_size == 0 {
                state.look_at_layers();
            }
            number = state.taps.arm_next();
        }
        Ok(PassCore::new(self, number, ids, kind))
    }

    pub(super) fn probe_set(&mut self, name: &str) -> Result<u32, RecordError> {
        let Some(state) = self.state.as_mut().filter(|state| !state.has_gone_on()) else {
            return Ok(0);
        };
        if let Some(number) = state.probe_sets.iter().position(|set| set == name) {
            return Ok(number as u32);
        }
        if name.is_empty() || name.len() > 256 {
            let what = format!("the probe set's name has {} bytes: give 1 to 256", name.len());
            return Err(RecordError::Pass { step: state.step, what });
        }
        let number = state.probe_sets.len() as u32;
        let message = Message::ProbeSet { number, name: name.into() };
        state.queue()?.send_unless_hurried(message, 0)?;
        state.probe_sets.push(name.into());
        Ok(number)
    }
}
