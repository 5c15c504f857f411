//! Gradients that do not arrive: cut off by an op without a backward, detached, brought around a tap, or of a forward
//! pass that takes no part. Each is an error that names the cause, or is allowed by a word of the user.

use crate::common::*;
use candle_core::{DType, Device, Module, ModuleT, Tensor, Var};
use candle_nn::{batch_norm, layer_norm, linear, BatchNorm, LayerNorm, Linear, VarMap, SGD};
use candle_nn::{Optimizer, VarBuilder};
use gradlog::taps::{Tapped, Taps};
use gradlog::{Config, OnBatchNorm, RecordError, Recorder};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;

fn says(error: impl std::fmt::Display, words: &[&str]) {
    let error = error.to_string();
    words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
}

/// An untapped body, candle's norm, whose fused forward has no backward, and a tapped head.
struct Cut {
    body: Linear,
    norm: LayerNorm,
    head: Tapped<Linear>,
    taps: Taps,
    variables: VarMap,
}

impl Cut {
    fn new() -> Self {
        let (taps, variables) = (Taps::new(), VarMap::new());
        // The map is still empty here.
        taps.declare_model(&variables);
        let vb = builder(&variables);
        let body = linear(4, 5, vb.pp("body")).unwrap();
        let norm = layer_norm(5, 1e-5, vb.pp("norm")).unwrap();
        let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
        Self { body, norm, head, taps, variables }
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        self.head.forward(&self.norm.forward(&self.body.forward(x).unwrap()).unwrap()).unwrap()
    }

    fn step(&self, recorder: &mut Recorder) -> Result<(), RecordError> {
        let mut pass = recorder.pass(&[0, 1])?;
        let loss = pass.cross_entropy(&self.logits(&noise(1, &[2, 4])), &labels(2))?;
        pass.backward_step(&mut SGD::new(self.variables.all_vars(), 0.1).unwrap(), &loss).map(drop)
    }
}

#[test]
fn backward_step_names_untapped_variables_that_get_no_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let model = Cut::new();
    let mut recorder = Recorder::create(dir.path().join("a"), &model.taps, exact()).unwrap();
    let before = numbers(model.head.inner().weight());
    let error = model.step(&mut recorder).unwrap_err();
    says(
        error,
        &["`body.bias`, `body.weight`, `norm.bias`, `norm.weight`", "66.0 %", "(1) An operation without a backward"],
    );
    assert_ne!(numbers(model.head.inner().weight()), before, "the step is taken all the same");
    assert!(model.step(&mut recorder).is_err(), "it stays an error");
    drop(recorder);
    for part in ["body", "norm"] {
        model.taps.allow_no_gradient(part);
    }
    let mut recorder = Recorder::create(dir.path().join("b"), &model.taps, exact()).unwrap();
    model.step(&mut recorder).unwrap();
    recorder.finish().unwrap();
    assert_eq!(Run::open(dir.path().join("b")).unwrap().manifest().coverage(), Some(18.0 / 53.0));
}

#[test]
fn per_example_names_variables_that_get_no_gradient_from_any_example() {
    let dir = tempfile::tempdir().unwrap();
    let model = Cut::new();
    let taps = Taps::new();
    taps.declare_variables(&model.variables);
    let mut recorder = Recorder::create(dir.path().join("a"), &taps, exact()).unwrap();
    let loss = |i| candle_nn::loss::cross_entropy(&model.logits(&row(&noise(1, &[2, 4]), i)?), &labels(1));
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    says(pass.per_example(loss).unwrap_err(), &["`body.bias`", "`norm.weight`", "66.0 %", "`gradlog::nn`"]);
    drop(pass);
    drop(recorder);
    for part in ["body", "norm"] {
        taps.allow_no_gradient(part);
    }
    let mut recorder = Recorder::create(dir.path().join("b"), &taps, exact()).unwrap();
    for _ in 0..2 {
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        pass.per_example(loss).unwrap();
        pass.commit(0.1).unwrap();
        let grads = (loss(0).unwrap() + loss(1).unwrap()).unwrap().backward().unwrap();
        SGD::new(model.variables.all_vars(), 0.1).unwrap().step(&grads).unwrap();
    }
    recorder.finish().unwrap();
    let info = gradlog(&["info", dir.path().join("b").to_str().unwrap()]);
    // Variables without a gradient do not move, so they do not count.
    assert!(info.out.contains("18 (34.0 % of the model)"), "{}", info.out);
}

#[test]
fn a_cut_between_tapped_layers_is_placed() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let layer = |name: &str| taps.tap(name, linear(4, 4, builder(&variables).pp(name)).unwrap());
    // They are tapped in another order than they run.
    let (c, a, b) = (layer("c"), layer("a"), layer("b"));
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let h = b.forward(&a.forward(&noise(1, &[2, 4])).unwrap()).unwrap();
    let h = candle_nn::ops::softmax_last_dim(&h).unwrap();
    pass.cross_entropy(&c.forward(&h).unwrap(), &labels(2)).unwrap().backward().unwrap();
    says(pass.commit(0.1).unwrap_err(), &["ends between `b` and `c`", "(1) An operation without a backward"]);
}

#[test]
fn a_declared_map_is_read_when_the_recorder_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let model = one_layer(3);
    let empty = VarMap::new();
    model.taps.declare_model(&empty);
    says(Recorder::create(dir.path(), &model.taps, exact()).unwrap_err(), &["no variables", "from_varmap"]);
    let foreign = one_layer(3);
    let model = one_layer(3);
    model.taps.declare_model(&foreign.variables);
    says(Recorder::create(dir.path(), &model.taps, exact()).unwrap_err(), &["no parameter of a tapped layer"]);
    // A map that is not all of the model: what is recorded is never more than the model has.
    model.taps.declare_model(&model.variables);
    let outside = model.taps.tap("outside", noise_linear(3, 3, 4));
    let recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
    drop((recorder, outside));
    let manifest = Run::open(dir.path()).unwrap().manifest().clone();
    // 15 of the layer, 15 of the foreign map, 12 outside both.
    assert_eq!((manifest.recorded_parameters(), manifest.model_parameters), (27, Some(42)));
    // Two maps of one model with the same names.
    let (base, more, taps) = (VarMap::new(), VarMap::new(), Taps::new());
    taps.declare_model(&base);
    taps.declare_model(&more);
    taps.declare_model(&base.clone());
    let one = taps.tap("one", linear(4, 3, builder(&base).pp("fc")).unwrap());
    let two = taps.tap("two", linear(4, 3, builder(&more).pp("fc")).unwrap());
    let run = dir.path().join("two");
    drop((Recorder::create(&run, &taps, exact()).unwrap(), one, two));
    assert_eq!(Run::open(&run).unwrap().manifest().coverage(), Some(1.0));
}

/// A frozen tap would see nothing, and so would an optional one: its rows would say that the gradient is zero.
#[test]
fn a_layer_that_runs_without_its_tap_is_told_so() {
    for optional in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let model = one_layer(4);
        let second = noise_linear(7, 3, 4);
        let second = match optional {
            true => model.taps.tap_optional("second", second),
            false => model.taps.tap("second", second),
        };
        let mut recorder = Recorder::create(dir.path(), &model.taps, exact()).unwrap();
        let x = noise(1, &[2, 4]);
        let mut optimizer = SGD::new(model.variables.all_vars(), 0.1).unwrap();
        let mut step = |around: bool| {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let h = model.layer.forward(&x).unwrap();
            let y = if around { second.inner().forward(&h) } else { second.forward(&h) }.unwrap();
            let loss = pass.cross_entropy(&y, &labels(2)).unwrap();
            pass.backward_step(&mut optimizer, &loss)
        };
        says(step(true).unwrap_err(), &["`second` trained", "without its tap", "`tapped.inner()`"]);
        step(false).unwrap();
    }
}

/// Forward passes for metrics and targets, in both kinds of op.
#[test]
fn a_paused_forward_is_not_recorded_and_must_not_get_a_gradient() {
    for dtype in [DType::F32, DType::F64] {
        let dir = tempfile::tempdir().unwrap();
        let (taps, variables) = (Taps::new(), VarMap::new());
        let vb = VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let layer = taps.tap("fc", linear(4, 3, vb.pp("fc")).unwrap());
        let x = noise(1, &[2, 4]).to_dtype(dtype).unwrap();
        let losses = |y: &Tensor, target: &Tensor| (y - target).unwrap().sqr().unwrap().sum(1).unwrap();
        let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
        let mut pass = |target: &dyn Fn() -> Tensor| {
            let mut pass = recorder.pass(&[0, 1]).unwrap();
            let y = layer.forward(&x).unwrap();
            pass.losses(&losses(&y, &target()))?.backward().unwrap();
            pass.commit(0.1)
        };
        let paused = || {
            let _outer = taps.pause();
            let _inner = taps.pause();
            layer.forward(&x).unwrap().affine(0.5, 0.1).unwrap()
        };
        says(
            pass(&|| layer.forward(&x).unwrap().detach()).unwrap_err(),
            &["Some uses of `fc`", "`let _paused = taps.pause();`"],
        );
        says(pass(&paused).unwrap_err(), &["`fc` into a forward pass", "under `taps.pause()`"]);
        pass(&|| paused().detach()).unwrap();
        recorder.finish().unwrap();
        let norms = f32s(dir.path(), BlockKind::Visits, Column::SquaredNorm);
        let target = paused().detach();
        for (i, norm) in norms.iter().enumerate() {
            let own = losses(&layer.inner().forward(&row(&x, i).unwrap()).unwrap(), &row(&target, i).unwrap());
            let grads = own.sum_all().unwrap().backward().unwrap();
            let square = |v: &Var| numbers(&grads.get(v).unwrap().to_dtype(DType::F32).unwrap());
            let truth: f64 = variables.all_vars().iter().map(|v| dot(&square(v), &square(v))).sum();
            assert!((f64::from(*norm) - truth).abs() < 1e-4 * truth, "{dtype:?} {i}: {norm} {truth}");
        }
        assert_eq!(norms.len(), 2);
    }
}

#[test]
fn a_frozen_layer_is_not_recorded_and_needs_no_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    taps.declare_model(&variables);
    let vb = builder(&variables);
    let base = taps.tap("base", linear(4, 5, vb.pp("base")).unwrap());
    let _loose = linear(4, 5, vb.pp("loose")).unwrap();
    let head = taps.tap("head", linear(5, 3, vb.pp("head")).unwrap());
    let trained: Vec<Var> = {
        let named = variables.data().lock().unwrap();
        named.iter().filter(|(name, _)| name.starts_with("head")).map(|(_, var)| var.clone()).collect()
    };
    taps.trained(&trained);
    let run = dir.path().join("run");
    let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
    let x = noise(1, &[2, 4]);
    for detached in [false, true] {
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let h = base.forward(&x).unwrap();
        let h = if detached { h.detach() } else { h };
        let loss = pass.cross_entropy(&head.forward(&h).unwrap(), &labels(2)).unwrap();
        pass.backward_step(&mut SGD::new(trained.clone(), 0.0).unwrap(), &loss).unwrap();
    }
    let check = recorder.check_gradients(&variables, &[0, 1], |pass, rows| {
        let h = base.forward(&rows.of(&x)?)?;
        pass.cross_entropy(&head.forward(&h)?, &rows.of(&labels(2))?)
    });
    assert!(check.as_ref().unwrap().findings.is_empty(), "{}", check.unwrap());
    recorder.finish().unwrap();
    let manifest = Run::open(&run).unwrap().manifest().clone();
    assert_eq!(manifest.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(), ["head"]);
    assert_eq!((manifest.coverage(), manifest.untapped.len()), (Some(1.0), 0));
    let norms = f32s(&run, BlockKind::Visits, Column::SquaredNorm);
    for (visit, norm) in norms.iter().enumerate() {
        let i = visit % 2;
        let y = head.inner().forward(&base.inner().forward(&row(&x, i).unwrap()).unwrap()).unwrap();
        let grads =
            candle_nn::loss::cross_entropy(&y, &labels(2).narrow(0, i, 1).unwrap()).unwrap().backward().unwrap();
        let truth: f64 = trained.iter().map(|v| numbers(grads.get(v).unwrap())).map(|g| dot(&g, &g)).sum();
        assert!((f64::from(*norm) - truth).abs() < 1e-4 * truth, "{visit}: {norm} {truth}");
    }
    assert_eq!(norms.len(), 4);
    let info = gradlog(&["info", run.to_str().unwrap()]);
    assert!(info.out.contains("base, loose.bias, loose.weight (not recorded)"), "{}", info.out);
    // Of a layer that the optimizer has in part, no exact gradient is known.
    let part = one_layer(3);
    part.taps.trained(&part.variables.all_vars()[..1]);
    says(
        Recorder::create(dir.path().join("c"), &part.taps, exact()).unwrap_err(),
        &["among the trained variables", "detached"],
    );
}

/// The second statistic of a batch of one is 0/0.
#[test]
fn per_example_does_not_change_a_batch_norm() {
    let dir = tempfile::tempdir().unwrap();
    let (taps, variables) = (Taps::new(), VarMap::new());
    let vb = builder(&variables);
    let bn: BatchNorm = batch_norm(4, 1e-5, vb.pp("bn")).unwrap();
    let fc = linear(4, 3, vb.pp("fc")).unwrap();
    taps.declare_variables(&variables);
    let x = noise(1, &[2, 4, 6]);
    let loss = |i: usize, training: bool| {
        let h = bn.forward_t(&row(&x, i)?, training)?.mean(2)?;
        candle_nn::loss::cross_entropy(&fc.forward(&h)?, &labels(2).narrow(0, i, 1)?)
    };
    let statistics = || [bn.running_mean(), bn.running_var()].map(numbers);
    let before = statistics();
    let config = Config { on_batch_norm: OnBatchNorm::RecordShare, ..exact() };
    let mut recorder = Recorder::create(dir.path(), &taps, config).unwrap();
    for _ in 0..3 {
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let error = pass.per_example(|i| loss(i, true)).unwrap_err();
        says(error, &["`bn.running_mean`", "`bn.running_var`", "forward_t(x, false)"]);
        assert_eq!(statistics(), before);
    }
    // An error of the closure's own sets back as well.
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    let failing = pass.per_example(|i| loss(i, true).and_then(|_| candle_core::bail!("own error {i}")));
    assert!(failing.is_err());
    assert_eq!(statistics(), before);
    drop(pass);
    let mut pass = recorder.pass(&[0, 1]).unwrap();
    pass.per_example(|i| loss(i, false)).unwrap();
    pass.commit(0.1).unwrap();
}

/// An optimizer of this crate shows its variables: others need no gradient, and no layer is trained in part.
#[test]
fn backward_step_learns_from_the_optimizer_what_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let model = Cut::new();
    let variables = |part: &str| -> Vec<Var> {
        let named = model.variables.data().lock().unwrap();
        named.iter().filter(|(name, _)| name.starts_with(part)).map(|(_, var)| var.clone()).collect()
    };
    let step = |name: &str, variables: Vec<Var>| {
        let mut optimizer = gradlog::optim::Sgd::new(variables, gradlog::optim::SgdConfig::new(0.1)).unwrap();
        let mut recorder = Recorder::create(dir.path().join(name), &model.taps, exact()).unwrap();
        let mut pass = recorder.pass(&[0, 1]).unwrap();
        let loss = pass.cross_entropy(&model.logits(&noise(1, &[2, 4])), &labels(2)).unwrap();
        pass.backward_step(&mut optimizer, &loss)
    };
    step("head", variables("head")).unwrap();
    says(step("all", model.variables.all_vars()).unwrap_err(), &["`body.bias`", "66.0 %"]);
    says(step("part", variables("head.weight")).unwrap_err(), &["has the weight of layer `head` and not its bias"]);
}
