//! An MLP 784-512-256-10 that trains on the digits, recorded without candle: what it writes is what a tapped one would.

use super::store::{vector, Store};
use anyhow::{ensure, Context, Result};
use gradlog_format::log::{BlockBuilder, BlockKind, Cells, Column, LayerRecord};
use gradlog_format::sketch::{draw, SketchConfig};
use gradlog_kernels::matmul::{matmul, Matrix};
use std::io::Read;
use std::path::Path;

pub const PROBES: usize = 1000;
const WIDTHS: [usize; 4] = [784, 512, 256, 10];
const BATCH: usize = 64;
const RATE: f32 = 0.1;
/// Steps before the recording starts: at the very first, gradients look like no others.
const WARM_UP: u64 = 100;

struct Digits {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Digits {
    fn read(part: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/mnist");
        let idx = |name: String, header: usize| -> Result<Vec<u8>> {
            let path = folder.join(name);
            let raw = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let mut bytes = Vec::new();
            flate2::read::MultiGzDecoder::new(&raw[..]).read_to_end(&mut bytes)?;
            Ok(bytes.split_off(header))
        };
        let pixels = idx(format!("{part}-images-idx3-ubyte.gz"), 16)?;
        let labels = idx(format!("{part}-labels-idx1-ubyte.gz"), 8)?;
        ensure!(pixels.len() == 784 * labels.len(), "not a label for each image");
        Ok(Self { pixels, labels })
    }

    fn image(&self, at: usize) -> impl Iterator<Item = f32> + '_ {
        self.pixels[at * 784..(at + 1) * 784].iter().map(|pixel| f32::from(*pixel) / 255.0)
    }
}

/// Weights `[out, in]` and biases.
struct Net(Vec<(Vec<f32>, Vec<f32>)>);

/// Inputs and output gradients of each layer, `[batch, width]`, and what is said of the outputs.
struct Passed {
    inputs: Vec<Vec<f32>>,
    deltas: Vec<Vec<f32>>,
    outputs: Vec<Outputs>,
}

#[derive(Clone, Copy)]
struct Outputs {
    loss: f32,
    el2n: f32,
    margin: f32,
    confidence: f32,
    prediction: u32,
}

impl Net {
    fn new() -> Self {
        let layer = |number: usize| {
            let (inputs, outputs) = (WIDTHS[number], WIDTHS[number + 1]);
            let bound = (6.0 / inputs as f32).sqrt();
            let uniform = |i| (draw(number as u64, i as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            ((0..inputs * outputs).map(|i| bound * uniform(i)).collect(), vec![0.0; outputs])
        };
        Self((0..3).map(layer).collect())
    }

    fn pass(&self, x: Vec<f32>, labels: &[u8]) -> Passed {
        let batch = labels.len();
        let (mut inputs, mut x) = (Vec::new(), x);
        for (number, (weights, bias)) in self.0.iter().enumerate() {
            let (width, outputs) = (WIDTHS[number], WIDTHS[number + 1]);
            let mut y: Vec<f32> = bias.iter().copied().cycle().take(batch * outputs).collect();
            matmul(&mut y, Matrix::new(&x, batch, width), Matrix::new(weights, outputs, width).t(), true, 2);
            if number < 2 {
                y.iter_mut().for_each(|y| *y = y.max(0.0));
            }
            inputs.push(std::mem::replace(&mut x, y));
        }
        let mut outputs = Vec::new();
        for (logits, &label) in x.chunks_exact_mut(10).zip(labels) {
            let label = usize::from(label);
            let best = (0..10).fold(0, |best, k| if logits[k] > logits[best] { k } else { best });
            let largest = logits[best];
            let other = (0..10).filter(|k| *k != label).fold(f32::NEG_INFINITY, |max, k| max.max(logits[k]));
            let margin = logits[label] - other;
            let sum: f32 = logits.iter().map(|z| (z - largest).exp()).sum();
            let confidence = (logits[label] - largest).exp() / sum;
            logits.iter_mut().for_each(|z| *z = (*z - largest).exp() / sum);
            logits[label] -= 1.0;
            let el2n = logits.iter().map(|e| e * e).sum::<f32>().sqrt();
            outputs.push(Outputs { loss: -confidence.ln(), el2n, margin, confidence, prediction: best as u32 });
        }
        let mut deltas = vec![x];
        for number in (1..3).rev() {
            let (width, outputs) = (WIDTHS[number], WIDTHS[number + 1]);
            let mut delta = vec![0f32; batch * width];
            let after = Matrix::new(&deltas[0], batch, outputs);
            matmul(&mut delta, after, Matrix::new(&self.0[number].0, outputs, width), false, 2);
            delta.iter_mut().zip(&inputs[number]).for_each(|(d, a)| *d = if *a > 0.0 { *d } else { 0.0 });
            deltas.insert(0, delta);
        }
        Passed { inputs, deltas, outputs }
    }

    fn step(&mut self, passed: &Passed) {
        let batch = passed.outputs.len();
        let rate = RATE / batch as f32;
        for (number, (weights, bias)) in self.0.iter_mut().enumerate() {
            let (width, outputs) = (WIDTHS[number], WIDTHS[number + 1]);
            let mut gradient = vec![0f32; outputs * width];
            let delta = Matrix::new(&passed.deltas[number], batch, outputs);
            matmul(&mut gradient, delta.t(), Matrix::new(&passed.inputs[number], batch, width), false, 2);
            weights.iter_mut().zip(gradient).for_each(|(w, g)| *w -= rate * g);
            for delta in passed.deltas[number].chunks_exact(outputs) {
                bias.iter_mut().zip(delta).for_each(|(b, d)| *b -= rate * d);
            }
        }
    }
}

/// Trains and records `visits` visits, and the probes before the first of them.
pub fn record(dir: &Path, visits: usize, examples: u64) -> Result<()> {
    let (train, test) = (Digits::read("train")?, Digits::read("t10k")?);
    ensure!(test.labels.len() >= PROBES, "too few test images");
    let layer = |number: usize| LayerRecord {
        name: format!("fc{}", number + 1),
        kind: "linear".into(),
        inputs: WIDTHS[number] as u32,
        outputs: WIDTHS[number + 1] as u32,
        bias: true,
        parameters: ((WIDTHS[number] + 1) * WIDTHS[number + 1]) as u64,
        shapes: Vec::new(),
        seed_input: 0,
        seed_delta: 0,
        seed_folded: number as u64,
    };
    let mut store = Store::create(dir, (0..3).map(layer).collect())?;
    let mut net = Net::new();
    let images = train.labels.len();
    let batch = |net: &mut Net, step: u64| {
        let ids: Vec<usize> = (0..BATCH).map(|i| (draw(step, i as u64) % images as u64) as usize).collect();
        let labels: Vec<u8> = ids.iter().map(|id| train.labels[*id]).collect();
        let passed = net.pass(ids.iter().flat_map(|id| train.image(*id)).collect(), &labels);
        net.step(&passed);
        (passed, labels)
    };
    for step in 0..WARM_UP {
        batch(&mut net, step);
    }

    let mut name = BlockBuilder::new(BlockKind::ProbeSet);
    name.u32s(Column::ProbeSet, [0]);
    name.column(Column::Name, Cells::U8, 4).extend(b"test");
    name.advance(1, WARM_UP, 0);
    store.seal(&mut name, true)?;
    let mut block = BlockBuilder::new(BlockKind::Probes);
    let ids: Vec<u64> = (0..PROBES as u64).collect();
    for ids in ids.chunks(BATCH) {
        let labels: Vec<u8> = ids.iter().map(|id| test.labels[*id as usize]).collect();
        let passed = net.pass(ids.iter().flat_map(|id| test.image(*id as usize)).collect(), &labels);
        rows(&mut block, true, &passed, ids, &labels, WARM_UP);
        store.seal(&mut block, false)?;
    }
    store.seal(&mut block, true)?;

    let mut block = BlockBuilder::new(BlockKind::Visits);
    for first in (0..visits).step_by(BATCH) {
        let step = WARM_UP + (first / BATCH) as u64;
        let (passed, labels) = batch(&mut net, step);
        let ids: Vec<u64> = (first..visits.min(first + BATCH)).map(|visit| visit as u64 % examples).collect();
        rows(&mut block, false, &passed, &ids, &labels, step);
        store.seal(&mut block, false)?;
    }
    store.seal(&mut block, true)?;
    store.finish()
}

/// The columns that the recorder writes.
fn rows(block: &mut BlockBuilder, probe: bool, passed: &Passed, ids: &[u64], labels: &[u8], step: u64) {
    let count = ids.len();
    let outputs = &passed.outputs[..count];
    block.u64s(Column::Example, ids.iter().copied());
    block.u64s(Column::Step, std::iter::repeat_n(step, count));
    block.u32s(Column::Epoch, std::iter::repeat_n(0, count));
    block.f32s(Column::Coefficient, std::iter::repeat_n(1.0 / BATCH as f32, count));
    if probe {
        block.u32s(Column::ProbeSet, std::iter::repeat_n(0, count));
    } else {
        block.f32s(Column::LearningRate, std::iter::repeat_n(RATE, count));
        block.f32s(Column::Clip, std::iter::repeat_n(1.0, count));
    }
    block.f32s(Column::Loss, outputs.iter().map(|o| o.loss));
    block.f32s(Column::El2n, outputs.iter().map(|o| o.el2n));
    block.f32s(Column::Margin, outputs.iter().map(|o| o.margin));
    block.f32s(Column::Confidence, outputs.iter().map(|o| o.confidence));
    let right = |(o, label): (&Outputs, &u8)| if o.prediction == u32::from(*label) { 1.0 } else { 0.0 };
    block.f32s(Column::Correct, outputs.iter().zip(labels).map(right));
    block.u32s(Column::Label, labels[..count].iter().map(|label| u32::from(*label)));
    block.u32s(Column::Prediction, outputs.iter().map(|o| o.prediction));
    block.column(Column::Flags, Cells::U8, 1).extend(std::iter::repeat_n(0, count));
    let sketch = SketchConfig::default();
    let mut norms = vec![0f32; count];
    for layer in 0..3 {
        let sides = [
            (Column::Input, &passed.inputs[layer], WIDTHS[layer]),
            (Column::Delta, &passed.deltas[layer], WIDTHS[layer + 1]),
        ];
        let squared = |side: usize, row: usize| {
            let (_, values, width) = sides[side];
            values[row * width..(row + 1) * width].iter().map(|x| x * x).sum::<f32>()
        };
        for (row, norm) in norms.iter_mut().enumerate() {
            *norm += (squared(0, row) + 1.0) * squared(1, row);
        }
        for (column, values, width) in sides {
            let encoding = sketch.encoding_of(width as u32, false, probe);
            for row in values.chunks_exact(width).take(count) {
                vector(block, column, layer as u16, encoding, row);
            }
        }
    }
    block.f32s(Column::SquaredNorm, norms);
    block.advance(count as u32, step, 0);
}
