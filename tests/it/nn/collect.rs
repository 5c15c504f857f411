//! `Taps::collect`: which layers are tapped, and what they are called.

use super::built::{llama::Llama, mlp::Mlp};
use crate::common::*;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{ModuleT, VarBuilder, VarMap};
use gradlog::nn::{self, linear, BatchNorm, Linear};
use gradlog::{Config, OnBatchNorm, Recorder, Taps};
use gradlog_format::run::Run;
use std::collections::HashMap;

fn names(taps: &Taps, config: Config) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    Recorder::create(dir.path(), taps, config).unwrap().finish().unwrap();
    Run::open(dir.path()).unwrap().manifest().layers.iter().map(|layer| layer.name.clone()).collect()
}

#[test]
fn layers_are_named_by_their_path_or_their_variable() {
    let variables = VarMap::new();
    let (_, taps) = Taps::collect(|| Llama::load(builder(&variables))).unwrap();
    let undeclared = names(&taps, exact());
    assert!(undeclared.contains(&"model.layers.1.self_attn.q_proj".to_owned()), "{undeclared:?}");
    assert_eq!(undeclared[1], "linear", "the head has no path, and no variable is known");
    taps.declare_model(&variables);
    assert_eq!(names(&taps, exact())[1], "model.embed_tokens.1", "the head shares the embedding's variable");
    // A path that is used twice gives two names, and the weight is shared.
    let variables = VarMap::new();
    let vb = builder(&variables);
    let two = || Result::Ok((linear(4, 3, vb.pp("fc"))?, linear(4, 3, vb.pp("fc"))?));
    let ((one, other), taps) = Taps::collect(two).unwrap();
    assert_eq!(names(&taps, exact()), ["fc", "fc.1"]);
    assert_eq!(one.weight().id(), other.weight().id());
    // A layer from tensors is named by its variable.
    let make = || Result::Ok(Linear::new(vb.get((3, 4), "head.weight")?, None));
    let (_, taps) = Taps::collect(make).unwrap();
    taps.declare_model(&variables);
    assert_eq!(names(&taps, exact()), ["head"]);
    let root = || linear(4, 3, vb.clone());
    let (_, taps) = Taps::collect(root).unwrap();
    assert_eq!(names(&taps, exact()), ["linear"]);
    taps.declare_model(&variables);
    assert_eq!(names(&taps, exact()), ["linear"], "the variable `weight` has no path");
}

#[test]
fn what_is_built_elsewhere_is_not_tapped() {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let outside = linear(4, 3, vb.pp("outside")).unwrap();
    let collected = Taps::collect(|| {
        // Nested: a part with taps of its own.
        let (_, inner) = Taps::collect(|| linear(4, 3, vb.pp("inner")))?;
        assert_eq!(names(&inner, exact()), ["inner"]);
        let elsewhere = vb.pp("elsewhere");
        std::thread::scope(|scope| scope.spawn(move || linear(4, 3, elsewhere).map(drop)).join().unwrap())?;
        linear(4, 3, vb.pp("outer"))
    });
    assert_eq!(names(&collected.unwrap().1, exact()), ["outer"]);
    // A constructor that fails or panics ends the collection.
    assert!(Taps::collect(|| linear(4, 3, vb.pp("outside")).and_then(|_| linear(9, 9, vb.pp("outside")))).is_err());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Taps::collect(|| -> Result<()> { std::panic::panic_any("a constructor") })
    }));
    assert!(panicked.is_err());
    let taps = Taps::new();
    linear(4, 3, vb.pp("after")).unwrap();
    assert!(names(&taps, exact()).is_empty());
    let x = noise(1, &[2, 4]);
    let plain = candle_nn::Linear::new(outside.weight().clone(), outside.bias().cloned());
    assert!(relative_error(&numbers(&outside.forward(&x).unwrap()), &numbers(&plain.forward(&x).unwrap())) < 1e-6);
    // Parts can be added to the same taps.
    taps.collect_more(|| linear(4, 3, vb.pp("more"))).unwrap();
    taps.collect_more(|| linear(4, 3, vb.pp("again"))).unwrap();
    assert_eq!(names(&taps, exact()), ["more", "again"]);
}

/// A base of plain tensors, as a file of weights gives it, under a head that is trained.
#[test]
fn frozen_layers_are_not_tapped_and_pass_the_gradient_on() {
    let tensors = HashMap::from([("weight".to_owned(), noise(2, &[4, 4])), ("bias".to_owned(), noise(3, &[4]))]);
    let frozen = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let variables = VarMap::new();
    let vb = builder(&variables);
    let make = || Result::Ok((linear(4, 4, vb.pp("first"))?, linear(4, 4, frozen)?, linear(4, 3, vb.pp("head"))?));
    let ((first, base, head), taps) = Taps::collect(make).unwrap();
    assert_eq!(names(&taps, exact()), ["first", "head"]);
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let (x, y) = (noise(1, &[5, 4]), labels(5));
    let forward = |x: &Tensor| head.forward(&base.forward(&first.forward(x)?)?);
    let check = recorder
        .check_gradients(&variables, &[1, 2, 3, 4, 5], |pass, rows| {
            pass.cross_entropy(&forward(&rows.of(&x)?)?, &rows.of(&y)?)
        })
        .unwrap();
    assert!(check.agrees() && check.findings.is_empty(), "{check}");
    recorder.finish().unwrap();
}

/// Two linear layers with a BatchNorm between them. `forward_t` gets the mode of the BatchNorm.
struct Normed {
    fc1: Linear,
    bn: BatchNorm,
    fc2: Linear,
}

impl Normed {
    fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            fc1: linear(4, 5, vb.pp("fc1"))?,
            bn: nn::batch_norm(5, 1e-5, vb.pp("bn"))?,
            fc2: linear(5, 3, vb.pp("fc2"))?,
        })
    }
}

impl ModuleT for Normed {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.fc2.forward(&self.bn.forward_t(&self.fc1.forward(x)?, train)?)
    }
}

#[test]
fn a_batch_norm_is_known_without_a_declaration() {
    let variables = VarMap::new();
    let (model, taps) = Taps::collect(|| Normed::new(builder(&variables))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = Recorder::create(dir.path().join("a"), &taps, exact()).unwrap_err().to_string();
    assert!(refused.contains("`bn`") && refused.contains("OnBatchNorm::Frozen"), "{refused}");
    let frozen = Config { on_batch_norm: OnBatchNorm::Frozen, ..exact() };
    assert_eq!(names(&taps, frozen.clone()), ["fc1", "bn", "fc2"]);
    let mut recorder = Recorder::create(dir.path().join("b"), &taps, frozen).unwrap();
    let (x, y) = (noise(1, &[5, 4]), labels(5));
    let check = recorder
        .check_gradients(&variables, &[1, 2, 3, 4, 5], |pass, rows| {
            pass.cross_entropy(&model.forward_t(&rows.of(&x)?, false)?, &rows.of(&y)?)
        })
        .unwrap();
    assert!(check.agrees() && check.findings.is_empty(), "{check}");
    let mut pass = recorder.pass(&[1, 2, 3, 4, 5]).unwrap();
    let loss = pass.cross_entropy(&model.forward_t(&x, true).unwrap(), &y).unwrap();
    loss.backward().unwrap();
    let error = pass.commit(0.1).unwrap_err().to_string();
    assert!(error.contains("bn"), "statistics moved: {error}");
    recorder.finish().unwrap();
    // Its training mode is candle's.
    let plain = model.bn.inner().clone();
    let h = model.fc1.forward(&x).unwrap();
    let [made, right] = [model.bn.forward_t(&h, true).unwrap(), plain.forward_t(&h, true).unwrap()];
    assert_eq!(numbers(&made), numbers(&right));
}

#[test]
fn an_mlp_built_without_taps_has_the_gradients_of_candle() {
    let variables = VarMap::new();
    let model = Mlp::new(builder(&variables)).unwrap();
    let loss = model.forward_t(&noise(1, &[3, 6]), false).unwrap().sqr().unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    assert!(variables.all_vars().iter().all(|var| gradients.get(var).is_some()));
}

#[test]
fn layers_below_a_path_can_be_left_out_or_folded() {
    let variables = VarMap::new();
    let vb = builder(&variables);
    let make = || {
        let part = |path: &str| linear(4, 3, vb.pp(path));
        Result::Ok([part("head")?, part("heads.a")?, part("heads.b.fc")?, part("heads2")?])
    };
    let ([head, first, _, other], taps) = Taps::collect(make).unwrap();
    taps.make_optional("heads");
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path().join("a"), &taps, exact()).unwrap();
    let mut step = |layers: &[&Linear]| {
        let mut pass = recorder.pass(&[1, 2]).unwrap();
        let x = noise(1, &[2, 4]);
        let mut logits = layers[0].forward(&x).unwrap();
        for layer in &layers[1..] {
            logits = (logits + layer.forward(&x).unwrap()).unwrap();
        }
        pass.cross_entropy(&logits, &labels(2)).unwrap().backward().unwrap();
        pass.commit(0.1).map_err(|error| error.to_string())
    };
    step(&[&head, &other]).unwrap();
    step(&[&head, &first, &other]).unwrap();
    let error = step(&[&head, &first]).unwrap_err();
    assert!(error.contains("`heads2`"), "{error}");
    recorder.finish().unwrap();
    taps.make_optional("tail");
    let error = Recorder::create(dir.path().join("b"), &taps, exact()).unwrap_err().to_string();
    assert!(error.contains("`tail`") && error.contains("`heads.b.fc`"), "{error}");
    // One position in the first pass, and three in the second.
    let (fc, taps) = Taps::collect(|| linear(4, 3, vb.pp("fc"))).unwrap();
    taps.make_folded("");
    let mut recorder = Recorder::create(dir.path().join("c"), &taps, exact()).unwrap();
    for positions in [1, 3] {
        let mut pass = recorder.pass(&[1, 2]).unwrap();
        let logits = fc.forward(&noise(2, &[2, positions, 4])).unwrap().mean(1).unwrap();
        pass.cross_entropy(&logits, &labels(2)).unwrap().backward().unwrap();
        pass.commit(0.1).unwrap();
    }
    assert_eq!(recorder.finish().unwrap().visits, 4);
}

#[test]
fn a_layer_tapped_by_hand_fits_a_model_of_these_types() {
    let variables = VarMap::new();
    let taps = Taps::new();
    let plain = candle_nn::linear(4, 3, builder(&variables).pp("fc")).unwrap();
    let named: Linear = taps.tap("by hand", plain.clone()).into();
    let (collected, others) = Taps::collect(|| Result::Ok(Linear::from(plain.clone()))).unwrap();
    others.declare_model(&variables);
    assert_eq!([names(&taps, exact()), names(&others, exact())], [["by hand"], ["fc"]]);
    for layer in [named, collected] {
        assert_eq!(layer.inner().weight().id(), plain.weight().id());
        assert_eq!(format!("{layer:?}"), "Linear { .. }");
    }
}

/// Backward of a frozen layer makes no gradient of its weight: candle keeps none for it.
#[test]
fn a_frozen_layer_has_no_gradient_of_its_own() {
    let x = candle_core::Var::from_tensor(&noise(1, &[2, 4])).unwrap();
    let weight = noise(2, &[3, 4]);
    let layer = Linear::new(weight.clone(), Some(noise(3, &[3])));
    let norm = nn::LayerNorm::new(noise(4, &[3]), noise(5, &[3]), 1e-5);
    let y = norm.forward(&layer.forward(&x).unwrap()).unwrap();
    let grads = (y * noise(6, &[2, 3])).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some());
    assert!(grads.get(&weight).is_none() && grads.get(norm.weight()).is_none());
    // A frozen weight beside a trained bias.
    let bias = candle_core::Var::from_tensor(&noise(7, &[3])).unwrap();
    let norm = nn::LayerNorm::new(noise(4, &[3]), bias.as_tensor().clone(), 1e-5);
    let grads = norm.forward(&noise(8, &[2, 3])).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(numbers(grads.get(&bias).unwrap()), [2.0; 3]);
}

/// The constructors of `candle_transformers::models::with_tracing`.
#[test]
fn layers_with_tracing_are_those_of_candle_transformers() {
    use gradlog::nn::with_tracing::{conv2d, layer_norm, linear_b, Embedding, LayerNorm, Linear, RmsNorm};
    let variables = VarMap::new();
    let vb = builder(&variables);
    let make = || {
        let table = vb.get((7, 4), "table.weight")?;
        Result::Ok((
            Embedding::new(7, 4, vb.pp("words"))?,
            Embedding::from_weights(table)?,
            RmsNorm::new(4, 1e-5, vb.pp("rms"))?,
            layer_norm(4, 1e-5, vb.pp("norm"))?,
            LayerNorm::new(vb.get(4, "made.weight")?, vb.get(4, "made.bias")?, 1e-5),
            linear_b(4, 3, false, vb.pp("head"))?,
            Linear::from_weights(vb.get((3, 4), "other.weight")?, None),
            conv2d(1, 2, 3, Default::default(), vb.pp("conv"))?,
        ))
    };
    let ((words, table, rms, norm, made, head, other, _), taps) = Taps::collect(make).unwrap();
    taps.declare_model(&variables);
    let expected = ["words", "table", "rms", "norm", "made", "head", "other", "conv"];
    assert_eq!(names(&taps, exact()), expected);
    assert_eq!((words.embeddings().dims(), table.embeddings().dims()), (&[7, 4][..], &[7, 4][..]));
    let ids = Tensor::new(&[[0u32, 3], [6, 1]], &Device::Cpu).unwrap();
    let h = (words.forward(&ids).unwrap() + table.forward(&ids).unwrap()).unwrap();
    let (a, b) = (rms.forward(&h).unwrap(), rms.forward_diff(&h).unwrap());
    assert_eq!(numbers(&a), numbers(&b));
    let y = (head.forward(&norm.forward(&a).unwrap()).unwrap() + other.forward(&made.forward(&h).unwrap()).unwrap())
        .unwrap();
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let data = variables.data().lock().unwrap();
    let reached = |name: &str| grads.get(&data[name]).is_some();
    assert!(["words.weight", "table.weight", "rms.weight", "norm.bias", "made.weight"].into_iter().all(reached));
    assert!(Embedding::from_weights(noise(1, &[3])).is_err());
}

#[test]
fn a_collection_without_layers_is_refused() {
    let variables = VarMap::new();
    let build = || builder(&variables).get((2, 3), "weight");
    let (_, taps) = Taps::collect(build).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = Recorder::create(dir.path(), &taps, Config::default()).unwrap_err().to_string();
    assert!(error.contains("nn::learned_tensor"), "{error}");
    taps.declare_variables(&variables);
    Recorder::create(dir.path(), &taps, Config::default()).unwrap().finish().unwrap();
}

/// A class token beside the words of each example, and positions that are added to all of them.
#[test]
fn learned_tensors_are_recorded() {
    let (variables, dir) = (VarMap::new(), tempfile::tempdir().unwrap());
    let vb = builder(&variables);
    let randn = nn::Init::Randn { mean: 0.0, stdev: 1.0 };
    let ((token, places, head), taps) = Taps::collect(|| -> Result<_> {
        let token = nn::learned_tensor((1, 4), "cls_token", randn, vb.pp("embed"))?;
        let places = nn::learned_tensor((4, 4), "positions", randn, vb.pp("embed"))?;
        Ok((token, places, nn::linear(4, 3, vb.pp("head"))?))
    })
    .unwrap();
    taps.declare_model(&variables);
    assert!(variables.data().lock().unwrap().contains_key("embed.cls_token"));
    let forward = |x: &Tensor| {
        let x = (Tensor::cat(&[&token.forward(x)?, x], 1)? + places.forward(x)?)?.tanh()?;
        head.forward(&x.sqr()?.mean(1)?)
    };
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    let (x, y) = (noise(1, &[5, 3, 4]), labels(5));
    let check = recorder.check_gradients(&variables, &[1, 2, 3, 4, 5], |pass, rows| {
        pass.cross_entropy(&forward(&rows.of(&x)?)?, &rows.of(&y)?)
    });
    let check = check.unwrap();
    assert!(check.agrees() && check.findings.is_empty(), "{check}");
    recorder.finish().unwrap();
    let run = Run::open(dir.path()).unwrap();
    let names: Vec<&str> = run.manifest().layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["embed.cls_token", "embed.positions", "head"]);
    assert_eq!(run.manifest().coverage(), Some(1.0));
}
