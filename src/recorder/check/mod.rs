//! Checks recorded gradients: compares them with each example alone, through the user's own model and loss.
//!
//! A check has four parts, in `check_gradients`:
//!
//! 1. The batch, as it is recorded, twice. If the two runs differ, something is random.
//! 2. Each tap by itself: its per-example gradients against candle's backward through the layer's plain forward pass.
//! 3. The sum of the recorded gradients against candle's gradient of the batch. What is missing came from elsewhere.
//! 4. Each example alone, by candle's own ops. What differs now depends on the rest of the batch.

mod alone;
mod batch_rows;
mod evidence;
mod measure;
mod observe;
mod parameters;
mod report;
mod taps_alone;
mod verdict;

pub use batch_rows::BatchRows;
pub use report::{Finding, GradientCheck};

use super::error::RecordError;
use super::handle::Recorder;
use super::held::{HeldFolds, HeldVariables};
use super::message::{CheckRow, Message};
use super::pass::Pass;
use crate::ids::IntoIds;
use crate::taps::find_batch_norms;
use candle_core::Tensor;
use candle_nn::VarMap;
use evidence::Evidence;
use observe::observe;
use parameters::Parameters;

/// A longer verdict is cut in the log.
const TEXT_BYTES_MAX: usize = 1 << 16;

impl Recorder {
    /// Checks on one batch that the gradients that are recorded are each example's own. Call it once on a new model,
    /// before the first pass, and print what it returns.
    ///
    /// `run` is the forward pass and the loss of your loop, on the rows that it is given. It is called with all rows,
    /// and with each example alone. `variables` are those of the model.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Module, Tensor};
    /// # use candle_nn::{linear, VarBuilder, VarMap};
    /// # use gradlog::{Config, Recorder, Taps};
    /// # let dir = std::env::temp_dir().join(format!("gradlog-doc-check-{}", std::process::id()));
    /// # let variables = VarMap::new();
    /// # let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    /// # let taps = Taps::new();
    /// # let model = taps.tap("fc", linear(4, 3, vb.pp("fc"))?);
    /// # let (ids, x) = ([7, 8], Tensor::randn(0f32, 1., (2, 4), &Device::Cpu)?);
    /// # let y = Tensor::new(&[0u32, 2], &Device::Cpu)?;
    /// # let mut recorder = Recorder::create(&dir, &taps, Config::default())?;
    /// let check = recorder.check_gradients(&variables, &ids, |pass, rows| {
    ///     pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
    /// })?;
    /// println!("{check}");
    /// # assert!(check.agrees(), "{check}");
    /// # drop(recorder);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The verdict says which layers and losses couple the examples of the batch or disagree, and by how much:
    /// BatchNorm in training mode, losses that compare examples, layers whose batch is not the first dimension, a
    /// [`Tap`](crate::Tap) that is wrong, a parameter that is also used outside its layer, a variable that no tap
    /// covers. [`FindingKind`](crate::FindingKind) lists them. The relative difference of two vectors is
    /// `‖a − b‖ / max(‖a‖, ‖b‖)`, and 0.1 % counts as rounding in f32 (0.01 % in f64, 10 % in half precision).
    ///
    /// Dropout makes two runs differ. The check says so, and compares what it still can. For a full check, run the
    /// closure without dropout.
    ///
    /// Nothing of the training changes: no step is taken, no visit is recorded, and variables that the forward pass
    /// changes (such as the statistics of a BatchNorm) are set back. Statistics outside `variables` cannot be set back.
    /// The log keeps the verdict, and `gradlog info` repeats it.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for fewer than two ids, for a closure that returns another tensor than its pass's loss,
    /// and if the closure calls `per_example`, whose gradients are those of examples alone. The closure's own error,
    /// with the example that was run alone. Otherwise the failure of the background thread, if it has failed. A
    /// disagreement is no error.
    ///
    /// # Cost
    /// Two runs of the batch, and two of each example alone. Memory: a copy of all variables, and what a recorded pass
    /// holds. A batch of 4 to 16 examples is enough.
    pub fn check_gradients<F>(
        &mut self,
        variables: &VarMap,
        ids: impl IntoIds,
        mut run: F,
    ) -> Result<GradientCheck, RecordError>
    where
        F: FnMut(&mut Pass<'_>, &BatchRows) -> Result<Tensor, RecordError>,
    {
        let Some(state) = &self.state else {
            return Ok(GradientCheck::nothing("the recorder is disabled"));
        };
        if state.has_gone_on() {
            return Ok(GradientCheck::nothing("recording has stopped"));
        }
        state.check_health()?;
        let ids = &self.read_ids(ids)?[..];
        if ids.len() < 2 {
            let what = format!("a check compares the examples of a batch: give at least two ids, not {}", ids.len());
            return Err(RecordError::Pass { step: state.step, what });
        }
        let (layers, taps) = (state.layers.clone(), state.taps.clone());
        let held = HeldVariables::hold(variables)?;
        let folds = HeldFolds::hold(layers.clone());
        let parameters = Parameters::new(&layers, &held.named);

        let all = BatchRows::all(ids);
        let Some(batch) = observe(self, &all, false, &mut run)? else {
            return Ok(GradientCheck::nothing("recording has stopped"));
        };
        let changed = held.restore()?;
        let tolerance = batch.tolerance();
        let own_folds = folds.replace();
        let again = observe(self, &all, false, &mut run)?;
        held.restore()?;
        folds.clear();

        let mut evidence = Evidence::new(ids, tolerance, &layers, &parameters, changed);
        if let Some(again) = &again {
            evidence.compare_runs(&batch, again);
        }
        let recorded = taps_alone::recorded_gradients(&layers, &batch, ids.len(), &mut evidence);
        evidence.compared = recorded.iter().filter(|layer| layer.is_compared()).count();
        if let Some(again) = again.filter(|_| !evidence.is_random()) {
            taps_alone::compare_folds(&recorded, &again, &own_folds, &mut evidence);
        }
        taps_alone::compare_with_plain_layers(&layers, &taps, &parameters, &batch, &recorded, &mut evidence)?;
        taps_alone::compare_sums(&parameters, &batch, &recorded, &mut evidence)?;
        let trained = held.named.iter().filter(|(_, var)| taps.registry().declared.is_trained(var.id()));
        evidence.find_uncovered(trained, &batch)?;
        if !evidence.is_random() {
            for position in 0..ids.len() {
                let rows = BatchRows::one(ids, position);
                let example =
                    observe(self, &rows, true, &mut run).map_err(|error| alone::name_example(error, &rows))?;
                held.restore()?;
                if let Some(example) = example {
                    alone::compare(position, &batch, &example, &parameters, &recorded, &mut evidence)?;
                }
            }
        }
        let batch_norms = find_batch_norms(held.named.iter().map(|(name, var)| (name.as_str(), var.shape())));
        let check = evidence.judge(&batch_norms);
        drop(folds);
        self.record_check(&check)?;
        Ok(check)
    }

    /// Sends the verdict to the log.
    fn record_check(&mut self, check: &GradientCheck) -> Result<(), RecordError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let mut text = check.to_string();
        if text.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
        }
        let row = CheckRow {
            step: state.step,
            epoch: state.epoch,
            examples: u32::try_from(check.examples).unwrap_or(u32::MAX),
            findings: check.bits(),
            text,
        };
        let sent = state.queue().and_then(|queue| queue.send_unless_hurried(Message::Check(row), 0));
        match sent {
            Err(error) if state.goes_on_after(&error) => Ok(()),
            other => other,
        }
    }
}
