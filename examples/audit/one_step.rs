//! One step of AdamW, done again without each example of its batch, in f64: does the log predict what changes?

use crate::experiments::{add_to_list, announce, make_bar, make_bootstrap, Bench, Lists};
use crate::images::{Images, Pixels};
use crate::mnist_model::Cnn;
use crate::transformer::Transformer;
use crate::OneRun;
use crate::{support, text};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor, Var, D};
use gradlog::nn::{linear, Optimizer, VarBuilder, VarMap};
use gradlog::optim::{AdamConfig, AdamW};
use gradlog::{Config, Recorder, SketchConfig, Taps};
use gradlog_analysis::audit::{Finding, Smoothness};
use gradlog_analysis::{spearman, InfluenceQuestion, OptimizerChoice};
use gradlog_format::run::Run;
use std::collections::BTreeMap;
use std::path::Path;

/// Steps before the first that is done again: the second moments of the very first steps are those of one batch.
const FIRST: usize = 5;
const PROBES: usize = 20;
const LEARNING_RATE: f64 = 1e-3;
const WEIGHT_DECAY: f64 = 0.01;

type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>;
/// Inputs and targets of some examples.
type Batch<'a> = dyn Fn(&[u64]) -> Result<(Tensor, Tensor)> + 'a;

/// A model and its data.
struct Subject<'a> {
    name: &'static str,
    build: fn(VarBuilder<'static>, usize) -> candle_core::Result<Forward>,
    /// Classes, or characters of the alphabet.
    classes: usize,
    examples: usize,
    batch_size: usize,
    steps: usize,
    /// How many of them are done again.
    measured: usize,
    train: &'a Batch<'a>,
    probes: &'a Batch<'a>,
}

impl Bench<'_> {
    /// Predictions of one step under AdamW: of the MLP, the CNN or the transformer.
    pub fn adamw_step(&mut self, setting: OneRun) -> Result<()> {
        let (images, probes) = (self.limit_train(self.arguments.train), self.probes(PROBES, Pixels::Standardized));
        let images = Images::from_digits(&images, Pixels::Standardized);
        let text =
            text::Text::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/text/paradise-lost.txt"))?;
        let (passages, held_out) = text.split();
        let (steps, measured) = (self.arguments.steps as usize, self.arguments.measured as usize);
        let batch_of = |ids: &[u64]| Ok(images.batch(ids)?);
        let probes_of = |ids: &[u64]| Ok(probes.batch(ids)?);
        let subject = |name, build| Subject {
            name,
            build,
            classes: 10,
            examples: images.len(),
            batch_size: 64,
            steps,
            measured,
            train: &batch_of,
            probes: &probes_of,
        };
        let transformer = Subject {
            name: OneRun::AdamwStepTransformer.name(),
            build: build_transformer,
            classes: text.alphabet(),
            examples: passages.len(),
            batch_size: 32,
            steps,
            measured,
            train: &|ids| text.batch(ids.iter().map(|id| &passages[*id as usize]), &Device::Cpu),
            probes: &|ids| text.batch(ids.iter().map(|id| &held_out[*id as usize]), &Device::Cpu),
        };
        match setting {
            OneRun::AdamwStepMlp => self.one_step(&subject(setting.name(), build_mlp)),
            OneRun::AdamwStepCnn => self.one_step(&subject(setting.name(), build_cnn)),
            _ => self.one_step(&transformer),
        }
    }

    fn one_step(&mut self, subject: &Subject<'_>) -> Result<()> {
        let setting =
            announce(format!("{}{}", subject.name, if self.arguments.exact { ", exact sketches" } else { "" }));
        let mut lists: Lists<f64> = Vec::new();
        for seed in self.seeds() {
            let folder = self.arguments.out.join(format!("{}-{seed}", subject.name));
            let sketch = if self.arguments.exact { SketchConfig::exact() } else { SketchConfig::default() };
            let redone = train(subject, seed, sketch, &folder)?;
            let run = Run::open(folder.join("run"))?;
            for step in &redone {
                for (method, predicted) in step.predictions(&run)? {
                    let correlations: Vec<f64> =
                        predicted.iter().zip(&step.effects).map(|(p, effects)| spearman(p, effects)).collect();
                    add_to_list(&mut lists, &method, correlations.iter().sum::<f64>() / correlations.len() as f64);
                }
            }
        }
        let seeds = self.seeds();
        for (method, values) in lists {
            let mean = |positions: &[Vec<usize>]| {
                positions[0].iter().map(|at| values[*at]).sum::<f64>() / positions[0].len().max(1) as f64
            };
            let measured = make_bootstrap().measure(&[values.len()], mean);
            if method == Smoothness::HALF_WEIGHT {
                println!("{}", Smoothness::new(measured));
            }
            self.add(Finding::new(&setting, &method, "spearman", measured, &seeds));
        }
        Ok(())
    }
}

fn build_mlp(vb: VarBuilder<'static>, classes: usize) -> candle_core::Result<Forward> {
    let layers = [(784, 128), (128, 64), (64, classes)].into_iter().enumerate();
    let layers: Vec<_> =
        layers.map(|(n, (i, o))| linear(i, o, vb.pp(format!("fc{n}")))).collect::<candle_core::Result<_>>()?;
    Ok(Box::new(move |x| {
        let x = layers[1].forward(&layers[0].forward(x)?.relu()?)?.relu()?;
        layers[2].forward(&x)
    }))
}

fn build_cnn(vb: VarBuilder<'static>, _: usize) -> candle_core::Result<Forward> {
    let cnn = Cnn::new(vb)?;
    Ok(Box::new(move |x| Ok(cnn.forward(&x.reshape(((), 1, 28, 28))?)?.1)))
}

fn build_transformer(vb: VarBuilder<'static>, classes: usize) -> candle_core::Result<Forward> {
    let transformer = Transformer::new(classes, text::LENGTH, vb)?;
    Ok(Box::new(move |x| transformer.forward(x)))
}

/// A step that was done again without each of its examples.
struct Redone {
    step: u64,
    ids: Vec<u64>,
    /// For each probe, how much its loss rises if an example takes no part in the step, by example of the batch.
    effects: Vec<Vec<f64>>,
    /// The same for half of the example's weight: what any prediction to first order can reach.
    halves: Vec<Vec<f64>>,
}

impl Redone {
    /// For each method, its predictions by probe and example.
    fn predictions(&self, run: &Run) -> Result<Vec<(String, Vec<Vec<f64>>)>> {
        let mut found = vec![(Smoothness::HALF_WEIGHT.to_owned(), self.halves.clone())];
        for (name, optimizer) in [
            ("TracIn, AdamW as recorded", OptimizerChoice::Recorded),
            ("TracIn, taken as plain SGD", OptimizerChoice::PlainSgd),
        ] {
            let question = InfluenceQuestion::new("test").steps(self.step..self.step + 1).optimizer(optimizer);
            let answer = question.compute(run)?;
            let scores = |probe: u64| {
                let score = |id: &u64| answer.score_of(*id, probe).context("a probe or an example is missing");
                self.ids.iter().map(score).collect::<Result<Vec<f64>>>()
            };
            found.push((name.to_owned(), (0..PROBES as u64).map(scores).collect::<Result<_>>()?));
        }
        Ok(found)
    }
}

/// Trains with AdamW, recorded, and does some steps again.
fn train(subject: &Subject<'_>, seed: u64, sketch: SketchConfig, folder: &Path) -> Result<Vec<Redone>> {
    let device = Device::Cpu;
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &device);
    let (model, taps) = Taps::collect(|| (subject.build)(vb, subject.classes))?;
    taps.declare_model(&variables);
    support::seed_weights(&variables, seed)?;
    let config = AdamConfig::new(LEARNING_RATE).weight_decay(WEIGHT_DECAY);
    let mut optimizer = AdamW::new(variables.all_vars(), config)?;
    std::fs::create_dir_all(folder)?;
    let mut recorder = Recorder::create(folder.join("run"), &taps, Config { seed, sketch, ..Config::default() })?;
    let double = Double::new(subject)?;
    let state = folder.join("optimizer.safetensors");
    let place = |n: usize| FIRST + n * (subject.steps - FIRST - 1) / (subject.measured - 1).max(1);
    let measured: Vec<usize> = (0..subject.measured).map(place).collect();
    let mut redone = Vec::new();
    let bar = make_bar(subject.name, measured.len() as u64);
    let batches = (0..).flat_map(|epoch| support::batches(subject.examples, subject.batch_size, seed, epoch));
    let full = batches.filter(|ids| ids.len() == subject.batch_size);
    for (step, ids) in full.take(subject.steps).enumerate() {
        if measured.contains(&step) {
            record_probes(&mut recorder, &model, subject)?;
            optimizer.save_state(&variables, &state)?;
            let before = State::read(&variables, &state)?;
            redone.push(double.redo(subject, &before, &config, step as u64, &ids)?);
            bar.inc(1);
        }
        let (x, y) = (subject.train)(&ids)?;
        let mut pass = recorder.pass(&ids)?;
        let loss = pass.cross_entropy(&model(&x)?, &y)?;
        pass.backward_step(&mut optimizer, &loss)?;
    }
    recorder.finish()?;
    bar.finish_and_clear();
    Ok(redone)
}

fn record_probes(recorder: &mut Recorder, model: &Forward, subject: &Subject<'_>) -> Result<()> {
    let ids: Vec<u64> = (0..PROBES as u64).collect();
    let (x, y) = (subject.probes)(&ids)?;
    let mut pass = recorder.probe("test", &ids)?;
    pass.cross_entropy(&model(&x)?, &y)?.backward()?;
    pass.commit()?;
    Ok(())
}

/// Numbers by variable.
type Numbers = BTreeMap<String, Vec<f64>>;

/// Weights and moments before a step.
struct State {
    weights: Numbers,
    first: Numbers,
    second: Numbers,
    steps: i32,
}

impl State {
    fn read(variables: &VarMap, state: &Path) -> Result<Self> {
        let saved = candle_core::safetensors::load(state, &Device::Cpu)?;
        let numbers = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (mut weights, mut first, mut second, mut steps) = (Numbers::new(), Numbers::new(), Numbers::new(), 0);
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, variable) in data.iter() {
            weights.insert(name.clone(), numbers(variable)?);
            let part = |part: &str| saved.get(&format!("{part}/{name}")).context("the saved state lacks a variable");
            first.insert(name.clone(), numbers(part("first_moment")?)?);
            second.insert(name.clone(), numbers(part("second_moment")?)?);
            steps = part("steps")?.to_vec1::<i64>()?[0] as i32;
        }
        Ok(Self { weights, first, second, steps })
    }

    /// The weights after a step of AdamW with this gradient.
    fn step(&self, config: &AdamConfig, gradient: &Numbers) -> Numbers {
        let (beta1, beta2, rate) = (config.beta1, config.beta2, config.learning_rate);
        let (scale1, scale2) = (1.0 - beta1.powi(self.steps + 1), 1.0 - beta2.powi(self.steps + 1));
        let stepped = |(name, weights): (&String, &Vec<f64>)| {
            let (m, v, g) = (&self.first[name], &self.second[name], &gradient[name]);
            let numbers = (0..weights.len()).map(|k| {
                let m = beta1 * m[k] + (1.0 - beta1) * g[k];
                let v = beta2 * v[k] + (1.0 - beta2) * g[k] * g[k];
                (1.0 - rate * WEIGHT_DECAY) * weights[k] - rate * (m / scale1) / ((v / scale2).sqrt() + config.epsilon)
            });
            (name.clone(), numbers.collect())
        };
        self.weights.iter().map(stepped).collect()
    }
}

/// The model in f64.
struct Double {
    variables: BTreeMap<String, Var>,
    forward: Forward,
}

impl Double {
    fn new(subject: &Subject<'_>) -> Result<Self> {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F64, &Device::Cpu);
        let forward = (subject.build)(vb, subject.classes)?;
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Self { variables: data.iter().map(|(name, var)| (name.clone(), var.clone())).collect(), forward })
    }

    fn set(&self, weights: &Numbers) -> Result<()> {
        for (name, variable) in &self.variables {
            variable.set(&Tensor::from_slice(&weights[name], variable.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    /// The loss of each example, a mean over its positions.
    fn losses(&self, (x, y): &(Tensor, Tensor)) -> Result<Tensor> {
        let x = if x.dtype().is_float() { x.to_dtype(DType::F64)? } else { x.clone() };
        let log_p = candle_nn::ops::log_softmax(&(self.forward)(&x)?, D::Minus1)?;
        let own = log_p.contiguous()?.gather(&y.unsqueeze(D::Minus1)?.contiguous()?, D::Minus1)?.neg()?;
        Ok(own.flatten_from(1)?.mean(1)?)
    }

    fn gradient(&self, batch: &(Tensor, Tensor)) -> Result<Numbers> {
        let grads = self.losses(batch)?.sum_all()?.backward()?;
        let numbers = |(name, variable): (&String, &Var)| {
            let gradient = grads.get(variable).context("a variable has no gradient")?;
            Ok((name.clone(), gradient.flatten_all()?.to_vec1()?))
        };
        self.variables.iter().map(numbers).collect()
    }

    fn redo(
        &self,
        subject: &Subject<'_>,
        before: &State,
        config: &AdamConfig,
        step: u64,
        ids: &[u64],
    ) -> Result<Redone> {
        let probe_ids: Vec<u64> = (0..PROBES as u64).collect();
        let probes = (subject.probes)(&probe_ids)?;
        let count = ids.len() as f64;
        let less = |sum: &Numbers, own: Option<(&Numbers, f64)>| -> Numbers {
            let numbers = |(name, sum): (&String, &Vec<f64>)| {
                let own = |k: usize| own.map_or(0.0, |(own, weight)| weight * own[name][k]);
                (name.clone(), sum.iter().enumerate().map(|(k, sum)| (sum - own(k)) / count).collect())
            };
            sum.iter().map(numbers).collect()
        };
        let after = |gradient: &Numbers| -> Result<Vec<f64>> {
            self.set(&before.step(config, gradient))?;
            Ok(self.losses(&probes)?.to_vec1()?)
        };
        self.set(&before.weights)?;
        let sum = self.gradient(&(subject.train)(ids)?)?;
        let full = after(&less(&sum, None))?;
        let mut redone =
            Redone { step, ids: ids.to_vec(), effects: vec![Vec::new(); PROBES], halves: vec![Vec::new(); PROBES] };
        for id in ids {
            self.set(&before.weights)?;
            let own = self.gradient(&(subject.train)(&[*id])?)?;
            for (weight, into) in [(1.0, &mut redone.effects), (0.5, &mut redone.halves)] {
                let losses = after(&less(&sum, Some((&own, weight))))?;
                for ((list, loss), full) in into.iter_mut().zip(losses).zip(&full) {
                    list.push(loss - full);
                }
            }
        }
        Ok(redone)
    }
}
