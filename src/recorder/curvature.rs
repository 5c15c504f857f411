//! Rows of curvature: gradients by labels of the model's own, weighted by what it holds of them.
//!
//! For a cross entropy over classes the Gauss-Newton matrix of an example is the Fisher matrix of its prediction,
//! `Σ_c p_c·∇ℓ(x, c) ∇ℓ(x, c)ᵀ` (Martens 2020, "New insights and perspectives on the natural gradient method", §5 and §8). Drawing labels
//! gives it in the mean, with much noise where the model is sure: the other labels are seldom drawn, and have large gradients.
//! Here each class has a row of its own, weighted by its probability, so nothing is left to chance.

use super::error::RecordError;
use super::handle::Recorder;
use super::outputs::Reduction;
use super::probe_pass::ProbePass;
use candle_core::{DType, Device, Tensor};
use gradlog_format::sketch::draw;

/// Records curvature of some examples: made by [`Recorder::curvature`](crate::Recorder::curvature) or [`Replay::curvature`](crate::Replay::curvature), ended by
/// [`CurvaturePass::cross_entropy`].
#[derive(Debug)]
#[must_use = "no curvature is recorded until the model is called"]
pub struct CurvaturePass<'r> {
    recorder: &'r mut Recorder,
    set: String,
    ids: Vec<u64>,
    labels: Labels,
}

/// Which labels of an example have a row.
#[derive(Debug, Clone, Copy)]
enum Labels {
    /// All that have at least this probability.
    Likely(f64),
    /// So many, drawn from the prediction.
    Drawn(u32),
}

/// What a curvature pass has recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct CurvatureRows {
    /// Examples.
    pub examples: u64,
    /// Rows, over all examples.
    pub rows: u64,
    /// The probability of the classes without a row, the mean over the examples. An example whose logits are not finite has none.
    pub mass_left_out: f64,
}

/// A forward and backward over some of the examples, each with a label and a weight.
struct Batch {
    places: Vec<usize>,
    labels: Vec<u32>,
    weights: Vec<f32>,
}

impl<'r> CurvaturePass<'r> {
    pub(super) fn new(recorder: &'r mut Recorder, set: &str, ids: &[u64]) -> Self {
        Self { recorder, set: set.into(), ids: ids.to_vec(), labels: Labels::Likely(1e-4) }
    }

    /// Leaves out classes with a probability below `least`; default 0.0001. With 0, all that have any are there. The others' weights
    /// stay as they are.
    pub fn min_probability(mut self, least: f64) -> Self {
        self.labels = Labels::Likely(least);
        self
    }

    /// Draws `labels` labels for each example from the model's prediction, at equal weights, instead of taking each class: for
    /// models with many classes. The draws follow from the run's seed, the step and the example's id.
    pub fn draw_labels(mut self, labels: u32) -> Self {
        self.labels = Labels::Drawn(labels);
        self
    }

    /// Takes the examples through the model, and records for each class `c` of each example the gradient of its cross entropy
    /// `−log p_c` with the weight `p_c`.
    ///
    /// `forward` is handed ids of some of the examples and gives their logits, `[ids, classes]`. The pass that it is handed is there for
    /// [`ProbePass::features`], which models with a declared last layer need; the loss is taken from the logits.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for logits of another shape, no draws, or a least probability out of range; else as
    /// [`Pass::commit`](crate::Pass::commit), and whatever `forward` fails with. What was recorded before stays.
    ///
    /// # Cost
    /// A forward pass over all examples, and a forward and backward over those with a row for each class or draw.
    pub fn cross_entropy<F>(self, mut forward: F) -> Result<CurvatureRows, RecordError>
    where
        F: FnMut(&mut ProbePass<'_>, &[u64]) -> candle_core::Result<Tensor>,
    {
        if !self.recorder.is_enabled() {
            return Ok(CurvatureRows::default());
        }
        let (seed, step) = (self.recorder.seed(), self.recorder.step());
        let mut first = self.recorder.probe(&self.set, &self.ids)?;
        let logits = forward(&mut first, &self.ids)?;
        let probabilities = probabilities(&logits, self.ids.len()).map_err(|what| first.core.error(what))?;
        let batches = match self.labels {
            Labels::Likely(least) if (0.0..1.0).contains(&least) => likely_batches(&probabilities, least),
            Labels::Likely(least) => {
                return Err(first
                    .core
                    .error(format!("classes above a probability of {least}: give at least 0 and less than 1")))
            }
            Labels::Drawn(0) => {
                return Err(first.core.error("no label is to be drawn for curvature: draw at least one"))
            }
            Labels::Drawn(count) => {
                drawn_batches(&probabilities, count, |place| draw(draw(seed, step), self.ids[place]))
            }
        };
        drop(first);
        let mut done = CurvatureRows { examples: self.ids.len() as u64, ..CurvatureRows::default() };
        let mut mass = 0.0;
        for batch in batches {
            let ids: Vec<u64> = batch.places.iter().map(|place| self.ids[*place]).collect();
            let mut pass = self.recorder.probe(&self.set, &ids)?;
            pass.reduction(Reduction::Sum);
            let logits = forward(&mut pass, &ids)?;
            let labels = Tensor::from_vec(batch.labels, ids.len(), logits.device())?;
            pass.cross_entropy(&logits, &labels)?.backward()?;
            mass += batch.weights.iter().map(|weight| f64::from(*weight)).sum::<f64>();
            pass.core.curvature = Some(batch.weights);
            pass.commit()?;
            done.rows += ids.len() as u64;
        }
        done.mass_left_out = (1.0 - mass / self.ids.len() as f64).max(0.0);
        Ok(done)
    }
}

/// The softmax of each example's logits, in f64.
fn probabilities(logits: &Tensor, examples: usize) -> Result<Vec<Vec<f64>>, String> {
    if logits.rank() != 2 || logits.dims()[0] != examples || logits.dims()[1] == 0 {
        return Err(format!(
            "curvature needs logits [{examples}, classes], one row for each id, not {:?}",
            logits.shape()
        ));
    }
    let host = || logits.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2::<f64>();
    let rows = host().map_err(|error| error.to_string())?;
    let softmax = |row: Vec<f64>| {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = row.iter().map(|z| (z - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    };
    Ok(rows.into_iter().map(softmax).collect())
}

/// For each class, the examples that hold it for likely.
fn likely_batches(probabilities: &[Vec<f64>], least: f64) -> Vec<Batch> {
    let classes = probabilities.first().map_or(0, Vec::len);
    let batch = |class: usize| {
        // A NaN is not at least anything; and a weight that is 0 in f32 says nothing.
        let has = |place: &usize| probabilities[*place][class] >= least && probabilities[*place][class] as f32 > 0.0;
        let places: Vec<usize> = (0..probabilities.len()).filter(has).collect();
        let weights = places.iter().map(|place| probabilities[*place][class] as f32).collect();
        Batch { labels: vec![class as u32; places.len()], places, weights }
    };
    (0..classes).map(batch).filter(|batch| !batch.places.is_empty()).collect()
}

/// So many labels for each example, drawn from its prediction, at equal weights.
fn drawn_batches(probabilities: &[Vec<f64>], count: u32, seed: impl Fn(usize) -> u64) -> Vec<Batch> {
    let places: Vec<usize> =
        (0..probabilities.len()).filter(|place| probabilities[*place].iter().all(|p| p.is_finite())).collect();
    let label = |place: usize, number: u32| {
        let mut left = (draw(seed(place), u64::from(number)) >> 11) as f64 / (1u64 << 53) as f64;
        let row = &probabilities[place];
        let class = row.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        // Rounding may leave a little of 1 behind the last class: that is the likeliest's.
        let likeliest = || (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
        class.unwrap_or_else(likeliest) as u32
    };
    let batch = |number: u32| Batch {
        labels: places.iter().map(|place| label(*place, number)).collect(),
        places: places.clone(),
        weights: vec![1.0 / count as f32; places.len()],
    };
    (0..count).map(batch).filter(|batch| !batch.places.is_empty()).collect()
}
