//! The audited models, and the one loop that trains them. The first training is recorded; retraining is not.

use crate::data::SIDE;
use crate::images::{Images, Pixels};
use crate::mnist_model::Cnn;
use crate::small_cnn::SmallCnn;
use crate::support;
use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Linear, Optimizer, VarBuilder, VarMap};
use gradlog::optim::{AdamConfig, AdamW, Sgd, SgdConfig};
use gradlog::{Config, Pass, Recorder, Replay, SketchConfig, Tapped, Taps};
use gradlog_analysis::audit::{Change, Trained};
use rand::rngs::StdRng;
use rand::SeedableRng;
use std::collections::HashSet;
use std::path::Path;

/// Number of images whose curvature is recorded after the last step.
const LAST_CURVATURE_IMAGES: usize = 1000;
/// The least probability of a class whose curvature is recorded, during the training and after it.
const LEAST: [f64; 2] = [0.005, 0.0001];
/// Number of checkpoints of a run that has them.
const CHECKPOINTS: u32 = 5;

#[derive(Clone, PartialEq, Eq)]
pub enum Architecture {
    /// Dense layers: 784, these hidden widths, 10; without any, logistic regression.
    Dense(Vec<usize>),
    /// The CNN of `examples/mnist`.
    Cnn,
    /// A small one for two classes.
    SmallCnn,
}

impl Architecture {
    /// 784-128-64-10.
    pub fn mlp() -> Self {
        Self::Dense(vec![128, 64])
    }

    /// The widths of the dense layers, from the pixels to the classes.
    fn widths(hidden: &[usize]) -> Vec<usize> {
        [&[SIDE * SIDE], hidden, &[10]].concat()
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hidden = match self {
            Self::Dense(hidden) => hidden,
            Self::Cnn => return f.write_str("CNN"),
            Self::SmallCnn => return f.write_str("CNN of two small convolutions for two classes"),
        };
        let widths: Vec<String> = Self::widths(hidden).iter().map(usize::to_string).collect();
        let name = if hidden.is_empty() { "logistic regression" } else { "MLP" };
        write!(f, "{name} {}", widths.join("-"))
    }
}

/// By which rule the weights step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// With momentum and weight decay as in PyTorch.
    Sgd,
    /// The setting's momentum has no part in it.
    AdamW,
}

/// How a model is trained.
#[derive(Clone)]
pub struct Setting {
    pub architecture: Architecture,
    pub rule: Rule,
    pub epochs: u32,
    pub batch: usize,
    pub learning_rate: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    /// Whether the learning rate falls to zero along half a cosine.
    pub cosine: bool,
    /// Number of times per epoch that the probes are recorded.
    pub probe_times: usize,
    /// Number of images whose curvature is recorded with the probes, and the number of epochs in between.
    pub curvature: (usize, u32),
    /// Whether checkpoints are saved five times, evenly over the epochs.
    pub checkpoints: bool,
    /// Whether gradients are recorded without rounding. The default is 4 bits a number.
    pub exact: bool,
}

impl Setting {
    /// The description of the training in a finding.
    pub fn describe(&self, images: usize, pixels: Pixels) -> String {
        let Setting { architecture, epochs, batch, learning_rate, .. } = self;
        let scale = match pixels {
            Pixels::Standardized => "",
            Pixels::Unit => " in 0..1",
        };
        let mut name = format!(
            "{architecture}, {images} images{scale}, {epochs} epochs, batch {batch}, learning rate {learning_rate}"
        );
        if self.cosine {
            name.push_str(" falling to 0");
        }
        if self.rule == Rule::AdamW {
            name.push_str(", AdamW");
        }
        let momentum = if self.rule == Rule::Sgd { self.momentum } else { 0.0 };
        for (what, value) in [("momentum", momentum), ("weight decay", self.weight_decay)] {
            if value > 0.0 {
                name.push_str(&format!(", {what} {value}"));
            }
        }
        name
    }
}

pub struct Model {
    variables: VarMap,
    layers: Layers,
}

enum Layers {
    Dense(Vec<Tapped<Linear>>),
    Cnn(Cnn),
    SmallCnn(SmallCnn),
}

/// The optimizer of a training.
enum Descent {
    Sgd(Sgd),
    AdamW(AdamW),
}

impl Descent {
    fn new(setting: &Setting, variables: &VarMap) -> Result<Self> {
        let Setting { learning_rate, momentum, weight_decay, .. } = *setting;
        let variables = variables.all_vars();
        Ok(match setting.rule {
            Rule::Sgd => {
                let config = SgdConfig::new(learning_rate).momentum(momentum).weight_decay(weight_decay);
                Self::Sgd(Sgd::new(variables, config)?)
            }
            Rule::AdamW => {
                Self::AdamW(AdamW::new(variables, AdamConfig::new(learning_rate).weight_decay(weight_decay))?)
            }
        })
    }

    /// Takes a step of the loss and records the pass.
    fn step(&mut self, pass: Pass<'_>, loss: &Tensor, learning_rate: f64) -> Result<()> {
        match self {
            Self::Sgd(sgd) => {
                sgd.set_learning_rate(learning_rate);
                pass.backward_step(sgd, loss)?;
            }
            Self::AdamW(adam) => {
                adam.set_learning_rate(learning_rate);
                pass.backward_step(adam, loss)?;
            }
        }
        Ok(())
    }
}

impl Model {
    fn new(architecture: &Architecture, taps: &Taps, seed: u64) -> Result<Self> {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let dense = |widths: &[usize]| -> Result<Layers> {
            let layer = |(number, pair): (usize, &[usize])| {
                let name = format!("fc{}", number + 1);
                Ok(taps.tap(&name, linear(pair[0], pair[1], vb.pp(&name))?))
            };
            Ok(Layers::Dense(widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?))
        };
        let layers = match architecture {
            Architecture::Dense(hidden) => dense(&Architecture::widths(hidden))?,
            Architecture::SmallCnn => Layers::SmallCnn(taps.collect_more(|| SmallCnn::new(vb.clone()))?),
            Architecture::Cnn => Layers::Cnn(taps.collect_more(|| Cnn::new(vb.clone()))?),
        };
        support::seed_weights(&variables, seed)?;
        Ok(Self { variables, layers })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.layers {
            Layers::Dense(layers) => {
                let mut x = layers[0].forward(x)?;
                for layer in &layers[1..] {
                    x = layer.forward(&x.relu()?)?;
                }
                Ok(x)
            }
            Layers::SmallCnn(cnn) => cnn.forward(&x.reshape(((), 1, SIDE, SIDE))?),
            Layers::Cnn(cnn) => Ok(cnn.forward(&x.reshape(((), 1, SIDE, SIDE))?)?.1),
        }
    }

    /// The elements of a variable.
    pub fn read_variable(&self, name: &str) -> Result<Vec<f32>> {
        let data = self.variables.data().lock().unwrap();
        let variable = data.get(name).ok_or_else(|| anyhow::anyhow!("the model has no variable {name}"))?;
        Ok(variable.flatten_all()?.to_vec1()?)
    }

    /// Losses in f64, from logits in f32: leaving out one of thousands changes little.
    pub fn measure(&self, images: &Images) -> Result<Trained> {
        let ids: Vec<u64> = (0..images.len() as u64).collect();
        let mut trained = Trained { losses: Vec::new(), right: Vec::new() };
        for ids in ids.chunks(256) {
            let logits: Vec<Vec<f32>> = self.forward(&images.batch(ids)?.0)?.to_vec2()?;
            for (id, logits) in ids.iter().zip(logits) {
                let label = images.labels[*id as usize] as usize;
                let p = probabilities(&logits.iter().map(|z| f64::from(*z)).collect::<Vec<f64>>());
                let largest = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                let others: f64 = p.iter().enumerate().filter(|(class, _)| *class != label).map(|(_, p)| p).sum();
                // `-ln p` from the others' share keeps its digits if `p` is almost 1.
                trained.losses.push(if others < 0.5 {
                    -(-others).ln_1p()
                } else {
                    -p[label].max(f64::MIN_POSITIVE).ln()
                });
                trained.right.push(largest == Some(label));
            }
        }
        Ok(trained)
    }
}

pub fn probabilities(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| (z - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// Trains from the beginning. With `record`, a folder, the run is recorded there, with `probes` as the probe set `test`
/// and curvature as the set `curvature`. The training is the same.
pub fn train(
    setting: &Setting,
    images: &Images,
    seed: u64,
    change: &Change<'_>,
    record: Option<(&Path, Option<&Images>)>,
) -> Result<Model> {
    let taps = Taps::new();
    let model = Model::new(&setting.architecture, &taps, seed)?;
    taps.declare_model(&model.variables);
    let mut descent = Descent::new(setting, &model.variables)?;
    let mut recorder = match record {
        Some((folder, _)) => {
            let sketch = if setting.exact { SketchConfig::exact() } else { SketchConfig::default() };
            Recorder::create(folder, &taps, Config { seed, sketch, ..Config::default() })?
        }
        None => Recorder::disabled(),
    };
    let probes = record.and_then(|(_, probes)| probes);
    let all: Vec<u64> = (0..images.len() as u64).collect();
    let (order, changed): (&[u64], HashSet<u64>) = match change {
        Change::Nothing => (&all, HashSet::new()),
        Change::Weighted { examples, .. } => (&all, examples.iter().copied().collect()),
        Change::Only(ids) => (ids, HashSet::new()),
        other => anyhow::bail!("this training cannot apply the change {other:?}"),
    };
    let steps_per_epoch = order.len().div_ceil(setting.batch);
    let steps = steps_per_epoch * setting.epochs as usize;
    let mut rng = StdRng::seed_from_u64(seed ^ 0xF15);
    let mut step = 0;
    for epoch in 0..setting.epochs {
        recorder.set_epoch(epoch);
        for places in support::batches(order.len(), setting.batch, seed, epoch) {
            if let Some(probes) = probes.filter(|_| step % steps_per_epoch.div_ceil(setting.probe_times) == 0) {
                record_probes(&mut recorder, &model, probes)?;
                let (count, epochs) = setting.curvature;
                if count > 0 && epoch % epochs == 0 {
                    record_curvature(&mut recorder, &model, images, (count, LEAST[0]), &mut rng)?;
                }
            }
            let ids: Vec<u64> = places.iter().map(|place| order[*place as usize]).collect();
            let half_cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
            let rate = setting.learning_rate * if setting.cosine { half_cosine } else { 1.0 };
            let (x, y) = images.batch(&ids)?;
            let mut pass = recorder.pass(&ids)?;
            if ids.iter().any(|id| changed.contains(id)) {
                let weight = |id| if changed.contains(id) { change.weight(*id) as f32 } else { 1.0 };
                pass.weights(&ids.iter().map(weight).collect::<Vec<f32>>());
            }
            let loss = pass.cross_entropy(&model.forward(&x)?, &y)?;
            descent.step(pass, &loss, rate)?;
            step += 1;
        }
        if setting.checkpoints && (epoch + 1) * CHECKPOINTS / setting.epochs > epoch * CHECKPOINTS / setting.epochs {
            recorder.checkpoint(&model.variables)?;
        }
    }
    if let Some(probes) = probes {
        record_probes(&mut recorder, &model, probes)?;
        record_curvature(&mut recorder, &model, images, (LAST_CURVATURE_IMAGES, LEAST[1]), &mut rng)?;
    }
    recorder.finish()?;
    Ok(model)
}

/// Checks for each architecture that the recorded gradients are each image's own. Prints the verdicts.
pub fn check_gradients(folder: &Path, images: &Images) -> Result<()> {
    let ids: Vec<u64> = (0..images.len().min(8) as u64).collect();
    let (x, y) = images.batch(&ids)?;
    for (number, architecture) in
        [Architecture::Dense(Vec::new()), Architecture::mlp(), Architecture::Cnn].iter().enumerate()
    {
        let taps = Taps::new();
        let model = Model::new(architecture, &taps, 0)?;
        let mut recorder = Recorder::create(folder.join(format!("check-{number}")), &taps, Config::default())?;
        let verdict = recorder.check_gradients(&model.variables, &ids, |pass, rows| {
            pass.cross_entropy(&model.forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })?;
        println!("{architecture}: {verdict}");
        anyhow::ensure!(verdict.agrees(), "the check failed, so nothing was trained");
        recorder.finish()?;
    }
    Ok(())
}

fn record_probes(recorder: &mut Recorder, model: &Model, probes: &Images) -> Result<()> {
    let ids: Vec<u64> = (0..probes.len() as u64).collect();
    for ids in ids.chunks(256) {
        let (x, y) = probes.batch(ids)?;
        let mut pass = recorder.probe("test", ids)?;
        pass.cross_entropy(&model.forward(&x)?, &y)?.backward()?;
        pass.commit()?;
    }
    Ok(())
}

/// Records curvature of some training images, drawn at random.
fn record_curvature(
    recorder: &mut Recorder,
    model: &Model,
    images: &Images,
    (count, least): (usize, f64),
    rng: &mut StdRng,
) -> Result<()> {
    let chosen = rand::seq::index::sample(rng, images.len(), count.min(images.len()));
    let chosen: Vec<u64> = chosen.into_iter().map(|id| id as u64).collect();
    for ids in chosen.chunks(256) {
        recorder
            .curvature("curvature", ids)?
            .min_probability(least)
            .cross_entropy(|_, ids| model.forward(&images.batch(ids)?.0))?;
    }
    Ok(())
}

/// Sweeps all images through the checkpoints of a recorded run.
pub fn sweep(setting: &Setting, images: &Images, folder: &Path) -> Result<()> {
    let taps = Taps::new();
    let model = Model::new(&setting.architecture, &taps, 0)?;
    let mut replay = Replay::open(folder, &taps, Config::default())?;
    let ids: Vec<u64> = (0..images.len() as u64).collect();
    for checkpoint in replay.checkpoints() {
        replay.load(&checkpoint, &model.variables)?;
        for ids in ids.chunks(setting.batch) {
            let (x, y) = images.batch(ids)?;
            let mut pass = replay.sweep(ids)?;
            pass.cross_entropy(&model.forward(&x)?, &y)?.backward()?;
            pass.commit()?;
        }
    }
    replay.finish()?;
    Ok(())
}
