//! Norms of visits in Adam's metric, and self-influence made of them, against candle's own backward on each example and
//! moments that are kept beside it.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::rnn::RNN;
use candle_nn::{conv2d, embedding, linear, linear_no_bias, Conv2dConfig, Linear, Optimizer, VarBuilder, VarMap};
use gradlog::nn::rnn::{lstm, LSTMConfig};
use gradlog::optim::{AdamConfig, AdamW, ParameterGroup};
use gradlog::{Config, Folding, Recorder, Sketching, StepInfo, StepReport, Taps};
use gradlog_analysis::{OptimizerChoice, Score, ScoreQuestion};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::collections::BTreeMap;
use std::path::Path;

const EXAMPLES: usize = 8;
const BATCH: usize = 3;
const STEPS: u64 = 20;
const BETAS: (f64, f64) = (0.8, 0.95);
const EPSILON: f64 = 1e-8;
const RATE: f64 = 0.01;
/// Weights of folded layers are rounded to 8 bits.
const TOLERANCE: f64 = 4e-3;

type Losses = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// A model, its inputs, and the losses of a batch of them.
struct Case {
    taps: Taps,
    variables: VarMap,
    x: Tensor,
    losses: Losses,
    /// Weights of factored layers, with their biases: there the moments are replaced by row and column means.
    factored: Vec<(&'static str, Option<&'static str>)>,
    /// Whether gradients are recorded by one backward an example.
    alone: bool,
    config: Config,
}

type Gradient = BTreeMap<String, Vec<f64>>;

/// A loss that depends on the outputs: `Σ y³` of each example.
fn cubes(y: &Tensor) -> Result<Tensor> {
    y.powf(3.0)?.flatten_from(1)?.sum(1)
}

impl Case {
    fn new(taps: Taps, variables: VarMap, x: Tensor, losses: impl Fn(&Tensor) -> Result<Tensor> + 'static) -> Self {
        let losses = Box::new(losses);
        Self { taps, variables, x, losses, factored: Vec::new(), alone: false, config: exact() }
    }

    fn fill(self) -> Self {
        for (number, (_, var)) in self.named().iter().enumerate() {
            let values = (noise(50 + number as u64, var.dims()) * 0.5).unwrap().to_dtype(var.dtype()).unwrap();
            var.set(&values).unwrap();
        }
        self
    }

    fn named(&self) -> BTreeMap<String, Var> {
        self.variables.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// By candle alone: the gradient of one example's loss.
    fn gradient(&self, id: u64) -> Gradient {
        let loss = (self.losses)(&row(&self.x, id as usize).unwrap()).unwrap();
        let grads = loss.sum_all().unwrap().backward().unwrap();
        let numbers = |var: &Var| match grads.get(var) {
            Some(gradient) => gradient.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
            None => vec![0.0; var.elem_count()],
        };
        self.named().iter().map(|(name, var)| (name.clone(), numbers(var))).collect()
    }

    /// `1/(√v̂ + ε)`.
    fn metric(&self, second: &Gradient, steps: u64) -> Gradient {
        let correction = 1.0 - BETAS.1.powi(steps as i32);
        let root = |v: f64| if v > 0.0 { 1.0 / (v.sqrt() + EPSILON) } else { 0.0 };
        let mut all: Gradient =
            second.iter().map(|(name, v)| (name.clone(), v.iter().map(|v| root(v / correction)).collect())).collect();
        for (name, bias) in &self.factored {
            let outputs = self.named()[*name].dims()[0];
            let inputs = second[*name].len() / outputs;
            let width = inputs + usize::from(bias.is_some());
            let at = |i: usize, j: usize| match bias {
                Some(bias) if j == inputs => second[*bias][i] / correction,
                _ => second[*name][i * inputs + j] / correction,
            };
            let of_row = |i: usize| (0..width).map(|j| at(i, j)).sum::<f64>();
            let of_column = |j: usize| (0..outputs).map(|i| at(i, j)).sum::<f64>();
            let total: f64 = (0..outputs).map(of_row).sum();
            let rank_one = |i: usize, j: usize| root(of_row(i) * of_column(j) / total);
            let weights = (0..outputs * inputs).map(|k| rank_one(k / inputs, k % inputs)).collect();
            all.insert((*name).into(), weights);
            if let Some(bias) = bias {
                all.insert((*bias).into(), (0..outputs).map(|i| rank_one(i, inputs)).collect());
            }
        }
        all
    }
}

fn ids_of(step: u64) -> Vec<u64> {
    (0..BATCH as u64).map(|i| (step * 3 + i * 5) % EXAMPLES as u64).collect()
}

fn squared_norm(gradient: &Gradient, metric: &Gradient) -> f64 {
    let of = |(name, g): (&String, &Vec<f64>)| g.iter().zip(&metric[name]).map(|(g, d)| g * g * d).sum::<f64>();
    gradient.iter().map(of).sum()
}

/// What the log should hold.
#[derive(Default)]
struct Truth {
    /// Of each visit from step 1 on, its norm in the metric.
    norms: Vec<f32>,
    /// Of each example, its self-influence.
    own: Vec<f64>,
}

/// Trains with AdamW, whose groups have these multiples of its rate, and keeps moments beside it.
fn train(case: &Case, dir: &Path, groups: &[(&str, f64)]) -> Truth {
    let config = AdamConfig::new(RATE).betas(BETAS.0, BETAS.1).epsilon(EPSILON);
    let named = case.named();
    let factor = |name: &str| groups.iter().find(|(start, _)| name.starts_with(start)).map_or(1.0, |(_, f)| *f);
    let mut by_factor: Vec<(f64, Vec<Var>)> = Vec::new();
    for (name, var) in &named {
        match by_factor.iter_mut().find(|(own, _)| *own == factor(name)) {
            Some((_, vars)) => vars.push(var.clone()),
            None => by_factor.push((factor(name), vec![var.clone()])),
        }
    }
    let groups = by_factor.into_iter().map(|(factor, vars)| ParameterGroup::new(vars).rate_factor(factor)).collect();
    let mut optimizer = AdamW::with_groups(groups, config).unwrap();
    let mut recorder = Recorder::create(dir, &case.taps, case.config.clone()).unwrap();
    let mut second: Gradient = named.iter().map(|(name, var)| (name.clone(), vec![0.0; var.elem_count()])).collect();
    let mut truth = Truth { own: vec![0.0; EXAMPLES], ..Truth::default() };
    let mut metric: Option<(u64, Gradient)> = None;
    for step in 0..STEPS {
        // Made again after an eighth of the steps so far.
        if step > 0 && metric.as_ref().is_none_or(|(made, _)| step - made >= (step / 8).max(1)) {
            let mut made = case.metric(&second, step);
            made.iter_mut().for_each(|(name, weights)| weights.iter_mut().for_each(|w| *w *= factor(name)));
            metric = Some((step, made));
        }
        let ids = ids_of(step);
        let own: Vec<Gradient> = ids.iter().map(|id| case.gradient(*id)).collect();
        if let Some((_, metric)) = &metric {
            let effective: f64 = (step..STEPS)
                .map(|s| {
                    let kept = BETAS.0.powi((s - step) as i32);
                    RATE * (1.0 - BETAS.0) * kept / (1.0 - BETAS.0.powi(s as i32 + 1))
                })
                .sum();
            for (id, gradient) in ids.iter().zip(&own) {
                let norm = squared_norm(gradient, metric);
                truth.norms.push(norm as f32);
                truth.own[*id as usize] += effective / BATCH as f64 * norm;
            }
        }
        for (name, v) in &mut second {
            for (k, v) in v.iter_mut().enumerate() {
                let g = own.iter().map(|own| own[name][k]).sum::<f64>() / BATCH as f64;
                *v = BETAS.1 * *v + (1.0 - BETAS.1) * g * g;
            }
        }
        let x = rows(&case.x, &ids);
        let losses = || (case.losses)(&x).unwrap();
        let mut pass = recorder.pass(&ids).unwrap();
        if case.alone {
            pass.per_example(|i| (case.losses)(&row(&x, i)?)?.sum_all()).unwrap();
            pass.commit(optimizer.step_info()).unwrap();
            optimizer.step(&losses().mean_all().unwrap().backward().unwrap()).unwrap();
            recorder.read_moments(&optimizer);
        } else {
            let loss = pass.losses(&losses()).unwrap();
            pass.backward_step(&mut optimizer, &loss).unwrap();
        }
    }
    recorder.finish().unwrap();
    truth
}

/// The norms in the metric of the visits that have one.
fn norms(dir: &Path) -> Vec<f32> {
    let blocks = blocks(dir, BlockKind::Visits);
    let with = blocks.iter().filter(|block| block.has(Column::PreconditionedSquaredNorm));
    with.flat_map(|block| block.f32s(Column::PreconditionedSquaredNorm).unwrap()).collect()
}

fn check(case: &Case, tolerance: f64, groups: &[(&str, f64)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let truth = train(case, dir.path(), groups);
    let got = norms(dir.path());
    assert_eq!(got.len(), truth.norms.len(), "all visits but those of the first step");
    for (place, (got, right)) in got.iter().zip(&truth.norms).enumerate() {
        let error = f64::from((got - right).abs() / right);
        assert!(error < tolerance, "visit {place}: {got} for {right}");
    }
    let run = Run::open(dir.path()).unwrap();
    let question = ScoreQuestion::new(Score::SelfInfluence);
    let table = question.compute(&run).unwrap();
    assert!(table.basis.to_string().contains("AdamW, second moments of at most 64 steps before"), "{}", table.basis);
    assert_eq!(table.left_out.without_moments, BATCH as u64);
    let right: Vec<f32> = truth.own.iter().map(|own| *own as f32).collect();
    let error = relative_error(&score_by_example(&table, EXAMPLES), &right);
    assert!(error < tolerance, "{error}");
    let plain = question.optimizer(OptimizerChoice::PlainSgd).compute(&run);
    if groups.is_empty() {
        let plain = score_by_example(&plain.unwrap(), EXAMPLES);
        assert!(relative_error(&plain, &right) > 0.1, "the two forms differ");
    }
    dir
}

/// A folded convolution and a factored layer.
fn cnn() -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let conv = taps.tap("conv", conv2d(1, 3, 3, Conv2dConfig::default(), vb.pp("conv")).unwrap());
    let fc = taps.tap("fc", linear(48, 4, vb.pp("fc")).unwrap());
    let losses = move |x: &Tensor| cubes(&fc.forward(&conv.forward(x)?.relu()?.flatten_from(1)?)?);
    let case = Case::new(taps, variables, noise(1, &[EXAMPLES, 1, 6, 6]), losses);
    Case { factored: vec![("fc.weight", Some("fc.bias"))], ..case }.fill()
}

/// Factored layers alone, with and without a bias.
fn mlp() -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let first = taps.tap("first", linear(6, 8, vb.pp("first")).unwrap());
    let second = taps.tap("second", linear_no_bias(8, 3, vb.pp("second")).unwrap());
    let losses = move |x: &Tensor| cubes(&second.forward(&first.forward(x)?.tanh()?)?);
    let case = Case::new(taps, variables, noise(1, &[EXAMPLES, 6]), losses);
    Case { factored: vec![("first.weight", Some("first.bias")), ("second.weight", None)], ..case }.fill()
}

/// Words, a norm, a layer that is used twice, and a factored one.
fn words() -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let words = taps.tap("words", embedding(11, 5, vb.pp("words")).unwrap());
    let norm = taps.tap("norm", candle_nn::layer_norm(5, 1e-5, vb.pp("norm")).unwrap());
    let twice = taps.tap("twice", linear(5, 5, vb.pp("twice")).unwrap());
    let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
    let losses = move |x: &Tensor| {
        let h = norm.forward(&words.forward(x)?)?;
        cubes(&head.forward(&twice.forward(&twice.forward(&h)?.tanh()?)?.mean(1)?)?)
    };
    let case = Case::new(taps, variables, sentences(), losses);
    Case { factored: vec![("head.weight", Some("head.bias"))], ..case }.fill()
}

fn sentences() -> Tensor {
    let ids: Vec<u32> = (0..EXAMPLES as u32 * 4).map(|i| (i * 7 + i / 5) % 11).collect();
    Tensor::from_vec(ids, (EXAMPLES, 4), &Device::Cpu).unwrap()
}

/// Words and a last layer that share one tensor.
fn tied() -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let words = embedding(11, 4, builder(&variables).pp("words")).unwrap();
    let head = taps.tap("head", Linear::new(words.embeddings().clone(), None));
    let words = taps.tap("words", words);
    let losses = move |x: &Tensor| cubes(&head.forward(&words.forward(x)?.sum(1)?.tanh()?)?);
    Case::new(taps, variables, sentences(), losses).fill()
}

fn recurrent() -> Case {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let (layer, taps) = Taps::collect(|| lstm(3, 4, LSTMConfig::default(), vb.pp("lstm"))).unwrap();
    let losses = move |x: &Tensor| cubes(layer.seq(x)?.last().map(|state| state.h()).unwrap());
    Case::new(taps, variables, noise(1, &[EXAMPLES, 5, 3]), losses).fill()
}

/// No fused op, and moments in tensors.
fn doubles() -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = VarBuilder::from_varmap(&variables, DType::F64, &Device::Cpu);
    let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
    let losses = move |x: &Tensor| cubes(&layer.forward(x)?.tanh()?.sum(1)?);
    let x = noise(1, &[EXAMPLES, 2, 4]).to_dtype(DType::F64).unwrap();
    Case::new(taps, variables, x, losses).fill()
}

/// A model without taps.
fn untapped() -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer = linear(4, 3, builder(&variables).pp("fc")).unwrap();
    taps.declare_variables(&variables);
    let losses = move |x: &Tensor| cubes(&layer.forward(x)?.tanh()?);
    Case { alone: true, ..Case::new(taps, variables, noise(1, &[EXAMPLES, 4]), losses).fill() }
}

/// A table and a wide layer with few positions, which are projected from both sides. There the moments are replaced by
/// row and column means of the weight alone.
fn wide() -> Case {
    two_sided(3)
}

/// The same with so many positions that norms are those of the sketches where candle's ops make them.
fn long() -> Case {
    two_sided(24)
}

fn two_sided(positions: usize) -> Case {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let words = taps.tap("words", embedding(60, 40, vb.pp("words")).unwrap());
    let wide = taps.tap("wide", linear(40, 44, vb.pp("wide")).unwrap());
    let norm = taps.tap("norm", candle_nn::layer_norm(44, 1e-5, vb.pp("norm")).unwrap());
    let losses = move |x: &Tensor| cubes(&norm.forward(&wide.forward(&words.forward(x)?.tanh()?)?)?.tanh()?);
    let ids: Vec<u32> = (0..(EXAMPLES * positions) as u32).map(|i| (i * i + i / 5) % 60).collect();
    let x = Tensor::from_vec(ids, (EXAMPLES, positions), &Device::Cpu).unwrap();
    let case = Case::new(taps, variables, x, losses);
    let config = Config { folding: Folding::TwoSided { side: 20 }, ..exact() };
    Case { factored: vec![("words.weight", None), ("wide.weight", None)], config, ..case }.fill()
}

/// On the CPU fused ops make gradients, and candle's ops as on a device.
#[test]
fn norms_in_the_metric_of_adam_equal_brute_force() {
    for sketching in [Sketching::Auto, Sketching::OnDevice] {
        norms_equal_brute_force(sketching);
    }
}

fn norms_equal_brute_force(sketching: Sketching) {
    for (name, case, tolerance) in [
        ("mlp", mlp(), 1e-4),
        ("cnn", cnn(), TOLERANCE),
        ("words", words(), TOLERANCE),
        ("tied", tied(), 1e-4),
        ("recurrent", recurrent(), TOLERANCE),
        ("doubles", doubles(), TOLERANCE),
        ("untapped", untapped(), TOLERANCE),
        ("wide", wide(), TOLERANCE),
    ] {
        println!("{name}, {sketching:?}");
        let case = Case { config: Config { sketching, ..case.config.clone() }, ..case };
        let dir = check(&case, tolerance, &[]);
        let estimated = u8s(dir.path(), BlockKind::Visits, Column::Flags);
        let is_estimated = estimated.iter().all(|flags| flags & Column::FLAG_NORM_ESTIMATED != 0);
        assert_eq!(is_estimated, name == "tied");
    }
}

/// What is lost where layers are projected from both sides: by the outer product that stands for `v̂`, which also
/// stands for it where layers are factored, and by the sketch.
#[test]
fn norms_of_projected_layers_are_near_those_by_the_exact_diagonal() {
    for (sketching, deviation) in [(Sketching::Auto, 0.2), (Sketching::OnDevice, 0.25)] {
        let dir = tempfile::tempdir().unwrap();
        let case = Case { factored: Vec::new(), ..long() };
        let case = Case { config: Config { sketching, ..case.config.clone() }, ..case };
        let exact = train(&case, dir.path(), &[]).norms;
        let made = norms(dir.path());
        let ratios: Vec<f64> = made.iter().zip(&exact).map(|(made, exact)| f64::from(made / exact)).collect();
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let found = (ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / ratios.len() as f64).sqrt();
        println!("{sketching:?}: made / exact {mean:.3} in the mean, standard deviation {found:.3}");
        assert!((0.8..1.25).contains(&mean) && found < deviation, "{mean} {found}");
        let estimated = u8s(dir.path(), BlockKind::Visits, Column::Flags);
        assert!(estimated.iter().all(|flags| flags & Column::FLAG_NORM_ESTIMATED != 0));
    }
}

#[test]
fn the_learning_rates_of_layers_are_in_the_metric() {
    check(&wide(), TOLERANCE, &[("words", 0.5), ("wide", 0.25)]);
    let on_device =
        |case: Case| Case { config: Config { sketching: Sketching::OnDevice, ..case.config.clone() }, ..case };
    check(&on_device(wide()), TOLERANCE, &[("words", 0.5), ("wide", 0.25)]);
    check(&on_device(cnn()), TOLERANCE, &[("conv", 0.25), ("fc", 1.0)]);
    check(&cnn(), TOLERANCE, &[("conv", 0.25), ("fc", 1.0)]);
    check(&words(), TOLERANCE, &[("words", 0.5), ("norm", 0.25)]);
    // A layer that no step changes counts nothing, though it shares the folded vector.
    check(&words(), TOLERANCE, &[("words", 0.0)]);
}

fn step(case: &Case, recorder: &mut Recorder, optimizer: &mut AdamW, number: u64) {
    let ids = ids_of(number);
    let mut pass = recorder.pass(&ids).unwrap();
    let loss = pass.losses(&(case.losses)(&rows(&case.x, &ids)).unwrap()).unwrap();
    pass.backward_step(optimizer, &loss).unwrap();
}

/// Steps of which no visit has a norm in the metric.
fn steps_without(dir: &Path) -> Vec<u64> {
    let blocks = blocks(dir, BlockKind::Visits);
    let without = blocks.iter().filter(|block| !block.has(Column::PreconditionedSquaredNorm));
    let mut steps: Vec<u64> = without.flat_map(|block| block.u64s(Column::Step).unwrap()).collect();
    steps.dedup();
    steps
}

#[test]
fn a_resumed_training_has_norms_from_its_first_step_on() {
    for by_hand in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (case, state) = (cnn(), dir.path().join("state.safetensors"));
        let run = dir.path().join("run");
        let mut recorder = Recorder::create(&run, &case.taps, Config::default()).unwrap();
        let mut optimizer = AdamW::new_lr(case.variables.all_vars(), RATE).unwrap();
        (0..4).for_each(|number| step(&case, &mut recorder, &mut optimizer, number));
        recorder.finish().unwrap();
        optimizer.save_state(&case.variables, &state).unwrap();
        let mut optimizer = AdamW::new_lr(case.variables.all_vars(), RATE).unwrap();
        optimizer.load_state(&case.variables, &state).unwrap();
        let mut recorder = Recorder::resume(&run, &case.taps, Config::default()).unwrap();
        if by_hand {
            // What the loop forgot to read is not known, and no other number takes its place.
            let ids = ids_of(4);
            let mut pass = recorder.pass(&ids).unwrap();
            let loss = pass.losses(&(case.losses)(&rows(&case.x, &ids)).unwrap()).unwrap();
            let grads = loss.backward().unwrap();
            pass.commit(optimizer.step_info()).unwrap();
            optimizer.step(&grads).unwrap();
        }
        (5..8).for_each(|number| step(&case, &mut recorder, &mut optimizer, number));
        recorder.finish().unwrap();
        assert_eq!(steps_without(&run), if by_hand { vec![0, 4] } else { vec![0] });
        let table = ScoreQuestion::new(Score::SelfInfluence).compute(&Run::open(&run).unwrap()).unwrap();
        let said = if by_hand { "plain SGD: AdamW not modeled" } else { "AdamW, second moments of at most 64 steps" };
        assert!(table.basis.to_string().contains(said), "{}", table.basis);
    }
}

#[test]
fn moments_that_nobody_reads_any_more_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let case = mlp();
    let mut recorder = Recorder::create(dir.path(), &case.taps, Config::default()).unwrap();
    let mut optimizer = AdamW::new_lr(case.variables.all_vars(), RATE).unwrap();
    (0..3).for_each(|number| step(&case, &mut recorder, &mut optimizer, number));
    // From here on nobody calls `read_moments`. The last metric is made before step 3.
    for number in 3..70 {
        let ids = ids_of(number);
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.losses(&(case.losses)(&rows(&case.x, &ids)).unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        pass.commit(optimizer.step_info()).unwrap();
        optimizer.step(&grads).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(steps_without(dir.path()), [&[0], &(68..70).collect::<Vec<u64>>()[..]].concat());
}

#[test]
fn an_optimizer_without_moments_costs_no_column() {
    let dir = tempfile::tempdir().unwrap();
    let case = cnn();
    let mut recorder = Recorder::create(dir.path(), &case.taps, Config::default()).unwrap();
    let mut optimizer = candle_nn::AdamW::new_lr(case.variables.all_vars(), RATE).unwrap();
    for number in 0..3 {
        let ids = ids_of(number);
        let mut pass = recorder.pass(&ids).unwrap();
        let loss = pass.losses(&(case.losses)(&rows(&case.x, &ids)).unwrap()).unwrap();
        pass.backward_step(&mut optimizer, &loss).unwrap();
    }
    recorder.finish().unwrap();
    assert_eq!(steps_without(dir.path()), [0, 1, 2]);
    assert_eq!(blocks(dir.path(), BlockKind::Visits).len(), 1);
    let table = ScoreQuestion::new(Score::SelfInfluence).compute(&Run::open(dir.path()).unwrap()).unwrap();
    assert!(table.basis.to_string().contains("plain SGD: AdamW not modeled"), "{}", table.basis);
    assert_eq!(table.left_out.without_moments, 0);
}

/// The passes of a step have one metric, and rows without it are in no block with it.
#[test]
fn accumulated_passes_have_norms_too() {
    let dir = tempfile::tempdir().unwrap();
    let case = cnn();
    let mut recorder = Recorder::create(dir.path(), &case.taps, exact()).unwrap();
    let mut optimizer = AdamW::new_lr(case.variables.all_vars(), RATE).unwrap();
    step(&case, &mut recorder, &mut optimizer, 0);
    for half in [[1u64, 2], [3, 4]] {
        let mut pass = recorder.pass(&half).unwrap();
        let losses = pass.losses(&(case.losses)(&rows(&case.x, &half)).unwrap()).unwrap();
        losses.backward().unwrap();
        match half {
            [1, _] => pass.accumulate().unwrap(),
            _ => pass.commit(StepInfo::from(RATE).rule(optimizer.step_info().rule.unwrap())).unwrap(),
        };
    }
    recorder.finish().unwrap();
    assert_eq!(norms(dir.path()).len(), 4);
    assert!(norms(dir.path()).iter().all(|norm| norm.is_finite() && *norm > 0.0));
}
