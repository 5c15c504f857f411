//! Visits with random numbers, for runs that tests make up.

use gradlog_format::log::PredictionScore;
use gradlog_format::sketch::Encoding;
use half::bf16;

/// A row of a visit block, or with its `set` of a probe block.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Id of the example.
    pub example: u64,
    /// Optimizer step.
    pub step: u64,
    /// Epoch.
    pub epoch: u32,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Factor of the step's gradient.
    pub clip: f32,
    /// Weight of the example's loss in the loss of its batch.
    pub coefficient: f32,
    /// Loss of the example.
    pub loss: f32,
    /// EL2N score.
    pub el2n: f32,
    /// Logit of the label minus the largest other logit.
    pub margin: f32,
    /// Probability of the label.
    pub confidence: f32,
    /// 1 if the prediction is right, else 0.
    pub correct: f32,
    /// Label.
    pub label: u32,
    /// Predicted class.
    pub prediction: u32,
    /// Number of predictions.
    pub positions: u32,
    /// Bit set, see `Column::FLAG_NOT_FINITE`.
    pub flags: u8,
    /// Squared norm of the gradient.
    pub squared_norm: f32,
    /// Input and delta of `fc` (with bias), of `head` (without), and the folded vector of `conv`.
    pub parts: [Vec<f32>; 5],
    /// Number of the probe set, for a probe.
    pub set: u32,
    /// The score and the class of which the gradient is, for a probe of a prediction score.
    pub scored: Option<(PredictionScore, u32)>,
    /// Weight in the curvature, for a row of curvature.
    pub curvature_weight: Option<f32>,
    /// Squared norm of the gradient in the metric of Adam, if all rows of the block have one.
    pub preconditioned_squared_norm: Option<f32>,
}

/// Lengths of `Visit::parts`.
pub const WIDTHS: [usize; 5] = [5, 3, 4, 2, 7];

/// Numbers that look random and are the same each time.
#[derive(Debug)]
pub struct Draws(pub u64);

impl Draws {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// In -1..1.
    pub fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A visit with random values.
    pub fn visit(&mut self, example: u64, step: u64, epoch: u32) -> Visit {
        let label = self.below(10) as u32;
        let correct = self.below(2) == 0;
        Visit {
            example,
            step,
            epoch,
            learning_rate: 0.1 + 0.01 * self.number(),
            clip: 0.5 + 0.25 * self.number(),
            coefficient: 0.25,
            loss: 1.0 + self.number(),
            el2n: 0.7 + 0.7 * self.number(),
            margin: 5.0 * self.number(),
            confidence: 0.5 + 0.5 * self.number(),
            correct: if correct { 1.0 } else { 0.0 },
            label,
            prediction: if correct { label } else { (label + 1) % 10 },
            positions: 1,
            flags: 0,
            squared_norm: 2.0 + self.number(),
            parts: WIDTHS.map(|width| (0..width).map(|_| self.number()).collect()),
            set: 0,
            scored: None,
            curvature_weight: None,
            preconditioned_squared_norm: None,
        }
    }
}

/// The visits of `epochs` epochs over `examples` examples in batches. The order changes from epoch to epoch. One
/// example comes twice in a batch, and one is absent from odd epochs.
pub fn visits(draws: &mut Draws, examples: u64, epochs: u32, batch: usize) -> Vec<Visit> {
    let mut all = Vec::new();
    let mut step = 0;
    for epoch in 0..epochs {
        let mut ids: Vec<u64> = (0..examples).filter(|id| *id != 1 || epoch % 2 == 0).map(|id| 100 + 7 * id).collect();
        for i in (1..ids.len()).rev() {
            ids.swap(i, draws.below(i as u64 + 1) as usize);
        }
        if let Some(&first) = ids.first() {
            ids.insert(0, first);
        }
        for ids in ids.chunks(batch) {
            for id in ids {
                let mut visit = draws.visit(*id, step, epoch);
                visit.coefficient = 1.0 / ids.len() as f32;
                all.push(visit);
            }
            step += 1;
        }
    }
    all
}

/// The vectors of a visit as they come back from disk.
pub fn decoded(visit: &Visit, encoding: Encoding) -> [Vec<f32>; 5] {
    visit.parts.clone().map(|part| {
        let mut bytes = Vec::new();
        let scale: bf16 = encoding.encode(&part, &mut bytes).scale;
        let mut out = vec![0.0; part.len()];
        encoding.decode(&bytes, scale, &mut out);
        out
    })
}
