//! Rows of curvature: gradients for labels from the model's own prediction, each weighted by the label's probability.
//!
//! For a cross entropy over classes the Gauss-Newton matrix of an example is the Fisher matrix of its prediction, `Σ_c
//! p_c·∇ℓ(x, c) ∇ℓ(x, c)ᵀ` (Martens 2020, "New insights and perspectives on the natural gradient method", §5 and §8).
//! Drawn labels estimate this matrix without bias. The estimate is noisy where the model is sure: the other labels are
//! seldom drawn and have large gradients. Here each class has its own row, weighted by its probability, so there is no
//! sampling noise.

use super::error::RecordError;
use super::handle::Recorder;
use super::outputs::Reduction;
use super::probe_pass::ProbePass;
use candle_core::{DType, Device, Tensor};
use gradlog_format::sketch::draw;

/// Records curvature of some examples. [`Recorder::curvature`](crate::Recorder::curvature) and
/// [`Replay::curvature`](crate::Replay::curvature) make it; [`CurvaturePass::cross_entropy`] runs it.
#[must_use = "a curvature pass records nothing until `cross_entropy` is called"]
pub struct CurvaturePass<'r> {
    recorder: &'r mut Recorder,
    set: String,
    ids: Vec<u64>,
    labels: Labels,
}

impl std::fmt::Debug for CurvaturePass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("CurvaturePass");
        out.field("set", &self.set).field("examples", &self.ids.len()).field("labels", &self.labels);
        out.finish_non_exhaustive()
    }
}

/// Which labels of an example have a row.
#[derive(Debug, Clone, Copy)]
enum Labels {
    /// All labels with at least this probability.
    Likely(f64),
    /// This many labels, drawn from the prediction.
    Drawn(u32),
}

/// What a curvature pass recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct CurvatureRows {
    /// Examples in the pass.
    pub examples: u64,
    /// Rows recorded, over all examples.
    pub rows: u64,
    /// The probability of the classes without a row, as the mean over the examples. An example whose logits are not
    /// finite has no row and counts as 1.
    pub mass_left_out: f64,
}

/// One forward and backward over some of the examples, each with a label and a weight.
struct Batch {
    places: Vec<usize>,
    labels: Vec<u32>,
    weights: Vec<f32>,
}

impl<'r> CurvaturePass<'r> {
    pub(super) fn new(recorder: &'r mut Recorder, set: &str, ids: Vec<u64>) -> Self {
        Self { recorder, set: set.into(), ids, labels: Labels::Likely(1e-4) }
    }

    /// Leaves out classes with a probability below `least`. Default 0.0001. With 0, every class with a probability
    /// above 0 has a row. The weights of the remaining classes do not change.
    pub fn min_probability(mut self, least: f64) -> Self {
        self.labels = Labels::Likely(least);
        self
    }

    /// Draws `labels` labels for each example from the model's prediction, with equal weights, in place of one row per
    /// class. This is for models with many classes. The draws follow from the run's seed, the step and the example's
    /// id.
    pub fn draw_labels(mut self, labels: u32) -> Self {
        self.labels = Labels::Drawn(labels);
        self
    }

    /// Runs the examples through the model. Records for each class `c` of each example the gradient of its cross
    /// entropy `−log p_c`, with the weight `p_c`.
    ///
    /// `forward` gets ids of some of the examples and returns their logits, `[ids, classes]`. It also gets the pass,
    /// for [`ProbePass::features`] in a model with a declared last layer. It computes no loss.
    ///
    /// # Errors
    /// [`RecordError::Pass`] for logits of another shape, for zero labels to draw, or for a least probability outside 0
    /// to 1; otherwise as [`Pass::commit`](crate::Pass::commit), and the error of `forward`. Rows from before the error
    /// stay.
    ///
    /// # Cost
    /// One forward pass over all examples. Then, for each class or draw, one forward and backward over the examples
    /// with a row.
    pub fn cross_entropy<F>(self, mut forward: F) -> Result<CurvatureRows, RecordError>
    where
        F: FnMut(&mut ProbePass<'_>, &[u64]) -> candle_core::Result<Tensor>,
    {
        if !self.recorder.is_enabled() {
            return Ok(CurvatureRows::default());
        }
        let (seed, step) = (self.recorder.seed(), self.recorder.step());
        let mut first = self.recorder.plain_probe(&self.set, &self.ids)?;
        let logits = forward(&mut first, &self.ids)?;
        let probabilities = probabilities(&logits, self.ids.len()).map_err(|what| first.core.error(what))?;
        let batches = match self.labels {
            Labels::Likely(least) if (0.0..1.0).contains(&least) => likely_batches(&probabilities, least),
            Labels::Likely(least) => {
                return Err(first
                    .core
                    .error(format!("the least probability is {least}: give at least 0 and less than 1")))
            }
            Labels::Drawn(0) => return Err(first.core.error("the number of labels to draw is 0: draw at least one")),
            Labels::Drawn(count) => {
                drawn_batches(&probabilities, count, |place| draw(draw(seed, step), self.ids[place]))
            }
        };
        drop(first);
        let mut done = CurvatureRows { examples: self.ids.len() as u64, ..CurvatureRows::default() };
        let mut mass = 0.0;
        for batch in batches {
            let ids: Vec<u64> = batch.places.iter().map(|place| self.ids[*place]).collect();
            let mut pass = self.recorder.plain_probe(&self.set, &ids)?;
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

/// One batch for each class: the examples that give it at least the probability `least`.
fn likely_batches(probabilities: &[Vec<f64>], least: f64) -> Vec<Batch> {
    let classes = probabilities.first().map_or(0, Vec::len);
    let batch = |class: usize| {
        // A NaN fails the comparison. A weight that is 0 in f32 has no effect.
        let has = |place: &usize| probabilities[*place][class] >= least && probabilities[*place][class] as f32 > 0.0;
        let places: Vec<usize> = (0..probabilities.len()).filter(has).collect();
        let weights = places.iter().map(|place| probabilities[*place][class] as f32).collect();
        Batch { labels: vec![class as u32; places.len()], places, weights }
    };
    (0..classes).map(batch).filter(|batch| !batch.places.is_empty()).collect()
}

/// `count` labels for each example, drawn from its prediction, with equal weights.
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
        // Rounding can leave the draw behind the last class. The likeliest class gets it.
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
