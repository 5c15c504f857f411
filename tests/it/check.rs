//! The check of recorded gradients: models with one fault each, and models without any. What is right is always
//! candle's own backward on one example.

use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor, D};
use candle_nn::{batch_norm, conv1d, embedding, layer_norm, linear, BatchNorm, Linear, ModuleT, VarMap};
use gradlog::taps::{LayerSpec, Parameter, PerExample, TapError};
use gradlog::{BatchRows, Config, FindingKind, GradientCheck, OnBatchNorm, Pass, RecordError, Recorder, Tap, Taps};
use gradlog_format::log::{BlockKind, Column, CouplingKind};
use gradlog_format::run::Run;
use std::path::Path;

const IDS: [u64; 6] = [50, 51, 52, 53, 54, 55];

fn recorder(dir: &Path, taps: &Taps) -> Recorder {
    let config = Config { on_batch_norm: OnBatchNorm::RecordShare, ..exact() };
    Recorder::create(dir.join("run"), taps, config).unwrap()
}

/// Checks with a cross entropy over labels of three classes.
pub(crate) fn check_logits(
    taps: &Taps,
    variables: &VarMap,
    x: &Tensor,
    forward: impl Fn(&Tensor) -> Result<Tensor>,
) -> GradientCheck {
    let dir = tempfile::tempdir().unwrap();
    let y = noisy_labels(9, IDS.len());
    let mut recorder = recorder(dir.path(), taps);
    let run = |pass: &mut Pass<'_>, rows: &BatchRows| pass.cross_entropy(&forward(&rows.of(x)?)?, &rows.of(&y)?);
    let check = recorder.check_gradients(variables, &IDS, run).unwrap();
    recorder.finish().unwrap();
    assert_eq!(Run::open(dir.path().join("run")).unwrap().checks().unwrap()[0].text, check.to_string());
    check
}

fn kinds(check: &GradientCheck) -> Vec<FindingKind> {
    check.findings.iter().map(|finding| finding.kind).collect()
}

#[track_caller]
pub(crate) fn assert_clean(check: &GradientCheck, layers: usize) {
    assert!(check.agrees() && check.findings.is_empty(), "{check}");
    assert_eq!((check.examples, check.layers), (IDS.len(), layers), "{check}");
    assert!(check.largest_difference.unwrap() < 1e-4, "{check}");
    assert!(check.to_string().starts_with("check passed: gradients of 6 examples in"), "{check}");
}

#[test]
fn models_without_a_fault_pass() {
    let network = Network::mlp(6, 1, false);
    assert_clean(&check_logits(&network.taps, &network.variables, &network.examples.x, |x| network.logits(x)), 2);
    let network = Network::cnn(4, 3, 6, 1, false);
    assert_clean(&check_logits(&network.taps, &network.variables, &network.examples.x, |x| network.logits(x)), 2);
    // One linear layer of several positions and one that is used twice; a convolution over one dimension; norms.
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let words = taps.tap("words", embedding(11, 5, vb.pp("words")).unwrap());
    let conv = taps.tap(
        "conv",
        conv1d(5, 5, 3, candle_nn::Conv1dConfig { padding: 1, ..Default::default() }, vb.pp("conv")).unwrap(),
    );
    let norm = taps.tap("norm", layer_norm(5, 1e-5, vb.pp("norm")).unwrap());
    let twice = taps.tap("twice", linear(5, 5, vb.pp("twice")).unwrap());
    let group = taps.tap("group", candle_nn::group_norm(1, 5, 1e-5, vb.pp("group")).unwrap());
    let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
    let forward = |ids: &Tensor| {
        let h = words.forward(ids)?;
        let h = conv.forward(&h.transpose(1, 2)?)?.transpose(1, 2)?.contiguous()?;
        let h = twice.forward(&twice.forward(&norm.forward(&h)?)?.tanh()?)?;
        head.forward(&group.forward(&h.mean(1)?.unsqueeze(2)?)?.squeeze(2)?)
    };
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + i / 5) % 11).collect();
    let x = Tensor::from_vec(ids, (6, 4), &Device::Cpu).unwrap();
    assert_clean(&check_logits(&taps, &variables, &x, forward), 6);
}

#[test]
fn a_tied_weight_and_other_types_pass() {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let words = embedding(7, 4, builder(&variables).pp("words")).unwrap();
    let head = taps.tap("head", Linear::new(words.embeddings().clone(), None));
    let words = taps.tap("words", words);
    let x = Tensor::from_vec((0..18u32).map(|i| i * i % 7).collect::<Vec<_>>(), (6, 3), &Device::Cpu).unwrap();
    let check = check_logits(&taps, &variables, &x, |x| head.forward(&words.forward(x)?.sum(1)?.tanh()?));
    assert_clean(&check, 2);
    for dtype in [DType::F64, DType::BF16] {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = candle_nn::VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
        let x = noise(1, &[6, 2, 4]).to_dtype(dtype).unwrap();
        let check = check_logits(&taps, &variables, &x, |x| layer.forward(x)?.tanh()?.sum(1));
        assert!(check.findings.is_empty(), "{dtype:?}: {check}");
        assert_eq!(check.tolerance, if dtype == DType::F64 { 1e-4 } else { 0.1 });
    }
}

#[test]
fn outputs_and_the_last_layer_alone_are_checked_too() {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let (fc, head) = (linear(4, 5, vb.pp("fc")).unwrap(), linear(5, 3, vb.pp("head")).unwrap());
    let x = noise(1, &[6, 4]);
    let check = check_logits(&Taps::new(), &variables, &x, |x| head.forward(&fc.forward(x)?.tanh()?));
    assert!(check.agrees() && check.to_string().contains("losses of 6 examples agree"), "{check}");
    // Gradients by `per_example` are not compared, and the verdict does not say that they agree.
    let declared = Taps::new();
    declared.declare_variables(&variables);
    let check = check_logits(&declared, &variables, &x, |x| head.forward(&fc.forward(x)?.tanh()?));
    let text = check.to_string();
    assert!(text.contains("losses of 6 examples agree") && text.contains("`per_example`"), "{text}");
    let taps = Taps::new();
    taps.declare_last_layer("head", gradlog::taps::LastLayer::new(5, 3));
    let dir = tempfile::tempdir().unwrap();
    let y = noisy_labels(9, 6);
    let mut recorder = recorder(dir.path(), &taps);
    let mut check = |features: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
            let h = fc.forward(&rows.of(&x)?)?.tanh()?;
            pass.features(&features(&h)?);
            pass.cross_entropy(&head.forward(&h)?, &rows.of(&y)?)
        };
        recorder.check_gradients(&variables, &IDS, run).unwrap()
    };
    let right = check(&|h| Ok(h.clone()));
    assert_eq!(kinds(&right), [FindingKind::UncoveredVariable], "{right}");
    assert!(right.agrees() && right.findings[0].names == ["fc.bias", "fc.weight"], "{right}");
    // Features of another place in the model.
    let wrong = check(&|h| h * 2.0);
    assert!(!wrong.agrees() && wrong.found(FindingKind::SharedParameter), "{wrong}");
}

/// `fc1`, a BatchNorm and `fc2`.
struct Normed {
    taps: Taps,
    variables: VarMap,
    fc1: gradlog::Tapped<Linear>,
    bn: BatchNorm,
    fc2: gradlog::Tapped<Linear>,
}

impl Normed {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = builder(&variables);
        let fc1 = taps.tap("fc1", linear(4, 5, vb.pp("fc1")).unwrap());
        let bn = batch_norm(5, 1e-5, vb.pp("bn")).unwrap();
        let fc2 = taps.tap("fc2", linear(5, 3, vb.pp("fc2")).unwrap());
        Self { taps, variables, fc1, bn, fc2 }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.fc2.forward(&self.bn.forward_t(&self.fc1.forward(x)?, train)?.tanh()?)
    }
}

#[test]
fn batch_norm_in_training_mode_is_found_and_its_statistics_are_set_back() {
    let model = Normed::new();
    let x = noise(1, &[6, 4]);
    let before: Vec<Vec<f32>> = model.variables.all_vars().iter().map(|var| numbers(var)).collect();
    let check = check_logits(&model.taps, &model.variables, &x, |x| model.forward(x, true));
    let after: Vec<Vec<f32>> = model.variables.all_vars().iter().map(|var| numbers(var)).collect();
    assert_eq!(before, after, "one example in training mode makes the running variance NaN");
    assert_eq!(kinds(&check), [FindingKind::CoupledExamples, FindingKind::UncoveredVariable], "{check}");
    let found = &check.findings[0];
    assert_eq!((&found.names[..], &found.examples[..]), (&["bn".to_owned()][..], &IDS[..]));
    assert!(check.to_string().contains("what `fc2` sees of an example depends on the rest of the batch"), "{check}");
    assert_eq!(check.findings[1].names, ["bn.bias", "bn.weight"], "what no tap covers is said as well");
    // Alone in training mode every normalized number is 0, so `fc1` has no gradient: all of the share is a difference.
    assert_eq!(check.largest_difference, Some(1.0));
    // In evaluation mode the examples are not coupled.
    let check = check_logits(&model.taps, &model.variables, &x, |x| model.forward(x, false));
    assert_eq!(kinds(&check), [FindingKind::UncoveredVariable], "{check}");
}

#[test]
fn batch_norm_behind_the_last_tapped_layer_is_found() {
    let model = Normed::new();
    let head = linear(5, 3, builder(&model.variables).pp("fc2")).unwrap();
    let x = noise(1, &[6, 4]);
    let forward = |x: &Tensor| head.forward(&model.bn.forward_t(&model.fc1.forward(x)?, true)?);
    let taps = Taps::new();
    let fc1 = taps.tap("fc1", model.fc1.inner().clone());
    let check =
        check_logits(&taps, &model.variables, &x, |x| head.forward(&model.bn.forward_t(&fc1.forward(x)?, true)?));
    assert_eq!(kinds(&check), [FindingKind::CoupledExamples, FindingKind::UncoveredVariable], "{check}");
    assert_eq!(check.findings[0].names, ["bn"]);
    forward(&x).unwrap();
}

/// InfoNCE over one view: each example against the others of its batch.
#[test]
fn a_loss_that_compares_examples_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let (x, views) = (noise(1, &[6, 4]), noise(2, &[6, 3]));
    let mut recorder = recorder(dir.path(), &model.taps);
    let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
        let scores = model.layer.forward(&rows.of(&x)?)?.matmul(&rows.of(&views)?.t()?)?;
        let logs = candle_nn::ops::log_softmax(&scores, D::Minus1)?;
        let same = Tensor::eye(rows.len(), DType::F32, &Device::Cpu)?;
        pass.losses(&(logs * same)?.sum(1)?.neg()?)
    };
    let check = recorder.check_gradients(&model.variables, &IDS, run).unwrap();
    assert_eq!(kinds(&check), [FindingKind::CoupledLosses], "{check}");
    assert_eq!(check.findings[0].examples, IDS);
    let text = check.to_string();
    assert!(text.contains("although every tapped layer sees the same") && text.contains("and 0 alone"), "{text}");
    recorder.finish().unwrap();
    let couplings = Run::open(dir.path().join("run")).unwrap().couplings().unwrap();
    assert_eq!(couplings.iter().map(|one| one.kind).collect::<Vec<_>>(), [CouplingKind::Losses]);
    let words = "the loss couples the examples of a batch: gradients are shares of the batch gradient";
    assert_eq!(couplings[0].to_string(), words);
}

/// As many positions as examples: no shape in the batch is wrong.
#[test]
fn a_layer_whose_batch_is_not_first_is_found() {
    let model = one_layer(3);
    let x = noise(1, &[6, 6, 4]);
    let check = check_logits(&model.taps, &model.variables, &x, |x| {
        model.layer.forward(&x.transpose(0, 1)?.contiguous()?)?.tanh()?.transpose(0, 1)?.sum(1)
    });
    assert_eq!(kinds(&check), [FindingKind::BatchNotFirst], "{check}");
    assert!(check.to_string().contains("the first dimension is 6 for a batch of 6, and 6 for one example"), "{check}");
    let check = check_logits(&model.taps, &model.variables, &x, |x| {
        model.layer.forward(&x.reshape(((), 4))?)?.tanh()?.reshape((x.dim(0)?, 6, 3))?.sum(1)
    });
    assert_eq!(kinds(&check), [FindingKind::BatchNotFirst], "{check}");
    assert!(check.to_string().contains("the first dimension is 36 for a batch of 6"), "{check}");
}

/// `y = s x`, whose tap scales the gradient wrongly.
struct Scale {
    scale: Tensor,
    factor: f64,
}

impl Tap for Scale {
    fn spec(&self) -> std::result::Result<LayerSpec, TapError> {
        Ok(LayerSpec::new("scale", vec![Parameter::new("scale", &self.scale)]))
    }

    fn plain_forward(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.scale)
    }

    fn per_example(&self, x: &Tensor, delta: &Tensor) -> Result<PerExample> {
        Ok(PerExample::Dense(((x * delta)? * self.factor)?))
    }
}

fn scaled(factor: f64) -> (Taps, VarMap, gradlog::Tapped<Scale>, gradlog::Tapped<Linear>) {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let scale = vb.get_with_hints(4, "scale", candle_nn::Init::Const(0.7)).unwrap();
    let layer = taps.tap("mine", Scale { scale, factor });
    let head = taps.tap("head", linear(4, 3, vb.pp("head")).unwrap());
    (taps, variables, layer, head)
}

#[test]
fn a_wrong_tap_is_found() {
    let x = noise(1, &[6, 4]);
    for (factor, off_by) in [(1.0, None), (1.25, Some(0.2)), (f64::NAN, Some(f64::INFINITY))] {
        let (taps, variables, layer, head) = scaled(factor);
        let check = check_logits(&taps, &variables, &x, |x| head.forward(&layer.forward(x)?.tanh()?));
        let Some(off_by) = off_by else {
            assert_clean(&check, 2);
            continue;
        };
        assert_eq!(kinds(&check), [FindingKind::WrongTap], "{check}");
        let found = &check.findings[0];
        assert_eq!((&found.names[..], &found.examples[..]), (&["mine".to_owned()][..], &IDS[..]));
        let difference = found.difference.unwrap();
        assert!(difference == off_by || (difference - off_by).abs() < 1e-4, "{check}");
        assert!(check.to_string().contains("the tap of `mine` (scale) is wrong"), "{check}");
    }
}

/// Randomness hides couplings, and no wrong tap.
#[test]
fn dropout_is_called_randomness() {
    let x = noise(1, &[6, 4]);
    for factor in [1.0, 2.0] {
        let (taps, variables, layer, head) = scaled(factor);
        let dropout = candle_nn::Dropout::new(0.5);
        let check =
            check_logits(&taps, &variables, &x, |x| head.forward(&dropout.forward_t(&layer.forward(x)?, true)?));
        let wrong = (factor != 1.0).then_some(FindingKind::WrongTap);
        assert_eq!(kinds(&check), wrong.into_iter().chain([FindingKind::Random]).collect::<Vec<_>>(), "{check}");
        assert!(check.to_string().contains("two equal runs of the batch differ"), "{check}");
        assert_eq!(check.largest_difference, None);
    }
}

#[test]
fn a_parameter_that_is_also_used_elsewhere_is_found() {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let plain = linear(4, 4, builder(&variables).pp("fc")).unwrap();
    let (weight, layer) = (plain.weight().clone(), taps.tap("fc", plain));
    let head = taps.tap("head", linear(4, 3, builder(&variables).pp("head")).unwrap());
    let x = noise(1, &[6, 4]);
    // An autoencoder's trick: the decoder multiplies by the encoder's weight.
    let forward = |x: &Tensor| head.forward(&layer.forward(x)?.tanh()?.matmul(&weight)?);
    let check = check_logits(&taps, &variables, &x, forward);
    assert_eq!(kinds(&check), [FindingKind::SharedParameter], "{check}");
    assert_eq!(check.findings[0].names, ["fc.weight"]);
    assert!(check.findings[0].difference.unwrap() > 0.01, "{check}");
    // A penalty that is added to the loss reaches the weights around their layer.
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), &taps);
    let y = noisy_labels(9, 6);
    let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
        let loss = pass.cross_entropy(&head.forward(&layer.forward(&rows.of(&x)?)?)?, &rows.of(&y)?)?;
        Ok((loss + (weight.sqr()?.sum_all()? * 0.1)?)?)
    };
    let check = recorder.check_gradients(&variables, &IDS, run).unwrap();
    assert_eq!(kinds(&check), [FindingKind::SharedParameter], "{check}");
}

#[test]
fn a_variable_that_no_tap_covers_is_found() {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let first = linear(4, 5, vb.pp("first")).unwrap();
    let _unused = linear(4, 5, vb.pp("unused")).unwrap();
    let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
    let check = check_logits(&taps, &variables, &noise(1, &[6, 4]), |x| head.forward(&first.forward(x)?.tanh()?));
    assert_eq!(kinds(&check), [FindingKind::UncoveredVariable], "{check}");
    assert_eq!(check.findings[0].names, ["first.bias", "first.weight"]);
    assert!(check.agrees() && check.to_string().contains("(25 parameters)"), "{check}");
}

#[test]
fn layers_that_get_no_gradient_are_found() {
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let first = taps.tap("first", linear(4, 5, vb.pp("first")).unwrap());
    let _left_out = taps.tap("left out", linear(4, 5, vb.pp("left")).unwrap());
    let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
    let check = check_logits(&taps, &variables, &noise(1, &[6, 4]), |x| head.forward(&first.forward(x)?.detach()));
    assert_eq!(kinds(&check), [FindingKind::NoGradient, FindingKind::NoGradient], "{check}");
    let text = check.to_string();
    assert!(text.contains("does not reach `left out`") && text.contains("no gradient comes back to `first`"), "{text}");
}

/// Something else than BatchNorm that mixes the batch.
#[test]
fn a_model_that_mixes_the_batch_is_found_where_it_begins() {
    let network = Network::mlp(6, 1, false);
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let layers: Vec<_> = (0..3).map(|n| taps.tap(format!("fc{n}"), linear(6, 6, vb.pp(n)).unwrap())).collect();
    let check = check_logits(&taps, &variables, &network.examples.x, |x| {
        let h = layers[1].forward(&layers[0].forward(x)?.tanh()?)?;
        let h = h.broadcast_sub(&h.mean_keepdim(0)?)?;
        layers[2].forward(&h)?.narrow(1, 0, 3)
    });
    assert_eq!(kinds(&check), [FindingKind::CoupledExamples], "{check}");
    assert_eq!(check.findings[0].names, ["fc2"], "{check}");
}

#[test]
fn weights_positions_and_scaled_losses_pass() {
    let model = one_layer(3);
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), &model.taps);
    let (x, y) = (noise(1, &[6, 2, 4]), noisy_labels(2, 12).reshape((6, 2)).unwrap());
    let y = y.to_dtype(DType::I64).unwrap();
    let weights = [1.0, 0.5, 2.0, 0.0, 3.0, 1.0];
    let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
        pass.weights(&rows.pick(&weights)).ignore_index(0);
        let loss = pass.cross_entropy(&model.layer.forward(&rows.of(&x)?)?, &rows.of(&y)?)?;
        Ok((loss * 1024.0)?)
    };
    let check = recorder.check_gradients(&model.variables, &IDS, run).unwrap();
    assert!(check.findings.is_empty(), "{check}");
    assert!(check.to_string().contains("have no weight in the loss"), "{check}");
}

#[test]
fn a_check_that_cannot_run_says_why() {
    let model = one_layer(3);
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = recorder(dir.path(), &model.taps);
    let (x, y) = (noise(1, &[6, 4]), noisy_labels(2, 6));
    let mut says =
        |words: &[&str],
         ids: &[u64],
         run: &dyn Fn(&mut Pass<'_>, &BatchRows) -> std::result::Result<Tensor, RecordError>| {
            let error = recorder.check_gradients(&model.variables, ids, run).unwrap_err().to_string();
            assert!(words.iter().all(|words| error.contains(words)), "{error}");
        };
    let right =
        |pass: &mut Pass<'_>, rows: &BatchRows| pass.cross_entropy(&model.layer.forward(&rows.of(&x)?)?, &rows.of(&y)?);
    says(&["at least two ids"], &[1], &right);
    says(&["a check of 5 ids got a tensor of shape [6, 4]"], &[1, 2, 3, 4, 5], &right);
    says(&["example 50 alone failed", "6 losses for 1 ids", "rows.of(&x)"], &IDS, &|pass, _| {
        pass.cross_entropy(&model.layer.forward(&x)?, &y)
    });
    says(&["returned another tensor"], &IDS, &|pass, rows| {
        let logits = model.layer.forward(&rows.of(&x)?)?;
        pass.cross_entropy(&logits, &rows.of(&y)?)?;
        Ok(candle_nn::loss::cross_entropy(&logits, &rows.of(&y)?)?)
    });
    says(&["computed no loss"], &IDS, &|_, rows| Ok(model.layer.forward(&rows.of(&x)?)?.sum_all()?));
    says(&["`per_example`"], &IDS, &|pass, _| pass.per_example(|i| x.get(i)?.sum_all()));
    // Nothing is left armed or changed: a pass and a check still work.
    assert!(recorder.check_gradients(&model.variables, &IDS, right).unwrap().agrees());
    record_noise(&mut recorder, &model.layer, &[1, 2, 3]).unwrap();
    assert_eq!(recorder.finish().unwrap().visits, 3);
    let check = Recorder::disabled().check_gradients(&model.variables, &IDS, right).unwrap();
    assert!(!check.agrees() && check.to_string().contains("nothing was checked"), "{check}");
}

/// A checked training is the training without the check: the same weights, and the same log but for the verdict.
#[test]
fn a_check_changes_neither_the_training_nor_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut ends = Vec::new();
    for checked in [false, true] {
        let network = Network::cnn(4, 3, 12, 1, true).fill(5, 0.4);
        let path = dir.path().join(format!("{checked}"));
        let mut recorder = Recorder::create(&path, &network.taps, Config::default()).unwrap();
        let steps =
            (0..6).map(|number| Step { number, epoch: 0, ids: (0..6).map(|i| (number + i) % 12).collect(), rate: 0.1 });
        let check = |recorder: &mut Recorder, step: &Step| {
            if checked && step.number.is_multiple_of(2) {
                let data = network.examples.select(&[0, 1, 2, 3]);
                let run = |pass: &mut Pass<'_>, rows: &BatchRows| {
                    pass.cross_entropy(&network.logits(&rows.of(&data.x)?)?, &rows.of(&data.y)?)
                };
                assert!(recorder.check_gradients(&network.variables, &[0, 1, 2, 3], run).unwrap().agrees());
            }
        };
        network.train(&mut recorder, steps, check);
        recorder.finish().unwrap();
        let rows = (
            f32s(&path, BlockKind::Visits, Column::Loss),
            f32s(&path, BlockKind::Visits, Column::SquaredNorm),
            u64s(&path, BlockKind::Visits, Column::Step),
            u32s(&path, BlockKind::Steps, Column::BatchSize),
        );
        assert_eq!(Run::open(&path).unwrap().checks().unwrap().len(), if checked { 3 } else { 0 });
        ends.push((network.weights(), visited(&path), folded(&path), rows));
    }
    assert!(ends[0] == ends[1]);
}

#[test]
fn a_verdict_is_superseded_with_the_steps_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let (x, y) = (noise(1, &[6, 4]), noisy_labels(2, 6));
    let run =
        |pass: &mut Pass<'_>, rows: &BatchRows| pass.cross_entropy(&model.layer.forward(&rows.of(&x)?)?, &rows.of(&y)?);
    let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    for _ in 0..3 {
        let _ = recorder.check_gradients(&model.variables, &IDS, run).unwrap();
        record_noise(&mut recorder, &model.layer, &[1, 2, 3]).unwrap();
    }
    recorder.finish().unwrap();
    let steps = || Run::open(dir.path()).unwrap().checks().unwrap().iter().map(|check| check.step).collect::<Vec<_>>();
    assert_eq!(steps(), [0, 1, 2]);
    Recorder::resume_at(dir.path(), &model.taps, exact(), 1).unwrap().finish().unwrap();
    assert_eq!(steps(), [0, 1], "the check before step 1 was made at the weights that the training returned to");
    assert!(Run::open(dir.path()).unwrap().verify().unwrap().damage.is_none());
}
